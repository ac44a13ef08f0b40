"""How answers leave: plain JSON, JSON that waits, events; pictures are encoded while they are being sent."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any, Protocol, TypeVar

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import ApiError

T = TypeVar("T")

#: Small pieces are joined to this many bytes: a system call and a chunk header each would be waste.
_JOINED = 64 * 1024


class ClientGone(Exception):
    """Nobody is left to answer."""


class Presence:
    """Watches whether the client is still there, from the moment its body has been read."""

    def __init__(self, receive: Receive) -> None:
        self._gone = asyncio.create_task(_disconnected(receive))

    async def wait(self, work: Awaitable[T], seconds: float | None) -> T | None:
        """What `work` gives, None where it is not ready in time (it is cancelled then). Raises ClientGone."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self._gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._gone.done():
                raise ClientGone
            return None
        finally:
            task.cancel()

    async def outlast(self, task: "asyncio.Task[None]", seconds: float | None) -> bool:
        """Whether the task, which goes on in any case, has ended in time. Raises ClientGone."""
        await asyncio.wait((task, self._gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and self._gone.done():
            raise ClientGone
        return task.done()

    async def is_here(self) -> bool:
        """Gives the loop two turns first, in which it hears of a connection that was closed."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return not self._gone.done()

    def stop(self) -> None:
        self._gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Document(Protocol):
    """Something whose length is known before its pieces are made."""

    length: int

    def chunks(self) -> Iterator[bytes]: ...


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class ErrorResponse(JsonResponse):
    def __init__(self, error: ApiError) -> None:
        super().__init__(error.body, error.status, error.headers)


class Visit(Protocol):
    """A client that waits for an answer; `leave` says whether it has got all of it."""

    @property
    def presence(self) -> Presence: ...

    def leave(self, *, delivered: bool) -> None: ...


class PicturesResponse(Response):
    """One document with pictures in it, or several: their length goes ahead."""

    def __init__(
        self, documents: Sequence[Document], media_type: str, headers: Mapping[str, str], visit: Visit
    ) -> None:
        self.media_type = media_type
        self._documents, self._visit = documents, visit
        length = sum(document.length for document in documents)
        super().__init__(None, 200, {"content-length": str(length), **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        delivered = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            last = b""
            for piece in joined(chain.from_iterable(document.chunks() for document in self._documents)):
                if last:
                    await send({"type": "http.response.body", "body": last, "more_body": True})
                last = piece
            delivered = await self._visit.presence.is_here()
            await send({"type": "http.response.body", "body": last})
        finally:
            self._visit.leave(delivered=delivered)


class FlowingResponse(Response):
    """Whatever `pieces` yields, each sent at once: events, or white space and then JSON. The status is 200."""

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str], visit: Visit
    ) -> None:
        self.media_type = media_type
        self._pieces, self._visit = pieces, visit
        # nginx and CDNs would hold back what is meant to keep the connection alive.
        unbuffered = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(None, 200, {**headers, **unbuffered})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        delivered = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._pieces):
                async for piece in self._pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            delivered = await self._visit.presence.is_here()
            await send({"type": "http.response.body", "body": b""})
        except ClientGone:
            return
        finally:
            self._visit.leave(delivered=delivered)


def joined(pieces: Iterable[bytes]) -> Iterable[bytes]:
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _JOINED:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
