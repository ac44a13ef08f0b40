"""Images are downloaded, from real sockets on this machine."""

import asyncio
import gzip
import logging
import socket
import ssl
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app import __version__, loop_turns
from app.bounded_responses import MAX_INTERIM
from app.errors import ImageUnavailable, SpoolFull
from app.images import fetch, ssrf
from app.images.blob import Blob
from app.images.fetch import CHUNK_SIZE, MAX_REDIRECTS, MIN_PROGRESS, RETRY_DELAYS
from app.images.guarded_http import CLIENT_ERRORS, FetchError
from tests.support.certificates import CERTIFICATE
from tests.support.downloads import ATTEMPTS, IMAGE, Behave, chunked, fetching, redirect, reply, serve, server_tls
from tests.support.manual_clock import advance, run_with_manual_clock
from tests.support.sample_images import gradient, saved

PNG = saved(gradient(size=(40, 40)), "PNG")


def reset_after(data: bytes) -> Behave:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return behave


@pytest.fixture
def _localhost_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat 127.0.0.1 and every port as public, but not the rest of loopback."""
    blocked = ssrf._blocked("127.0.0.2/32", "loopback")
    networks = tuple(blocked if net.notation == "127.0.0.0/8" else net for net in ssrf.BLOCKED_V4)
    monkeypatch.setattr(ssrf, "BLOCKED_V4", networks)
    monkeypatch.setattr(ssrf, "ALLOWED_PORTS", frozenset(range(1, 65536)))


localhost_is_public = pytest.mark.usefixtures("_localhost_is_public")


# Successful downloads


@dataclass(frozen=True)
class Success:
    name: str
    answers: tuple[bytes | Behave, ...]
    body: bytes = IMAGE
    attempts: int = 1


SUCCESSES = [
    Success("a body with its length", (reply(IMAGE),)),
    Success("a body in chunks", (chunked(IMAGE[:1000], IMAGE[1000:]),)),
    Success("a body up to the end of the connection", (b"HTTP/1.0 200 OK\r\n\r\n" + IMAGE,)),
    Success("a body that was passed on by a proxy", (reply(IMAGE, 203),)),
    Success(
        "a head as long as those of some CDNs",
        (reply(IMAGE, 200, f"x-policy: {'a' * 30_000}", *(f"x-{number}: a" for number in range(300))),),
    ),
    Success("a body with the requested encoding", (reply(IMAGE, 200, "Content-Encoding: identity"),)),
    Success(
        "a body with the encoding of an upload, which some stores leave",
        (reply(IMAGE, 200, "Content-Encoding: aws-chunked"),),
    ),
    Success("a body after early hints", (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(IMAGE),)),
    Success("more bytes than announced", (reply(IMAGE + b"more", length=len(IMAGE)), reply(IMAGE)), attempts=2),
    Success("a second response right after the first", (reply(IMAGE) + reply(b"other"),)),
    Success(
        "a file that a CDN does not have everywhere yet", (reply(b"", 404), reply(b"", 404), reply(IMAGE)), attempts=3
    ),
    Success(
        "a host with errors",
        (reply(b"", 500), reply(b"", 502), reply(b"", 503), reply(b"", 599), reply(IMAGE)),
        attempts=5,
    ),
    Success("a file that is still being written", (reply(b"", 202), reply(IMAGE)), attempts=2),
    Success("a busy host", (reply(b"", 408), reply(b"", 425), reply(b"", 429), reply(IMAGE)), attempts=4),
    Success("an empty body, then the image", (reply(b""), reply(IMAGE)), attempts=2),
    Success("a body that is cut off", (reply(IMAGE[:9], length=2048), reply(IMAGE)), attempts=2),
    Success("chunks that are cut off", (chunked(IMAGE, end=b""), reply(IMAGE)), attempts=2),
    Success("a chunk that is cut off", (chunked(end=b"ff\r\nabc"), reply(IMAGE)), attempts=2),
    Success(
        "an image whose end is still missing", (reply(PNG[:-20]), reply(PNG[:-9]), reply(PNG)), attempts=3, body=PNG
    ),
    Success("an image whose end never comes", (reply(PNG[:-20]), reply(PNG[:-20])), attempts=2, body=PNG[:-20]),
    Success("malformed chunks", (chunked(IMAGE, end=b"zz\r\n"), reply(IMAGE)), attempts=2),
    Success("a connection closed before any answer", (b"", reply(IMAGE)), attempts=2),
    Success("a connection closed inside the head", (b"HTTP/1.1 200 OK\r\nConte", reply(IMAGE)), attempts=2),
    Success("a connection reset before any answer", (reset_after(b""), reply(IMAGE)), attempts=2),
    Success(
        "a connection reset inside the body", (reset_after(reply(IMAGE[:9], length=2048)), reply(IMAGE)), attempts=2
    ),
    Success("a response that is not HTTP", (b"220 smtp.example ESMTP\r\n", reply(IMAGE)), attempts=2),
    Success("two lengths", (reply(IMAGE, 200, "Content-Length: 5"), reply(IMAGE)), attempts=2),
    Success("a negative length", (reply(IMAGE, length=-1), reply(IMAGE)), attempts=2),
    Success("too many headers", (reply(IMAGE, 200, *["a: b"] * 10_000), reply(IMAGE)), attempts=2),
    Success("a header that is too long", (reply(IMAGE, 200, f"a: {'b' * 100_000}"), reply(IMAGE)), attempts=2),
]


@pytest.mark.parametrize("case", SUCCESSES, ids=lambda case: case.name)
def test_an_image_is_downloaded(case: Success) -> None:
    async def download() -> None:
        async with serve(*case.answers) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == case.body
            assert len(server.heads) == case.attempts
            assert download.slept == list(RETRY_DELAYS[: case.attempts - 1])

    run_with_manual_clock(download())


# Failed downloads


@dataclass(frozen=True)
class Failure:
    name: str
    answer: bytes | Behave
    reason: str
    attempts: int = 1


FAILURES = [
    Failure("a file that is gone", reply(b"", 410), "its host answered 410"),
    Failure("a forbidden file", reply(b"", 403), "its host answered 403", ATTEMPTS),
    Failure("no content", reply(b"", 204), "its host answered 204"),
    Failure("a part of the file", reply(IMAGE, 206), "its host answered 206"),
    Failure("another protocol", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "its host answered 101"),
    Failure("a redirect to nowhere", reply(b"", 302), "its host answered 302"),
    Failure("several choices", redirect("/b", 300), "its host answered 300"),
    Failure("a file that never appears", reply(b"", 404), "its host answered 404", ATTEMPTS),
    Failure("a host with lasting errors", reply(b"", 503), "its host answered 503", ATTEMPTS),
    Failure("an empty body", reply(b""), "its host sent no bytes", ATTEMPTS),
    Failure("a body that is always cut off", reply(IMAGE, length=4000), "it broke off before its end", ATTEMPTS),
    Failure("a host that closes the connection", b"", "its host broke the connection", ATTEMPTS),
    Failure("a mail server", b"220 smtp.example ESMTP\r\n", "its host answered in no HTTP", ATTEMPTS),
    Failure("a length above the limit", reply(b"x", length=4097), "it is larger than 4,096 bytes"),
    Failure("a length above all limits", reply(b"x", length=10**15), "it is larger than 4,096 bytes"),
    Failure("more than the limit in chunks", chunked(*[b"x" * 256] * 17), "it is larger than 4,096 bytes"),
    Failure(
        "more than the limit without a length",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 4097,
        "it is larger than 4,096 bytes",
    ),
    Failure("a redirect loop", redirect("/a.png"), "it redirects more than 5 times", MAX_REDIRECTS + 1),
    Failure(
        "a decompression bomb",
        reply(gzip.compress(b"\0" * 10**6), 200, "Content-Encoding: gzip"),
        "it is larger than 4,096 bytes",
    ),
    Failure("two encodings", reply(IMAGE, 200, "Content-Encoding: Identity, BR"), "its host sent it compressed"),
]


@localhost_is_public
@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.name)
def test_a_failed_download_is_reported(case: Failure) -> None:
    async def download() -> None:
        async with serve(case.answer) as server, fetching(max_bytes=4096) as download:
            with pytest.raises(ImageUnavailable) as caught:
                await download.read(f"{server.url}?signature=secret")
            url = f"{server.url}?signature=secret"
            assert caught.value.message == f"The image at {url} could not be downloaded: {case.reason}."
            assert "secret" not in str(caught.value.detail)
            assert len(server.heads) == case.attempts

    run_with_manual_clock(download())


def test_an_image_of_exactly_the_limit_is_downloaded() -> None:
    async def download() -> None:
        async with (
            serve(reply(b"x" * 4096), chunked(b"x" * 4096)) as server,
            fetching(f"127.0.0.1:{server.port}", max_bytes=4096) as download,
        ):
            assert [len(await download.read(server.url)) for _ in range(2)] == [4096, 4096]

    run_with_manual_clock(download())


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@dataclass(frozen=True)
class Compressed:
    name: str
    body: bytes
    encoding: str | None


COMPRESSED = [
    Compressed("gzip", gzip.compress(PNG), "gzip"),
    Compressed("gzip by its old name", gzip.compress(PNG), "x-gzip"),
    Compressed("gzip without a label, as object storages keep it", gzip.compress(PNG), None),
    Compressed("gzip under a wrong label", gzip.compress(PNG), "utf-8"),
    Compressed("deflate", zlib.compress(PNG), "deflate"),
    Compressed("deflate without the header of zlib", raw_deflate(PNG), "deflate"),
    *(Compressed(f"{label} on an image that is not compressed", PNG, label) for label in ("gzip", "deflate", "br, x")),
]


@pytest.mark.parametrize("cut", [1, 7, 10**6], ids=["byte by byte", "in pieces", "at once"])
@pytest.mark.parametrize("case", COMPRESSED, ids=lambda case: case.name)
def test_a_compressed_image_is_decompressed_by_its_bytes(case: Compressed, cut: int) -> None:
    label = f"Content-Encoding: {case.encoding}\r\n" if case.encoding else ""
    chunks = [case.body[at : at + cut] for at in range(0, len(case.body), cut)]
    body = chunked(*chunks).replace(b"chunked\r\n", b"chunked\r\n" + label.encode(), 1)

    async def download() -> None:
        async with serve(body) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == PNG

    run_with_manual_clock(download())


@pytest.mark.parametrize("encoding", ["compress", "x-compress", "br", "zstd", "identity , ZSTD"])
def test_a_compression_that_cannot_be_read_is_refused(encoding: str) -> None:
    async def download() -> None:
        async with (
            serve(reply(b"x" * 20, 200, f"Content-Encoding: {encoding}")) as server,
            fetching(f"127.0.0.1:{server.port}") as download,
        ):
            with pytest.raises(ImageUnavailable, match="compressed"):
                await download.read(server.url)

    run_with_manual_clock(download())


@pytest.mark.parametrize("body", [gzip.compress(PNG)[:-20], b"\x1f\x8b" + b"x" * 40], ids=["cut off", "damaged"])
def test_a_damaged_compression_is_tried_again(body: bytes) -> None:
    async def download() -> None:
        async with serve(reply(body), reply(PNG)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == PNG

    run_with_manual_clock(download())


@dataclass(frozen=True)
class Probed:
    name: str
    body: bytes
    kept: int


PAGE = b"<!DOCTYPE html>" + b" " * 10**6
PROBED = [
    Probed("an image is downloaded whole", PNG, len(PNG)),
    Probed("a large image is downloaded whole", PNG + b"x" * 10**6, len(PNG) + 10**6),
    Probed("of a page only the start is downloaded", PAGE, 0),
    Probed("of a compressed page too", gzip.compress(PAGE, 0), 0),
    Probed("a few bytes are no image", b"no", 2),
]


@pytest.mark.parametrize("case", PROBED, ids=lambda case: case.name)
def test_a_guess_is_judged_by_its_first_bytes(case: Probed) -> None:
    async def download() -> None:
        async with (
            serve(reply(case.body)) as server,
            fetching(f"127.0.0.1:{server.port}", max_bytes=2 * 10**6) as download,
        ):
            with await download.fetcher.probe(server.url, patient=False) as blob:
                assert blob.size == case.kept or (not case.kept and blob.size <= 5 * CHUNK_SIZE)

    run_with_manual_clock(download())


@pytest.mark.parametrize(("patient", "attempts"), [(True, 2), (False, 1)])
def test_only_a_patient_probe_tries_again(patient: bool, attempts: int) -> None:
    async def download() -> None:
        async with serve(reply(b"", 403), reply(PNG)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            with suppress(ImageUnavailable):
                (await download.fetcher.probe(server.url, patient=patient)).close()
            assert len(server.heads) == attempts

    run_with_manual_clock(download())


@pytest.mark.parametrize("status", [202, 403, 404, 406, 408, 425, 429, 500, 599])
def test_every_transient_status_is_retried(status: int) -> None:
    async def download() -> None:
        async with serve(reply(b"", status), reply(IMAGE)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == IMAGE

    run_with_manual_clock(download())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_redirect_is_followed(status: int) -> None:
    async def download() -> None:
        async with (
            serve(redirect("/b.png", status), reply(IMAGE)) as server,
            fetching(f"127.0.0.1:{server.port}") as download,
        ):
            assert await download.read(server.url) == IMAGE
            assert [head.split()[1] for head in server.heads] == ["/a.png", "/b.png"]

    run_with_manual_clock(download())


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_an_image_may_arrive_in_chunks_of_any_size(body: bytes, cuts: list[int]) -> None:
    async def download() -> None:
        text = reply(body)
        positions = [0, *sorted(cut % len(text) for cut in cuts), len(text)]

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for start, end in pairwise(positions):
                writer.write(text[start:end])
                await asyncio.sleep(0)

        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == body

    run_with_manual_clock(download())


def test_small_chunks_are_collected_before_they_are_written() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(length=5 * CHUNK_SIZE))
        for _ in range(5 * 64):
            writer.write(b"x" * (CHUNK_SIZE // 64))
            await asyncio.sleep(0)

    async def download() -> None:
        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == b"x" * (5 * CHUNK_SIZE)
            assert all(size >= CHUNK_SIZE for size in download.writes[:-1])

    run_with_manual_clock(download())


def test_others_have_their_turns_while_a_download_is_read_that_is_there_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client parses 4096 chunks at a time, and of ten thousands that have arrived it goes on with the next."""
    monkeypatch.setattr(loop_turns, "MAX_SECONDS", -1.0)
    body = bytes(200_000)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def download() -> None:
        answer = chunked(*(body[:1] for _ in body))
        async with serve(answer) as server, fetching(f"127.0.0.1:{server.port}") as download:
            task = asyncio.create_task(others())
            assert await download.read(server.url) == body
            task.cancel()

    run_with_manual_clock(download())
    assert turns > len(body) // 4096


