"""Raw HTTP connections to a Limner over the demo upstream: to leave in the middle, and to see every byte."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.support.processes import Process
from tests.support.servers import RunningDemo, RunningLimner, run_limner

ASKED: Any = {"model": "gpt-image-2", "prompt": "a fox"}


@contextmanager
def limner_over(demo: RunningDemo, model: str, **options: Any) -> Iterator[RunningLimner]:
    with run_limner(demo.url, upstream_model=model, **options) as limner:
        limner.studio.silence = 0.02
        yield limner


class Line:
    """A raw HTTP/1.1 connection that has asked and now listens."""

    def __init__(
        self, limner: RunningLimner | Process, body: dict[str, Any], version: str = "1.1", **headers: str
    ) -> None:
        host, port = urlsplit(limner.url).netloc.split(":")
        data = orjson.dumps(body)
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"POST /v1/images/generations HTTP/{version}\r\nHost: h\r\n{more}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.sendall(head.encode() + data)
        self.heard = b""

    def hear_until(self, mark: bytes, times: int = 1) -> bytes:
        while self.heard.count(mark) < times:
            piece = self._socket.recv(65536)
            assert piece, self.heard
            self.heard += piece
        return self.heard

    def hear_all(self) -> bytes:
        with self._socket:
            while piece := self._socket.recv(65536):
                self.heard += piece
        return self.heard

    def hang_up(self) -> None:
        self._socket.close()


def wait_for_jobs(limner: RunningLimner, number: int) -> None:
    wait_until(lambda: len(limner.studio.jobs) == number)


def wait_until(holds: Callable[[], bool]) -> None:
    """Poll what belongs to the server's thread until it is as expected; fail after 10 s."""
    pause = threading.Event()
    for _ in range(2000):
        if holds():
            return
        pause.wait(0.005)
    raise AssertionError("not within 10 s")


def unchunk(body: bytes) -> bytes:
    joined = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        joined += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return joined
