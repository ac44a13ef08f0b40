"""The HTTP protocol with clients that are slow, silent, or do not speak HTTP."""

import asyncio
import gc
import math
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl

from app.connection_ends import is_closed
from app.server.http_protocol import (
    MAX_HEAD_BYTES,
    Acknowledgments,
    Disconnect,
    LastResponse,
    LimitedHttpProtocol,
    _send_queue,
    protocol_class,
)
from tests.support.raw_http import RawResponse, build_request, connect
from tests.support.raw_http_lines import wait_until
from tests.support.servers import serve

HEADER_TIMEOUT = WRITE_TIMEOUT = 0.15

#: More bytes than the buffers of two sockets on one machine hold.
LARGE = 64 * 2**20


class App:
    """Returns the names of the request's headers and the length of its body.

    `/large` returns many bytes, `/early` responds before the body has arrived, `/open` starts a response and waits for
    the disconnect. `left` is set when the client of `/open` has disconnected, and when `/large` has been written.
    """

    def __init__(self) -> None:
        self.left = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        size = 0 if scope["path"] == "/early" else len(await Request(scope, receive).body())
        names = b",".join(name for name, _ in scope["headers"])
        length = [(b"content-length", b"%d" % LARGE)] if scope["path"] == "/large" else []
        headers = [(b"x-names", names), (b"x-size", b"%d" % size), *length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/open":
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
        elif scope["path"] == "/large":
            await self._send_large(receive, send)
        else:
            await send({"type": "http.response.body", "body": b"ok"})

    async def _send_large(self, receive: Receive, send: Send) -> None:
        chunk = bytes(2**20)
        for _ in range(LARGE // len(chunk)):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.left.set()


@pytest.fixture(scope="module")
def app() -> App:
    return App()


@pytest.fixture(scope="module")
def url(app: App) -> Iterator[str]:
    with serve(app, http=protocol_class(HEADER_TIMEOUT, WRITE_TIMEOUT)) as url:
        yield url


LONG = 30.0


@pytest.fixture(scope="module")
def patient_url(app: App) -> Iterator[str]:
    """Run a server with long timeouts, for tests that must not depend on time."""
    with serve(app, http=protocol_class(LONG, LONG)) as url:
        yield url


def exchange(url: str, *chunks: bytes) -> tuple[RawResponse, bytes]:
    """Return the first response, and all bytes after it until the server closes the connection."""
    with connect(url) as wire:
        wire.send(*(chunk.replace(b"HOST", wire.host.encode()) for chunk in chunks))
        return wire.read_response(), wire.read_to_end()


def error(reply: RawResponse) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-should-retry"] == "false"
    details: dict[str, Any] = reply.json()["error"]
    assert details.keys() == {"message", "type", "param", "code"}
    return details


@pytest.mark.parametrize("partial_head", [b"G", b"\r\nGET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
def test_a_head_that_does_not_arrive_in_time_is_an_error(url: str, partial_head: bytes) -> None:
    reply, rest = exchange(url, partial_head)
    assert (reply.status, error(reply)["code"], rest) == (408, "request_timeout", b"")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
def test_an_idle_connection_is_closed_without_a_response(url: str, sent: bytes) -> None:
    with connect(url) as wire:
        wire.send(sent)
        assert wire.read_to_end() == b""


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_an_idle_connection_is_closed_after_a_request(url: str, sent: bytes) -> None:
    reply, rest = exchange(url, build_request("GET /") + sent)
    assert (reply.status, rest) == (200, b"")


def test_the_header_timeout_starts_again_for_each_request(url: str) -> None:
    with connect(url) as wire:
        for _ in range(3):
            wire.send(build_request("POST /", body=b"x"))
            assert wire.read_response().status == 200
        wire.send(b"GET / HT")
        assert wire.read_response().status == 408


def test_a_connection_too_many_gets_an_error_at_once(app: App) -> None:
    with serve(app, http=protocol_class(LONG, LONG, max_connections=2)) as url, connect(url), connect(url) as second:
        with connect(url) as third:
            reply = third.read_response()
            assert (reply.status, error_code(reply)) == (503, "server_is_overloaded")
            assert (reply.headers["retry-after"], third.read_to_end()) == ("5", b"")
        second.send(build_request("GET /"))
        assert second.read_response().status == 200


def error_code(reply: RawResponse) -> str:
    return str(reply.json()["error"]["code"])


def test_a_body_that_continues_after_the_response_gets_no_second_response(url: str) -> None:
    reply, rest = exchange(url, build_request("POST /early", "transfer-encoding: chunked"), b"1\r\nx\r\n")
    assert (reply.status, rest) == (200, b"")


@dataclass(frozen=True)
class Broken:
    name: str
    sent: tuple[bytes, ...]
    status: int = 400


FILL = b"a" * MAX_HEAD_BYTES

BROKEN = [
    Broken("not HTTP", (b"hello\r\n\r\n",)),
    Broken("TLS on the plain port", (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),)),
    Broken("HTTP/0.9", (b"GET /\r\n\r\n",)),
    Broken("a request line with version 0.9", (b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n",)),
    Broken("a request line with version 2.0", (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",)),
    Broken("the preface of HTTP/2", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",)),
    Broken("a null byte in the path", (b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",)),
    Broken("a null byte in a header", (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",)),
    Broken("a header without a colon", (b"GET / HTTP/1.1\r\nHost: localhost\r\nX\r\n\r\n",)),
    Broken("a space before the colon", (b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",)),
    Broken("a folded header", (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",)),
    Broken("only a line feed", (b"GET / HTTP/1.1\nHost: h\n\n",)),
    Broken("no name of a host", (b"GET /healthz HTTP/1.1\r\n\r\n",)),
    Broken("a target with a user", (b"GET http://localhost@h/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",)),
    Broken("a tunnel", (b"CONNECT h:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",)),
    Broken("a tunnel to a path", (b"CONNECT /v1 HTTP/1.1\r\nHost: localhost\r\n\r\n",)),
    Broken("two lengths", (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",)),
    Broken("the same length twice", (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",)),
    Broken("a list of lengths", (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\nx",)),
    Broken("a negative length", (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",)),
    Broken("a length with a sign", (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\nx",)),
    Broken("a length that is too large a number", (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",)),
    Broken("a length in full-width digits", ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: １\r\n\r\nx".encode(),)),
    Broken("a length and chunks", (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",)),
    Broken("chunks and a length", (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",)),
    Broken("chunks that are not the last coding", (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",)),
    Broken("a chunk without a valid size", (build_request("POST /", "transfer-encoding: chunked"), b"xyz\r\n")),
    Broken("a chunk with a negative size", (build_request("POST /", "transfer-encoding: chunked"), b"-1\r\n")),
    Broken("a chunk with too large a size", (build_request("POST /", "transfer-encoding: chunked"), b"fffffffffffffffff\r\n")),
    Broken("a chunk longer than its size", (build_request("POST /", "transfer-encoding: chunked"), b"1\r\nxx\r\n")),
    Broken("a path that is too long", (b"GET /" + FILL + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",), 413),
    Broken("a header that is too long", (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + FILL + b"\r\n\r\n",), 413),
    Broken("too many headers", (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES + b"\r\n",), 413),
    Broken("a path without an end", (b"GET /", *[FILL] * 2), 413),
    Broken("a header name without an end", (b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[FILL] * 2), 413),
    Broken("a header without an end", (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", *[FILL] * 2), 413),
    Broken("line breaks without an end", (b"\r\n" * MAX_HEAD_BYTES,), 413),
    Broken("a chunk extension without an end", (build_request("POST /", "transfer-encoding: chunked"), b"1;", *[FILL] * 6), 413),
    Broken("trailers without an end", (build_request("POST /", "transfer-encoding: chunked"), b"0\r\n", *[b"a: b\r\n" * 11_000] * 6), 413),
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_an_invalid_request_is_rejected_and_the_connection_closed(patient_url: str, case: Broken) -> None:
    with connect(patient_url) as wire:
        try:
            wire.send(*case.sent)
        except ConnectionError:
            assert case.status == 413, "only a client that sends much may find the connection closed"
        reply = wire.read_response()
        assert reply.status == case.status
        assert error(reply)["type"] == "invalid_request_error"
    with connect(patient_url) as wire:
        wire.send(build_request("GET /"))
        assert wire.read_response().status == 200


def test_a_head_of_exactly_the_limit_is_accepted(patient_url: str) -> None:
    line = b"GET / HTTP/1.1\r\nHost:h\r\nX:"
    with connect(patient_url) as wire:
        wire.send(line + b"a" * (MAX_HEAD_BYTES - len("/HosthX")) + b"\r\n\r\n")
        assert wire.read_response().status == 200


def test_trailers_are_not_headers_of_the_request(patient_url: str) -> None:
    with connect(patient_url) as wire:
        wire.send(
            build_request("POST /", "transfer-encoding: chunked"), b"1\r\nx\r\n0\r\nauthorization: Bearer x\r\n\r\n"
        )
        assert wire.read_response().headers["x-names"] == "host,transfer-encoding"


def test_pipelined_requests_are_answered_in_order(patient_url: str) -> None:
    with connect(patient_url) as wire:
        wire.send(b"".join(build_request("POST /", body=b"x" * size) for size in range(1, 200)))
        assert [wire.read_response().headers["x-size"] for _ in range(1, 200)] == [str(size) for size in range(1, 200)]


def test_invalid_bytes_after_a_request_do_not_disturb_its_response(patient_url: str, app: App) -> None:
    app.left.clear()
    with connect(patient_url) as wire:
        wire.send(build_request("GET /open"))
        line = wire._file.readline()
        wire.send(b"\0\0\0")
        assert line.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1" not in wire.read_to_end()
    assert app.left.wait(10)


def test_a_disconnect_reaches_the_first_of_several_pipelined_requests(patient_url: str, app: App) -> None:
    app.left.clear()
    with connect(patient_url) as wire:
        wire.send(build_request("GET /open") + build_request("GET /") + build_request("GET /"))
        assert wire._file.readline().startswith(b"HTTP/1.1 200")
    assert app.left.wait(10)


def test_a_client_that_keeps_sending_can_read_the_error_before_it_is_cut_off(url: str) -> None:
    with connect(url) as wire:
        wire.send(b"\0")
        for _ in range(100):
            wire.send(FILL)
        reply = wire.read_response()
        assert (reply.status, wire.read_to_end()) == (400, b"")
        with suppress(ConnectionError):
            while True:
                wire.send(FILL)


def test_a_body_after_100_continue(patient_url: str) -> None:
    with connect(patient_url) as wire:
        wire.send(build_request("POST /", "expect: 100-continue", "content-length: 1"))
        assert wire.read_response().status == 100
        wire.send(b"x")
        reply = wire.read_response()
        assert (reply.headers["x-size"], reply.headers["connection"], wire.read_to_end()) == ("1", "close", b"")


def test_nothing_is_read_after_a_body_without_100_continue(patient_url: str) -> None:
    """The next bytes are either the body or the next request, and the server cannot know which."""
    with connect(patient_url) as wire:
        wire.send(build_request("POST /early", "expect: 100-continue", "content-length: 1"))
        reply = wire.read_response()
        assert (reply.status, reply.headers["connection"], wire.read_to_end()) == (200, "close", b"")


def test_an_offer_of_another_protocol_is_ignored(patient_url: str) -> None:
    """Java's HttpClient offers HTTP/2 with its first request; a web socket is an offer too."""
    offer = build_request(
        "POST /", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA", body=b"x"
    )
    with connect(patient_url) as wire:
        wire.send(*(offer[at : at + 1] for at in range(len(offer))))
        assert wire.read_response().headers["x-size"] == "1"
        wire.send(
            offer
            + offer
            + build_request("GET /", "connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13")
        )
        assert [wire.read_response().headers["x-size"] for _ in range(3)] == ["1", "1", "0"]
        wire.send(build_request("POST /", body=b"xx"))
        assert wire.read_response().headers["x-size"] == "2"


def test_a_client_that_does_not_read_the_response_is_cut_off(url: str, app: App) -> None:
    app.left.clear()
    with connect(url) as wire:
        wire.send(build_request("GET /large"))
        # The application continues after the server has given up.
        assert app.left.wait(10)
        assert len(wire.read_to_end()) < LARGE


def test_a_client_that_does_not_read_the_end_of_the_response_is_cut_off(app: App) -> None:
    """Less than a buffer is unread and the application has ended, so only the protocol can notice it."""
    ended = threading.Event()
    kind = protocol_class(LONG, WRITE_TIMEOUT)
    connections = []

    class Watched(kind):  # type: ignore[valid-type, misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connections.append(self)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    async def fill(scope: Scope, receive: Receive, send: Send) -> None:
        """Write as much as the socket accepts, and a little more."""
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while connections[0].transport.get_write_buffer_size() < 16 * 1024:
            await send({"type": "http.response.body", "body": bytes(8 * 1024), "more_body": True})
            await asyncio.sleep(0)
        assert not connections[0].flow.write_paused
        await send({"type": "http.response.body", "body": b""})

    with serve(fill, http=Watched) as url, connect(url) as wire:
        wire.send(build_request("GET /"))
        assert ended.wait(10)


def test_a_slow_reader_is_not_cut_off(url: str) -> None:
    with connect(url) as wire:
        wire.send(build_request("GET /large"))
        assert len(wire.read_response().body) == LARGE


def test_a_system_that_tells_nothing_of_a_send_queue_is_believed_to_have_sent_it(tmp_path: Path) -> None:
    with (tmp_path / "no-socket").open("wb") as file:
        assert _send_queue(cast(socket.socket, file)) is None


def test_a_closed_connection_leaves_no_circle_of_references(patient_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Circles stay in memory until the next full collection, which is rare."""
    connection_made, protocols = LimitedHttpProtocol.connection_made, list[weakref.ref[LimitedHttpProtocol]]()

    def watch(protocol: LimitedHttpProtocol, transport: asyncio.Transport) -> None:
        protocols.append(weakref.ref(protocol))
        connection_made(protocol, transport)

    monkeypatch.setattr(LimitedHttpProtocol, "connection_made", watch)
    gc.disable()
    try:
        exchange(patient_url, b"GET / HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
        wait_until(lambda: len(protocols) == 1 and protocols[0]() is None)
    finally:
        gc.enable()


def test_a_connection_that_waits_holds_no_dictionary_and_no_deque_of_its_own(app: App) -> None:
    protocols: list[LimitedHttpProtocol] = []

    class Observed(protocol_class(LONG, LONG)):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            protocols.append(self)

    with serve(app, http=Observed) as url, connect(url) as wire:
        wire.send(build_request("GET /open").replace(b"HOST", wire.host.encode()))
        wait_until(lambda: bool(protocols) and protocols[0]._current is not None)
        (protocol,) = protocols
        # Python shares the names of an object's first 30 attributes with others of its class.
        assert len(vars(protocol)) <= 30
        events = protocol.cycle.message_event, protocol.flow._is_writable_event
        small = [protocol.pipeline, *(event._waiters for event in events)]
        assert [isinstance(each, list) for each in small] == [True, True, True]


def test_the_application_learns_that_the_client_leaves() -> None:
    learned = threading.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await App()(scope, receive, send)
            return
        await scope["extensions"]["limner.disconnect"]()
        learned.set()

    with serve(wait, http=protocol_class(5, 5)) as url:
        with connect(url) as wire:
            wire.send(build_request("GET /"))
            assert not learned.wait(0.05)
        assert learned.wait(10)


def test_the_application_knows_whether_a_message_has_arrived() -> None:
    known: list[bool] = []
    asked = threading.Event()

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            has_arrived = scope["extensions"]["limner.arrived"]
            known.append(has_arrived())
            asked.set()
            await receive()
            known.append(has_arrived())
        await App()(scope, receive, send)

    head = build_request("POST /early", "content-length: 2")
    with serve(note, http=protocol_class(5, 5)) as url, connect(url) as wire:
        wire.send(head + b"{}")
        assert wire.read_response().status == 200
        assert known == [True, False]
        asked.clear()
        wire.send(head)
        assert asked.wait(10)
        wire.send(b"{}")
        assert wire.read_response().status == 200
        assert known == [True, False, False, False]


class Flow(FlowControl):
    """Count how often reading is resumed."""

    def __init__(self) -> None:
        self.resumed = 0

    def resume_reading(self) -> None:
        self.resumed += 1


def test_a_client_that_has_left_before_anyone_asks_has_left() -> None:
    async def play() -> tuple[bool, bool, bool, bool, int]:
        disconnect = Disconnect(flow := Flow(), asyncio.Transport())
        first = disconnect()
        before = first.done()
        disconnect.report()
        disconnect.report()
        return before, first.done(), disconnect().done(), disconnect.has_left(), flow.resumed

    assert asyncio.run(play()) == (False, True, True, True, 2)


def test_there_is_room_when_the_connection_takes_more_and_none_for_a_client_that_has_left() -> None:
    async def play() -> list[bool]:
        disconnect = Disconnect(flow := FlowControl(asyncio.Transport()), asyncio.Transport())
        rooms = [await disconnect.has_room()]
        flow.pause_writing()
        waiting = asyncio.create_task(disconnect.has_room())
        await asyncio.sleep(0)
        rooms.append(waiting.done())
        flow.resume_writing()
        rooms.append(await waiting)
        disconnect.report()
        return [*rooms, await disconnect.has_room()]

    assert asyncio.run(play()) == [True, False, True, False]


def test_a_client_has_left_even_if_the_event_loop_has_not_read_so() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not is_closed(ours)
        theirs.send(b"more")
        assert not is_closed(ours)
        assert ours.recv(4) == b"more"
        theirs.close()
        assert is_closed(ours)


def test_a_look_at_a_connection_makes_no_other_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(socket, "socket", None)
        assert not is_closed(ours)


def test_a_client_that_resets_its_connection_has_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ours, _ = server.accept()
        with ours:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            wait_until(lambda: is_closed(ours))


def test_a_connection_that_was_reset_waits_for_no_further_request(app: App) -> None:
    """A timer would hold its memory until no request could come any more."""
    lost = threading.Event()
    timers: list[object] = []
    kind = protocol_class(LONG, LONG)

    class Watched(kind):  # type: ignore[valid-type, misc]
        def connection_lost(self, exc: Exception | None) -> None:
            timers.append(self.timeout_keep_alive_task)
            super().connection_lost(exc)
            timers.append(self.timeout_keep_alive_task)
            lost.set()

    with serve(app, http=Watched) as url:
        with connect(url) as wire:
            wire.send(build_request("GET /"))
            wire.read_response()
            wire.reset()
        assert lost.wait(10)
    assert timers[0] is not None
    assert timers[1] is None


def test_the_server_knows_at_once_that_its_client_has_left() -> None:
    answers: list[bool] = []
    asked = threading.Event()
    leave = threading.Event()

    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await App()(scope, receive, send)
            return
        disconnect = scope["extensions"]["limner.disconnect"]
        answers.append(disconnect.has_left())
        asked.set()
        # The event loop stands still, and reads nothing of what happens meanwhile.
        leave.wait(10)
        answers.append(disconnect.has_left())
        asked.set()

    with serve(ask, http=protocol_class(5, 5)) as url:
        with connect(url) as wire:
            wire.send(build_request("GET /"))
            assert asked.wait(10)
            asked.clear()
        leave.set()
        assert asked.wait(10)
    assert answers == [False, True]


def test_what_was_on_its_way_is_known_after_the_connection_was_closed() -> None:
    class ClosedTransport(asyncio.Transport):
        def is_closing(self) -> bool:
            return True

    assert Acknowledgments(ClosedTransport(), math.inf)() == math.inf
    assert Acknowledgments(ClosedTransport())() is None


@dataclass(frozen=True)
class Looks:
    name: str
    unacknowledged: list[float | None]
    looks: int


class OpenTransport(asyncio.Transport):
    """Counts how often it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0

    def is_closing(self) -> bool:
        return self.closed > 0

    def close(self) -> None:
        self.closed += 1


class ImpatientLoop:
    """Calls at once what is to be called later."""

    def call_later(self, _: float, callback: Callable[..., None], *args: object) -> None:
        callback(*args)


IMPATIENT = cast("asyncio.AbstractEventLoop", ImpatientLoop())


@pytest.mark.parametrize(
    "case",
    [
        Looks("Everything is acknowledged: the connection is closed at once.", [0], 1),
        Looks("The system tells nothing: the connection is closed at once.", [None], 1),
        Looks("The connection is closed with the last acknowledgment.", [7, 7, 3, 0], 4),
        Looks("A client that acknowledges slowly is waited for.", [*range(100, -1, -1)], 101),
        Looks("A client that acknowledges nothing for three seconds is not waited for.", [5.0] * 50, 18),
    ],
    ids=lambda case: case.name,
)
def test_the_last_response_of_a_connection_is_waited_for(case: Looks) -> None:
    left, transport = iter(case.unacknowledged), OpenTransport()
    looks: list[float | None] = []

    class Known(Acknowledgments):
        def __call__(self) -> float | None:
            looks.append(next(left))
            return looks[-1]

    LastResponse(transport, Known(transport), IMPATIENT).close()
    assert (transport.closed, len(looks)) == (1, case.looks)


def test_a_connection_that_was_lost_is_not_waited_for() -> None:
    transport = OpenTransport()
    looks: list[float] = []

    class Lost(Acknowledgments):
        def __call__(self) -> float | None:
            looks.append(math.inf)
            transport.closed += 1
            return looks[-1]

    LastResponse(transport, Lost(transport), IMPATIENT).close()
    assert looks == [math.inf]


def test_what_follows_the_last_request_of_a_connection_is_not_answered() -> None:
    """Neither what came with it, nor what comes while its client has not acknowledged the response."""
    has_ended = threading.Event()

    async def fill(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await App()(scope, receive, send)
            return
        size = 2**18
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})
        has_ended.set()

    with serve(fill, http=protocol_class(LONG, LONG)) as url, socket.socket() as client:
        address = urlsplit(url)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(LONG)
        client.connect((address.hostname, address.port))
        request = b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
        client.sendall(request + request)
        assert has_ended.wait(10)
        client.sendall(request)
        received = b""
        while chunk := client.recv(2**16):
            received += chunk
    assert received.count(b"HTTP/1.1 200") == 1


@dataclass(frozen=True)
class Pieces:
    name: str
    body: bytes
    parts: int


@pytest.mark.parametrize(
    "sent",
    [
        Pieces("one piece", b"1000\r\n" + bytes(4096) + b"\r\n0\r\n\r\n", 1),
        Pieces("pieces that come together", b"1\r\na\r\n" * 500 + b"0\r\n\r\n", 500),
    ],
    ids=lambda sent: sent.name,
)
def test_a_piece_of_a_body_is_handed_on_as_it_came(sent: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not copied, unless further pieces come before the application asks; these are not copied one by one."""
    pieces: list[bytes] = []
    got: list[bytes] = []
    kinds: list[type] = []
    on_body = LimitedHttpProtocol.on_body

    def watch(protocol: LimitedHttpProtocol, body: bytes) -> None:
        pieces.append(body)
        on_body(protocol, body)
        kinds.append(type(protocol.cycle.body))

    async def collect(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await App()(scope, receive, send)
            return
        got.extend([chunk async for chunk in Request(scope, receive).stream() if chunk])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(LimitedHttpProtocol, "on_body", watch)
    with serve(collect, http=protocol_class(LONG, LONG)) as url:
        head = b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert exchange(url, head + sent.body)[0].status == 200
    assert (len(pieces), b"".join(got)) == (sent.parts, b"".join(pieces))
    assert kinds == [bytes, *[bytearray] * (sent.parts - 1)]
    assert sent.parts > 1 or got[0] is pieces[0]
