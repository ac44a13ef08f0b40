"""Run `limner serve` with a short keep-alive interval, so that a benchmark of a few seconds sees many keep-alives."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.config.settings import Settings
from app.observability.logging import configure_logging
from app.server.draining import DrainingServer
from bench.servers_under_test import KEEPALIVE_INTERVAL


def main() -> int:
    settings = Settings()
    configure_logging(settings.log_format, settings.log_level)
    server = DrainingServer(settings)
    app = server.config.app
    assert isinstance(app, FastAPI)
    open_services = app.router.lifespan_context

    @asynccontextmanager
    async def open_with_short_interval(served: FastAPI) -> AsyncIterator[None]:
        async with open_services(served):
            served.state.studio.silence = KEEPALIVE_INTERVAL
            yield

    app.router.lifespan_context = open_with_short_interval
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
