"""HTTP/1.1 with little code around the parser, for clients and servers that must not distort a measurement."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools


@dataclass(frozen=True, slots=True)
class Message:
    """A request, with `url`, or a response, with `status`. `body` holds the first bytes of `size` received ones."""

    url: bytes
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    size: int


@dataclass(slots=True)
class _MessageCollector:
    """Collect messages from the callbacks of the parser; keep `max_body` bytes of each body and count the rest."""

    on_message: Callable[[Message], None]
    max_body: int
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
        if self._size < self.max_body:
            self._body.append(body[: self.max_body - self._size])
        self._size += len(body)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code() if isinstance(self.parser, httptools.HttpResponseParser) else 0
        self.on_message(Message(self._url, status, self._headers, b"".join(self._body), self._size))


class Server(asyncio.Protocol):
    """Pass each complete request to `answer`, which writes the response to the transport at once or later."""

    def __init__(self, answer: Callable[[Message, asyncio.Transport], None], max_body: int) -> None:
        self._answer = answer
        self._incoming = _MessageCollector(self._on_message, max_body)
        self._parser = self._incoming.parser = httptools.HttpRequestParser(self._incoming)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not an assertion: the transports of uvloop are not of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def _on_message(self, request: Message) -> None:
        self._answer(request, self._transport)


class Connection(asyncio.Protocol):
    """A persistent connection of a client; it sends one request at a time."""

    def __init__(self, max_body: int) -> None:
        self._incoming = _MessageCollector(self._on_message, max_body)
        self._parser = self._incoming.parser = httptools.HttpResponseParser(self._incoming)
        self._response: asyncio.Future[Message] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not an assertion: the transports of uvloop are not of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(error or ConnectionError("closed before the response"))

    def _on_message(self, response: Message) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_result(response)

    async def send(self, chunks: Sequence[bytes]) -> Message:
        """Send a request and wait for its response.

        Raises:
            OSError: The connection broke.
        """
        if self._transport.is_closing():
            raise ConnectionError("closed before the request")
        self._response = asyncio.get_running_loop().create_future()
        for chunk in chunks:
            self._transport.write(chunk)
        return await self._response

    def close(self) -> None:
        self._transport.close()


async def connect(port: int, max_body: int) -> Connection:
    """Connect to a port of this machine.

    Raises:
        OSError: The connection was refused.
    """
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(max_body), "127.0.0.1", port)
    return connection


async def serve(answer: Callable[[Message, asyncio.Transport], None], port: int, max_body: int) -> None:
    """Answer requests until the task is cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(answer, max_body), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def head(start_line: str, length: int, content_type: str, *headers: str) -> bytes:
    """Return the head of a message whose first line is `start_line`."""
    lines = (
        start_line,
        "host: 127.0.0.1",
        f"content-type: {content_type}",
        f"content-length: {length}",
        *headers,
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def response_head(length: int, content_type: str = "application/json") -> bytes:
    return head("HTTP/1.1 200 OK", length, content_type)
