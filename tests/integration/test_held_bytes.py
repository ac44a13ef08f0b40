"""A piece of a body is not held while the next one is waited for: with hundreds of bodies on their way it would count."""

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest

from app.api.body import collect_json, parse_multipart
from app.api.content_encoding import PeekableBody, decompress_body, rewrite_as_utf8
from app.api.responses import SizedResponse
from app.images.blob import Blob
from app.images.fetch import CHUNK_SIZE, Fetcher
from app.images.ssrf import parse_allow
from app.protocol.inline_images import InlineImageSpooler
from app.protocol.json_stream import Base64String, StreamingJson
from app.protocol.reply_parser import ReplyParser
from app.upstream.response_body import BodyReader
from app.upstream.spec import ModelMap, UpstreamSpec
from app.upstream.transport import ResponseStream, open_transport
from tests.support.asgi_client import AsgiClient
from tests.support.tcp_server import listen

NewBlob = Callable[[], Blob]

PIECE = 300_000
FEW = 100_000

FORM_START = b'--limner\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
FORM_END = b"\r\n--limner--\r\n"
JSON_START = b'{"content": "![a](data:image/png;base64,iVBORw0KGgo'
JSON_END = b')"}'


@dataclass
class Held:
    """Bytes that are held beside what was there before, at each look."""

    looks: list[int] = field(default_factory=list)
    before: int = 0

    def look(self) -> None:
        self.looks.append(tracemalloc.get_traced_memory()[0] - self.before)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(10**6):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never was so")


async def arriving(held: Held, start: bytes, end: bytes, new_piece: Callable[[], bytes]) -> AsyncIterator[bytes]:
    """Yield a body in pieces, each made when it is wanted, and look then how much of those before is held."""
    yield start
    held.before = tracemalloc.get_traced_memory()[0]
    for _ in range(4):
        yield new_piece()
        held.look()
    yield end


@pytest.fixture
def new_blob() -> Iterator[NewBlob]:
    """Make blobs in files, which are closed at the end."""
    with ExitStack() as blobs:
        yield lambda: blobs.enter_context(Blob(in_memory=0))


async def consume(body: PeekableBody) -> None:
    while await anext(body, b""):
        pass


async def receive_form(held: Held, new_blob: NewBlob) -> None:
    body = arriving(held, FORM_START, FORM_END, lambda: bytes(PIECE))
    await parse_multipart(body, "limner", InlineImageSpooler(new_blob), new_blob=new_blob, max_part=10 * PIECE)


async def receive_json(held: Held, new_blob: NewBlob) -> None:
    body = arriving(held, JSON_START, JSON_END, lambda: b"A" * PIECE)
    await collect_json(body, InlineImageSpooler(new_blob))


async def receive_compressed(held: Held, new_blob: NewBlob) -> None:
    compressor = zlib.compressobj(level=0)
    whole = [compressor.compress(b" " * PIECE) + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(5)]
    copies = (bytes(bytearray(piece)) for piece in whole[1:])
    body = arriving(held, whole[0], compressor.flush(), lambda: next(copies))
    await consume(await decompress_body(PeekableBody(body), "deflate", 10 * PIECE))


async def receive_utf16(held: Held, new_blob: NewBlob) -> None:
    body = arriving(held, '{"a": "'.encode("utf-16-le"), b"", lambda: b"a\0" * (PIECE // 2))
    await consume(await rewrite_as_utf8(PeekableBody(body)))


async def receive_reply(held: Held, new_blob: NewBlob) -> None:
    class Body(httpx.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return arriving(held, JSON_START, JSON_END, lambda: b"A" * PIECE)

    parser = ReplyParser(new_blob)

    async def take(chunk: bytes, _: bool) -> bool:
        parser.feed(chunk)
        return False

    spec = UpstreamSpec(name="first", models=ModelMap("painter", {}), base_url="https://upstream.example/v1")
    await BodyReader(spec, lambda: 0.0).read(httpx.Response(200, stream=Body()), {}, 0.0, take)


async def send_response(held: Held, new_blob: NewBlob) -> None:
    class End:
        async def has_room(self) -> bool:
            held.look()
            return True

        async def is_connected(self) -> bool:
            return True

        async def is_received(self) -> bool:
            return True

        def close(self, *, delivered: bool) -> None:
            assert delivered

    async def send(_: object) -> None:
        pass

    image = new_blob()
    image.write(bytes(4 * PIECE))
    response = SizedResponse([StreamingJson({"b64_json": Base64String(image)})], "application/json", {}, End())
    held.before = tracemalloc.get_traced_memory()[0]
    await response({"type": "http"}, AsgiClient().receive, send)


@pytest.mark.parametrize(
    "move",
    [receive_form, receive_json, receive_compressed, receive_utf16, receive_reply, send_response],
    ids=lambda move: move.__name__.replace("_", " "),
)
def test_no_piece_is_held_while_the_next_one_is_waited_for(
    move: Callable[[Held, NewBlob], Awaitable[None]], new_blob: NewBlob
) -> None:
    held = Held()

    async def play() -> None:
        tracemalloc.start()
        try:
            await move(held, new_blob)
        finally:
            tracemalloc.stop()

    asyncio.run(play())
    assert len(held.looks) >= 4
    assert max(held.looks) < FEW


def test_no_piece_of_a_download_is_held_while_the_next_one_is_waited_for(new_blob: NewBlob) -> None:
    held, blob, piece = Held(), new_blob(), bytes(PIECE)

    def has_written(size: int) -> bool:
        return blob.size >= size

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (4 * PIECE))
        tracemalloc.start()
        try:
            for size in range(PIECE, 5 * PIECE, PIECE):
                writer.write(piece)
                await until(partial(has_written, size - CHUNK_SIZE))
                held.look()
        finally:
            tracemalloc.stop()
        writer.close()

    async def play() -> None:
        async with listen(serve) as port:
            fetcher = Fetcher(new_blob=lambda: blob, allow=parse_allow(f"127.0.0.1:{port}"), is_own=lambda _: False)
            await fetcher.fetch(f"http://127.0.0.1:{port}/a.png")
            await fetcher.close()

    asyncio.run(play())
    assert max(held.looks) < FEW


def test_little_of_a_reply_is_received_before_it_is_read() -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + bytes(9_000_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(whole)
        writer.close()

    async def play() -> int:
        async with listen(serve) as port, open_transport() as transport:
            extensions = {"timeout": httpx.Timeout(10).as_dict()}
            request = httpx.Request("GET", f"http://127.0.0.1:{port}/", extensions=extensions)
            stream = (await transport.handle_async_request(request)).stream
            assert isinstance(stream, ResponseStream)
            connection = stream._response.connection
            assert connection is not None
            reading = connection.transport
            assert isinstance(reading, asyncio.ReadTransport)
            await until(lambda: not reading.is_reading())
            size = len(stream.arrived())
            await stream.aclose()
            return size

    # A piece is received when less than 128 KiB are there, and has at most 256 KiB.
    assert asyncio.run(play()) <= (128 + 256) * 1024
