"""Raw HTTP connections to Limner in front of the demo upstream, for tests that disconnect or look at single bytes."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.support.processes import LimnerProcess
from tests.support.servers import RunningDemo, RunningLimner, run_limner

GENERATION: Any = {"model": "gpt-image-2", "prompt": "a fox"}


@contextmanager
def limner_with_model(demo: RunningDemo, model: str, **options: Any) -> Iterator[RunningLimner]:
    """Run Limner over a demo upstream that behaves as `model` says; clients get keep-alives every 20 ms."""
    with run_limner(demo.url, upstream_model=model, **{"keepalive_interval": 0.02, **options}) as limner:
        yield limner


class ListeningClient:
    """A client that has sent a request for an image and now reads the response, of which it keeps all bytes."""

    def __init__(
        self, limner: RunningLimner | LimnerProcess, body: dict[str, Any], version: str = "1.1", **headers: str
    ) -> None:
        host, port = urlsplit(limner.url).netloc.split(":")
        data = orjson.dumps(body)
        extra_headers = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"POST /v1/images/generations HTTP/{version}\r\nHost: localhost\r\n{extra_headers}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.sendall(head.encode() + data)
        self.received = b""

    def read_until(self, marker: bytes, count: int = 1) -> bytes:
        while self.received.count(marker) < count:
            chunk = self._socket.recv(65536)
            assert chunk, self.received
            self.received += chunk
        return self.received

    def read_all(self) -> bytes:
        with self._socket:
            while chunk := self._socket.recv(65536):
                self.received += chunk
        return self.received

    def disconnect(self) -> None:
        self._socket.close()


def wait_for_jobs(limner: RunningLimner, count: int) -> None:
    wait_until(lambda: len(limner.service.tasks) == count)


def is_between_attempts(limner: RunningLimner) -> bool:
    """Return whether a job waits for its second attempt, after a failure that cost nothing."""
    runs = [job.run for job in limner.service.registry.active()]
    return any(run.was_submitted and not run.may_have_cost for run in runs)


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition that depends on the thread of the server; fail after 10 s."""
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition does not hold after 10 s")


def unchunk(body: bytes) -> bytes:
    data = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        data += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return data
