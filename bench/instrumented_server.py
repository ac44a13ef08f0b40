"""Run `limner serve` with one more endpoint, `/gauges`: how many tasks, jobs and slots the process holds."""

import asyncio
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.config.settings import Settings
from app.main import create_app, services_of
from app.observability.logging import configure_logging
from app.server.draining import DrainingServer


def create_instrumented_app(settings: Settings) -> Starlette:
    """Return the application with the further endpoint."""
    app = create_app(settings)
    service = services_of(app).service

    async def gauges(_: Request) -> JSONResponse:
        tasks, jobs = len(asyncio.all_tasks()), len(service.tasks)
        return JSONResponse({"tasks": tasks, "jobs": jobs, "slots": service.semaphore.in_use})

    app.add_route("/gauges", gauges)
    return app


def main() -> int:
    settings = Settings()
    configure_logging(settings.log_format, settings.log_level)
    DrainingServer(settings, create_instrumented_app(settings)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
