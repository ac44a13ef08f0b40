"""Run a server process on a CPU core of its own and read what it has used."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tests.support.ports import free_ports

_TICK = os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).parents[1]
MIB = 1024 * 1024

#: Seconds until a started server must answer. Some import for twelve on a busy machine.
_START_TIMEOUT = 60.0

#: Seconds until a stopped server must have ended.
_STOP_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Cores:
    """The CPU core of the measured server, and the core of all other processes."""

    measured: int
    others: int


def choose_cores() -> Cores:
    """Return the last and the first available core, which are the same on a machine with one core."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(cores[-1], cores[0])


@dataclass(frozen=True, slots=True)
class Process:
    """A running server process; figures include all of its threads.

    Attributes:
        startup_seconds: The time from its start to its first response.
        headers: Lines that the head of each request to it has in addition.
    """

    pid: int
    port: int
    startup_seconds: float
    headers: tuple[str, ...] = ()

    @property
    def cpu_seconds(self) -> float:
        """User and system time in seconds, of this process and of all that it has started."""
        return sum(map(_ticks, _tree(self.pid))) / _TICK

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        return self._status("VmRSS")

    @property
    def peak(self) -> float:
        """Highest resident memory in MiB since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+([0-9]+) kB$", status, re.MULTILINE)
        assert match is not None, name
        return int(match[1]) / 1024


def _tree(pid: int) -> list[int]:
    """Return the ids of a process and of all processes that descend from it."""
    found = [pid]
    for each in found:
        with suppress(OSError):  # A process that has ended meanwhile is counted by the one that has started it.
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def _ticks(pid: int) -> int:
    """Return the CPU time of a process and of its children that have ended."""
    with suppress(OSError):
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return 0


@contextmanager
def run(
    command: Sequence[str], port: int, core: int, environment: Mapping[str, str], headers: tuple[str, ...] = ()
) -> Iterator[Process]:
    """Start a server, wait for its first response, and stop it at the end.

    Raises:
        RuntimeError: The server did not answer; the message has the end of its output.
    """
    started_at = time.perf_counter()
    with TemporaryFile() as log, _start_on(core, command, {**os.environ, **environment}, log) as server:
        try:
            ready_at = _await_response(server, port, started_at)
            if ready_at is None:
                log.seek(0)
                raise RuntimeError(f"{command} does not answer: {log.read().decode(errors='replace')[-2000:]}")
            yield Process(server.pid, port, ready_at - started_at, headers)
        finally:
            server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(_STOP_TIMEOUT)
            server.kill()


def _start_on(
    core: int, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a process on a core. It inherits the core, so that none of its threads begins elsewhere."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)
    finally:
        os.sched_setaffinity(0, own)


def _await_response(server: subprocess.Popen[bytes], port: int, started_at: float) -> float | None:
    while time.perf_counter() < started_at + _START_TIMEOUT and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_START_TIMEOUT) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            if client.recv(64).startswith(b"HTTP/1.1"):
                return time.perf_counter()
        time.sleep(0.005)
    return None


def free_port() -> int:
    (port,) = free_ports(1)
    return port
