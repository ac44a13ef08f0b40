"""Compressed bodies and bodies in UTF-16, in any cut."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from app.api.content_encoding import MAX_CHUNK, PeekableBody, decompress_body, rewrite_as_utf8
from app.errors import InvalidRequest, RequestTooLarge

BODY = b'{"prompt":"a fox"}' + b" " * 300_000


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
    yield b""  # As Starlette ends each body.


def decompressed(body: bytes, encoding: str, size: int = 10**6, max_bytes: int = 10**6) -> bytes:
    async def read() -> bytes:
        whole = await decompress_body(PeekableBody(pieces(body, size)), encoding, max_bytes)
        chunks = [chunk async for chunk in whole]
        assert all(len(chunk) <= max(MAX_CHUNK, size) for chunk in chunks)
        return b"".join(chunks)

    return asyncio.run(read())


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    encoding: str
    write: Callable[[bytes], bytes]


CASES = [
    Case("gzip", "gzip", gzip.compress),
    Case("gzip by its old name", "x-gzip", gzip.compress),
    Case("gzip without its label", "", gzip.compress),
    Case("zstd", "zstd", zstd.compress),
    Case("zstd under a wrong label", "gzip", zstd.compress),
    Case("deflate, with zlib's header", "deflate", zlib.compress),
    Case("deflate, without a header", "Deflate", raw_deflate),
    Case("plain", "", bytes),
    Case("plain under a label that a proxy has left", "gzip", bytes),
    Case("plain with a charset as its label", "utf-8", bytes),
    Case("plain under the label of brotli", "br", bytes),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_body_is_decompressed(case: Case, size: int) -> None:
    body = BODY if size > 1 else BODY[:40]
    assert decompressed(case.write(body), case.encoding, size) == body


@given(cuts=st.integers(1, 50), text=st.binary(min_size=4, max_size=200))
def test_any_text_in_any_cut(cuts: int, text: bytes) -> None:
    for write, encoding in ((gzip.compress, "gzip"), (zstd.compress, "zstd"), (zlib.compress, "deflate")):
        assert decompressed(write(text), encoding, cuts) == text


def test_an_empty_body_stays_empty() -> None:
    assert decompressed(b"", "gzip") == b""


@pytest.mark.parametrize("case", [case for case in CASES if case.write is not bytes], ids=lambda case: case.name)
def test_a_body_that_is_cut_off_is_refused(case: Case) -> None:
    with pytest.raises(InvalidRequest, match="it ends too early"):
        decompressed(case.write(BODY)[:-5], case.encoding)


@pytest.mark.parametrize("case", [case for case in CASES if case.write is not bytes], ids=lambda case: case.name)
@pytest.mark.parametrize("size", [1, 10**6])
def test_what_follows_the_end_is_refused(case: Case, size: int) -> None:
    with pytest.raises(InvalidRequest, match="something follows its end"):
        decompressed(case.write(b"{}{}") + b"xx", case.encoding, size)


@pytest.mark.parametrize("body", [b"\x1f\x8b" + b"\xff" * 40, b"\x28\xb5\x2f\xfd" + b"\xff" * 40])
def test_a_damaged_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="it cannot be decompressed"):
        decompressed(body, "gzip")


def test_an_unknown_compression_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="Unsupported content-encoding"):
        decompressed(b"\x8b\x03\x80abc", "br")


@pytest.mark.parametrize("write", [gzip.compress, zstd.compress])
def test_a_bomb_is_stopped_at_the_limit(write: Callable[[bytes], bytes]) -> None:
    """100 MB in a few KB."""
    bomb = write(b" " * 10**8)
    with pytest.raises(RequestTooLarge, match=r"\(1000000\) exceeded"):
        decompressed(bomb, "gzip")


def test_others_have_their_turns_while_a_body_is_decompressed() -> None:
    async def run() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(others())
        body = PeekableBody(pieces(gzip.compress(b" " * 10**6), 10**6))
        async for _ in await decompress_body(body, "gzip", 10**6):
            pass
        task.cancel()
        return turns

    assert asyncio.run(run()) >= 10**6 // MAX_CHUNK


def test_zstd_may_demand_only_a_small_window() -> None:
    large = zstd.compress(BODY, options={zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0})  # fmt: skip
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    body = stream.compress(BODY) + stream.flush()
    assert large
    with pytest.raises(InvalidRequest, match="it cannot be decompressed"):
        decompressed(body, "zstd")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_json_in_wide_encodings_is_rewritten(encoding: str, size: int) -> None:
    text = '{"prompt":"猫 \U0001f98a"}'

    async def read() -> bytes:
        rewritten = await rewrite_as_utf8(PeekableBody(pieces(text.encode(encoding), size)))
        return b"".join([chunk async for chunk in rewritten])

    assert asyncio.run(read()).decode("utf-8-sig") == text


def test_the_first_chunk_is_long_enough_to_judge() -> None:
    async def read(body: bytes) -> list[bytes]:
        peekable = PeekableBody(pieces(body, 1))
        assert await peekable.peek(4) == body[:4]
        return [chunk async for chunk in peekable]

    assert asyncio.run(read(b"abcdef")) == [b"abcd", b"e", b"f"]
    assert asyncio.run(read(b"abc")) == [b"abc"]
