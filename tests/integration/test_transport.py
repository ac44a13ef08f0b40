"""What has arrived of a response is read, however the connection ends, and however late it is looked at."""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import aiohttp
import httpx
import pytest

from app.upstream.transport import ResponseStream, open_transport

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

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/"


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
