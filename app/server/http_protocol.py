"""One client's connection: how long it is waited for, and how much it may send that is not yet a request.

uvicorn waits for ever for a head, for a body that has stalled, and for a reader that does not read; its parser holds a
head of any size. The app itself gives up on stalled bodies (app/routes.py); the rest is here.
"""

import asyncio
import re

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.errors import ApiError, InvalidRequest, RequestTimeout, RequestTooLarge
from app.observability.logging import log

#: Bytes of a head, of what follows a body, or of a chunk's size line. Node takes 16 KiB, nginx 32 KiB.
MAX_HEAD_BYTES = 64 * 1024

#: Seconds for a client that is refused to stop sending and to read the refusal.
_LINGER_SECONDS = 2.0

#: Names, addresses, ports; underscores too, since services of a compose file are named with them.
_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]*")

_NOT_HTTP = "This is not a request in HTTP/1.1 as this server understands it."


class LimitedHttpProtocol(HttpToolsProtocol):
    """`head_seconds` for a head to come whole, `stall_seconds` for a reader to take what has been written."""

    header_timeout: float
    write_timeout: float

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _error: ApiError | None = None
    #: Bytes that have come since there was a whole head, a piece of a body, or the end of one.
    _pending = 0
    _head_started = False
    #: Nothing that comes is read any more.
    _was_rejected = False
    #: What is being answered, or was last; uvicorn's own `cycle` is the last that came.
    _current: RequestResponseCycle | None = None
    #: The head of a request that offers another protocol, without the offer.
    _upgrade_request = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive = self.header_timeout  # type: ignore[assignment]  # only loop.call_later gets it
        self._header_timer = self.loop.call_later(self.header_timeout, self._on_header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_header_timer()
        self._cancel_write_timer()
        self._signal_disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._was_rejected:
            return
        if self._header_timer is None and not self._is_busy():
            self._header_timer = self.loop.call_later(self.header_timeout, self._on_header_timeout)
        self._pending += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except HttpParserError:
            self._reject(self._error or InvalidRequest(_NOT_HTTP))
        if self._pending > MAX_HEAD_BYTES and not self._was_rejected:
            self._reject(_head_too_large())

    def _feed(self, data: bytes) -> None:
        """Java's client offers HTTP/2 with its first request, and the parser leaves out the body of an offer: so it is
        read again without it.
        """
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            self.parser = HttpRequestParser(self)
            request, self._upgrade_request = self._upgrade_request + data[offer.args[0] :], b""
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
        # What is named behind a body is no header of the request any more.
        self.headers = []
        if self.expect_100_continue:
            # A body that was announced and not asked for may never come: nothing behind it could be understood.
            self.cycle.keep_alive = False

    def _check_head(self) -> None:
        """The parser turns what is raised here into its own error, so the fault is left for `data_received`."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._error = _head_too_large()
        elif self.parser.get_http_version() not in {"1.0", "1.1"} or self.parser.get_method() == b"CONNECT":
            self._error = InvalidRequest(_NOT_HTTP)
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
            # RFC 9112, 3.2. The addresses of kept pictures are made from it.
            self._error = InvalidRequest("The Host header of the request is not the name of a host.")
        if self._error is not None:
            raise self._error

    def _head_without_upgrade(self) -> bytes:
        line = b" ".join((self.parser.get_method(), self.url, b"HTTP/1.1\r\n"))
        fields = (b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"".join((line, *fields, b"\r\n"))

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade_request:
            return
        self._pending = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.transport.get_write_buffer_size():
            # From now on any byte that is left unread counts, not only more than a buffer of them.
            self.transport.set_write_buffer_limits(high=0)
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
        """Nothing that follows can be understood, so the connection ends; an answer under way breaks off.

        Who is still sending gets time to read why: a socket that is closed with bytes unread resets the connection.
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
        super()._start_asgi_task(cycle, app)

    def _is_busy(self) -> bool:
        return self._current is not None and not self._current.response_complete

    def _signal_disconnect(self) -> None:
        """Tell the app that nobody listens; uvicorn tells only the last of several requests that came together."""
        if self._current is not None and not self._current.response_complete:
            self._current.disconnected = True
            self._current.message_event.set()

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _head_too_large() -> RequestTooLarge:
    return RequestTooLarge(f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")


def protocol_class(header_timeout: float, write_timeout: float) -> type[LimitedHttpProtocol]:
    """The class that uvicorn makes one object of for each connection."""
    timeouts = {"header_timeout": header_timeout, "write_timeout": write_timeout}
    return type("LimitedHttpProtocol", (LimitedHttpProtocol,), timeouts)
