"""What servers send beside the bodies of their responses is bounded, for upstreams and for hosts of images."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import aiohttp
import pytest
import uvloop
from aiohttp.client_proto import ResponseHandler

from app.bounded_responses import MAX_INTERIM, MAX_OVERHEAD, BoundedConnector, EndlessOverhead
from tests.support.tcp_server import listen

TEXT = b"a text"
OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: %d\r\n\r\n" % len(TEXT) + TEXT
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"

each_loop = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def lines(size: int) -> bytes:
    """Return header lines of about `size` bytes."""
    return b"".join(b"x-%d: %s\r\n" % (number, b"a" * 5000) for number in range(size // 5000))


@dataclass
class Server:
    """Answers each request on each connection with `answer`.

    `ends` are its ends of the connections. `was_closed`: a client has closed one.
    """

    answer: bytes
    url: str = ""
    ends: list[asyncio.StreamWriter] = field(default_factory=list)
    was_closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ends.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.answer)
        self.was_closed.set()
        writer.close()


@asynccontextmanager
async def asking(answer: bytes) -> AsyncGenerator[tuple[Server, aiohttp.ClientSession], None]:
    server = Server(answer)
    async with (
        listen(server.handle) as port,
        aiohttp.ClientSession(
            connector=BoundedConnector(), max_line_size=2**20, max_field_size=2**20, max_headers=2000
        ) as session,
    ):
        server.url = f"http://127.0.0.1:{port}/"
        yield server, session


async def get(server: Server, session: aiohttp.ClientSession) -> bytes:
    async with session.get(server.url) as response:
        return await response.read()


def run(new_loop: NewLoop, work: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work())  # type: ignore[arg-type]


ENOUGH = [
    ("as many interim responses as are allowed", HINT * MAX_INTERIM + WHOLE),
    ("a long head", OK + lines(MAX_OVERHEAD * 9 // 10) + b"content-length: %d\r\n\r\n" % len(TEXT) + TEXT),
    ("long trailers", CHUNKED + b"6\r\na text\r\n0\r\n" + lines(MAX_OVERHEAD * 9 // 10) + b"\r\n"),
    ("a signature with each chunk", CHUNKED + b"".join(b"1;s=abcdefgh\r\n%c\r\n" % c for c in TEXT) + b"0\r\n\r\n"),
]


@each_loop
@pytest.mark.parametrize("answer", [answer for _, answer in ENOUGH], ids=[name for name, _ in ENOUGH])
def test_what_servers_send_in_fact_is_read(answer: bytes, new_loop: NewLoop) -> None:
    async def ask() -> None:
        async with asking(answer) as (server, session):
            for _ in range(2):
                assert await get(server, session) == TEXT
            assert len(server.ends) == 1

    run(new_loop, ask)


def test_a_body_may_come_byte_by_byte() -> None:
    body = bytes(500_000)

    async def ask() -> None:
        async with asking(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n") as asked:
            assert await get(*asked) == body

    asyncio.run(ask())


TOO_MUCH = [
    ("one interim response too many", HINT * (MAX_INTERIM + 1) + WHOLE, EndlessOverhead),
    ("a head that is too long", OK + lines(MAX_OVERHEAD + 50_000) + b"\r\n", EndlessOverhead),
    ("interim responses that are too long", (HINT[:-2] + lines(MAX_OVERHEAD // 9) + b"\r\n") * 10, EndlessOverhead),
    ("an extension without an end", CHUNKED + b"1;a=" + b"b" * (MAX_OVERHEAD + 50_000), aiohttp.ClientPayloadError),
    ("trailers without an end", CHUNKED + b"0\r\n" + lines(MAX_OVERHEAD + 50_000), aiohttp.ClientPayloadError),
]


@each_loop
@pytest.mark.parametrize(
    ("answer", "error"), [(answer, error) for _, answer, error in TOO_MUCH], ids=[name for name, *_ in TOO_MUCH]
)
def test_a_connection_is_closed_that_brings_no_more_of_a_body(
    answer: bytes, error: type[Exception], new_loop: NewLoop
) -> None:
    async def ask() -> None:
        async with asking(answer) as (server, session):
            with pytest.raises(error):
                await get(server, session)
            await server.was_closed.wait()

    run(new_loop, ask)


@each_loop
@pytest.mark.parametrize("surplus", [WHOLE, HINT, b"\r\n"], ids=["another response", "an interim one", "a blank line"])
def test_a_connection_is_not_used_again_on_which_something_has_come_unasked(surplus: bytes, new_loop: NewLoop) -> None:
    async def ask() -> None:
        async with asking(WHOLE) as (server, session):
            assert await get(server, session) == TEXT
            server.ends[0].write(surplus)
            await server.was_closed.wait()
            assert await get(server, session) == TEXT
            assert len(server.ends) == 2

    run(new_loop, ask)


@each_loop
def test_a_second_response_in_one_piece_is_dropped(new_loop: NewLoop) -> None:
    async def ask() -> None:
        async with asking(WHOLE * 100) as (server, session):
            for count in (1, 2):
                assert await get(server, session) == TEXT
                assert len(server.ends) == count

    run(new_loop, ask)


@each_loop
def test_an_ended_connection_leaves_nothing_to_the_garbage_collector(new_loop: NewLoop) -> None:
    """After a crowd of requests it is not asked to collect before a minute has passed."""
    opened: list[weakref.ref[object]] = []

    async def ask() -> None:
        was_freed = asyncio.Event()
        async with asking(WHOLE.replace(OK, OK + b"connection: close\r\n")) as (server, session):
            connector = cast("BoundedConnector", session.connector)
            new_protocol = connector._factory

            def noted() -> ResponseHandler:
                protocol = new_protocol()
                opened.append(weakref.ref(protocol, lambda _: was_freed.set()))
                return protocol

            connector._factory = cast("partial[ResponseHandler]", noted)
            assert await get(server, session) == TEXT
            await asyncio.wait_for(was_freed.wait(), 10)

    gc.disable()
    try:
        run(new_loop, ask)
    finally:
        gc.enable()
    assert len(opened) == 1
