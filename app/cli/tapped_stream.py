"""Look at the body of an upstream's response while it passes through."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx


class TappedStream(httpx.AsyncByteStream):
    """The body of a response. `on_chunk` is called with each chunk before that is read."""

    def __init__(self, response: httpx.Response, on_chunk: Callable[[bytes], None]) -> None:
        # httpx declares the stream to be synchronous or asynchronous.
        self._stream: Any = response.stream
        self._on_chunk = on_chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # At each chunk, not at the end: a reader that knows the length of the body does not wait for its end.
        async for chunk in self._stream:
            self._on_chunk(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
