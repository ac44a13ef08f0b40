import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from starlette.types import Message

from app.api.responses import ClientGone, ErrorResponse, FlowingResponse, PicturesResponse, Presence, joined
from app.errors import NotFound
from app.images.blob import Blob
from app.protocol.json_stream import Base64String, StreamingJson


class Client:
    """The other end of an ASGI call: `leave` hangs up."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._gone = asyncio.Event()
        self._first = True

    async def receive(self) -> Message:
        if self._first:
            self._first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


class Guest:
    """A visit that notes how it ended."""

    def __init__(self, client: Client, left: list[str]) -> None:
        self.presence = Presence(client.receive)
        self._left = left

    def leave(self, *, delivered: bool) -> None:
        self.presence.stop()
        self._left.append("delivered" if delivered else "not delivered")


async def soon(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def never() -> bool:
    return await asyncio.Event().wait()


def test_presence_gives_what_is_ready_in_time() -> None:
    async def play() -> None:
        presence = Presence(Client().receive)
        assert await presence.wait(soon(7), None) == 7
        presence.stop()

    asyncio.run(play())


def test_presence_gives_nothing_where_time_is_over_and_ends_the_waiting() -> None:
    async def play() -> None:
        presence = Presence(Client().receive)
        work = asyncio.ensure_future(never())
        assert await presence.wait(work, 0.001) is None
        await asyncio.sleep(0)
        assert work.cancelled()
        presence.stop()

    asyncio.run(play())


def test_presence_waits_for_a_task_that_goes_on_in_any_case() -> None:
    async def play() -> None:
        presence = Presence(Client().receive)
        task = asyncio.create_task(asyncio.sleep(0))
        assert await presence.outlast(task, None)
        endless: asyncio.Task[None] = asyncio.create_task(hanging())
        assert not await presence.outlast(endless, 0.001)
        assert not endless.done()
        endless.cancel()
        presence.stop()

    asyncio.run(play())


def test_a_task_goes_on_when_the_client_has_gone() -> None:
    async def play() -> None:
        client = Client()
        presence = Presence(client.receive)
        client.leave()
        endless: asyncio.Task[None] = asyncio.create_task(hanging())
        with pytest.raises(ClientGone):
            await presence.outlast(endless, None)
        assert not endless.done()
        endless.cancel()

    asyncio.run(play())


async def hanging() -> None:
    await asyncio.Event().wait()


def test_presence_tells_when_the_client_has_gone() -> None:
    async def play() -> None:
        client = Client()
        presence = Presence(client.receive)
        client.leave()
        with pytest.raises(ClientGone):
            await presence.wait(never(), None)

    asyncio.run(play())


def test_what_is_ready_counts_even_if_the_client_has_gone() -> None:
    async def play() -> None:
        client = Client()
        client.leave()
        presence = Presence(client.receive)
        done = asyncio.get_running_loop().create_future()
        done.set_result(7)
        assert await presence.wait(done, None) == 7
        presence.stop()

    asyncio.run(play())


def test_an_error_is_answered_with_its_status_body_and_headers() -> None:
    async def play() -> Client:
        client = Client()
        await ErrorResponse(NotFound("no", code="x"))({"type": "http"}, client.receive, client.send)
        return client

    client = asyncio.run(play())
    assert client.sent[0]["status"] == 404
    assert client.headers["content-type"] == "application/json"
    assert client.headers["x-should-retry"] == "false"
    assert client.body == b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"x"}}'


def test_pictures_are_sent_in_pieces_and_their_length_goes_ahead() -> None:
    async def play(blob: Blob) -> tuple[Client, list[str]]:
        client, left = Client(), list[str]()
        response = PicturesResponse(
            [StreamingJson({"b64_json": Base64String(blob)})], "application/json", {"x-a": "b"}, Guest(client, left)
        )
        await response({"type": "http"}, client.receive, client.send)
        return client, left

    with Blob() as blob:
        blob.write(b"\x00" * 3_000_000)
        client, left = asyncio.run(play(blob))
    assert client.body == b'{"b64_json":"' + b"AAAA" * 1_000_000 + b'"}'
    assert client.headers == {"content-length": "4000015", "x-a": "b", "content-type": "application/json"}
    assert max(len(message.get("body", b"")) for message in client.sent) < 400_000
    assert left == ["delivered"]


def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    async def play() -> list[str]:
        client, left = Client(), list[str]()

        async def send(message: Message) -> None:
            raise OSError("gone")

        response = PicturesResponse([StreamingJson({})], "application/json", {}, Guest(client, left))
        with pytest.raises(OSError, match="gone"):
            await response({"type": "http"}, client.receive, send)
        return left

    assert asyncio.run(play()) == ["not delivered"]


def test_pieces_that_flow_are_sent_one_by_one_and_never_held_back() -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b"two"

    left: list[str] = []

    async def play() -> Client:
        client = Client()
        response = FlowingResponse(pieces(), "text/event-stream", {"x-a": "b"}, Guest(client, left))
        await response({"type": "http"}, client.receive, client.send)
        return client

    client = asyncio.run(play())
    assert [message.get("body") for message in client.sent] == [None, b"one", b"two", b""]
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (client.headers["cache-control"], client.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "content-length" not in client.headers
    assert left == ["delivered"]


def test_a_flow_ends_when_its_client_has_gone() -> None:
    closed: list[str] = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            raise ClientGone
        finally:
            closed.append("pieces")

    async def play() -> Client:
        client = Client()
        response = FlowingResponse(pieces(), "application/json", {}, Guest(client, closed))
        await response({"type": "http"}, client.receive, client.send)
        return client

    assert asyncio.run(play()).body == b"one"
    assert closed == ["pieces", "not delivered"]


@pytest.mark.parametrize("flowing", [False, True])
def test_what_is_sent_to_nobody_is_not_delivered(flowing: bool) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"one"

    async def play() -> list[str]:
        client, left = Client(), list[str]()
        guest = Guest(client, left)
        client.leave()
        if flowing:
            await FlowingResponse(pieces(), "application/json", {}, guest)({}, client.receive, client.send)
        else:
            documents = [StreamingJson({"url": "https://h/a.png"})]
            await PicturesResponse(documents, "application/json", {}, guest)({}, client.receive, client.send)
        return left

    assert asyncio.run(play()) == ["not delivered"]


def test_small_pieces_are_joined_and_large_ones_not_held() -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b"a", b"b", b"c" * 100_000, b"d")

    assert [len(piece) for piece in joined(pieces())] == [100_002, 1]
    assert list(joined([])) == []
