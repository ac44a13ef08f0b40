"""How many functions a request calls, and what it leaves behind: its time follows both, and no function takes 1 % of it."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

import httpx
import orjson
from starlette.applications import Starlette
from starlette.types import Message

import app
from app.config.settings import Settings
from app.main import create_app, services_of

#: Calls of this package for one request for a link, steps of generators and coroutines included. Python 3.12 makes
#: fewer than 3.11, as its comprehensions are no calls. What makes more of them needs a reason: docs/decisions/017.
MOST_CALLS = 910

BODY = orjson.dumps({"model": "gpt-image-2", "prompt": "a fox", "size": "1024x1024", "response_format": "url"})
REPLY = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "message": {"content": "Done: http://93.184.216.34/a.png"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
)
HEADERS = [
    (b"host", b"127.0.0.1"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"authorization", b"Bearer sk-client"),
]


class Reply(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield REPLY


class Upstream(httpx.AsyncBaseTransport):
    """An upstream that answers at once, with a sentence and a link."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = {"content-type": "application/json", "content-length": str(len(REPLY))}
        return httpx.Response(200, headers=headers, stream=Reply())


async def request_link(limner: Starlette) -> list[Message]:
    """Return what the server sends for one request. The client stays until it has got everything."""
    sent: list[Message] = []
    requests = iter([{"type": "http.request", "body": BODY, "more_body": False}])

    async def receive() -> Message:
        return next(requests, None) or await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        sent.append(message)

    path = "/v1/images/generations"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*HEADERS],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 5),
    }
    await limner(scope, receive, send)
    return sent


async def count_calls(limner: Starlette) -> int:
    calls, package = 0, str(Path(app.__file__).parent)

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(package)

    # Finalizers of other tests' garbage would be counted too.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        await request_link(limner)
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


async def fewest_calls(limner: Starlette) -> int:
    async with services_of(limner).running():
        for _ in range(3):  # Much is made by the first request.
            [start, body] = await request_link(limner)
            assert (start["status"], b"93.184.216.34" in body["body"]) == (200, True)
        # Now and then one measures the disk, or gives way to others since the machine is busy.
        return min([await count_calls(limner) for _ in range(5)])


async def garbage_of_requests(limner: Starlette, count: int) -> int:
    """Return how many objects only the garbage collector frees after some requests."""
    async with services_of(limner).running():
        await request_link(limner)
        gc.collect()
        gc.disable()
        try:
            for _ in range(count):
                await request_link(limner)
            return gc.collect()
        finally:
            gc.enable()


def new_server() -> Starlette:
    settings = Settings(
        upstream_base_url="http://127.0.0.1:9/v1", upstream_api_key="sk-upstream", image_store="memory:"
    )
    return create_app(settings, transport=Upstream())


def test_a_request_for_a_link_makes_few_calls() -> None:
    assert asyncio.run(fewest_calls(new_server())) <= MOST_CALLS


def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    """What refers to itself in a circle keeps all of its request until the next collection: 6 % of its time."""
    assert asyncio.run(garbage_of_requests(new_server(), 20)) < 20
