"""HTTP/1.1 with as little as possible around the parser, for servers and clients that must not be what is measured."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools


@dataclass(frozen=True, slots=True)
class Message:
    """A request (`url`) or an answer (`status`). `body` is what was kept of the `size` bytes that came."""

    url: bytes
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    size: int


@dataclass(slots=True)
class Incoming:
    """What the parser calls back into. Of each body the first `keep` bytes are kept, the rest is counted."""

    done: Callable[[Message], None]
    keep: int
    parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None
    _url: bytes = b""
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _body: list[bytes] = field(default_factory=list)
    _size: int = 0

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body, self._size = b"", {}, [], 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        if self._size < self.keep:
            self._body.append(body[: self.keep - self._size])
        self._size += len(body)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code() if isinstance(self.parser, httptools.HttpResponseParser) else 0
        self.done(Message(self._url, status, self._headers, b"".join(self._body), self._size))


class Server(asyncio.Protocol):
    """Each whole request goes to `answer`, which writes into the transport now or later."""

    def __init__(self, answer: Callable[[Message, asyncio.Transport], None], keep: int) -> None:
        self._answer = answer
        self._incoming = Incoming(self._take, keep)
        self._parser = self._incoming.parser = httptools.HttpRequestParser(self._incoming)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are not of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def _take(self, request: Message) -> None:
        self._answer(request, self._transport)


class Connection(asyncio.Protocol):
    """A client's connection, kept alive: one request at a time."""

    def __init__(self, keep: int) -> None:
        self._incoming = Incoming(self._take, keep)
        self._parser = self._incoming.parser = httptools.HttpResponseParser(self._incoming)
        self._answer: asyncio.Future[Message] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are not of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("closed before the answer"))

    def _take(self, answer: Message) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    async def ask(self, pieces: Sequence[bytes]) -> Message:
        """Raises OSError where the connection breaks."""
        if self._transport.is_closing():
            raise ConnectionError("closed before the request")
        self._answer = asyncio.get_running_loop().create_future()
        for piece in pieces:
            self._transport.write(piece)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


async def connect(port: int, keep: int) -> Connection:
    """To this machine. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(keep), "127.0.0.1", port)
    return connection


async def serve(answer: Callable[[Message, asyncio.Transport], None], port: int, keep: int) -> None:
    """Until it is cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(answer, keep), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def head(first: str, length: int, content_type: str, *more: str) -> bytes:
    """`first` is the first line of a request or an answer."""
    lines = (first, "host: 127.0.0.1", f"content-type: {content_type}", f"content-length: {length}", *more, "", "")
    return "\r\n".join(lines).encode()


def answer_head(length: int, content_type: str = "application/json") -> bytes:
    return head("HTTP/1.1 200 OK", length, content_type)
