"""Responses encode images while they are sent, and report whether the client got them."""

import asyncio
from collections.abc import AsyncGenerator, Iterator

import pytest
from starlette.types import Message

from app.api.disconnects import DisconnectWatcher
from app.api.responses import ChunkedResponse, ClientDisconnected, ErrorResponse, SizedResponse, coalesce
from app.errors import NotFound
from app.images.blob import Blob
from app.protocol.json_stream import Base64String, StreamingJson
from tests.support.asgi_client import AsgiClient


class RecordedEnd:
    """Records how each response ended."""

    def __init__(self, client: AsgiClient, ends: list[str], *, is_received: bool = True) -> None:
        self._watcher = DisconnectWatcher(client.receive)
        self._ends = ends
        self._is_received = is_received

    async def has_room(self) -> bool:
        return await self._watcher.has_room()

    async def is_connected(self) -> bool:
        return await self._watcher.is_connected()

    async def is_received(self) -> bool:
        return self._is_received

    def close(self, *, delivered: bool) -> None:
        self._watcher.cancel()
        self._ends.append("delivered" if delivered else "not delivered")


def test_the_end_of_a_client_that_has_left_has_no_room() -> None:
    """With a server that does not tell whether there is room."""

    async def play() -> list[bool]:
        client = AsgiClient()
        end = RecordedEnd(client, [])
        rooms = [await end.has_room()]
        client.leave()
        return [*rooms, await end.is_connected(), await end.has_room()]

    assert asyncio.run(play()) == [True, False, False]


def test_an_error_is_answered_with_its_status_body_and_headers() -> None:
    async def play() -> AsgiClient:
        client = AsgiClient()
        await ErrorResponse(NotFound("no", code="x"))({"type": "http"}, client.receive, client.send)
        return client

    client = asyncio.run(play())
    assert client.sent[0]["status"] == 404
    assert client.headers["content-type"] == "application/json"
    assert client.headers["x-should-retry"] == "false"
    assert client.body == b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"x"}}'


def test_images_are_sent_in_chunks_and_their_length_is_sent_ahead() -> None:
    async def play(blob: Blob) -> tuple[AsgiClient, list[str]]:
        client, ends = AsgiClient(), list[str]()
        response = SizedResponse(
            [StreamingJson({"b64_json": Base64String(blob)})],
            "application/json",
            {"x-a": "b"},
            RecordedEnd(client, ends),
        )
        await response({"type": "http"}, client.receive, client.send)
        return client, ends

    with Blob() as blob:
        blob.write(b"\x00" * 3_000_000)
        client, ends = asyncio.run(play(blob))
    assert client.body == b'{"b64_json":"' + b"AAAA" * 1_000_000 + b'"}'
    assert client.headers == {"content-length": "4000015", "x-a": "b", "content-type": "application/json"}
    assert max(len(message.get("body", b"")) for message in client.sent) < 400_000
    assert ends == ["delivered"]


def test_the_end_is_reported_when_the_connection_breaks() -> None:
    async def play() -> list[str]:
        client, ends = AsgiClient(), list[str]()

        async def send(message: Message) -> None:
            raise OSError("gone")

        response = SizedResponse([StreamingJson({})], "application/json", {}, RecordedEnd(client, ends))
        with pytest.raises(OSError, match="gone"):
            await response({"type": "http"}, client.receive, send)
        return ends

    assert asyncio.run(play()) == ["not delivered"]


def test_chunks_are_sent_one_by_one_and_never_held_back() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b"two"

    ends: list[str] = []

    async def play() -> AsgiClient:
        client = AsgiClient()
        response = ChunkedResponse(chunks(), "text/event-stream", {"x-a": "b"}, RecordedEnd(client, ends))
        await response({"type": "http"}, client.receive, client.send)
        return client

    client = asyncio.run(play())
    assert [message.get("body") for message in client.sent] == [None, b"one", b"two", b""]
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (client.headers["cache-control"], client.headers["x-accel-buffering"]) == ("no-store", "no")
    assert "content-length" not in client.headers
    assert ends == ["delivered"]


