"""Responses that encode images while they are being sent."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any, Protocol

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import ApiError

#: Small chunks are joined up to this many bytes: a system call and a chunk header for each would be waste.
_MIN_CHUNK = 64 * 1024


class ClientDisconnected(Exception):
    """The client has left, so there is no connection to send a response to."""


class SizedBody(Protocol):
    """A body whose length is known before its chunks are made."""

    length: int

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes in order; may be called again."""
        ...


class DeliveryEnd(Protocol):
    """What a response reports to: whether its client is still there, and that it has ended."""

    async def has_room(self) -> bool:
        """Wait until the connection takes more bytes. Return whether the client is there, as far as is known."""
        ...

    async def is_connected(self) -> bool:
        """Return whether the client is still connected."""
        ...

    async def is_received(self) -> bool:
        """Return whether the client's system has received all that was sent, as far as that can be known."""
        ...

    def close(self, *, delivered: bool) -> None:
        """Note the end of the response; `delivered`: a client that was still connected has received all of it."""
        ...


class OrjsonResponse(Response):
    """A small JSON document, encoded at once."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the document."""
        return orjson.dumps(content)


class ErrorResponse(OrjsonResponse):
    """An error in OpenAI's form, with its status and headers."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.body, error.status, error.headers)


class SizedResponse(Response):
    """One or more bodies that may hold images; their length is sent ahead."""

    def __init__(
        self,
        bodies: Sequence[SizedBody],
        media_type: str,
        headers: Mapping[str, str],
        end: DeliveryEnd,
        status: int = 200,
    ) -> None:
        self._bodies, self._end = bodies, end
        self._length = sum([body.length for body in bodies])
        fields = {"content-length": str(self._length), **headers, "content-type": media_type}
        # Not by Starlette, which looks for a body and for headers that it would add.
        self.status_code, self.background = status, None
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bodies, and report whether the client got them. Each chunk is made when there is room for it."""
        delivered = False
        left = self._length
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for chunk in coalesce(chain.from_iterable(body.chunks() for body in self._bodies)):
                left -= len(chunk)
                if not left:
                    break
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                # Freed once it is written: the next one gets the same memory.
                del chunk
                if not await self._end.has_room():
                    return
            else:
                chunk = b""
            delivered = await self._end.is_connected()
            await send({"type": "http.response.body", "body": chunk})
            delivered = delivered and await self._end.is_received()
        finally:
            self._end.close(delivered=delivered)


class ChunkedResponse(Response):
    """Whatever `chunks` yields, each sent at once: events, or white space and then JSON. The status is 200."""

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str], end: DeliveryEnd
    ) -> None:
        self.media_type = media_type
        self._chunks, self._end = chunks, end
        # nginx and CDNs would hold back what is meant to keep the connection alive.
        unbuffered = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(None, 200, {**headers, **unbuffered})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the chunks as they come, and report whether the client got them."""
        delivered = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._chunks):
                async for chunk in self._chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    if not await self._end.has_room():
                        return
            delivered = await self._end.is_connected()
            await send({"type": "http.response.body", "body": b""})
            delivered = delivered and await self._end.is_received()
        except ClientDisconnected:
            return
        finally:
            self._end.close(delivered=delivered)


def coalesce(chunks: Iterable[bytes]) -> Iterable[bytes]:
    """Join small chunks to larger ones."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        del chunk
        if size >= _MIN_CHUNK:
            size = 0
            yield _take_all(held)
    if held:
        yield _take_all(held)


def _take_all(held: list[bytes]) -> bytes:
    """Return what is held, and hold it no more."""
    joined = b"".join(held)
    held.clear()
    return joined
