"""A server process on a core of its own, and what it has used."""

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

#: Seconds until a server must answer, and must have ended.
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the server that is measured, and the one of everything else."""

    measured: int
    others: int


def choose_cores() -> Cores:
    """The last and the first; the same one where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(cores[-1], cores[0])


@dataclass(frozen=True, slots=True)
class Process:
    """One process, its threads included. `first_answer` is in seconds from its start."""

    pid: int
    port: int
    first_answer: float

    @property
    def cpu(self) -> float:
        """Seconds, user's and system's."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    @property
    def memory(self) -> float:
        """MiB resident now."""
        return self._status("VmRSS")

    @property
    def peak(self) -> float:
        """MiB resident at most since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+([0-9]+) kB$", status, re.MULTILINE)
        assert found is not None, name
        return int(found[1]) / 1024


@contextmanager
def run(command: Sequence[str], port: int, core: int, environment: Mapping[str, str]) -> Iterator[Process]:
    """Started, and answering on its port. Raises RuntimeError with what it wrote if it does not come up."""
    began = time.perf_counter()
    with (
        TemporaryFile() as log,
        subprocess.Popen(command, cwd=_ROOT, env={**os.environ, **environment}, stdout=log, stderr=log) as server,
    ):
        os.sched_setaffinity(server.pid, {core})
        try:
            answered = _await_answer(server, port, began)
            if answered is None:
                log.seek(0)
                raise RuntimeError(f"{command} does not answer: {log.read().decode(errors='replace')[-2000:]}")
            yield Process(server.pid, port, answered - began)
        finally:
            server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(_PATIENCE)
            server.kill()


def _await_answer(server: subprocess.Popen[bytes], port: int, began: float) -> float | None:
    while time.perf_counter() < began + _PATIENCE and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            if client.recv(64).startswith(b"HTTP/1.1"):
                return time.perf_counter()
        time.sleep(0.005)
    return None


def free_port() -> int:
    (port,) = free_ports(1)
    return port