def test_a_chunk_that_was_waited_for_has_let_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no pause, in which it would be held."""
    now = 1.0
    monkeypatch.setattr(loop_turns, "time", SimpleNamespace(perf_counter=lambda: now))

    async def play() -> list[float]:
        nonlocal now
        body = aiohttp.StreamReader(Mock(), 2**16, loop=asyncio.get_running_loop())
        chunks = fetch._Chunks(body)
        body.feed_data(b"there")
        now = 2.0
        turns = [chunks.turn.started_at, await chunks.read() == b"there" and chunks.turn.started_at]
        task = asyncio.create_task(chunks.read())
        await asyncio.sleep(0)
        now = 3.0
        body.feed_data(b"later")
        assert await task == b"later"
        assert chunks.size == 10
        return [*turns, chunks.turn.started_at]

    assert asyncio.run(play()) == [1.0, 1.0, 3.0]


# Whether anything is there


@dataclass(frozen=True)
class Absence:
    name: str
    status: int
    is_absent: bool


ABSENCES = [
    Absence("no such file", 404, True),
    Absence("a signature that is not right", 403, True),
    Absence("a file that was removed", 410, True),
    Absence("a request that makes no sense", 400, True),
    Absence("a busy host", 429, False),
    Absence("a slow host", 408, False),
    Absence("a file that is still being written", 202, False),
    Absence("a broken host", 503, False),
]


@pytest.mark.parametrize("case", ABSENCES, ids=lambda case: case.name)
def test_what_an_answer_says_of_the_file(case: Absence) -> None:
    async def download() -> bool:
        async with serve(reply(b"", case.status)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            with pytest.raises(ImageUnavailable) as caught:
                await download.read(server.url)
            return caught.value.is_absent

    assert asyncio.run(download()) is case.is_absent


@pytest.mark.parametrize(("number", "is_absent"), [(socket.EAI_NONAME, True), (socket.EAI_AGAIN, False)])
def test_a_host_that_nobody_knows_has_no_file(number: int, is_absent: bool) -> None:
    async def download() -> bool:
        async with fetching(names={"cdn.example": [OSError(number, "no name")]}) as download:
            with pytest.raises(ImageUnavailable) as caught:
                await download.read("https://cdn.example/a.png")
            return caught.value.is_absent

    assert asyncio.run(download()) is is_absent


# Timeouts


def test_a_body_of_one_byte_per_second_is_tried_again_until_the_timeout() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(length=10_000))
        while not writer.is_closing():
            writer.write(b"x")
            advance(1)
            await writer.drain()
            await asyncio.sleep(0)

    async def download() -> None:
        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}", timeout=120) as download:
            with pytest.raises(ImageUnavailable, match="it took longer than 120 seconds") as caught:
                await download.read(server.url)
            assert "before that: its host sends too slowly" in str(caught.value.detail)
            assert len(server.heads) > 1

    run_with_manual_clock(download())


def test_an_endless_body_ends_at_the_limit() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * CHUNK_SIZE)
            await writer.drain()

    async def download() -> None:
        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}", max_bytes=10**6) as download:
            with pytest.raises(ImageUnavailable, match="it is larger than 1,000,000 bytes"):
                await download.read(server.url)
            assert sum(download.writes) <= 10**6

    run_with_manual_clock(download())


@pytest.mark.parametrize("head", [b"", reply(IMAGE[:9], length=2048)], ids=["before the head", "inside the body"])
def test_a_host_that_stops_sending_is_tried_again(head: bytes) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        advance(31)
        await reader.read()

    async def download() -> None:
        async with serve(silent, reply(IMAGE)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            with capture_logs() as records:
                assert await download.read(server.url) == IMAGE
        assert [record["reason"] for record in records] == ["its host fell silent"]

    run_with_manual_clock(download())


@dataclass(frozen=True)
class Drip:
    """Pieces of a body, each so many seconds after the one before. `bytes_read`: None, if all are read."""

    name: str
    pieces: Sequence[tuple[int, float]]
    bytes_read: int | None = None


DRIPS = [
    Drip("a byte each 20 s", [(1, 20)] * 9, 1),
    Drip("some bytes each 12 s", [(1000, 12)] * 9, 2000),
    Drip("little less than the least rate", [(MIN_PROGRESS - 1, 31)] * 9, 0),
    Drip("the least rate", [(MIN_PROGRESS, 30)] * 9),
    Drip("many bytes, then a byte now and then", [(10**6, 1), *[(1, 12)] * 9], 10**6 + 2),
    Drip("a rest that comes slowly", [(10**6, 1), (1, 10), (1, 10)]),
]


@pytest.mark.parametrize("drip", DRIPS, ids=lambda drip: drip.name)
def test_a_host_that_sends_too_slowly_is_given_up(drip: Drip) -> None:
    async def download() -> int:
        protocol: Any = Mock(_reading_paused=False)
        body = aiohttp.StreamReader(protocol, 2**30, loop=asyncio.get_running_loop())
        chunks = fetch._Chunks(body)
        for size, seconds in drip.pieces:
            advance(seconds)
            body.feed_data(bytes(size))
            try:
                assert len(await chunks.read()) == size
            except FetchError:
                return chunks.size - size
        advance(1000)
        body.feed_eof()
        assert await chunks.read() == b""
        return chunks.size

    size = sum(size for size, _ in drip.pieces) if drip.bytes_read is None else drip.bytes_read
    assert run_with_manual_clock(download()) == size


def test_the_timeout_includes_the_retry_delays_and_the_log_has_the_last_failure() -> None:
    async def sleep(seconds: float) -> None:
        advance(200)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def download() -> None:
        async with serve(reply(b"", 503)) as server, fetching(f"127.0.0.1:{server.port}", sleep=sleep) as download:
            with pytest.raises(ImageUnavailable, match="longer than 120 seconds") as caught:
                await download.read(server.url)
            assert "before that: its host answered 503" in str(caught.value.detail)
            assert len(server.heads) == 1

    run_with_manual_clock(download())


def test_an_endless_body_that_holds_nothing_ends_at_the_limit() -> None:
    compressor = zlib.compressobj(wbits=31)
    start = compressor.compress(PNG) + compressor.flush(zlib.Z_SYNC_FLUSH)

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + start)
        while True:
            # Stored blocks without bytes.
            writer.write(b"\0\0\0\xff\xff" * 1_000)
            await writer.drain()

    async def download() -> None:
        async with serve(endless) as server, fetching(f"127.0.0.1:{server.port}", max_bytes=100_000) as download:
            with pytest.raises(ImageUnavailable, match="larger than 100,000 bytes"):
                await download.read(server.url)

    run_with_manual_clock(download())


def test_a_host_that_only_sends_interim_responses_is_asked_once() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * (MAX_INTERIM + 1)

    async def download() -> None:
        async with serve(interim + reply(IMAGE)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            with pytest.raises(ImageUnavailable, match="its host answered in no HTTP"):
                await download.read(server.url)
            assert len(server.heads) == 1

    run_with_manual_clock(download())


class ClosableBlob(Blob):
    closed = False

    def close(self) -> None:
        super().close()
        self.closed = True


def test_a_cancelled_download_leaves_no_blob_open() -> None:
    async def download() -> None:
        started = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(reply(IMAGE[:9], length=2048))
            await writer.drain()
            await reader.read()

        def new_blob() -> Blob:
            started.set()
            return blob

        async with serve(silent) as server, fetching(f"127.0.0.1:{server.port}", new_blob=new_blob) as download:
            task = asyncio.create_task(download.read(server.url))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    blob = ClosableBlob()
    run_with_manual_clock(download())
    assert blob.closed


def test_a_full_disk_is_not_blamed_on_the_host() -> None:
    class FullBlob(ClosableBlob):
        def write(self, data: bytes | memoryview) -> None:
            raise SpoolFull("The server has no room left for this image.")

    full = FullBlob()

    async def download() -> None:
        async with (
            serve(reply(IMAGE)) as server,
            fetching(f"127.0.0.1:{server.port}", new_blob=lambda: full) as download,
        ):
            with pytest.raises(SpoolFull):
                await download.read(server.url)
            assert len(server.heads) == 1

    run_with_manual_clock(download())
    assert full.closed


# Requests


def test_a_request_has_only_the_necessary_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cookies, no credentials, no proxy of the environment; a signature in the URL is not changed."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    async def download() -> None:
        async with (
            serve(reply(b"proxied")) as proxy,
            serve(redirect("/b?sig=%2b%7E+~", 307, "Set-Cookie: a=b; Path=/"), reply(IMAGE)) as server,
        ):
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            async with fetching(f"127.0.0.1:{server.port}") as download:
                assert await download.read(server.url) == IMAGE
            assert proxy.heads == []
            first, second = server.heads
            assert second.split("\r\n")[0] == "GET /b?sig=%2b%7E+~ HTTP/1.1"
            assert first.split("\r\n")[1:] == second.split("\r\n")[1:]
            assert sorted(filter(None, second.split("\r\n")[1:])) == [
                "Accept-Encoding: identity",
                "Accept: image/*",
                f"Host: 127.0.0.1:{server.port}",
                f"User-Agent: limner/{__version__}",
            ]

    run_with_manual_clock(download())


def test_a_host_that_refuses_programs_is_asked_as_a_page_of_its_own_asks() -> None:
    """Protection against links from other sites asks for a referrer, firewalls for a browser's name.

    Every other attempt has neither, for hosts that refuse just those.
    """

    def headers_of(head: str) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)

    async def download() -> None:
        async with (
            serve(reply(b"", 403), redirect("/b"), reply(b"", 406), reply(b"", 403), reply(IMAGE)) as server,
            fetching(f"127.0.0.1:{server.port}") as download,
        ):
            assert await download.read(server.url) == IMAGE
            plain, page, redirected, second_plain, second_page = map(headers_of, server.heads)
            assert plain == second_plain
            assert page == redirected == second_page
            assert page == plain | {
                "Accept": "image/*,*/*;q=0.8",
                "Referer": f"http://127.0.0.1:{server.port}/",
                "User-Agent": f"Mozilla/5.0 (compatible; limner/{__version__})",
            }

    run_with_manual_clock(download())


# Addresses


def test_the_host_header_has_the_name() -> None:
    async def download() -> None:
        async with (
            serve(reply(IMAGE)) as server,
            fetching(f"cdn.test:{server.port}", {"cdn.test": [["127.0.0.1"]]}) as download,
        ):
            assert await download.read(f"http://CDN.test.:{server.port}/a.png") == IMAGE
            assert f"Host: cdn.test:{server.port}\r\n" in server.heads[0]

    run_with_manual_clock(download())


def test_the_system_resolves_names() -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as server, fetching(f"localhost:{server.port}") as download:
            assert await download.read(f"http://localhost:{server.port}/a.png") == IMAGE

    run_with_manual_clock(download())


def test_the_next_address_is_tried_if_the_first_does_not_answer() -> None:
    async def download() -> None:
        async with (
            serve(reply(IMAGE)) as server,
            fetching(f"cdn.test:{server.port}", {"cdn.test": [["127.0.0.3", "127.0.0.1"]]}) as download,
        ):
            assert await download.read(f"http://cdn.test:{server.port}/a.png") == IMAGE
            assert download.slept == []

    run_with_manual_clock(download())


@dataclass(frozen=True)
class Blocked:
    """The image is on 127.0.0.1, which is allowed; a canary is on the same port of 127.0.0.2, which is not."""

    name: str
    url: str
    answers: tuple[Sequence[str], ...] = ()
    heads: int = 0


BLOCKED = [
    Blocked("another loopback address", "http://127.0.0.2:PORT/"),
    Blocked("a name of the canary", "http://cdn.test:PORT/", (["127.0.0.2"],)),
    Blocked("a name of both", "http://cdn.test:PORT/", (["127.0.0.1", "127.0.0.2"],)),
    Blocked("a name of both, the other way round", "http://cdn.test:PORT/", (["127.0.0.2", "127.0.0.1"],)),
    Blocked(
        "a name that changes its address before the second attempt",
        "http://cdn.test:PORT/404",
        (["127.0.0.1"], ["127.0.0.2"]),
        1,
    ),
    Blocked("a name of IPv4 in IPv6", "http://cdn.test:PORT/", (["::ffff:127.0.0.1"],)),
    Blocked("a name of an interface", "http://cdn.test:PORT/", (["fe80::1%lo"],)),
    Blocked("a name without addresses", "http://cdn.test:PORT/", ([],)),
    Blocked("metadata", "http://169.254.169.254/latest/meta-data/"),
    Blocked("the allowed address on another port", "http://127.0.0.1:8080/"),
    Blocked("a user name", "http://127.0.0.1:PORT@127.0.0.2:PORT/"),
    Blocked("a file", "file:///etc/passwd"),
]


@pytest.mark.parametrize("case", BLOCKED, ids=lambda case: case.name)
def test_blocked_addresses_are_never_connected_to(case: Blocked) -> None:
    async def download() -> None:
        async with (
            serve(reply(b"", 404)) as server,
            serve(reply(b"canary"), host="127.0.0.2", port=server.port) as canary,
        ):
            async with fetching(f"127.0.0.1:{server.port}", {"cdn.test": list(case.answers)}) as download:
                with pytest.raises(ImageUnavailable) as caught:
                    await download.read(case.url.replace("PORT", str(server.port)))
            assert canary.heads == []
            assert len(server.heads) == case.heads
            assert len(download.slept) == case.heads
        assert "127.0.0" not in caught.value.message
        assert "cdn.test" not in caught.value.message

    run_with_manual_clock(download())


@localhost_is_public
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:PORT/",
        "//127.0.0.2:PORT/",
        "http://cdn.test:PORT/",
        "http://[::ffff:127.0.0.2]:PORT/",
        "http://0x7f.0.0.2:PORT/",
        "http://a:b@127.0.0.2:PORT/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "ftp://127.0.0.2:PORT/",
        "http://[",
        "http://127.0.0.2:PORT/\x01",
    ],
)
def test_redirects_to_blocked_addresses_are_not_followed(location: str) -> None:
    """The message contains the first URL, which is public, but not the target of the redirect."""

    async def download() -> None:
        async with (
            serve(reply(b"canary"), host="127.0.0.2") as canary,
            serve(redirect("/b"), redirect(location.replace("PORT", str(canary.port)))) as server,
            fetching("", {"cdn.test": [["127.0.0.2"]]}) as download,
        ):
            with pytest.raises(ImageUnavailable) as caught:
                await download.read(server.url)
            reason = "it redirects to where this server may not go"
            assert caught.value.message == f"The image at {server.url} could not be downloaded: {reason}."
            assert len(server.heads) == 2
            assert download.slept == []
            assert canary.heads == []

    run_with_manual_clock(download())


def test_no_row_of_the_client_errors_hides_another() -> None:
    kinds = [kind for kind, _, _ in CLIENT_ERRORS]
    assert not [kind for row, kind in enumerate(kinds) if issubclass(kind, tuple(kinds[:row]))]


def test_a_name_is_resolved_once_for_a_connection() -> None:
    """The checked addresses are connected to, even if the name resolves to others afterwards."""

    async def download() -> None:
        async with (
            serve(reply(IMAGE)) as server,
            serve(reply(b"canary"), host="127.0.0.2", port=server.port) as canary,
        ):
            names: dict[str, list[Sequence[str] | OSError]] = {"cdn.test": [["127.0.0.1"], ["127.0.0.2"]]}
            async with fetching(f"127.0.0.1:{server.port}", names) as download:
                assert await download.read(f"http://cdn.test:{server.port}/a.png") == IMAGE
                assert download.resolved == ["cdn.test"]
            assert canary.heads == []

    run_with_manual_clock(download())


def test_the_connector_refuses_addresses_that_were_not_checked() -> None:
    """For a literal address aiohttp calls no resolver, so the socket is refused."""

    async def download() -> None:
        async with serve(reply(b"canary")) as canary, fetching(f"127.0.0.1:{canary.port}") as download:
            with pytest.raises(RuntimeError, match="an address that was not checked"):
                await download.fetcher._http._session.get(canary.url)
            assert canary.heads == []
            assert await download.read(canary.url) == b"canary"

    run_with_manual_clock(download())


def test_concurrent_downloads_have_addresses_of_their_own() -> None:
    async def download() -> None:
        async with serve(reply(b"1")) as one, serve(reply(b"2"), host="127.0.0.2", port=one.port) as two:
            names: dict[str, list[Sequence[str] | OSError]] = {"one": [["127.0.0.1"]], "two": [["127.0.0.2"]]}
            async with fetching(f"127.0.0.0/8,one:{one.port},two:{one.port}", names) as download:
                blobs = await asyncio.gather(
                    *(download.fetcher.fetch(f"http://{name}:{one.port}/") for name in ("one", "two") * 20)
                )
                assert [blob.read_at(0, 9) for blob in blobs] == [b"1", b"2"] * 20
                for blob in blobs:
                    blob.close()
            assert len(two.heads) == 20

    run_with_manual_clock(download())


@dataclass(frozen=True)
class Unknown:
    name: str
    error: OSError
    attempts: int


@pytest.mark.parametrize(
    "case",
    [
        Unknown("a name that does not exist is not asked for again", socket.gaierror(socket.EAI_NONAME, "unknown"), 1),
        Unknown("a name server in trouble is", socket.gaierror(socket.EAI_AGAIN, "later"), ATTEMPTS),
        Unknown("and one that takes too long", TimeoutError(), ATTEMPTS),
    ],
    ids=lambda case: case.name,
)
def test_a_name_without_an_answer(case: Unknown) -> None:
    async def download() -> None:
        async with fetching("minio:9000", {"cdn.test": [case.error], "minio": [case.error]}) as download:
            with pytest.raises(ImageUnavailable) as caught:
                await download.read("https://cdn.test/a.png")
            reason = "its host name could not be looked up"
            assert caught.value.message == f"The image at https://cdn.test/a.png could not be downloaded: {reason}."
            assert len(download.resolved) == case.attempts
            with pytest.raises(ImageUnavailable) as caught:
                await download.read("http://minio:9000/a.png")
            assert caught.value.message == f"The image could not be downloaded: {reason}."

    run_with_manual_clock(download())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://10.0.0.5/a.png", "its address is not open to this server"),
        ("http://10.0.0.5:6379/a.png", "its port is not one of 80, 443, 8080, 8443"),
    ],
)
def test_only_the_log_names_the_variable_that_allows_a_blocked_address(url: str, reason: str) -> None:
    async def download() -> None:
        async with fetching() as download:
            with pytest.raises(ImageUnavailable) as caught:
                await download.read(url)
        assert caught.value.message == f"The image could not be downloaded: {reason}."
        assert "LIMNER_FETCH_ALLOW" in str(caught.value.detail)
        assert url in str(caught.value.detail)

    run_with_manual_clock(download())


def test_an_allowed_internal_host_is_not_shown_to_clients() -> None:
    async def download() -> None:
        async with serve(reply(b"", 403)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            with pytest.raises(ImageUnavailable) as caught:
                await download.read(server.url)
            assert caught.value.message == "The image could not be downloaded: its host answered 403."
            assert caught.value.detail == f"{server.url}: its host answered 403"

    run_with_manual_clock(download())


def test_a_host_that_refuses_connections_is_tried_again() -> None:
    async def download() -> None:
        async with serve(b"") as server:
            pass
        async with fetching(f"127.0.0.1:{server.port}") as download:
            with pytest.raises(ImageUnavailable, match="its host cannot be reached") as caught:
                await download.read(server.url)
            assert "Connect call failed" in str(caught.value.detail)
            assert download.slept == list(RETRY_DELAYS)

    run_with_manual_clock(download())


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The query may be a signature, and a password may stand before the host."""
    caplog.set_level(logging.DEBUG)

    async def download() -> None:
        async with (
            serve(reply(b"", 500), b"", b"nonsense", redirect("/b?sig=secret"), reply(b"")) as server,
            fetching(f"127.0.0.1:{server.port}") as download,
        ):
            for url in (f"{server.url}?sig=secret", f"http://me:secret@127.0.0.1:{server.port}/"):
                with pytest.raises(ImageUnavailable) as caught:
                    await download.read(url)
                assert "secret" not in str(caught.value.detail)

    with capture_logs() as records:
        run_with_manual_clock(download())
    assert [record["event"] for record in records] == ["image_download_retry"] * len(RETRY_DELAYS)
    assert records[0]["url"].endswith("/a.png")
    assert "secret" not in str(records) + caplog.text


