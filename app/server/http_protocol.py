"""uvicorn's HTTP protocol with limits on connections, the time for a request head, its size, and stalled writes.

Without these limits uvicorn waits forever for a head, for a stalled body and for a client that does not read, and its
parser buffers a head of any size. Stalled bodies are ended by the application (`app/api/body.py`), the rest here.
"""

import asyncio
import fcntl
import math
import re
import socket
import sys
import termios
from dataclasses import dataclass
from typing import Any

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.connection_ends import is_closed
from app.errors import ApiError, InvalidRequest, RequestTimeout, RequestTooLarge, ServiceUnavailable
from app.observability.logging import log
from app.observability.metrics import CONNECTIONS_REFUSED

#: Bytes of a request head, of trailers, or of a chunk's size line. Node allows 16 KiB, nginx 32 KiB.
MAX_HEAD_BYTES = 64 * 1024

#: Seconds for a rejected client to stop sending and to read the error.
_LINGER_SECONDS = 2.0

#: Seconds between two looks at what a client has acknowledged, growing, and seconds without an acknowledgment that mean
#: a dead connection.
FIRST_PAUSE, LONGEST_PAUSE, MAX_SILENCE = 0.005, 0.25, 3.0

#: Names, addresses and ports. Underscores too, because services of a compose file are named with them.
_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]*")

#: A target with the name of its host, as clients of proxies send it.
_ABSOLUTE_TARGET = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")

_TOO_MANY_CONNECTIONS = "The server has too many open connections. Please try again later."

_NOT_HTTP = "This is not a request in HTTP/1.1 as this server understands it."


@dataclass(slots=True)
class Acknowledgments:
    """What the client's system has acknowledged of a connection.

    A request refers to this object, and not to the protocol, which refers to the request: in a circle all of them would
    stay in memory until the next collection. `left`: the latest result, which stays after the connection was closed.
    `are_awaited`: the response was the last one, and the connection is closed as soon as all of it is acknowledged.
    """

    transport: asyncio.Transport
    left: float | None = None
    are_awaited: bool = False

    def __call__(self) -> float | None:
        """Return how many bytes the client's system has not acknowledged.

        None where that cannot be known, infinity where the connection was lost before they were.
        """
        if not self.transport.is_closing():
            in_system = _send_queue(self.transport.get_extra_info("socket"))
            self.left = None if in_system is None else self.transport.get_write_buffer_size() + in_system
        return self.left


@dataclass(slots=True)
class LastResponse:
    """The transport of a response that ends its connection: it is closed when the client has acknowledged everything.

    Nothing can be asked of a closed connection any more, and the client may be gone. Refers to no protocol, for the
    same reason as `Acknowledgments`.
    """

    transport: asyncio.Transport
    acknowledgments: Acknowledgments
    loop: asyncio.AbstractEventLoop

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def close(self) -> None:
        """Close the connection as soon as everything is acknowledged, or nothing has been for `MAX_SILENCE` seconds."""
        self.acknowledgments.are_awaited = True
        self._look(FIRST_PAUSE, math.inf, 0.0)

    def _look(self, pause: float, before: float, silence: float) -> None:
        left = self.acknowledgments()
        silence = silence if left == before else 0.0
        if not left or silence > MAX_SILENCE or self.transport.is_closing():
            self.transport.close()
        else:
            self.loop.call_later(pause, self._look, min(2 * pause, LONGEST_PAUSE), left, silence + pause)


@dataclass(slots=True)
class Disconnect:
    """Whether the client of a connection has left. Refers to no protocol, for the same reason.

    A task that waits for the next message of the request would tell it, too, at the price of one task a request.
    `is_reported`: the event loop has noticed that the client has left.
    """

    flow: FlowControl
    transport: asyncio.Transport
    is_reported: bool = False
    waiter: asyncio.Future[None] | None = None

    def has_left(self) -> bool:
        """Return whether the client has left, also where the event loop has not read so yet."""
        return self.is_reported or self.transport.is_closing() or is_closed(self.transport.get_extra_info("socket"))

    def __call__(self) -> asyncio.Future[None]:
        """Return a future that ends when the client leaves. A connection serves one request at a time."""
        # Behind a large body, reading is paused, and only by reading it is noticed that a connection was closed.
        self.flow.resume_reading()
        self.waiter = asyncio.get_running_loop().create_future()
        if self.is_reported:
            self.waiter.set_result(None)
        return self.waiter

    async def has_room(self) -> bool:
        """Wait until the connection takes more bytes. Return whether the client is there, as far as is known."""
        if self.flow.write_paused:
            await self.flow.drain()
        return not self.is_reported

    def report(self) -> None:
        self.is_reported = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class _SmallEvent(asyncio.Event):
    """An event whose waiters are in a list: an empty deque takes 0.7 KiB, and seldom does anyone wait here."""

    def __init__(self, *, is_set: bool = False) -> None:
        super().__init__()
        self._waiters = []  # type: ignore[assignment]  # only appended to, removed from and iterated
        self._value = is_set


