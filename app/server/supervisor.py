"""Run several worker processes: hold the port, replace workers that die, and stop them.

uvicorn's own supervisor was not enough: it does not drain at the first signal and stop at the second, its workers
outlive it when it is killed, and it restarts a dying worker without a pause.
"""

import asyncio
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from tempfile import TemporaryDirectory

from prometheus_client.multiprocess import mark_process_dead

from app.config.environment import set_variable
from app.config.settings import Settings
from app.observability.logging import log
from app.server.draining import (
    ADDRESS_SETTINGS,
    COUNT_DEATH,
    DRAIN,
    READY,
    RELOAD_KEYS,
    STOPPED_LISTENING,
    base_url,
    run_worker,
)

#: Each worker is a fresh interpreter. A fork would copy locks that threads of this process hold.
_SPAWN = multiprocessing.get_context("spawn")

#: Blocked in a worker until it can handle them.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: A worker that served for this many seconds did not die because of how it was started.
_STABLE_SECONDS = 60.0

#: After this many early deaths in a row of one worker, the server gives up if no other worker serves.
_MAX_EARLY_DEATHS = 4

#: Seconds before a worker is started again after a second early death; doubled for each further one, up to the maximum.
_FIRST_RESTART_PAUSE, _MAX_RESTART_PAUSE = 0.5, 10.0

#: Where to listen: the family, and the address as `socket.bind` takes it.
Address = tuple[socket.AddressFamily, tuple[str, int]]


#: The main function of a worker's process. It must be picklable.
RunWorker = Callable[[Settings, list[socket.socket], Connection], None]


@dataclass(frozen=True, slots=True, eq=False)
class WorkerHandle:
    process: SpawnProcess
    pipe: Connection