# TLS


def test_a_certificate_is_verified_for_the_name_though_the_address_is_pinned(tmp_path: Path) -> None:
    async def download() -> None:
        trust = ssl.create_default_context(cadata=CERTIFICATE)
        async with serve(reply(IMAGE), tls=server_tls(tmp_path)) as server:
            names: dict[str, list[Sequence[str] | OSError]] = {"cdn.test": [["127.0.0.1"]], "other": [["127.0.0.1"]]}
            async with fetching(f"127.0.0.1:{server.port}", names, tls=trust) as download:
                assert await download.read(f"https://cdn.test:{server.port}/a.png") == IMAGE
                with pytest.raises(ImageUnavailable, match="its host cannot be trusted"):
                    await download.read(f"https://other:{server.port}/a.png")

    run_with_manual_clock(download())


def test_images_of_an_upstream_are_trusted_by_its_own_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)

    async def download() -> None:
        async with serve(reply(IMAGE), tls=server_tls(tmp_path)) as server:
            names: dict[str, list[Sequence[str] | OSError]] = {"cdn.test": [["127.0.0.1"]]}
            for port, is_trusted in ((server.port, True), (1, False)):
                trusted = {f"https://cdn.test:{port}/v1": tmp_path / "ca.pem"}
                async with fetching(f"cdn.test:{server.port}", names, certificates=trusted) as download:
                    if is_trusted:
                        assert await download.read(f"https://cdn.test:{server.port}/a.png") == IMAGE
                        continue
                    with pytest.raises(ImageUnavailable, match="its host cannot be trusted"):
                        await download.read(f"https://cdn.test:{server.port}/a.png")

    run_with_manual_clock(download())


