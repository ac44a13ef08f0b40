"""Downloads, from real sockets on this machine."""

import asyncio
import gzip
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app import __version__
from app.errors import ImageUnavailable, SpoolFull
from app.images import ssrf as netguard
from app.images.blob import Blob
from app.images.fetch import CHUNK_SIZE, CLIENT_ERRORS, MAX_REDIRECTS, RETRY_DELAYS, Fetcher
from app.images.ssrf import parse_allow
from tests.support.certificates import CERTIFICATE, KEY
from tests.support.manual_clock import run, skip

TRIES = len(RETRY_DELAYS) + 1
PICTURE = bytes(range(256)) * 8

Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes = b"", status: int = 200, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302, *headers: str) -> bytes:
    return reply(b"", status, f"Location: {location}", *headers)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def reset_after(data: bytes) -> Behave:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return behave


@dataclass
class Server:
    """Answers one connection after the other, the last answer again and again; `heads` are the requests it got."""

    answers: list[bytes | Behave]
    port: int = 0
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/a.png"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        self.heads.append(head.decode())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(reader, writer)
            await writer.drain()
        except ConnectionError:
            pass  # the client had enough
        finally:
            writer.close()


@asynccontextmanager
async def serve(
    *answers: bytes | Behave, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    served = Server(list(answers))
    server = await asyncio.start_server(served.handle, host, port, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()


class Spool(Blob):
    """Counts what is open, and remembers how it was written."""

    open: list["Spool"]
    pieces: list[int]

    def write(self, data: bytes | memoryview) -> None:
        self.pieces.append(len(data))
        super().write(data)

    def close(self) -> None:
        super().close()
        self.open.remove(self)


@dataclass
class Desk:
    """A fetcher and all that it did to the world."""

    fetcher: Fetcher
    open: list[Spool]
    pieces: list[int]
    slept: list[float]
    asked: list[str]

    async def read(self, url: str) -> bytes:
        """The bytes, and no blob left open whatever happens."""
        try:
            with await self.fetcher.fetch(url) as blob:
                return b"".join(blob.chunks(CHUNK_SIZE))
        finally:
            assert self.open == []


@asynccontextmanager
async def fetching(
    allow: str = "", names: dict[str, list[Sequence[str] | OSError]] | None = None, **options: Any
) -> AsyncIterator[Desk]:
    """`names`: what each name resolves to, one answer after the other, the last again and again."""
    opened: list[Spool] = []
    pieces: list[int] = []
    slept: list[float] = []
    asked: list[str] = []

    def new_blob() -> Blob:
        spool = Spool()
        spool.open, spool.pieces = opened, pieces
        opened.append(spool)
        return spool

    async def resolve(name: str) -> Sequence[str]:
        asked.append(name)
        answers = (names or {})[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    given_names = {} if names is None else {"resolve": resolve}
    fetcher = Fetcher(**{"allow": parse_allow(allow), "new_blob": new_blob, "sleep": sleep, **given_names, **options})
    try:
        yield Desk(fetcher, opened, pieces, slept, asked)
    finally:
        await fetcher.close()


@pytest.fixture
def _here_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 and every port count as public; 127.0.0.2 and the rest of loopback do not."""
    shut = netguard._blocked("127.0.0.2/32", "loopback")
    nets = tuple(shut if net.notation == "127.0.0.0/8" else net for net in netguard.BLOCKED_V4)
    monkeypatch.setattr(netguard, "BLOCKED_V4", nets)
    monkeypatch.setattr(netguard, "ALLOWED_PORTS", frozenset(range(1, 65536)))


here_is_public = pytest.mark.usefixtures("_here_is_public")


# What comes


@dataclass(frozen=True)
class Comes:
    name: str
    answers: tuple[bytes | Behave, ...]
    body: bytes = PICTURE
    tries: int = 1


COMES = [
    Comes("a body with its length", (reply(PICTURE),)),
    Comes("a body in chunks", (chunked(PICTURE[:1000], PICTURE[1000:]),)),
    Comes("a body up to the end of the connection", (b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,)),
    Comes("a body that was passed on by a proxy", (reply(PICTURE, 203),)),
    Comes("a body with the encoding that was asked for", (reply(PICTURE, 200, "Content-Encoding: identity"),)),
    Comes(
        "a body in pieces for an upload, as some stores leave it",
        (reply(PICTURE, 200, "Content-Encoding: aws-chunked"),),
    ),
    Comes("a body after early hints", (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(PICTURE),)),
    Comes("more than was announced", (reply(PICTURE + b"more", length=len(PICTURE)), reply(PICTURE)), tries=2),
    Comes("a second answer right behind the first", (reply(PICTURE) + reply(b"other"),)),
    Comes("a file that is not everywhere yet", (reply(b"", 404), reply(b"", 404), reply(PICTURE)), tries=3),
    Comes(
        "a host in trouble",
        (reply(b"", 500), reply(b"", 502), reply(b"", 503), reply(b"", 599), reply(PICTURE)),
        tries=5,
    ),
    Comes("a file that is still being written", (reply(b"", 202), reply(PICTURE)), tries=2),
    Comes("a host without time", (reply(b"", 408), reply(b"", 425), reply(b"", 429), reply(PICTURE)), tries=4),
    Comes("nothing, and then something", (reply(b""), reply(PICTURE)), tries=2),
    Comes("a body that is cut off", (reply(PICTURE[:9], length=2048), reply(PICTURE)), tries=2),
    Comes("chunks that are cut off", (chunked(PICTURE, end=b""), reply(PICTURE)), tries=2),
    Comes("a chunk that is cut off", (chunked(end=b"ff\r\nabc"), reply(PICTURE)), tries=2),
    Comes("chunks that are none", (chunked(PICTURE, end=b"zz\r\n"), reply(PICTURE)), tries=2),
    Comes("a connection closed before any answer", (b"", reply(PICTURE)), tries=2),
    Comes("a connection closed inside the head", (b"HTTP/1.1 200 OK\r\nConte", reply(PICTURE)), tries=2),
    Comes("a connection reset before any answer", (reset_after(b""), reply(PICTURE)), tries=2),
    Comes(
        "a connection reset inside the body", (reset_after(reply(PICTURE[:9], length=2048)), reply(PICTURE)), tries=2
    ),
    Comes("no HTTP", (b"220 smtp.example ESMTP\r\n", reply(PICTURE)), tries=2),
    Comes("two lengths", (reply(PICTURE, 200, "Content-Length: 5"), reply(PICTURE)), tries=2),
    Comes("a length below nothing", (reply(PICTURE, length=-1), reply(PICTURE)), tries=2),
    Comes("a flood of headers", (reply(PICTURE, 200, *["a: b"] * 10_000), reply(PICTURE)), tries=2),
    Comes("a header without end", (reply(PICTURE, 200, f"a: {'b' * 100_000}"), reply(PICTURE)), tries=2),
]


@pytest.mark.parametrize("case", COMES, ids=lambda case: case.name)
def test_a_picture_comes(case: Comes) -> None:
    async def download() -> None:
        async with serve(*case.answers) as server, fetching(f"127.0.0.1:{server.port}") as desk:
            assert await desk.read(server.url) == case.body
            assert len(server.heads) == case.tries
            assert desk.slept == list(RETRY_DELAYS[: case.tries - 1])

    run(download())


# What does not


@dataclass(frozen=True)
class Fails:
    name: str
    answer: bytes | Behave
    reason: str
    tries: int = 1


FAILS = [
    Fails("a file that is gone for good", reply(b"", 410), "its host answered 410"),
    Fails("a file that is not for us", reply(b"", 403), "its host answered 403"),
    Fails("nothing by design", reply(b"", 204), "its host answered 204"),
    Fails("a part of the file", reply(PICTURE, 206), "its host answered 206"),
    Fails("another protocol", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "its host answered 101"),
    Fails("a redirect to nowhere", reply(b"", 302), "its host answered 302"),
    Fails("a choice", redirect("/b", 300), "its host answered 300"),
    Fails("a file that never comes", reply(b"", 404), "its host answered 404", TRIES),
    Fails("a host that stays in trouble", reply(b"", 503), "its host answered 503", TRIES),
    Fails("an empty body", reply(b""), "its host sent no bytes", TRIES),
    Fails("a body that is always cut off", reply(PICTURE, length=4000), "it broke off before its end", TRIES),
    Fails("a host that hangs up", b"", "its host broke the connection", TRIES),
    Fails("a host of mail", b"220 smtp.example ESMTP\r\n", "its host answered in no HTTP", TRIES),
    Fails("a length above the limit", reply(b"x", length=4097), "it is larger than 4,096 bytes"),
    Fails("a length above all limits", reply(b"x", length=10**15), "it is larger than 4,096 bytes"),
    Fails("more than the limit in chunks", chunked(*[b"x" * 256] * 17), "it is larger than 4,096 bytes"),
    Fails(
        "more than the limit without a length",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 4097,
        "it is larger than 4,096 bytes",
    ),
    Fails("a circle", redirect("/a.png"), "it redirects more than 5 times", MAX_REDIRECTS + 1),
    Fails("a bomb", reply(gzip.compress(b"\0" * 10**6), 200, "Content-Encoding: gzip"), "its host sent it compressed"),
    Fails("two codings", reply(PICTURE, 200, "Content-Encoding: Identity, BR"), "its host sent it compressed"),
]


@here_is_public
@pytest.mark.parametrize("case", FAILS, ids=lambda case: case.name)
def test_no_picture_comes(case: Fails) -> None:
    async def download() -> None:
        async with serve(case.answer) as server, fetching(max_bytes=4096) as desk:
            with pytest.raises(ImageUnavailable) as caught:
                await desk.read(f"{server.url}?signature=secret")
            url = f"{server.url}?signature=secret"
            assert caught.value.message == f"The image at {url} could not be downloaded: {case.reason}."
            assert "secret" not in str(caught.value.detail)
            assert len(server.heads) == case.tries

    run(download())


def test_exactly_the_limit_passes() -> None:
    async def download() -> None:
        async with (
            serve(reply(b"x" * 4096), chunked(b"x" * 4096)) as server,
            fetching(f"127.0.0.1:{server.port}", max_bytes=4096) as desk,
        ):
            assert [len(await desk.read(server.url)) for _ in range(2)] == [4096, 4096]

    run(download())


@pytest.mark.parametrize(
    "coding", ["gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "identity , GZIP"]
)
def test_every_compression_is_refused(coding: str) -> None:
    async def download() -> None:
        async with (
            serve(reply(b"x", 200, f"Content-Encoding: {coding}")) as server,
            fetching(f"127.0.0.1:{server.port}") as desk,
        ):
            with pytest.raises(ImageUnavailable, match="compressed"):
                await desk.read(server.url)

    run(download())


@pytest.mark.parametrize("status", [202, 404, 408, 425, 429, 500, 599])
def test_every_passing_status_is_waited_for(status: int) -> None:
    async def download() -> None:
        async with serve(reply(b"", status), reply(PICTURE)) as server, fetching(f"127.0.0.1:{server.port}") as desk:
            assert await desk.read(server.url) == PICTURE

    run(download())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_redirect_is_followed(status: int) -> None:
    async def download() -> None:
        async with (
            serve(redirect("/b.png", status), reply(PICTURE)) as server,
            fetching(f"127.0.0.1:{server.port}") as desk,
        ):
            assert await desk.read(server.url) == PICTURE
            assert [head.split()[1] for head in server.heads] == ["/a.png", "/b.png"]

    run(download())


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_any_cut_of_the_stream_gives_the_same_picture(body: bytes, cuts: list[int]) -> None:
    async def download() -> None:
        text = reply(body)
        places = [0, *sorted(cut % len(text) for cut in cuts), len(text)]

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for begin, end in pairwise(places):
                writer.write(text[begin:end])
                await asyncio.sleep(0)

        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}") as desk:
            assert await desk.read(server.url) == body

    run(download())


def test_small_pieces_are_gathered_before_they_are_written() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(length=5 * CHUNK_SIZE))
        for _ in range(5 * 64):
            writer.write(b"x" * (CHUNK_SIZE // 64))
            await asyncio.sleep(0)

    async def download() -> None:
        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}") as desk:
            assert await desk.read(server.url) == b"x" * (5 * CHUNK_SIZE)
            assert all(size >= CHUNK_SIZE for size in desk.pieces[:-1])

    run(download())


# Time


def test_a_body_of_one_byte_a_second_is_ended_by_the_deadline() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(length=10_000))
        while not writer.is_closing():
            writer.write(b"x")
            skip(1)
            await writer.drain()
            await asyncio.sleep(0)

    async def download() -> None:
        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}", timeout=120) as desk:
            with pytest.raises(ImageUnavailable, match="it took longer than 120 seconds"):
                await desk.read(server.url)
            assert len(server.heads) == 1

    run(download())


def test_an_endless_body_is_ended_by_the_limit() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * CHUNK_SIZE)
            await writer.drain()

    async def download() -> None:
        async with serve(behave) as server, fetching(f"127.0.0.1:{server.port}", max_bytes=10**6) as desk:
            with pytest.raises(ImageUnavailable, match="it is larger than 1,000,000 bytes"):
                await desk.read(server.url)
            assert sum(desk.pieces) <= 10**6

    run(download())


@pytest.mark.parametrize("head", [b"", reply(PICTURE[:9], length=2048)], ids=["before the head", "inside the body"])
def test_a_host_that_falls_silent_is_asked_again(head: bytes) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        skip(31)
        await reader.read()

    async def download() -> None:
        async with serve(silent, reply(PICTURE)) as server, fetching(f"127.0.0.1:{server.port}") as desk:
            with capture_logs() as records:
                assert await desk.read(server.url) == PICTURE
        assert [record["reason"] for record in records] == ["its host fell silent"]

    run(download())


def test_pauses_count_against_the_deadline_and_the_log_knows_why() -> None:
    async def sleep(seconds: float) -> None:
        skip(200)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def download() -> None:
        async with serve(reply(b"", 503)) as server, fetching(f"127.0.0.1:{server.port}", sleep=sleep) as desk:
            with pytest.raises(ImageUnavailable, match="longer than 120 seconds") as caught:
                await desk.read(server.url)
            assert "before that: its host answered 503" in str(caught.value.detail)
            assert len(server.heads) == 1

    run(download())


class Closing(Blob):
    closed = False

    def close(self) -> None:
        super().close()
        self.closed = True


def test_a_caller_that_leaves_leaves_nothing_open() -> None:
    async def download() -> None:
        began = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(reply(PICTURE[:9], length=2048))
            await writer.drain()
            await reader.read()

        def new_blob() -> Blob:
            began.set()
            return blob

        async with serve(silent) as server, fetching(f"127.0.0.1:{server.port}", new_blob=new_blob) as desk:
            task = asyncio.create_task(desk.read(server.url))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    blob = Closing()
    run(download())
    assert blob.closed


def test_a_full_disk_is_no_fault_of_the_host() -> None:
    class Full(Closing):
        def write(self, data: bytes | memoryview) -> None:
            raise SpoolFull("The server has no room left for this image.")

    full = Full()

    async def download() -> None:
        async with serve(reply(PICTURE)) as server, fetching(f"127.0.0.1:{server.port}", new_blob=lambda: full) as desk:
            with pytest.raises(SpoolFull):
                await desk.read(server.url)
            assert len(server.heads) == 1

    run(download())
    assert full.closed


# What is said to the host


def test_the_request_says_nothing_but_what_it_must(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cookies, no keys, no proxy of the environment, no keep-alive; a signature arrives to the letter."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    async def download() -> None:
        async with (
            serve(reply(b"proxied")) as proxy,
            serve(redirect("/b?sig=%2b%7E+~", 307, "Set-Cookie: a=b; Path=/"), reply(PICTURE)) as server,
        ):
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            async with fetching(f"127.0.0.1:{server.port}") as desk:
                assert await desk.read(server.url) == PICTURE
            assert proxy.heads == []
            first, second = server.heads
            assert second.split("\r\n")[0] == "GET /b?sig=%2b%7E+~ HTTP/1.1"
            assert first.split("\r\n")[1:] == second.split("\r\n")[1:]
            assert sorted(filter(None, second.split("\r\n")[1:])) == [
                "Accept-Encoding: identity",
                "Accept: image/*",
                "Connection: close",
                f"Host: 127.0.0.1:{server.port}",
                f"User-Agent: limner/{__version__}",
            ]

    run(download())


# Where it may go


def test_a_name_is_asked_for_by_its_name() -> None:
    async def download() -> None:
        async with (
            serve(reply(PICTURE)) as server,
            fetching(f"cdn.test:{server.port}", {"cdn.test": [["127.0.0.1"]]}) as desk,
        ):
            assert await desk.read(f"http://CDN.test.:{server.port}/a.png") == PICTURE
            assert f"Host: cdn.test:{server.port}\r\n" in server.heads[0]

    run(download())


def test_the_system_resolves_names() -> None:
    async def download() -> None:
        async with serve(reply(PICTURE)) as server, fetching(f"localhost:{server.port}") as desk:
            assert await desk.read(f"http://localhost:{server.port}/a.png") == PICTURE

    run(download())


def test_the_next_address_is_tried_where_the_first_does_not_answer() -> None:
    async def download() -> None:
        async with (
            serve(reply(PICTURE)) as server,
            fetching(f"cdn.test:{server.port}", {"cdn.test": [["127.0.0.3", "127.0.0.1"]]}) as desk,
        ):
            assert await desk.read(f"http://cdn.test:{server.port}/a.png") == PICTURE
            assert desk.slept == []

    run(download())


@dataclass(frozen=True)
class Shut:
    """The picture is on 127.0.0.1, a canary on the same port of 127.0.0.2; `allow` opens the first alone."""

    name: str
    url: str
    answers: tuple[Sequence[str], ...] = ()
    heads: int = 0


SHUT = [
    Shut("another loopback address", "http://127.0.0.2:PORT/"),
    Shut("a name of the canary", "http://cdn.test:PORT/", (["127.0.0.2"],)),
    Shut("a name of both", "http://cdn.test:PORT/", (["127.0.0.1", "127.0.0.2"],)),
    Shut("a name of both, the other way round", "http://cdn.test:PORT/", (["127.0.0.2", "127.0.0.1"],)),
    Shut(
        "a name that changes its mind before the second try",
        "http://cdn.test:PORT/404",
        (["127.0.0.1"], ["127.0.0.2"]),
        1,
    ),
    Shut("a name of IPv4 in IPv6", "http://cdn.test:PORT/", (["::ffff:127.0.0.1"],)),
    Shut("a name of an interface", "http://cdn.test:PORT/", (["fe80::1%lo"],)),
    Shut("a name without addresses", "http://cdn.test:PORT/", ([],)),
    Shut("metadata", "http://169.254.169.254/latest/meta-data/"),
    Shut("the open address on another port", "http://127.0.0.1:8080/"),
    Shut("a user name", "http://127.0.0.1:PORT@127.0.0.2:PORT/"),
    Shut("a file", "file:///etc/passwd"),
]


@pytest.mark.parametrize("case", SHUT, ids=lambda case: case.name)
def test_nothing_shut_is_ever_connected_to(case: Shut) -> None:
    async def download() -> None:
        async with (
            serve(reply(b"", 404)) as server,
            serve(reply(b"canary"), host="127.0.0.2", port=server.port) as canary,
        ):
            async with fetching(f"127.0.0.1:{server.port}", {"cdn.test": list(case.answers)}) as desk:
                with pytest.raises(ImageUnavailable) as caught:
                    await desk.read(case.url.replace("PORT", str(server.port)))
            assert canary.heads == []
            assert len(server.heads) == case.heads
            assert len(desk.slept) == case.heads
        assert "127.0.0" not in caught.value.message
        assert "cdn.test" not in caught.value.message

    run(download())


@here_is_public
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
def test_no_redirect_leads_there(location: str) -> None:
    """The first address may be told, it is public; where it leads to may not."""

    async def download() -> None:
        async with (
            serve(reply(b"canary"), host="127.0.0.2") as canary,
            serve(redirect("/b"), redirect(location.replace("PORT", str(canary.port)))) as server,
            fetching("", {"cdn.test": [["127.0.0.2"]]}) as desk,
        ):
            with pytest.raises(ImageUnavailable) as caught:
                await desk.read(server.url)
            reason = "it redirects to where this server may not go"
            assert caught.value.message == f"The image at {server.url} could not be downloaded: {reason}."
            assert len(server.heads) == 2
            assert desk.slept == []
            assert canary.heads == []

    run(download())


def test_every_reason_can_be_reached() -> None:
    kinds = [kind for kind, _, _ in CLIENT_ERRORS]
    assert not [kind for row, kind in enumerate(kinds) if issubclass(kind, tuple(kinds[:row]))]


def test_a_name_is_resolved_once_for_a_connection() -> None:
    """A name that rebinds has no second chance: what was checked is what is connected to."""

    async def download() -> None:
        async with (
            serve(reply(PICTURE)) as server,
            serve(reply(b"canary"), host="127.0.0.2", port=server.port) as canary,
        ):
            names: dict[str, list[Sequence[str] | OSError]] = {"cdn.test": [["127.0.0.1"], ["127.0.0.2"]]}
            async with fetching(f"127.0.0.1:{server.port}", names) as desk:
                assert await desk.read(f"http://cdn.test:{server.port}/a.png") == PICTURE
                assert desk.asked == ["cdn.test"]
            assert canary.heads == []

    run(download())


def test_the_connector_itself_knows_only_checked_addresses() -> None:
    """aiohttp asks no resolver for a literal address: the socket is where it ends."""

    async def download() -> None:
        async with serve(reply(b"canary")) as canary, fetching(f"127.0.0.1:{canary.port}") as desk:
            with pytest.raises(RuntimeError, match="an address that was not checked"):
                await desk.fetcher._session.get(canary.url)
            assert canary.heads == []
            assert await desk.read(canary.url) == b"canary"

    run(download())


def test_downloads_at_once_keep_their_addresses_apart() -> None:
    async def download() -> None:
        async with serve(reply(b"1")) as one, serve(reply(b"2"), host="127.0.0.2", port=one.port) as two:
            names: dict[str, list[Sequence[str] | OSError]] = {"one": [["127.0.0.1"]], "two": [["127.0.0.2"]]}
            async with fetching(f"127.0.0.0/8,one:{one.port},two:{one.port}", names) as desk:
                blobs = await asyncio.gather(
                    *(desk.fetcher.fetch(f"http://{name}:{one.port}/") for name in ("one", "two") * 20)
                )
                assert [blob.read_at(0, 9) for blob in blobs] == [b"1", b"2"] * 20
                for blob in blobs:
                    blob.close()
            assert len(two.heads) == 20

    run(download())


@dataclass(frozen=True)
class Unknown:
    name: str
    error: OSError
    tries: int


@pytest.mark.parametrize(
    "case",
    [
        Unknown("a name that does not exist is not asked for again", socket.gaierror(socket.EAI_NONAME, "unknown"), 1),
        Unknown("a name server in trouble is", socket.gaierror(socket.EAI_AGAIN, "later"), TRIES),
        Unknown("and one that takes too long", TimeoutError(), TRIES),
    ],
    ids=lambda case: case.name,
)
def test_a_name_without_an_answer(case: Unknown) -> None:
    async def download() -> None:
        async with fetching("minio:9000", {"cdn.test": [case.error], "minio": [case.error]}) as desk:
            with pytest.raises(ImageUnavailable) as caught:
                await desk.read("https://cdn.test/a.png")
            reason = "its host name could not be looked up"
            assert caught.value.message == f"The image at https://cdn.test/a.png could not be downloaded: {reason}."
            assert len(desk.asked) == case.tries
            with pytest.raises(ImageUnavailable) as caught:
                await desk.read("http://minio:9000/a.png")
            assert caught.value.message == f"The image could not be downloaded: {reason}."

    run(download())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://10.0.0.5/a.png", "its address is not open to this server"),
        ("http://10.0.0.5:6379/a.png", "its port is not one of 80, 443, 8080, 8443"),
    ],
)
def test_a_refused_download_names_the_variable_that_opens_it_in_the_log_alone(url: str, reason: str) -> None:
    async def download() -> None:
        async with fetching() as desk:
            with pytest.raises(ImageUnavailable) as caught:
                await desk.read(url)
        assert caught.value.message == f"The image could not be downloaded: {reason}."
        assert "LIMNER_FETCH_ALLOW" in str(caught.value.detail)
        assert url in str(caught.value.detail)

    run(download())


def test_an_inner_host_that_was_allowed_is_not_told_either() -> None:
    async def download() -> None:
        async with serve(reply(b"", 403)) as server, fetching(f"127.0.0.1:{server.port}") as desk:
            with pytest.raises(ImageUnavailable) as caught:
                await desk.read(server.url)
            assert caught.value.message == "The image could not be downloaded: its host answered 403."
            assert caught.value.detail == f"{server.url}: its host answered 403"

    run(download())


def test_a_host_that_refuses_connections_is_tried_again() -> None:
    async def download() -> None:
        async with serve(b"") as server:
            pass
        async with fetching(f"127.0.0.1:{server.port}") as desk:
            with pytest.raises(ImageUnavailable, match="its host cannot be reached") as caught:
                await desk.read(server.url)
            assert "Connect call failed" in str(caught.value.detail)
            assert desk.slept == list(RETRY_DELAYS)

    run(download())


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A query is a signature, and a password stands before the host; neither gets into anybody's record."""
    caplog.set_level(logging.DEBUG)

    async def download() -> None:
        async with (
            serve(reply(b"", 500), b"", b"nonsense", redirect("/b?sig=secret"), reply(b"")) as server,
            fetching(f"127.0.0.1:{server.port}") as desk,
        ):
            for url in (f"{server.url}?sig=secret", f"http://me:secret@127.0.0.1:{server.port}/"):
                with pytest.raises(ImageUnavailable) as caught:
                    await desk.read(url)
                assert "secret" not in str(caught.value.detail)

    with capture_logs() as records:
        run(download())
    assert [record["event"] for record in records] == ["image_download_retry"] * len(RETRY_DELAYS)
    assert records[0]["place"].endswith("/a.png")
    assert "secret" not in str(records) + caplog.text


# TLS


def server_tls(tmp_path: Path) -> ssl.SSLContext:
    (tmp_path / "cdn.pem").write_text(KEY + CERTIFICATE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cdn.pem")
    return context


def test_a_trusted_host_is_known_by_its_name_though_its_address_is_pinned(tmp_path: Path) -> None:
    async def download() -> None:
        trust = ssl.create_default_context(cadata=CERTIFICATE)
        async with serve(reply(PICTURE), tls=server_tls(tmp_path)) as server:
            names: dict[str, list[Sequence[str] | OSError]] = {"cdn.test": [["127.0.0.1"]], "other": [["127.0.0.1"]]}
            async with fetching(f"127.0.0.1:{server.port}", names, tls=trust) as desk:
                assert await desk.read(f"https://cdn.test:{server.port}/a.png") == PICTURE
                with pytest.raises(ImageUnavailable, match="its host cannot be trusted"):
                    await desk.read(f"https://other:{server.port}/a.png")

    run(download())


def test_a_certificate_that_nobody_signed_is_refused_at_once(tmp_path: Path) -> None:
    async def download() -> None:
        async with serve(reply(PICTURE), tls=server_tls(tmp_path)) as server:
            async with fetching(f"cdn.test:{server.port}", {"cdn.test": [["127.0.0.1"]]}) as desk:
                with pytest.raises(ImageUnavailable, match=r"its host cannot be trusted \(TLS\)"):
                    await desk.read(f"https://cdn.test:{server.port}/a.png")
                assert desk.slept == []
            assert server.heads == []

    run(download())
