"""A small HTTP proxy that leads to one server on this machine, whatever name it is asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.faulty_upstream import run_server


@dataclass(slots=True)
class Proxy:
    """`heads`: what it was asked. `refusal`: the status with which it answers all of that; empty lets it through."""

    port: int
    refusal: str = ""
    address: str = ""
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError), closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self.refusal:
                writer.write(f"HTTP/1.1 {self.refusal}\r\ncontent-length: 0\r\n\r\n".encode())
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
            with closing(far_writer):
                if head.startswith(b"CONNECT "):
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    far_writer.write(head)
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


@asynccontextmanager
async def run_proxy(upstream: str, refusal: str = "") -> AsyncIterator[Proxy]:
    """Run a proxy in front of the server at the address `upstream`. Its own `address` has no user and no password."""
    proxy = Proxy(urlsplit(upstream).port or 0, refusal)
    async with run_server(proxy.serve) as url:
        proxy.address = url.removesuffix("/v1")
        yield proxy


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
