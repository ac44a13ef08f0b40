"""HTTP as bytes on a socket: what a test writes is what the server reads, what comes back is told as it came."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import orjson

TIMEOUT = 20


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `headers` by lower-case name; `body` without the framing of chunks."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class Wire:
    """One connection. Replies are read in order, interim ones (100 Continue) too."""

    def __init__(self, connection: socket.socket, host: str) -> None:
        self.host = host
        self._socket = connection
        self._file: BinaryIO = connection.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._socket.sendall(piece)

    def reply(self) -> Reply:
        line = self._file.readline()
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (field := self._file.readline().rstrip(b"\r\n")) != b"":
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Reply(status, headers, b"" if status < 200 else self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(self._chunks())
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        return self._file.read()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            assert self._file.readline() == b"\r\n"
        assert self._file.readline() == b"\r\n"

    def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        return self._file.read()


@contextmanager
def connect(url: str) -> Iterator[Wire]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with socket.create_connection((parts.hostname, parts.port), TIMEOUT) as connection:
        wire = Wire(connection, parts.netloc)
        try:
            yield wire
        finally:
            wire._file.close()


def ask(url: str, *pieces: bytes) -> Reply:
    """One request on a connection of its own, each piece as one write; `HOST` in it is the server's address."""
    with connect(url) as wire:
        wire.send(*(piece.replace(b"HOST", wire.host.encode()) for piece in pieces))
        return wire.reply()


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request with the usual framing: host, content length."""
    framing = [f"content-length: {len(body)}"] if body else []
    return "\r\n".join([f"{line} HTTP/1.1", "host: HOST", *headers, *framing, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes) -> bytes:
    """The body of a request without a length."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
