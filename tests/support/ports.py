"""Ports for programs that bind their own sockets and cannot be given port 0."""

import os
import socket
from collections.abc import Iterator
from itertools import cycle, islice

#: Below the range from which Linux (32768 and up) and macOS (49152 and up) take ports for outgoing connections. A port
#: from that range can be taken by a client between the moment it is chosen here and the moment the program binds it.
_FIRST, _LAST = 10_000, 32_768

#: As many pytest-xdist workers get ranges that do not overlap.
_WORKERS = 16


def _candidates(worker: str, process: int) -> Iterator[int]:
    """Yield the ports of this worker without end, from an offset that differs between processes."""
    size = (_LAST - _FIRST) // _WORKERS
    first = _FIRST + int(worker.removeprefix("gw")) % _WORKERS * size
    return cycle(first + (process * 97 + offset) % size for offset in range(size))


_PORTS = _candidates(os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.getpid())


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 on which nothing listens; no port is returned twice in the time of one test run."""
    return list(islice(filter(_is_free, _PORTS), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
