"""What a connection does with clients that are slow, silent, or speak no HTTP, over an app that reads and answers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from app.server.http_protocol import MAX_HEAD_BYTES, protocol_class
from tests.support.raw_http import RawResponse, build_request, connect
from tests.support.servers import serve

HEAD_SECONDS = STALL_SECONDS = 0.15

#: More than the buffers of two sockets on one machine hold.
LARGE = 64 * 2**20


class App:
    """Tells the headers it saw and the length of the body; `/large` answers with much, `/early` before the body.

    `/open` begins its answer, and goes on when the client has left. `left`: an answer could not be sent to its end.
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
            await self._send_much(receive, send)
        else:
            await send({"type": "http.response.body", "body": b"ok"})

    async def _send_much(self, receive: Receive, send: Send) -> None:
        piece = bytes(2**20)
        for _ in range(LARGE // len(piece)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.left.set()


@pytest.fixture(scope="module")
def app() -> App:
    return App()


@pytest.fixture(scope="module")
def url(app: App) -> Iterator[str]:
    with serve(app, http=protocol_class(HEAD_SECONDS, STALL_SECONDS)) as url:
        yield url


PATIENT = 30.0


@pytest.fixture(scope="module")
def patient(app: App) -> Iterator[str]:
    """For what must not depend on time."""
    with serve(app, http=protocol_class(PATIENT, PATIENT)) as url:
        yield url


def answer_to(url: str, *pieces: bytes) -> tuple[RawResponse, bytes]:
    """The first reply, and all that comes until the server closes the connection."""
    with connect(url) as wire:
        wire.send(*(piece.replace(b"HOST", wire.host.encode()) for piece in pieces))
        return wire.read_response(), wire.read_to_end()


def error(reply: RawResponse) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-should-retry"] == "false"
    details: dict[str, Any] = reply.json()["error"]
    assert details.keys() == {"message", "type", "param", "code"}
    return details


@pytest.mark.parametrize("begun", [b"G", b"\r\nGET /", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: b\r\n"])
def test_a_head_that_does_not_come_is_told_so(url: str, begun: bytes) -> None:
    reply, rest = answer_to(url, begun)
    assert (reply.status, error(reply)["code"], rest) == (408, "request_timeout", b"")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
def test_who_says_nothing_is_cut_without_a_word(url: str, sent: bytes) -> None:
    with connect(url) as wire:
        wire.send(sent)
        assert wire.read_to_end() == b""


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_who_says_nothing_more_is_cut_without_a_word(url: str, sent: bytes) -> None:
    reply, rest = answer_to(url, build_request("GET /") + sent)
    assert (reply.status, rest) == (200, b"")


def test_the_time_between_two_requests_begins_anew(url: str) -> None:
    with connect(url) as wire:
        for _ in range(3):
            wire.send(build_request("POST /", body=b"x"))
            assert wire.read_response().status == 200
        wire.send(b"GET / HT")
        assert wire.read_response().status == 408


def test_who_goes_on_with_a_body_that_nobody_wants_is_cut_without_a_second_answer(url: str) -> None:
    reply, rest = answer_to(url, build_request("POST /early", "transfer-encoding: chunked"), b"1\r\nx\r\n")
    assert (reply.status, rest) == (200, b"")


@dataclass(frozen=True)
class Broken:
    name: str
    sent: tuple[bytes, ...]
    status: int = 400


FILL = b"a" * MAX_HEAD_BYTES

BROKEN = [
    Broken("no HTTP at all", (b"hello\r\n\r\n",)),
    Broken("TLS on the plain port", (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),)),
    Broken("HTTP/0.9", (b"GET /\r\n\r\n",)),
    Broken("a version that is said to be 0.9", (b"GET / HTTP/0.9\r\nHost: h\r\n\r\n",)),
    Broken("HTTP/2.0 in plain words", (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",)),
    Broken("the preface of HTTP/2", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",)),
    Broken("a null byte in the path", (b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",)),
    Broken("a null byte in a header", (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",)),
    Broken("a header without a colon", (b"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n",)),
    Broken("a space before the colon", (b"GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n",)),
    Broken("a folded header", (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",)),
    Broken("only a line feed", (b"GET / HTTP/1.1\nHost: h\n\n",)),
    Broken("a tunnel", (b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",)),
    Broken("a tunnel to a path", (b"CONNECT /v1 HTTP/1.1\r\nHost: h\r\n\r\n",)),
    Broken("two lengths", (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",)),
    Broken("the same length twice", (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",)),
    Broken("a list of lengths", (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\nx",)),
    Broken("a length below nothing", (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",)),
    Broken("a length with a sign", (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx",)),
    Broken("a length beyond all numbers", (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",)),
    Broken("a length in full-width digits", ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: １\r\n\r\nx".encode(),)),
    Broken("a length and chunks", (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",)),
    Broken("chunks and a length", (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",)),
    Broken("chunks that are not the last coding", (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",)),
    Broken("a chunk whose size is none", (build_request("POST /", "transfer-encoding: chunked"), b"xyz\r\n")),
    Broken("a chunk below nothing", (build_request("POST /", "transfer-encoding: chunked"), b"-1\r\n")),
    Broken("a chunk beyond all numbers", (build_request("POST /", "transfer-encoding: chunked"), b"fffffffffffffffff\r\n")),
    Broken("a chunk longer than its size", (build_request("POST /", "transfer-encoding: chunked"), b"1\r\nxx\r\n")),
    Broken("a path that is too long", (b"GET /" + FILL + b" HTTP/1.1\r\nHost: h\r\n\r\n",), 413),
    Broken("a header that is too long", (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + FILL + b"\r\n\r\n",), 413),
    Broken("too many headers", (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES + b"\r\n",), 413),
    Broken("a path without an end", (b"GET /", *[FILL] * 2), 413),
    Broken("the name of a header without an end", (b"GET / HTTP/1.1\r\nHost: h\r\n", *[FILL] * 2), 413),
    Broken("a header without an end", (b"GET / HTTP/1.1\r\nHost: h\r\nX: ", *[FILL] * 2), 413),
    Broken("line breaks without an end", (b"\r\n" * MAX_HEAD_BYTES,), 413),
    Broken("an extension of a chunk without an end", (build_request("POST /", "transfer-encoding: chunked"), b"1;", *[FILL] * 6), 413),
    Broken("headers behind a body without an end", (build_request("POST /", "transfer-encoding: chunked"), b"0\r\n", *[b"a: b\r\n" * 11_000] * 6), 413),
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_what_is_no_request_is_refused_and_the_connection_closed(patient: str, case: Broken) -> None:
    with connect(patient) as wire:
        try:
            wire.send(*case.sent)
        except ConnectionError:
            assert case.status == 413, "only who sends much may find the connection closed"
        reply = wire.read_response()
        assert reply.status == case.status
        assert error(reply)["type"] == "invalid_request_error"
    with connect(patient) as wire:
        wire.send(build_request("GET /"))
        assert wire.read_response().status == 200


def test_a_head_of_just_the_limit_passes(patient: str) -> None:
    line = b"GET / HTTP/1.1\r\nX:"
    with connect(patient) as wire:
        wire.send(line + b"a" * (MAX_HEAD_BYTES - len("/X")) + b"\r\n\r\n")
        assert wire.read_response().status == 200


def test_headers_behind_a_body_are_none_of_the_request(patient: str) -> None:
    with connect(patient) as wire:
        wire.send(
            build_request("POST /", "transfer-encoding: chunked"), b"1\r\nx\r\n0\r\nauthorization: Bearer x\r\n\r\n"
        )
        assert wire.read_response().headers["x-names"] == "host,transfer-encoding"


def test_requests_one_behind_the_other_are_answered_in_order(patient: str) -> None:
    with connect(patient) as wire:
        wire.send(b"".join(build_request("POST /", body=b"x" * size) for size in range(1, 200)))
        assert [wire.read_response().headers["x-size"] for _ in range(1, 200)] == [str(size) for size in range(1, 200)]


def test_nonsense_behind_a_request_does_not_get_into_its_answer(patient: str, app: App) -> None:
    app.left.clear()
    with connect(patient) as wire:
        wire.send(build_request("GET /open"))
        line = wire._file.readline()
        wire.send(b"\0\0\0")
        assert line.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1" not in wire.read_to_end()
    assert app.left.wait(10)


def test_who_leaves_is_missed_by_the_first_of_several_requests_too(patient: str, app: App) -> None:
    app.left.clear()
    with connect(patient) as wire:
        wire.send(build_request("GET /open") + build_request("GET /") + build_request("GET /"))
        assert wire._file.readline().startswith(b"HTTP/1.1 200")
    assert app.left.wait(10)


def test_who_goes_on_sending_nonsense_can_read_why_and_is_cut(url: str) -> None:
    with connect(url) as wire:
        wire.send(b"\0")
        for _ in range(100):
            wire.send(FILL)
        reply = wire.read_response()
        assert (reply.status, wire.read_to_end()) == (400, b"")
        with suppress(ConnectionError):
            while True:
                wire.send(FILL)


def test_a_body_that_is_asked_for(patient: str) -> None:
    with connect(patient) as wire:
        wire.send(build_request("POST /", "expect: 100-continue", "content-length: 1"))
        assert wire.read_response().status == 100
        wire.send(b"x")
        reply = wire.read_response()
        assert (reply.headers["x-size"], reply.headers["connection"], wire.read_to_end()) == ("1", "close", b"")


def test_behind_a_body_that_was_not_asked_for_nothing_is_read(patient: str) -> None:
    """What follows is either the body or the next request, and nobody can tell."""
    with connect(patient) as wire:
        wire.send(build_request("POST /early", "expect: 100-continue", "content-length: 1"))
        reply = wire.read_response()
        assert (reply.status, reply.headers["connection"], wire.read_to_end()) == (200, "close", b"")


def test_who_offers_another_protocol_is_answered_in_this_one(patient: str) -> None:
    """As Java's client does with its first request; a web socket too."""
    offer = build_request(
        "POST /", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA", body=b"x"
    )
    with connect(patient) as wire:
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


def test_who_does_not_read_the_answer_is_cut(url: str, app: App) -> None:
    app.left.clear()
    with connect(url) as wire:
        wire.send(build_request("GET /large"))
        # The server goes on when it has given up.
        assert app.left.wait(10)
        assert len(wire.read_to_end()) < LARGE


def test_who_does_not_read_the_end_of_the_answer_is_cut(app: App) -> None:
    """Less than a buffer of it is left, and the app has done with it: nobody but the connection can tell."""
    ended = threading.Event()
    kind = protocol_class(PATIENT, STALL_SECONDS)
    lines = []

    class Watched(kind):  # type: ignore[valid-type, misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            lines.append(self)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    async def fill(scope: Scope, receive: Receive, send: Send) -> None:
        """As much as the socket takes, and a little more."""
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while lines[0].transport.get_write_buffer_size() < 16 * 1024:
            await send({"type": "http.response.body", "body": bytes(8 * 1024), "more_body": True})
            await asyncio.sleep(0)
        assert not lines[0].flow.write_paused
        await send({"type": "http.response.body", "body": b""})

    with serve(fill, http=Watched) as url, connect(url) as wire:
        wire.send(build_request("GET /"))
        assert ended.wait(10)


def test_a_slow_reader_that_reads_is_not_cut(url: str) -> None:
    with connect(url) as wire:
        wire.send(build_request("GET /large"))
        assert len(wire.read_response().body) == LARGE
