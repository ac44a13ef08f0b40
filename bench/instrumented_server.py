"""Run `limner serve` with one more endpoint, `/gauges`: how many tasks, jobs and slots the process holds."""

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
    app = server.config.app
    assert isinstance(app, FastAPI)

    @app.get("/gauges")
    async def gauges() -> dict[str, int]:
        studio = app.state.studio
        return {"tasks": len(asyncio.all_tasks()), "jobs": len(studio.jobs), "slots": studio.turns.in_use}

    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
