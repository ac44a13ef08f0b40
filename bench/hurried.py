"""`limner serve` with signs of life in quick succession, so that many of them pass while a benchmark waits."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.config.settings import Settings
from app.observability.logging import configure_logging
from app.server.draining import DrainingServer
from bench.subjects import SILENCE


def main() -> int:
    settings = Settings()
    configure_logging(settings.log_format, settings.log_level)
    server = DrainingServer(settings)
    served = server.config.app
    assert isinstance(served, FastAPI)
    opened = served.router.lifespan_context

    @asynccontextmanager
    async def hurried(app: FastAPI) -> AsyncIterator[None]:
        async with opened(app):
            app.state.studio.silence = SILENCE
            yield

    served.router.lifespan_context = hurried
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
