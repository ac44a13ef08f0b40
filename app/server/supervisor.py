"""The supervisor of several workers: it holds the port, puts a new worker in the place of one that dies, and ends them.

uvicorn has one too, but none that lets questions be answered to their end after a first signal and ends everything at
a second, that takes its workers along when it is killed, or that waits before a worker is tried once more.
"""

import asyncio
import multiprocessing
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from tempfile import TemporaryDirectory
from typing import Protocol

from prometheus_client.multiprocess import mark_process_dead

from app.config.settings import Settings, set_variable
from app.observability.logging import log
from app.server.draining import COUNT_DEATH, DRAIN, READY, RELOAD_KEYS, STOPPED_LISTENING, base_url, run_worker

#: A fresh interpreter for each worker: a copy of this process would share its threads' locks.
_SPAWN = multiprocessing.get_context("spawn")

#: Kept from a worker until it can act upon them.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Whoever has served for so many seconds did not die of how it was started.
_STABLE_SECONDS = 60.0

#: Early deaths in a row before the server gives up, where no worker serves.
_MAX_EARLY_DEATHS = 4

#: Seconds before the second try in a row, doubled for each that follows, up to the last number.
_FIRST_RESTART_PAUSE, _MAX_RESTART_PAUSE = 0.5, 10.0

#: Where to listen, as `socket.bind` takes it.
Address = tuple[socket.AddressFamily, tuple[str, int]]


class RunWorker(Protocol):
    """What a worker's process does."""

    def __call__(self, settings: Settings, sockets: list[socket.socket], pipe: Connection) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class WorkerHandle:
    process: SpawnProcess
    pipe: Connection


class Supervisor:
    """The first SIGTERM or SIGINT lets the workers drain, a second one kills them; SIGHUP has keys read anew."""

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
        """Raises SystemExit where the port is taken, or no worker can be started."""
        asyncio.run(self._run())
        if self._has_failed:
            raise SystemExit(1)

    def stop(self) -> None:
        """Called again, it does not wait for anybody."""
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
        # The port stays ours while nobody listens.
        claims = self._bind()
        # Started now, since it lets signals through again that are held back from a worker.
        resource_tracker.ensure_running()
        with TemporaryDirectory(prefix="limner-metrics-") as folder:
            set_variable("PROMETHEUS_MULTIPROC_DIR", folder)
            self._listen_for_signals()
            await asyncio.gather(*(self._run_slot(f"worker-{place}") for place in range(self._settings.workers)))
        close_all(claims)

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        if self._settings.keys_file is not None:
            loop.add_signal_handler(signal.SIGHUP, partial(self._broadcast, RELOAD_KEYS))

    def _bind(self) -> list[socket.socket]:
        return [bind(address) for address in self._addresses]

    async def _run_slot(self, place: str) -> None:
        """One worker after another. Connections that one has not yet accepted wait for the next: the sockets stay."""
        sockets: list[socket.socket] = []
        early = 0
        while not self._closing.is_set():
            try:
                sockets = sockets or self._bind()
                worker = self._start(place, sockets)
            except OSError as error:
                # Memory, processes or files have run out: no reason to give up those who serve.
                log.error("worker_start_failed", error=str(error))
                seconds = 0.0
            else:
                seconds = await self._monitor(worker, sockets)
            early = 0 if seconds > _STABLE_SECONDS else early + 1
            if early >= _MAX_EARLY_DEATHS and not self._serving and not self._closing.is_set():
                log.error("worker_restarts_stopped", deaths=early)
                self._has_failed = True
                self.stop()
            elif early > 1:
                # Meanwhile the other workers get what comes.
                close_all(sockets)
                await self._pause_restarts(min(self._restart_pause * 2 ** (early - 2), _MAX_RESTART_PAUSE))
        close_all(sockets)

    async def _pause_restarts(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _start(self, place: str, sockets: list[socket.socket]) -> WorkerHandle:
        """By the name of its place it is told apart in the metrics, where it goes on counting for the one before it."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=self._run_worker, args=(self._settings, sockets, theirs), name=place, daemon=True
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
        """To its end; the seconds for which it has served."""
        has_served = await receive(worker.pipe) == READY
        began = time.monotonic()
        if has_served:
            self._on_ready(worker)
            if await receive(worker.pipe) == STOPPED_LISTENING:
                close_all(sockets)
        await wait_readable(worker.process.sentinel)
        self._on_exit(worker)
        return time.monotonic() - began if has_served else 0.0

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
        """In the metrics of a worker that serves, as soon as there is one: this process has none of its own."""
        for worker in self._serving:
            for _ in range(self._deaths):
                send(worker.pipe, COUNT_DEATH)
            self._deaths = 0

    def _broadcast(self, message: bytes) -> None:
        for worker in self._alive:
            send(worker.pipe, message)


def send(line: Connection, message: bytes) -> None:
    """Nothing where the other end has gone: that is noticed by its process."""
    with suppress(OSError):
        line.send_bytes(message)


async def receive(line: Connection) -> bytes | None:
    """None where the other end has gone."""
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
    """All that the host's name stands for, and free. Raises SystemExit, like uvicorn, which says why in the log.

    Sockets that share a port would also share it with another server of the same user, and nobody would notice.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    except OSError as error:
        log.error("server_bind_failed", error=str(error))
        raise SystemExit(1) from None
    addresses = [(found.family, found.getsockname()[:2]) for found in server.sockets]
    server.close()
    return addresses


def bind(address: Address) -> socket.socket:
    """A socket for each worker, among which the kernel spreads connections evenly.

    Of 200 at once to a socket that four workers shared, one took 193, and each of four sockets got about 50.
    """
    family, place = address
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind(place)
    return bound


def close_all(sockets: list[socket.socket]) -> None:
    """The list is empty then."""
    while sockets:
        sockets.pop().close()
