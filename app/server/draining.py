"""uvicorn servers that finish all jobs before they stop: `DrainingServer`, and `WorkerServer` for one of several."""

import asyncio
import gc
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from structlog.contextvars import bind_contextvars

from app.config.settings import Settings
from app.main import create_app, services_of
from app.observability.logging import configure_logging, log, unblock_standard_error
from app.observability.metrics import WORKER_DEATHS
from app.server.descriptors import raise_descriptor_limit
from app.server.freed_memory import FreedMemory
from app.server.http_protocol import protocol_class

if TYPE_CHECKING:
    import socket
    from multiprocessing.connection import Connection

#: Messages of a worker to its supervisor.
READY, STOPPED_LISTENING = b"ready", b"leaving"
#: Messages of the supervisor to a worker.
DRAIN, RELOAD_KEYS, COUNT_DEATH = b"drain", b"reload", b"count death"

#: The settings that say where the server listens, for messages.
ADDRESS_SETTINGS = "LIMNER_HOST, LIMNER_PORT"

#: Seconds for slow clients to read the rest of their responses, after all jobs have finished.
_CLOSE_TIMEOUT = 30


class DrainingServer(uvicorn.Server):
    """A server that drains at the first SIGTERM or SIGINT and stops immediately at the second.

    While it drains, `/readyz` fails and requests that would start new work get a 503.
    """

    def __init__(self, settings: Settings, app: Starlette | None = None) -> None:
        """Serve `app`, which `create_app` has made; None makes one from the settings."""
        # Half of the descriptors are for connections of clients, the rest for upstreams and for images.
        max_connections = raise_descriptor_limit() // 2
        app = create_app(settings) if app is None else app
        self._services = services_of(app)
        self._grace = settings.shutdown_grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._freed_memory = FreedMemory()
        super().__init__(
            # uvicorn's `auto` would silently fall back to a slow event loop and parser if an import fails.
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                http=protocol_class(settings.client_header_timeout, settings.client_body_timeout, max_connections),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_CLOSE_TIMEOUT,
            )
        )

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        """Start the application and listen.

        Raises:
            SystemExit: The application cannot start, or the address cannot be bound.
        """
        try:
            await super().startup(sockets)
        except SystemExit:
            # uvicorn has logged the reason, but does not know the settings.
            if not self.lifespan.should_exit:
                log.error("server_bind_failed", see=ADDRESS_SETTINGS)
            raise
        # Requests leave no reference cycles behind. With the default thresholds the collector walks through all modules
        # every few requests: a fifth of the CPU time, and pauses of 0.25 s with a thousand waiting requests. Nothing is
        # collected before: that takes 40 ms and frees less than 0.1 MiB.
        gc.freeze()
        # Young objects are looked at 50,000 at a time: 20 ms. With 500,000 (50 in place of 5), 8,000 requests that came
        # within half a minute met with four pauses of 0.2 s: their 99th percentile of added latency.
        gc.set_threshold(10_000, 5, 10_000)
        self._loop = asyncio.get_running_loop()
        self._reload_keys_on_sighup(self._loop)
        self._on_started(self._loop)

    async def on_tick(self, counter: int) -> bool:
        """Drop expired results and freed memory, once a second. uvicorn calls this ten times as often."""
        if counter % 10 == 0:
            self._services.registry.drop_expired()
            # A job may outlive its request, and a request that is still arriving has no job.
            in_flight = max(len(self._services.service.tasks), len(self.server_state.tasks))
            self._freed_memory.look(in_flight, time.monotonic())
        return await super().on_tick(counter)

    def _on_started(self, _: asyncio.AbstractEventLoop) -> None:
        log.info("server_ready", address=base_url(self.servers[0].sockets[0].getsockname()))

    def _reload_keys_on_sighup(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle SIGHUP, which would end the process. Only the main thread may handle signals."""
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._reload_keys)

    def _reload_keys(self) -> None:
        key_file = self._services.key_file
        if key_file is None:
            log.info("reload_ignored", reason="LIMNER_KEYS_FILE is not set; other settings need a restart")
        else:
            key_file.reload()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Pass the signal on to the event loop: Python calls this between any two bytecodes."""
        if self._loop is None or self._draining is not None:
            self.force_exit = self._draining is not None
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        self._draining = self._draining or asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        service = self._services.service
        log.info("server_draining", in_flight=len(service.tasks), grace=self._grace)
        await service.drain(self._grace)
        self.should_exit = True


class WorkerServer(DrainingServer):
    """One of several workers, each with its own sockets for the port. The supervisor controls it through a pipe.

    If only this worker gets a SIGTERM, or the supervisor has ended, it stops listening before it drains, so that new
    connections go to the other workers.
    """

    def __init__(self, settings: Settings, pipe: "Connection") -> None:
        super().__init__(settings)
        self._pipe = pipe

    def _on_started(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._pipe.fileno(), self._on_message, loop)
        self._send(READY)
        # Blocked by the supervisor until the worker can handle them.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _on_message(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            message = self._pipe.recv_bytes()
        except (EOFError, OSError):
            loop.remove_reader(self._pipe.fileno())
            self._stop_listening()
            return
        if message == DRAIN:
            self._start_draining()
        elif message == COUNT_DEATH:
            WORKER_DEATHS.inc()
        elif message == RELOAD_KEYS:
            self._reload_keys()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ignore SIGINT: a terminal sends it to the supervisor too, which then tells its workers to drain."""
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
    """Run one worker: the main function of its process.

    Raises:
        SystemExit: The application cannot be created.
    """
    bind_contextvars(pid=os.getpid())
    unblock_standard_error()
    configure_logging(settings.log_format, settings.log_level)
    try:
        worker = WorkerServer(settings, pipe)
    except (ValueError, OSError) as error:
        log.error("worker_start_failed", error=str(error))
        raise SystemExit(2) from None
    worker.run(sockets)


def base_url(address: tuple[str, int]) -> str:
    """Return the API's base URL for a socket's host and port."""
    host, port = address[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
