"""HTTP as bytes on a socket: a test controls every byte that is sent and sees every byte that comes back."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import orjson

TIMEOUT = 20


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One response: `headers` by lower-case name, `body` without the framing of chunks."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class RawConnection:
    """One connection. Responses are read in order, interim ones such as 100 Continue included."""

    def __init__(self, connection: socket.socket, host: str) -> None:
        self.host = host
        self._socket = connection
        self._file: BinaryIO = connection.makefile("rb")

    def send(self, *chunks: bytes) -> None:
        """Send bytes. `HOST` in them is replaced by the address of the server."""
        for chunk in chunks:
            self._socket.sendall(chunk.replace(b"host: HOST", b"host: " + self.host.encode()))

    def read_response(self) -> RawResponse:
        line = self._file.readline()
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (field := self._file.readline().rstrip(b"\r\n")) != b"":
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        has_body = status >= 200 and status not in {204, 304}
        return RawResponse(status, headers, self._body(headers) if has_body else b"")

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

    def read_to_end(self) -> bytes:
        """Return all bytes until the server closes the connection."""
        return self._file.read()

    def reset(self) -> None:
        """Close the connection as the system does for a program that was killed: with a reset."""
        self._file.close()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@contextmanager
def connect(url: str) -> Iterator[RawConnection]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with socket.create_connection((parts.hostname, parts.port), TIMEOUT) as client:
        connection = RawConnection(client, parts.netloc)
        try:
            yield connection
        finally:
            connection._file.close()


def send_request(url: str, *chunks: bytes) -> RawResponse:
    """Send a request on a connection of its own, one write per chunk, and return the response."""
    with connect(url) as connection:
        connection.send(*chunks)
        return connection.read_response()


def build_request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Build a request with the usual framing: host, content length."""
    framing = [f"content-length: {len(body)}"] if body else []
    return "\r\n".join([f"{line} HTTP/1.1", "host: HOST", *headers, *framing, "", ""]).encode("latin-1") + body


def chunked_body(*chunks: bytes) -> bytes:
    """Encode the body of a request without a content length."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
