"""`limner serve` that tells at `/gauges` what it holds: tasks, questions under way, and turns that are taken."""

import asyncio
import sys

from fastapi import FastAPI

from app.config.settings import Settings
from app.observability.logging import configure_logging
from app.server.draining import DrainingServer


def main() -> int:
    settings = Settings()
    configure_logging(settings.log_format, settings.log_level)
    server = DrainingServer(settings)
    served = server.config.app
    assert isinstance(served, FastAPI)

    @served.get("/gauges")
    async def gauges() -> dict[str, int]:
        studio = served.state.studio
        return {"tasks": len(asyncio.all_tasks()), "jobs": len(studio.jobs), "turns": studio.turns.in_use}

    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
