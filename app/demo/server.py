"""Serve an ASGI app on a real socket from a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

#: Seconds for running requests when the server stops.
GRACE_SECONDS = 1


@contextmanager
def serve(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 0,
    grace: int = GRACE_SECONDS,
    http: type[asyncio.Protocol] | Literal["httptools"] = "httptools",
) -> Iterator[str]:
    """Serve the app while the block runs; yield the base URL, without a slash at its end.

    Port 0 means any free port. When the block ends, running requests get `grace` seconds.

    Raises:
        RuntimeError: The app does not start.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=http,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=grace,
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="server", daemon=True)
        thread.start()
        server.startup_ended.wait()
        try:
            if not server.started:
                raise RuntimeError("the app did not start")
            yield f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class _Server(uvicorn.Server):
    """A server whose event `startup_ended` is set when it has started, or has failed to."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.startup_ended = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.startup_ended.set()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        except SystemExit:  # uvicorn raises this when the app does not start
            self.started = False
        finally:
            self.startup_ended.set()
