"""A real Redis on loopback that tests can kill and start again."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_ports


class RedisServer:
    """A Redis that stores nothing on disk, so that it is empty after `kill` and `start`.

    `options` are added to its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        (self._port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [
            "redis-server",
            "--port",
            str(self._port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            *self._options,
        ]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL)
        for _ in range(1000):
            try:
                with socket.create_connection(("127.0.0.1", self._port)) as connection:
                    # Redis replies once all its sockets are open.
                    connection.sendall(b"PING\r\n")
                    connection.recv(64)
                return
            except ConnectionRefusedError:
                threading.Event().wait(0.01)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def run_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a Redis until the end of the block. Skips the test when redis-server is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