class _Pipeline(list[tuple[RequestResponseCycle, ASGI3Application]]):
    """Requests that wait for the end of the one before them on their connection: a small deque, for the same reason."""

    __slots__ = ()

    def appendleft(self, request: tuple[RequestResponseCycle, ASGI3Application]) -> None:
        self.insert(0, request)


class LimitedHttpProtocol(HttpToolsProtocol):
    """One client connection.

    Attributes:
        header_timeout: Seconds for a complete request head, and for an idle connection.
        write_timeout: Seconds for the client to read what has been written, once more than the write buffer is unread.
        max_connections: How many connections there may be; one more gets a 503 and is closed.
    """

    header_timeout: float
    write_timeout: float
    max_connections: int

    # Python shares the names of up to 30 attributes between objects. With these beside uvicorn's 28, each connection
    # would have a dictionary of its own, of 1.6 KiB.
    __slots__ = (
        "_acknowledgments",
        "_current",
        "_disconnect",
        "_error",
        "_head_started",
        "_header_timer",
        "_pending",
        "_upgrade_request",
        "_was_rejected",
        "_write_timer",
    )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow._is_writable_event = _SmallEvent(is_set=True)
        self.pipeline = _Pipeline()  # type: ignore[assignment]  # only appended to, popped from and tested
        self._acknowledgments = Acknowledgments(transport)
        self._disconnect = Disconnect(self.flow, transport)
        self._write_timer: asyncio.TimerHandle | None = None
        #: Why the head is rejected; see `_check_head`.
        self._error: ApiError | None = None
        #: Bytes received since the last complete head, chunk of a body, or end of a body.
        self._pending = 0
        self._head_started = False
        #: After a rejection, further bytes are ignored.
        self._was_rejected = False
        #: The request that is being answered, or was answered last. uvicorn's own `cycle` is the one received last.
        self._current: RequestResponseCycle | None = None
        #: The head of a request that offers another protocol, without this offer.
        self._upgrade_request = b""
        self.timeout_keep_alive = self.header_timeout  # type: ignore[assignment]  # only loop.call_later gets it
        timer = self.loop.call_later(self.header_timeout, self._on_header_timeout)
        self._header_timer: asyncio.TimerHandle | None = timer
        if len(self.connections) > self.max_connections:
            CONNECTIONS_REFUSED.inc()
            self._reject(ServiceUnavailable(_TOO_MANY_CONNECTIONS, headers={"retry-after": "5"}))

    def eof_received(self) -> None:
        """Note what was on its way when the client closed the connection: it cannot be asked for any more."""
        self._acknowledgments()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or self._acknowledgments.left:
            self._acknowledgments.left = math.inf
        self._cancel_header_timer()
        self._cancel_write_timer()
        self._signal_disconnect()
        # uvicorn does so only if the client has not reset the connection, and the timer holds all of this object.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._was_rejected or self._acknowledgments.are_awaited:
            return
        self._pending += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except HttpParserError:
            self._reject(self._error or InvalidRequest(_NOT_HTTP))
        if self._pending > MAX_HEAD_BYTES and not self._was_rejected:
            self._reject(_head_too_large())
        # Most heads come as a whole, and their requests are under way by now.
        if self._header_timer is None and not self._is_busy():
            self._header_timer = self.loop.call_later(self.header_timeout, self._on_header_timeout)

    def _feed(self, data: bytes) -> None:
        """Parse bytes. A request that offers another protocol is parsed a second time without the offer.

        Java's HttpClient offers HTTP/2 (`Upgrade: h2c`) in its first request, and httptools skips the body of such a
        request.
        """
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.parser = HttpRequestParser(self)
            request, self._upgrade_request = self._upgrade_request + data[upgrade.args[0] :], b""
            self._feed(request)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_started = True

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.parser.should_upgrade():
            self._upgrade_request = self._head_without_upgrade()
            return
        self._cancel_header_timer()
        self._pending = 0
        self._head_started = False
        self.transport.set_write_buffer_limits()
        super().on_headers_complete()
        # Its task has not begun yet. `app/api/body.py` reads the extension under the same name.
        self.cycle.message_event = arrival = _SmallEvent()
        self.cycle.scope.setdefault("extensions", {})["limner.arrived"] = arrival.is_set  # type: ignore[assignment]
        # Trailers after a chunked body are appended to this list; they are not headers of the request.
        self.headers = []
        if self.expect_100_continue:
            # With `Expect: 100-continue` the client may never send the announced body (RFC 9110, 10.1.1). The next
            # bytes on the connection are then ambiguous, so it is not kept alive.
            self.cycle.keep_alive = False
        if not self.cycle.keep_alive:
            last: Any = LastResponse(self.transport, self._acknowledgments, self.loop)
            self.cycle.transport = last

    def _check_head(self) -> None:
        """Raise if the head is not acceptable.

        httptools replaces any exception with its own, so the error is also stored in `_error` for `data_received`.
        """
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._error = _head_too_large()
        elif self.parser.get_http_version() not in {"1.0", "1.1"} or self.parser.get_method() == b"CONNECT":
            self._error = InvalidRequest(_NOT_HTTP)
        if not self.url.startswith(b"/") and (absolute := _ABSOLUTE_TARGET.match(self.url)):
            # RFC 9112, 3.2.2: the header is ignored then.
            self.headers[:] = [*(field for field in self.headers if field[0] != b"host"), (b"host", absolute[1])]
        hosts = [value for name, value in self.headers if name == b"host"]
        is_one = len(hosts) == 1 or (not hosts and self.parser.get_http_version() != "1.1")
        if not is_one or not all(map(_HOST.fullmatch, hosts)):
            # RFC 9112, 3.2. URLs of stored images are made from this header.
            self._error = InvalidRequest("The request needs one Host header with the name of a host.")
        if self._error is not None:
            raise self._error

    def _head_without_upgrade(self) -> bytes:
        line = b" ".join((self.parser.get_method(), self.url, b"HTTP/1.1\r\n"))
        fields = (b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"".join((line, *fields, b"\r\n"))

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        cycle: Any = self.cycle
        if not cycle.body:
            # To an empty `bytes` uvicorn adds a piece without copying it, and hands it on without copying it.
            cycle.body = b""
        elif isinstance(cycle.body, bytes):
            # More pieces have come before the application has asked. There may be thousands.
            cycle.body = bytearray(cycle.body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade_request:
            return
        self._pending = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.transport.get_write_buffer_size():
            # From now on a single unread byte starts the write timeout, not only more than a buffer of them.
            self.transport.set_write_buffer_limits(high=0)
        if self._acknowledgments.are_awaited:
            # RFC 9112, 9.6: what follows the last request of a connection is not answered.
            self.pipeline.clear()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cancel_write_timer()
        self._write_timer = self.loop.call_later(self.write_timeout, self._on_write_stall)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_write_timer()

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self._head_started:
            self._reject(RequestTimeout(f"The head of the request did not come within {self.header_timeout:g} s."))
        else:
            self.transport.close()

    def _on_write_stall(self) -> None:
        log.info("client_write_stalled", seconds=self.write_timeout)
        self.transport.abort()

    def _reject(self, error: ApiError) -> None:
        """Send an error and end the connection, because the bytes that follow cannot be parsed.

        A response that has already started is cut off. The socket stays open for a moment: closing it while received
        bytes are unread resets the connection, and the client would lose the error.
        """
        if self._current is None or self._current.response_complete or not self._current.response_started:
            body = orjson.dumps(error.body)
            fields = {"content-type": "application/json", "content-length": f"{len(body)}", "connection": "close"}
            head = "".join(f"{name}: {value}\r\n" for name, value in {**error.headers, **fields}.items())
            self.transport.write(STATUS_LINE[error.status] + head.encode() + b"\r\n" + body)
        self._signal_disconnect()
        self._was_rejected = True
        self.transport.write_eof()
        self._cancel_header_timer()
        self._header_timer = self.loop.call_later(min(self.header_timeout, _LINGER_SECONDS), self.transport.abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current = cycle
        # `app/api/disconnects.py` reads them under the same names.
        extensions = cycle.scope.setdefault("extensions", {})
        extensions["limner.unacknowledged"] = self._acknowledgments  # type: ignore[assignment]
        extensions["limner.disconnect"] = self._disconnect  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def _is_busy(self) -> bool:
        return self._current is not None and not self._current.response_complete

    def _signal_disconnect(self) -> None:
        """Report the disconnect to the application. Of several pipelined requests uvicorn informs only the last one."""
        if self._current is not None and not self._current.response_complete:
            self._current.disconnected = True
            self._current.message_event.set()
            self._disconnect.report()

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _send_queue(connection: socket.socket) -> int | None:
    """Return how many bytes were not acknowledged (SIOCOUTQ in tcp(7)); None where the system does not tell."""
    try:
        return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return None


def _head_too_large() -> RequestTooLarge:
    return RequestTooLarge(f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")


def protocol_class(
    header_timeout: float, write_timeout: float, max_connections: int = 2**17
) -> type[LimitedHttpProtocol]:
    """Return the class of which uvicorn creates one object per connection. Both timeouts are in seconds."""
    limits = {"header_timeout": header_timeout, "write_timeout": write_timeout, "max_connections": max_connections}
    return type("LimitedHttpProtocol", (LimitedHttpProtocol,), limits)