def test_an_untrusted_certificate_is_refused_without_a_retry(tmp_path: Path) -> None:
    async def download() -> None:
        async with serve(reply(IMAGE), tls=server_tls(tmp_path)) as server:
            async with fetching(f"cdn.test:{server.port}", {"cdn.test": [["127.0.0.1"]]}) as download:
                with pytest.raises(ImageUnavailable, match=r"its host cannot be trusted \(TLS\)"):
                    await download.read(f"https://cdn.test:{server.port}/a.png")
                assert download.slept == []
            assert server.heads == []

    run_with_manual_clock(download())


@dataclass(frozen=True)
class Own:
    """`own` are addresses of interfaces, `host` the host under which clients reach this server, at `public`."""

    name: str
    url: str
    own: tuple[str, ...] = ()
    host: str | None = None
    public: tuple[str, ...] | OSError = ("127.0.0.1",)
    allow: str = ""
    blocked: bool = True


OWN = [
    Own("the address of an interface", "http://127.0.0.1:PORT/", ("127.0.0.1",)),
    Own("a name with the address of an interface", "http://cdn.example:PORT/", ("127.0.0.1",)),
    Own("an allowed name with the address of an interface", "http://cdn.example:PORT/", ("127.0.0.1",), allow="cdn.example", blocked=False),
    Own("the public address behind NAT", "http://127.0.0.1:PORT/", (), "images.example"),
    Own("a name with the public address", "http://cdn.example:PORT/", (), "images.example"),
    Own("the public address of a server that is named by it", "http://127.0.0.1:PORT/", (), "127.0.0.1"),
    Own("the server's own name over TLS", "https://images.example:PORT/", (), "images.example"),
    Own("another address than the public one", "http://127.0.0.1:PORT/", (), "images.example", ("93.184.216.34",), blocked=False),
    Own("a host of this server that cannot be looked up", "http://127.0.0.1:PORT/", (), "images.example", OSError("no"), blocked=False),
]  # fmt: skip


