"""What has arrived of a response is read, however the connection ends, and however late it is looked at."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import aiohttp
import httpx
import pytest
import uvloop

from app.bounded_responses import MAX_INTERIM
from app.upstream.response_body import fields_of
from app.upstream.transport import NothingSent, PlainRequest, PlainResponse, ResponseStream, open_transport
from tests.support.tcp_server import listen

TEXT = b"data: one\n\ndata: two\n\n"
HEADS = {
    "a length": b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + TEXT,
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(TEXT), TEXT),
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n63\r\n" + TEXT,
    "no end": b"HTTP/1.1 200 OK\r\n\r\n" + TEXT,
}


@asynccontextmanager
async def upstream(answer: bytes, *, reset: bool, ended: asyncio.Event) -> AsyncGenerator[str, None]:
    """Serve an answer and end its connection, with RST or with FIN."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await ended.wait()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    async with listen(serve) as port:
        yield f"http://127.0.0.1:{port}/"


async def read(answer: bytes, *, reset: bool, late: bool) -> tuple[bytes, bool]:
    """Return what is read of the answer, and whether it broke off. `late`: nothing is read before the connection ends."""
    ended, data, broke_off = asyncio.Event(), b"", False
    async with upstream(answer, reset=reset, ended=ended) as url, open_transport() as transport:
        request = httpx.Request("GET", url, extensions={"timeout": httpx.Timeout(10).as_dict()})
        response = await transport.handle_async_request(request)
        stream = response.stream
        assert isinstance(stream, ResponseStream)
        if late:
            connection = stream._response.connection
            assert connection is not None
            assert connection.protocol is not None
            end = connection.protocol.closed
            assert end is not None
            ended.set()
            with suppress(aiohttp.ClientConnectionError):
                await end
        try:
            async for piece in stream:
                data += piece
                ended.set()
        except httpx.ReadError:
            broke_off = True
        await stream.aclose()
    return data, broke_off


