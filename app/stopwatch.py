"""A transport that notes how long an answer took."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx


class Stopwatch(httpx.AsyncBaseTransport):
    """Seconds since the last question was sent: until the head of its answer came, and until the answer ended."""

    def __init__(self, transport: httpx.AsyncBaseTransport, now: Callable[[], float] = time.perf_counter) -> None:
        self.first_byte: float | None = None
        self.whole: float | None = None
        self._transport = transport
        self._now = now

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        began = self._now()
        response = await self._transport.handle_async_request(request)
        self.first_byte = self._now() - began
        response.stream = _Watched(response, lambda: self._stop(began))
        return response

    def _stop(self, began: float) -> None:
        self.whole = self._now() - began

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Watched(httpx.AsyncByteStream):
    def __init__(self, response: httpx.Response, stop: Callable[[], None]) -> None:
        # Declared to be of either kind.
        self._stream: Any = response.stream
        self._stop = stop

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk
        self._stop()

    async def aclose(self) -> None:
        await self._stream.aclose()
