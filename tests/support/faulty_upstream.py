"""An upstream on raw sockets that fails in every possible way and counts its calls."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from enum import Enum


class SocketFault(Enum):
    RESET = "the connection is reset"
    CLOSE = "the connection is closed"
    HANG = "nothing more comes"
    DEAF = "the body of the request is not read"


#: The steps of one call: bytes are sent unchanged, a number is a pause in seconds.
Script = Sequence[bytes | SocketFault | float]


@dataclass(slots=True)
class FaultyUpstream:
    """A server that runs one script for each call, and the last script for all further calls.

    Clients must be closed before the server.

    Attributes:
        calls: Each request as received.
        was_called: Set by the first call.
        client_disconnected: Set when a client disconnects that has got no response.
    """

    scripts: Sequence[Script]
    url: str = ""
    connections: int = 0
    calls: list[bytes] = field(default_factory=list)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)
    was_called: asyncio.Event = field(default_factory=asyncio.Event)
    client_disconnected: asyncio.Event = field(default_factory=asyncio.Event)

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
        if SocketFault.DEAF not in script:
            self.calls[-1] += await reader.readexactly(_length_of(head))
        self.was_called.set()
        for step in script:
            await self._run_step(step, reader, writer)

    async def _run_step(
        self, step: bytes | SocketFault | float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, float):
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), step)
        elif step is SocketFault.HANG:
            await reader.read(1)
            self.client_disconnected.set()
        elif step is SocketFault.CLOSE:
            writer.close()
        elif step is SocketFault.RESET:
            _disable_linger(writer)
            writer.transport.abort()


@asynccontextmanager
async def run_faulty_upstream(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultyUpstream]:
    upstream = FaultyUpstream(scripts)
    async with run_server(upstream.serve, tls=tls) as upstream.url:
        yield upstream
        await asyncio.gather(*upstream.handlers)


@asynccontextmanager
async def run_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    scheme: str = "http",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Run a server whose connections `handler` serves and closes, and yield the address of its API."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, limit=1 << 20, backlog=300, ssl=tls)
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


def _disable_linger(writer: asyncio.StreamWriter) -> None:
    """Make the next close a reset."""
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
