"""Read the bodies of an upstream's responses, decompressed, within the limits of their size and time."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from app.errors import UpstreamError, UpstreamInvalidReply, UpstreamTimeout
from app.upstream.connection_errors import CONNECTION_LOST, describe
from app.upstream.decoding import ContentDecoder, is_plain
from app.upstream.spec import UpstreamSpec
from app.upstream.transport import PlainResponse, ResponseStream

#: What is read of an error answer: bytes, and seconds for all of it.
_MAX_ERROR_BODY, _ERROR_BODY_TIMEOUT = 64 * 1024, 5.0

#: Seconds that a stream may take to end after its last mark.
_LAST_WAIT = 0.1


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Read response bodies of one upstream. A request's time limit counts from `started_at`, by `monotonic`.

    `secrets`: what must not be in the log.
    """

    spec: UpstreamSpec
    monotonic: Callable[[], float]
    secrets: Collection[str] = ()

    def time_left(self, started_at: float) -> float:
        return started_at + self.spec.timeout - self.monotonic()

    def timeout_error(self, *, idle: bool = False) -> UpstreamTimeout:
        idle_timeout, timeout = self.spec.idle_timeout, self.spec.timeout
        what = f"fell silent for {idle_timeout:g} s in its reply" if idle else f"did not finish within {timeout:g} s"
        return UpstreamTimeout(f"The upstream {what}. The image may have been made.")

    async def read(
        self,
        response: httpx.Response,
        headers: Mapping[str, str],
        started_at: float,
        take: Callable[[bytes, bool], Awaitable[bool]],
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Give the decompressed body to `take`, chunk by chunk, until `take` returns True: it needs no more.

        The second argument of `take` says whether the chunk is the whole body. `on_wait` is called when one was waited
        for, so that others have had their turns. Raises `UpstreamTimeout`, and `UpstreamInvalidReply` for a lost
        connection, and for a body that is too large or cannot be decompressed.
        """
        encoding = headers.get("content-encoding", "")
        decoder, received, decoded = ContentDecoder(encoding), 0, 0
        idle_timeout, length = math.inf, _length_of(headers)
        stream: Any = response.stream  # `aiter_raw` costs one more generator a chunk.
        async with aclosing(aiter(stream)) as chunks:
            # Behind the last byte, nothing is waited for: each wait needs a timer.
            while received != length:
                data = await self._next_chunk(chunks, idle_timeout, self.time_left(started_at), on_wait)
                if data is None:
                    break
                received += len(data)
                if len(data) == length and is_plain(data, encoding):
                    self._check_size(length)
                    await take(data, True)
                    return
                for chunk in decoder.feed(data):
                    decoded += len(chunk)
                    self._check_size(max(received, decoded))
                    if await take(chunk, False):
                        await _await_end(chunks)
                        return
                data = chunk = b""  # Not held while the next one is waited for: 250 KiB for each reply.
                idle_timeout = self.spec.idle_timeout
        for chunk in decoder.finish():
            self._check_size(decoded + len(chunk))
            await take(chunk, False)

    async def _next_chunk(
        self, chunks: AsyncIterator[bytes], idle_timeout: float, time_left: float, on_wait: Callable[[], None]
    ) -> bytes | None:
        # What is there already needs no timer.
        if time_left > 0 and isinstance(chunks, ResponseStream) and (data := chunks.arrived()):
            return data
        try:
            async with asyncio.timeout(min(idle_timeout, time_left)):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise self.timeout_error(idle=idle_timeout < time_left) from None
        except CONNECTION_LOST as error:
            message = "The upstream broke off in the middle of its reply. The image may have been made."
            raise UpstreamInvalidReply(message, detail=describe(error, self.secrets)) from None
        if isinstance(chunks, ResponseStream):
            on_wait()
        return chunk

    def _check_size(self, size: int) -> None:
        if size > self.spec.max_reply_bytes:
            detail = f"more than {self.spec.max_reply_bytes} bytes: four times LIMNER_MAX_IMAGE_BYTES, in base64"
            raise UpstreamInvalidReply("The upstream's reply is larger than this server takes.", detail=detail)

    async def read_error(self, response: httpx.Response, started_at: float) -> bytes:
        """Return what comes of an error answer: its status says enough if the body is endless, slow or damaged."""
        body = bytearray()

        async def take(chunk: bytes, _: bool) -> bool:
            body.extend(chunk)
            return len(body) >= _MAX_ERROR_BODY

        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(_ERROR_BODY_TIMEOUT):
                await self.read(response, fields_of(response), started_at, take)
        return bytes(body[:_MAX_ERROR_BODY])


def fields_of(response: httpx.Response) -> dict[str, str]:
    """Return the headers by their names in lower case."""
    return response.fields if isinstance(response, PlainResponse) else dict(response.headers.items())


def _length_of(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes the body has before it is decompressed, None if the head does not say."""
    length = headers.get("content-length", "")
    # int() refuses numbers of more than 4,300 digits with a ValueError of its own.
    return int(length) if length.isdecimal() and len(length) < 20 else None


async def _await_end(chunks: AsyncIterator[bytes]) -> None:
    """Wait briefly for the end of a body of which enough was read: then its connection can be used again."""
    with suppress(TimeoutError, *CONNECTION_LOST):
        async with asyncio.timeout(_LAST_WAIT):
            await anext(chunks, None)


async def close(response: httpx.Response) -> None:
    """Release the connection of a response, whether or not it was read to its end."""
    with suppress(*CONNECTION_LOST):
        await response.aclose()
