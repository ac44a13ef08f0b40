"""The HTTP server around the app: stops listening only when the questions under way have been answered."""

import asyncio
import gc
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from app.connection import connection
from app.log import log
from app.main import create_app
from app.settings import Settings

if TYPE_CHECKING:
    import socket

    from app.keys import KeyBook
    from app.studio import Studio

#: Seconds that a slow client gets to take the last bytes of its answer.
_LAST_BYTES = 30


class Server(uvicorn.Server):
    """The first SIGTERM or SIGINT makes `/readyz` fail and turns new questions away; a second one ends everything."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)
        self._grace = settings.shutdown_grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        super().__init__(
            # uvloop is named, not left to chance: uvicorn falls back to slow parts in silence.
            uvicorn.Config(
                self._app,
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                http=connection(settings.client_header_timeout, settings.client_body_timeout),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_BYTES,
            )
        )

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        """Raises SystemExit where the app or the socket cannot be opened."""
        await super().startup(sockets)
        # Requests leave no cycles behind, so a collector that walks through all modules every few requests is a
        # fifth of the processor's time for nothing, and pauses of a quarter of a second among a thousand who wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 50, 1_000)
        self._loop = asyncio.get_running_loop()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("ready", address=f"http://{host}:{port}/v1")
        self._reread_keys_on_hangup(self._loop)

    def _reread_keys_on_hangup(self, loop: asyncio.AbstractEventLoop) -> None:
        """Signals belong to the main thread; without a file of keys SIGHUP ends the process, as everywhere."""
        book: KeyBook | None = self._app.state.keys
        if book is not None and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, book.reload)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by Python between two steps of the loop, at any place: it only leaves a note for the loop."""
        if self._loop is None or self._draining is not None:
            self.force_exit = self._draining is not None
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        self._draining = self._draining or asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        studio: Studio = self._app.state.studio
        log.info("closing", under_way=len(studio.jobs), grace=self._grace)
        await studio.drain(self._grace)
        self.should_exit = True
