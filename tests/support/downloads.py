"""A host of images on this machine, and a fetcher that is watched while it downloads from there."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.images.blob import Blob
from app.images.fetch import CHUNK_SIZE, RETRY_DELAYS, Fetcher
from app.images.ssrf import parse_allow
from tests.support.certificates import CERTIFICATE, KEY
from tests.support.tcp_server import listen

ATTEMPTS = len(RETRY_DELAYS) + 1
IMAGE = bytes(range(256)) * 8
Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes = b"", status: int = 200, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302, *headers: str) -> bytes:
    return reply(b"", status, f"Location: {location}", *headers)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


@dataclass
class Server:
    """An image host. Each connection gets the next answer, and all later ones the last. `heads` are the requests."""

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
            pass  # The client has closed the connection.
        finally:
            writer.close()


@asynccontextmanager
async def serve(
    *answers: bytes | Behave, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    served = Server(list(answers))
    async with listen(served.handle, host, port, tls) as served.port:
        yield served


class WatchedBlob(Blob):
    """Removes itself from `open` when closed, and records the size of each write in `writes`."""

    open: list["WatchedBlob"]
    writes: list[int]

    def write(self, data: bytes | memoryview) -> None:
        self.writes.append(len(data))
        super().write(data)

    def close(self) -> None:
        super().close()
        self.open.remove(self)


@dataclass
class Download:
    """A fetcher and what it has done."""

    fetcher: Fetcher
    open: list[WatchedBlob]
    writes: list[int]
    slept: list[float]
    resolved: list[str]

    async def read(self, url: str) -> bytes:
        """Return the bytes of an image, and check that no blob is left open."""
        try:
            with await self.fetcher.fetch(url) as blob:
                return b"".join(blob.chunks(CHUNK_SIZE))
        finally:
            assert self.open == []


@asynccontextmanager
async def fetching(
    allow: str = "", names: dict[str, list[Sequence[str] | OSError]] | None = None, **options: Any
) -> AsyncIterator[Download]:
    """Open a fetcher. `names`: for each name the addresses of each query; later queries get the last ones."""
    opened: list[WatchedBlob] = []
    writes: list[int] = []
    slept: list[float] = []
    resolved: list[str] = []

    def new_blob() -> Blob:
        blob = WatchedBlob()
        blob.open, blob.writes = opened, writes
        opened.append(blob)
        return blob

    async def resolve(name: str) -> Sequence[str]:
        resolved.append(name)
        answers = (names or {})[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    resolve_option = {} if names is None else {"resolve": resolve}
    fetcher = Fetcher(
        **{
            "allow": parse_allow(allow),
            "is_own": lambda _: False,
            "new_blob": new_blob,
            "sleep": sleep,
            **resolve_option,
            **options,
        }
    )
    try:
        yield Download(fetcher, opened, writes, slept, resolved)
    finally:
        await fetcher.close()


def server_tls(tmp_path: Path) -> ssl.SSLContext:
    (tmp_path / "cdn.pem").write_text(KEY + CERTIFICATE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cdn.pem")
    return context