class Supervisor:
    """Keep the configured number of workers running.

    The first SIGTERM or SIGINT makes the workers drain, a second one kills them; SIGHUP makes them reload the key file.
    """

    def __init__(
        self, settings: Settings, run_worker: RunWorker = run_worker, restart_pause: float = _FIRST_RESTART_PAUSE
    ) -> None:
        self.force_exit = False
        self._settings = settings
        self._run_worker = run_worker
        self._restart_pause = restart_pause
        self._addresses: list[Address] = []
        self._closing = asyncio.Event()
        self._alive: set[WorkerHandle] = set()
        self._serving: set[WorkerHandle] = set()
        self._deaths = 0
        self._is_ready = False
        self._has_failed = False

    def run(self) -> None:
        """Block until all workers have ended.

        Raises:
            SystemExit: The address cannot be bound, or no worker can be started.
        """
        asyncio.run(self._run())
        if self._has_failed:
            raise SystemExit(1)

    def stop(self) -> None:
        """Make the workers drain. A second call kills them."""
        if self._closing.is_set():
            self.force_exit = True
            for worker in self._alive:
                worker.process.kill()
            return
        log.info("server_draining", workers=len(self._alive), grace=self._settings.shutdown_grace)
        self._closing.set()
        self._broadcast(DRAIN)

    async def _run(self) -> None:
        self._addresses = await find_addresses(self._settings.host, self._settings.port)
        # These sockets never listen. They keep the port while no worker does.
        reserved = self._bind()
        # Start the resource tracker now: starting it later, in `_start`, would unblock the signals too early.
        resource_tracker.ensure_running()
        with TemporaryDirectory(prefix="limner-metrics-") as folder:
            set_variable("PROMETHEUS_MULTIPROC_DIR", folder)
            self._listen_for_signals()
            await asyncio.gather(*(self._run_slot(f"worker-{number}") for number in range(self._settings.workers)))
        close_all(reserved)

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, partial(self._broadcast, RELOAD_KEYS))

    def _bind(self) -> list[socket.socket]:
        return [bind(address) for address in self._addresses]

    async def _run_slot(self, name: str) -> None:
        """Keep one worker running under this name until the server stops.

        The sockets outlive a worker: connections that it had not accepted wait for its successor.
        """
        sockets: list[socket.socket] = []
        early_deaths = 0
        while not self._closing.is_set():
            try:
                sockets = sockets or self._bind()
                worker = self._start(name, sockets)
            except OSError as error:
                # Memory, processes or file descriptors have run out. The other workers keep serving.
                log.error("worker_start_failed", error=str(error))
                served = 0.0
            else:
                served = await self._monitor(worker, sockets)
            early_deaths = 0 if served > _STABLE_SECONDS else early_deaths + 1
            if early_deaths >= _MAX_EARLY_DEATHS and not self._serving and not self._closing.is_set():
                log.error("worker_restarts_stopped", deaths=early_deaths)
                self._has_failed = True
                self.stop()
            elif early_deaths > 1:
                # Close the sockets so that new connections go to the other workers during the pause.
                close_all(sockets)
                await self._pause_restarts(min(self._restart_pause * 2 ** (early_deaths - 2), _MAX_RESTART_PAUSE))
        close_all(sockets)

    async def _pause_restarts(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _start(self, name: str, sockets: list[socket.socket]) -> WorkerHandle:
        """Start a worker. `name` is also that of its metric files, so it continues the counters of its predecessor."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=self._run_worker, args=(self._settings, sockets, theirs), name=name, daemon=True
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        worker = WorkerHandle(process, ours)
        self._alive.add(worker)
        return worker

    async def _monitor(self, worker: WorkerHandle, sockets: list[socket.socket]) -> float:
        """Wait until the worker has ended, and return the seconds for which it served."""
        has_served = await receive(worker.pipe) == READY
        started_at = time.monotonic()
        if has_served:
            self._on_ready(worker)
            if await receive(worker.pipe) == STOPPED_LISTENING:
                close_all(sockets)
        await wait_readable(worker.process.sentinel)
        self._on_exit(worker)
        return time.monotonic() - started_at if has_served else 0.0

    def _on_ready(self, worker: WorkerHandle) -> None:
        self._serving.add(worker)
        self._report_deaths()
        log.info("worker_ready", pid=worker.process.pid)
        if len(self._serving) == self._settings.workers and not (self._is_ready or self._closing.is_set()):
            self._is_ready = True
            log.info("server_ready", address=base_url(self._addresses[0][1]), workers=self._settings.workers)

    def _on_exit(self, worker: WorkerHandle) -> None:
        worker.process.join()
        worker.pipe.close()
        self._alive.discard(worker)
        self._serving.discard(worker)
        mark_process_dead(worker.process.name)  # type: ignore[no-untyped-call]
        if not self._closing.is_set():
            log.error("worker_died", pid=worker.process.pid, exit_code=worker.process.exitcode)
            self._deaths += 1
            self._report_deaths()

    def _report_deaths(self) -> None:
        """Let a serving worker count the deaths: this process has no metrics of its own."""
        for worker in self._serving:
            for _ in range(self._deaths):
                send(worker.pipe, COUNT_DEATH)
            self._deaths = 0

    def _broadcast(self, message: bytes) -> None:
        for worker in self._alive:
            send(worker.pipe, message)


def send(line: Connection, message: bytes) -> None:
    """Send a message, unless the other process has closed its end; its exit is handled elsewhere."""
    with suppress(OSError):
        line.send_bytes(message)


async def receive(line: Connection) -> bytes | None:
    """Return the next message, or None if the other process has closed its end."""
    await wait_readable(line.fileno())
    try:
        return line.recv_bytes()
    except (EOFError, OSError):
        return None


async def wait_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_reader(descriptor, seen.set)
    try:
        await seen.wait()
    finally:
        loop.remove_reader(descriptor)


async def find_addresses(host: str, port: int) -> list[Address]:
    """Return all addresses of the host, with the port that was chosen if `port` is 0.

    The addresses are bound once to see that they are free: the workers' sockets share the port (SO_REUSEPORT), and
    would silently share it with another server of the same user, too.

    Raises:
        SystemExit: An address cannot be bound. As with uvicorn, the reason is in the log.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    except OSError as error:
        log.error("server_bind_failed", error=str(error), see=ADDRESS_SETTINGS)
        raise SystemExit(1) from None
    addresses = [(found.family, found.getsockname()[:2]) for found in server.sockets]
    server.close()
    return addresses


def bind(address: Address) -> socket.socket:
    """Create one worker's socket. Each worker has its own, so that the kernel spreads connections evenly.

    Measured with 200 connections at once and four workers: on one shared socket, a single worker accepted 193; with
    four sockets, each got about 50.
    """
    family, name = address
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind(name)
    return bound


def close_all(sockets: list[socket.socket]) -> None:
    """Close the sockets and empty the list."""
    while sockets:
        sockets.pop().close()
