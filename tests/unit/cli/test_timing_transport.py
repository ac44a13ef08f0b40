"""Times of a response, by a clock that advances with each of its parts."""

import asyncio
from collections.abc import AsyncIterator

import httpx

from app.cli.check import TimingTransport


class Clock:
    now = 100.0

    def read(self) -> float:
        return self.now


def test_the_first_and_the_last_byte_of_a_response_are_timed() -> None:
    clock = Clock()

    async def body() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b"):
            clock.now += 5
            yield chunk

    def respond(_: httpx.Request) -> httpx.Response:
        clock.now += 2
        return httpx.Response(200, content=body())

    timing = TimingTransport(httpx.MockTransport(respond), clock.read)

    async def send() -> None:
        async with httpx.AsyncClient(transport=timing) as http, http.stream("GET", "http://h/") as response:
            assert (timing.first_byte, timing.last_byte) == (2.0, None)
            assert [chunk async for chunk in response.aiter_raw()] == [b"a", b"b"]

    asyncio.run(send())
    assert (timing.first_byte, timing.last_byte) == (2.0, 12.0)
