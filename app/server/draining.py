"""The HTTP server around the app: stops listening only when the questions under way have been answered."""

import asyncio
import gc
import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from structlog.contextvars import bind_contextvars

from app.access.keys import InvalidKeyFile, KeyFile
from app.config.settings import Settings
from app.main import create_app
from app.observability.logging import configure_logging, log
from app.observability.metrics import WORKER_DEATHS
from app.server.http_protocol import protocol_class

if TYPE_CHECKING:
    import socket
    from multiprocessing.connection import Connection

    from app.jobs.service import Studio

#: What a worker tells its supervisor.
READY, STOPPED_LISTENING = b"ready", b"leaving"
#: What it is told.
DRAIN, RELOAD_KEYS, COUNT_DEATH = b"drain", b"reload", b"count death"

#: Seconds that a slow client gets to take the last bytes of its answer.
_LAST_BYTES = 30


class DrainingServer(uvicorn.Server):
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
                http=protocol_class(settings.client_header_timeout, settings.client_body_timeout),
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
        self._reload_keys_on_sighup(self._loop)
        self._on_started(self._loop)

    def _on_started(self, _: asyncio.AbstractEventLoop) -> None:
        log.info("server_ready", address=base_url(self.servers[0].sockets[0].getsockname()))

    def _reload_keys_on_sighup(self, loop: asyncio.AbstractEventLoop) -> None:
        """Signals belong to the main thread; without a file of keys SIGHUP ends the process, as everywhere."""
        book: KeyFile | None = self._app.state.keys
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
        log.info("server_draining", in_flight=len(studio.jobs), grace=self._grace)
        await studio.drain(self._grace)
        self.should_exit = True


class WorkerServer(DrainingServer):
    """One of several, each with its own sockets for the port. Its supervisor tells it over the line what to do.

    Where it alone gets a SIGTERM, or the supervisor has gone, it first stops listening: others get what comes then.
    """

    def __init__(self, settings: Settings, pipe: "Connection") -> None:
        super().__init__(settings)
        self._pipe = pipe

    def _on_started(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._pipe.fileno(), self._on_message, loop)
        self._send(READY)
        # Held back until now by the supervisor.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _on_message(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            said = self._pipe.recv_bytes()
        except (EOFError, OSError):
            loop.remove_reader(self._pipe.fileno())
            self._stop_listening()
            return
        if said == DRAIN:
            self._start_draining()
        elif said == COUNT_DEATH:
            WORKER_DEATHS.inc()
        elif said == RELOAD_KEYS:
            self._app.state.keys.reload()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A SIGINT is everybody's who runs in the same terminal: the supervisor says what becomes of it."""
        if self._loop is not None and sig == signal.SIGTERM:
            self._loop.call_soon_threadsafe(self._stop_listening)

    def _stop_listening(self) -> None:
        for server in self.servers:
            server.close()
        self._send(STOPPED_LISTENING)
        self._start_draining()

    def _send(self, message: bytes) -> None:
        with suppress(OSError):
            self._pipe.send_bytes(message)


def run_worker(settings: Settings, sockets: "list[socket.socket]", pipe: "Connection") -> None:
    """What a worker's process does. Raises SystemExit where the app cannot be opened."""
    configure_logging(settings.log_format, settings.log_level)
    bind_contextvars(pid=os.getpid())
    try:
        worker = WorkerServer(settings, pipe)
    except (InvalidKeyFile, OSError) as error:
        log.error("worker_start_failed", error=str(error))
        raise SystemExit(2) from None
    worker.run(sockets)


def base_url(name: tuple[str, int]) -> str:
    """`name`: of a socket."""
    host, port = name[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
