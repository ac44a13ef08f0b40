"""An upstream of raw sockets that answers in every wrong way, and counts."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from enum import Enum


class Act(Enum):
    RESET = "the connection is reset"
    CLOSE = "the connection is closed"
    HANG = "nothing more comes"
    DEAF = "the request's body is not read"


#: What happens on one call, in order: bytes are sent as they are, a number is a pause in seconds.
Script = Sequence[bytes | Act | float]


@dataclass(slots=True)
class Chaos:
    """`calls` holds each request as it came; the last script serves all calls beyond the scripts.

    `asked` is set by the first call, `left` when a client goes away that got no answer. Clients are to be closed first.
    """

    scripts: Sequence[Script]
    url: str = ""
    connections: int = 0
    calls: list[bytes] = field(default_factory=list)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        handler = asyncio.current_task()
        assert handler is not None
        self.handlers.add(handler)
        with suppress(ConnectionError, asyncio.IncompleteReadError), closing(writer):
            while head := await _read_head(reader):
                await self._answer(head, reader, writer)

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(len(self.calls), len(self.scripts) - 1)]
        self.calls.append(head)
        if Act.DEAF not in script:
            self.calls[-1] += await reader.readexactly(_length_of(head))
        self.asked.set()
        for step in script:
            await self._play(step, reader, writer)

    async def _play(
        self, step: bytes | Act | float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, float):
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), step)
        elif step is Act.HANG:
            await reader.read(1)
            self.left.set()
        elif step is Act.CLOSE:
            writer.close()
        elif step is Act.RESET:
            _linger_not(writer)
            writer.transport.abort()


@asynccontextmanager
async def run_chaos(*scripts: Script) -> AsyncIterator[Chaos]:
    chaos = Chaos(scripts)
    async with run_server(chaos.serve) as chaos.url:
        yield chaos
        await asyncio.gather(*chaos.handlers)


@asynccontextmanager
async def run_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], scheme: str = "http"
) -> AsyncIterator[str]:
    """The API's address at a server whose connections `handler` serves, and closes."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, limit=1 << 20, backlog=300)
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _length_of(head: bytes) -> int:
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    return next(int(value) for name, _, value in lines if name == b"content-length")


def _linger_not(writer: asyncio.StreamWriter) -> None:
    """A close without linger is a reset."""
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
