"""What is logged of a lost connection has no key in it, whatever the upstream has sent."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import httpx
import pytest

from app.errors import UpstreamInvalidReply
from app.upstream.connection_errors import connection_failure
from app.upstream.response_body import BodyReader
from app.upstream.spec import ModelMap, UpstreamSpec

KEY = "a key that looks like none"


def lost(error: type[Exception]) -> httpx.HTTPError:
    """Return a lost connection whose cause quotes the key."""
    failure = httpx.ReadError("lost")
    failure.__cause__ = error(f"invalid line: {KEY}")
    return failure


LOST: list[tuple[str, Exception]] = [
    ("an answer that cannot be read", lost(aiohttp.ClientPayloadError)),
    ("a connection that was not made", lost(aiohttp.ConnectionTimeoutError)),
    ("an exception without a cause", httpx.ReadError(f"invalid line: {KEY}")),
]


@pytest.mark.parametrize("error", [error for _, error in LOST], ids=[name for name, _ in LOST])
def test_a_lost_connection_is_logged_without_the_key(error: Exception) -> None:
    detail = connection_failure(error, 1.0, (KEY,)).error.detail
    assert detail is not None
    assert detail.endswith(": invalid line: [key]")


def test_a_body_that_breaks_off_is_logged_without_the_key() -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            raise lost(aiohttp.ClientPayloadError)

    async def take(_: bytes, __: bool) -> bool:
        return False

    spec = UpstreamSpec(name="first", models=ModelMap("painter", {}), base_url="https://upstream.example/v1")
    reader = BodyReader(spec, lambda: 0.0, (KEY,))
    with pytest.raises(UpstreamInvalidReply) as caught:
        asyncio.run(reader.read(httpx.Response(200, stream=Body()), {}, 0.0, take))
    assert caught.value.detail == "ClientPayloadError: invalid line: [key]"