@pytest.mark.parametrize("late", [False, True], ids=["read at once", "read late"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("framing", HEADS)
def test_what_has_arrived_is_read_before_the_end_is_noticed(framing: str, reset: bool, late: bool) -> None:
    data, broke_off = asyncio.run(read(HEADS[framing], reset=reset, late=late))
    assert data == TEXT
    # A body without a length ends with its connection, in whatever way.
    assert broke_off is (framing != "no end")


@pytest.mark.parametrize(
    "headers",
    ["x-policy: " + "a" * 200_000 + "\r\n", "".join(f"x-{number}: a\r\n" for number in range(1500))],
    ids=["a long one", "many"],
)
def test_a_reply_behind_many_headers_is_read(headers: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(TEXT), headers.encode(), TEXT)
    assert asyncio.run(read(answer, reset=False, late=False)) == (TEXT, False)


def test_httpx_reads_what_a_plain_request_has_as_text() -> None:
    request = PlainRequest("https://a.example/v1?b=c", {"accept": "*/*"}, httpx.ByteStream(b"{}"), {})
    theirs = httpx.Request("POST", "https://a.example/v1?b=c", headers={"accept": "*/*"})
    assert (request.method, request.url) == (theirs.method, theirs.url)
    assert request.headers["accept"] == theirs.headers["accept"]


RAW_HEADERS = [
    pytest.param(((b"Content-Type", b"text/plain"), (b"X-Id", b"1")), id="names in capitals"),
    pytest.param(((b"x-id", b"1"), (b"X-Id", b"2")), id="a name that is there twice"),
    pytest.param(((b"x-id", "好".encode()),), id="UTF-8"),
    pytest.param(((b"x-id", b"\xe9"),), id="Latin-1"),
    pytest.param((), id="none"),
]


@pytest.mark.parametrize("raw", RAW_HEADERS)
def test_the_headers_of_a_response_are_those_that_httpx_reads(raw: Any) -> None:
    response = PlainResponse(SimpleNamespace(status=200, reason="OK", raw_headers=raw))  # type: ignore[arg-type]
    theirs = httpx.Response(200, headers=raw, extensions={"reason_phrase": b"OK"})
    assert response.fields == fields_of(response) == dict(theirs.headers.items())
    assert response.headers == theirs.headers
    assert (response.is_success, response.reason_phrase) == (True, "OK")


def test_an_upstream_that_only_sends_interim_responses_is_given_up() -> None:
    """More in `test_bounded_responses.py`."""
    answer = b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_INTERIM + 1) + HEADS["a length"]

    async def run() -> None:
        ended = asyncio.Event()
        ended.set()
        async with upstream(answer, reset=False, ended=ended) as url, open_transport() as transport:
            with pytest.raises(httpx.TransportError):
                await ask(transport, url)

    asyncio.run(run())


@asynccontextmanager
async def keeping_server() -> AsyncGenerator[tuple[str, list[asyncio.StreamWriter]], None]:
    """Serve empty answers on connections that stay open; yields the URL and the server's ends of the connections."""
    ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with listen(serve) as port:
        yield f"http://127.0.0.1:{port}/", ends
        for end in ends:
            end.close()


async def ask(transport: httpx.AsyncBaseTransport, url: str, body: Any = b"") -> int:
    length = {"content-length": "2"} if body else {}
    extensions = {"timeout": httpx.Timeout(10).as_dict()}
    request = httpx.Request("POST", url, headers=length, content=body, extensions=extensions)
    response = await transport.handle_async_request(request)
    await response.aclose()
    return response.status_code


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_is_not_used_again_that_its_server_has_just_closed(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A busy process has not read of the end yet. A request on such a connection may or may not have been paid for."""

    async def run() -> None:
        async with keeping_server() as (url, ends), open_transport() as transport:
            for count in (1, 1, 2):
                if count == 2:
                    # Without a turn of the loop in between.
                    with socket.socket(fileno=os.dup(ends[0].get_extra_info("socket").fileno())) as end:
                        end.shutdown(socket.SHUT_WR)
                assert await ask(transport, url) == 204
                assert len(ends) == count

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def test_a_server_that_closes_each_new_connection_is_not_asked_for_ever() -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        connect, accepted = aiohttp.TCPConnector.connect, 0

        async def connect_and_close(*args: Any) -> Any:
            nonlocal accepted
            connection = await connect(*args)
            listener.accept()[0].close()
            accepted += 1
            return connection

        with listener, pytest.MonkeyPatch.context() as patch:
            patch.setattr(aiohttp.TCPConnector, "connect", connect_and_close)
            async with open_transport() as transport:
                with pytest.raises(httpx.TransportError):
                    await ask(transport, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert accepted == 1

    asyncio.run(run())


REFUSAL = b'{"error": {"message": "too large"}}'


def ask_one_that_refuses_at_once(length: int, loop: Callable[[], asyncio.AbstractEventLoop]) -> tuple[int, bytes]:
    """Return what is read of an answer, with `length` in its head, that a reset follows while the request is sent.

    The next piece of the request fails to be written before the loop reads anything.
    """
    head = b"HTTP/1.1 413 Too Large\r\ncontent-length: %d\r\n\r\n" % length
    listener = socket.create_server(("127.0.0.1", 0))

    async def large_body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(2**16)
            await asyncio.sleep(0)
        end, _ = listener.accept()
        end.sendall(head + REFUSAL)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
        while True:
            yield bytes(2**16)

    async def run() -> tuple[int, bytes]:
        url, data = f"http://127.0.0.1:{listener.getsockname()[1]}/", b""
        extensions = {"timeout": httpx.Timeout(10).as_dict()}
        headers = {"content-length": "100000000"}
        request = httpx.Request("POST", url, headers=headers, content=large_body(), extensions=extensions)
        async with open_transport() as transport:
            response = await transport.handle_async_request(request)
            with suppress(httpx.ReadError):
                async for piece in cast("ResponseStream", response.stream):
                    data += piece
            await response.aclose()
        return response.status_code, data

    with listener, asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(run())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("length", [len(REFUSAL), len(REFUSAL) + 1], ids=["whole", "cut off"])
def test_an_answer_is_read_that_a_reset_follows_while_the_request_is_sent(
    length: int, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    assert ask_one_that_refuses_at_once(length, loop) == (413, REFUSAL)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_without_a_free_descriptor_such_an_answer_is_lost(
    loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "dup", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    with pytest.raises(httpx.TransportError):
        ask_one_that_refuses_at_once(len(REFUSAL), loop)


async def pieces() -> AsyncIterator[bytes]:
    yield b"{"
    yield b"}"


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("nothing of a small request was written", b"{}", NothingSent),
        ("of a large one, a part may have been", pieces, httpx.TransportError),
    ],
)
def test_it_is_known_whether_a_request_was_written(name: str, body: Any, error: type[Exception]) -> None:
    """A connection may end between the look at it and the first byte."""

    async def run() -> type[Exception]:
        connect = aiohttp.TCPConnector.connect

        async def connect_and_lose(*args: Any) -> Any:
            connection = await connect(*args)
            patch.setattr(connection.transport, "is_closing", lambda: True)
            return connection

        async with keeping_server() as (url, _), open_transport() as transport:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(aiohttp.TCPConnector, "connect", connect_and_lose)
                with pytest.raises(httpx.TransportError) as raised:
                    await ask(transport, url, body() if callable(body) else body)
        return raised.type

    assert asyncio.run(run()) is error, name
