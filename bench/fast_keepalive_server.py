"""Run `limner serve` with a short keep-alive interval, so that a benchmark of a few seconds sees many keep-alives."""

import sys

from app.config.settings import Settings
from app.main import create_app
from app.observability.logging import configure_logging
from app.server.draining import DrainingServer
from bench.servers_under_test import KEEPALIVE_INTERVAL


def main() -> int:
    settings = Settings()
    configure_logging(settings.log_format, settings.log_level)
    DrainingServer(settings, create_app(settings, keepalive_interval=KEEPALIVE_INTERVAL)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
