"""Run `limner serve` with one more endpoint, `/gauges`: how many tasks, jobs and slots the process holds."""

import asyncio
import sys

from app.config.settings import Settings
from app.main import create_app, services_of
from app.observability.logging import configure_logging
from app.server.draining import DrainingServer


def main() -> int:
    settings = Settings()
    configure_logging(settings.log_format, settings.log_level)
    app = create_app(settings)
    service = services_of(app).service

    @app.get("/gauges")
    async def gauges() -> dict[str, int]:
        tasks, jobs = len(asyncio.all_tasks()), len(service.tasks)
        return {"tasks": tasks, "jobs": jobs, "slots": service.semaphore.in_use}

    DrainingServer(settings, app).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
