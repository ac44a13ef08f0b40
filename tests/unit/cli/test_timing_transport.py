"""Times of an answer, by a clock that moves when something comes."""

import asyncio
from collections.abc import AsyncIterator

import httpx

from app.cli.check import TimingTransport


class Clock:
    now = 100.0

    def read(self) -> float:
        return self.now


def test_the_head_and_the_end_of_an_answer_are_timed() -> None:
    clock = Clock()

    async def body() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b"):
            clock.now += 5
            yield piece

    def answer(_: httpx.Request) -> httpx.Response:
        clock.now += 2
        return httpx.Response(200, content=body())

    watch = TimingTransport(httpx.MockTransport(answer), clock.read)

    async def ask() -> None:
        async with httpx.AsyncClient(transport=watch) as http, http.stream("GET", "http://h/") as response:
            assert (watch.first_byte, watch.last_byte) == (2.0, None)
            assert [piece async for piece in response.aiter_raw()] == [b"a", b"b"]

    asyncio.run(ask())
    assert (watch.first_byte, watch.last_byte) == (2.0, 12.0)
