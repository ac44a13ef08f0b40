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

from tests.support.ports import free_ports

_TICK = os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).parents[1]
MIB = 1024 * 1024

#: Seconds until a started server must answer, and until a stopped one must have ended.
_TIMEOUT = 20.0


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

    `startup_seconds` is the time from its start to its first response.
    """

    pid: int
    port: int
    startup_seconds: float

    @property
    def cpu_seconds(self) -> float:
        """User and system time in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

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


@contextmanager
def run(command: Sequence[str], port: int, core: int, environment: Mapping[str, str]) -> Iterator[Process]:
    """Start a server, wait for its first response, and stop it at the end.

    Raises:
        RuntimeError: The server did not answer; the message has the end of its output.
    """
    started_at = time.perf_counter()
    with (
        TemporaryFile() as log,
        subprocess.Popen(command, cwd=_ROOT, env={**os.environ, **environment}, stdout=log, stderr=log) as server,
    ):
        os.sched_setaffinity(server.pid, {core})
        try:
            ready_at = _await_response(server, port, started_at)
            if ready_at is None:
                log.seek(0)
                raise RuntimeError(f"{command} does not answer: {log.read().decode(errors='replace')[-2000:]}")
            yield Process(server.pid, port, ready_at - started_at)
        finally:
            server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(_TIMEOUT)
            server.kill()


def _await_response(server: subprocess.Popen[bytes], port: int, started_at: float) -> float | None:
    while time.perf_counter() < started_at + _TIMEOUT and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            if client.recv(64).startswith(b"HTTP/1.1"):
                return time.perf_counter()
        time.sleep(0.005)
    return None


def free_port() -> int:
    (port,) = free_ports(1)
    return port