def test_a_chunked_response_ends_when_its_client_has_left() -> None:
    closed: list[str] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            raise ClientDisconnected
        finally:
            closed.append("chunks")

    async def play() -> AsgiClient:
        client = AsgiClient()
        response = ChunkedResponse(chunks(), "application/json", {}, RecordedEnd(client, closed))
        await response({"type": "http"}, client.receive, client.send)
        return client

    assert asyncio.run(play()).body == b"one"
    assert closed == ["chunks", "not delivered"]


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("has_left", [False, True], ids=["it acknowledges nothing", "it has left"])
def test_a_response_that_its_client_does_not_receive_is_not_delivered(is_chunked: bool, has_left: bool) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"one"

    async def play() -> list[str]:
        client, ends = AsgiClient(), list[str]()
        end = RecordedEnd(client, ends, is_received=has_left)
        if has_left:
            client.leave()
        if is_chunked:
            await ChunkedResponse(chunks(), "application/json", {}, end)({}, client.receive, client.send)
        else:
            bodies = [StreamingJson({"url": "https://h/a.png"})]
            await SizedResponse(bodies, "application/json", {}, end)({}, client.receive, client.send)
        return ends

    assert asyncio.run(play()) == ["not delivered"]


def test_a_body_that_ends_too_early_is_not_filled_up() -> None:
    class Body:
        length = 300_000

        def chunks(self) -> Iterator[bytes]:
            yield b"a" * 100_000

    async def play() -> AsgiClient:
        client = AsgiClient()
        response = SizedResponse([Body()], "application/json", {}, RecordedEnd(client, []))
        await response({"type": "http"}, client.receive, client.send)
        return client

    assert asyncio.run(play()).body == b"a" * 100_000


class SlowEnd(RecordedEnd):
    """The end of a response to a client that reads nothing until `room` is set; `leaves`: it leaves then."""

    def __init__(self, client: AsgiClient, ends: list[str], *, leaves: bool) -> None:
        super().__init__(client, ends)
        self.asked, self.room = asyncio.Event(), asyncio.Event()
        self._leaves = leaves

    async def has_room(self) -> bool:
        self.asked.set()
        await self.room.wait()
        return not self._leaves


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_no_chunk_is_made_before_there_is_room_for_it(is_chunked: bool, leaves: bool) -> None:
    made: list[bytes] = []
    ends: list[str] = []

    class Body:
        length = 300_000

        def chunks(self) -> Iterator[bytes]:
            for byte in (b"a", b"b", b"c"):
                made.append(byte)
                yield byte * 100_000

    async def chunks() -> AsyncGenerator[bytes, None]:
        for chunk in Body().chunks():
            yield chunk

    async def play() -> AsgiClient:
        client = AsgiClient()
        end = SlowEnd(client, ends, leaves=leaves)
        response = (
            ChunkedResponse(chunks(), "application/json", {}, end)
            if is_chunked
            else SizedResponse([Body()], "application/json", {}, end)
        )
        task = asyncio.create_task(response({"type": "http"}, client.receive, client.send))
        await end.asked.wait()
        assert made == [b"a"]
        end.room.set()
        await task
        return client

    client = asyncio.run(play())
    assert made == ([b"a"] if leaves else [b"a", b"b", b"c"])
    assert [client.body[at : at + 1] for at in (0, 100_000, 200_000)] == ([b"a", b"", b""] if leaves else made)
    assert ends == ["not delivered" if leaves else "delivered"]


def test_small_chunks_are_joined_and_large_ones_not_held() -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b"a", b"b", b"c" * 100_000, b"d")

    assert [len(chunk) for chunk in coalesce(chunks())] == [100_002, 1]
    assert list(coalesce([])) == []