@localhost_is_public
@pytest.mark.parametrize("case", OWN, ids=lambda case: case.name)
def test_nothing_is_downloaded_from_this_machine(case: Own) -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as server:
            names: dict[str, list[Any]] = {
                "cdn.example": [["127.0.0.1"]],
                "images.example": [case.public if isinstance(case.public, OSError) else list(case.public)],
            }
            if case.host == "127.0.0.1":
                names["127.0.0.1"] = [["127.0.0.1"]]
            options: dict[str, Any] = {"is_own": lambda address: str(address) in case.own, "own_host": case.host}
            async with fetching(case.allow, names, **options) as fetcher:
                url = case.url.replace("PORT", str(server.port))
                if not case.blocked:
                    assert await fetcher.read(url) == IMAGE
                    return
                with pytest.raises(ImageUnavailable) as caught:
                    await fetcher.read(url)
                assert "an address of this machine" in str(caught.value.detail)
                assert "LIMNER_FETCH_ALLOW" in str(caught.value.detail)
                assert not server.heads

    run_with_manual_clock(download())


@localhost_is_public
def test_no_redirect_leads_to_this_machine() -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as own, serve(redirect(f"http://images.example:{own.port}/")) as server:
            names: dict[str, list[Sequence[str] | OSError]] = {"images.example": [["127.0.0.1"]]}
            # The first host is this machine's too here, but allowed.
            async with fetching(f"127.0.0.1:{server.port}", names, own_host="images.example") as fetcher:
                with pytest.raises(ImageUnavailable, match="it redirects to where this server may not go"):
                    await fetcher.read(f"http://127.0.0.1:{server.port}/")
            assert (len(server.heads), len(own.heads)) == (1, 0)

    run_with_manual_clock(download())
