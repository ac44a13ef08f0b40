"""`POST /v1/explain` over real HTTP: its report, its key, its limits, and hostile text."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI

from app.access.auth import Authenticator
from app.api.diagnostics import MAX_CONCURRENT_EXPLAINS, MAX_REPLY_BYTES, explain_routes
from app.api.middleware import AccessLogMiddleware, UnhandledErrorMiddleware
from app.errors import ApiError
from app.main import handle_api_error
from tests.support.raw_http import build_request, connect, send_request
from tests.support.sample_images import noise, saved
from tests.support.servers import RunningLimner, run_limner

KEY = {"authorization": "Bearer sk-client"}
NO_UPSTREAM = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_limner(NO_UPSTREAM, api_keys="sk-client") as running:
        yield running


def explain(limner: RunningLimner, reply: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{limner.url}/v1/explain", content=reply, headers={**KEY, **headers}, trust_env=False)


def test_the_report_has_the_images_and_why_other_candidates_were_rejected(limner: RunningLimner) -> None:
    image = "data:image/png;base64," + base64.b64encode(saved(noise((64, 48)), "PNG")).decode()
    answer = explain(limner, f"![a]({image})\n![logo](https://e.com/a.svg)".encode())
    assert answer.status_code == 200
    assert answer.json() == {
        "read_as": "plain words",
        "complete": True,
        "found": [{"form": "markdown-image", "url": image, "is_lesser": False}],
        "guessed": [],
        "dropped": [{"form": "markdown-image", "candidate": "https://e.com/a.svg", "reason": "it leads to a file that is not an image"}],
        "answer": None,
    }  # fmt: skip
    headers = [answer.headers[name] for name in ("content-type", "cache-control", "x-content-type-options")]
    assert headers == ["application/json", "no-store", "nosniff"]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    reply: bytes
    read_as: str


CASES = [
    Case("nothing", b"", "plain words"),
    Case("bytes that are not text", bytes(range(256)) * 9, "plain words"),
    Case("half a character", b'{"content":"\\ud800 ![a](https://e.com/a.png)"}', "a body in JSON"),
    Case("markup", b"<script>alert(1)</script><img src=x onerror=alert(1)>", "plain words"),
    Case("JSON that nests too deeply", b'{"content":' + b"[" * 900 + b"]" * 900 + b"}", "a body in JSON"),
    Case("an error that nests too deeply", b'{"error":{"a":' + b"[" * 900 + b"]" * 900 + b"}}", "a body in JSON"),
    Case("a hundred thousand brackets", b"[" * 100_000, "plain words"),
    Case("a hundred thousand unfinished images", b"![](" * 100_000, "plain words"),
    Case("a stream whose last event is cut off", b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 10_000 + b"data: {", "a stream of events"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_any_bytes_can_be_read(limner: RunningLimner, case: Case) -> None:
    answer = explain(limner, case.reply, **{"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["read_as"]) == (200, case.read_as)


def test_a_key_is_needed(limner: RunningLimner) -> None:
    for headers in ({"authorization": ""}, {"authorization": "Bearer sk-wrong"}):
        assert explain(limner, b"![a](https://e.com/a.png)", **headers).status_code == 401


def test_a_reply_that_is_too_large_is_rejected(limner: RunningLimner) -> None:
    head = build_request(
        "POST /v1/explain", "authorization: Bearer sk-client", f"content-length: {MAX_REPLY_BYTES + 1}"
    )
    assert send_request(limner.url, head).status == 413


def test_without_the_page_the_route_does_not_exist() -> None:
    with run_limner(NO_UPSTREAM, api_keys="sk-client", page=False) as limner:
        assert explain(limner, b"").status_code == 404


def test_a_client_that_disconnects_frees_its_place(limner: RunningLimner) -> None:
    for _ in range(MAX_CONCURRENT_EXPLAINS + 1):
        with connect(limner.url) as wire:
            wire.send(b"POST /v1/explain HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-client\r\n")
            wire.send(b"content-length: 9\r\n\r\n![a]")
    assert explain(limner, b"").status_code == 200


def make_app() -> FastAPI:
    app = FastAPI()
    app.add_exception_handler(ApiError, handle_api_error)
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(AccessLogMiddleware)
    app.include_router(explain_routes(Authenticator(["sk-client"], pass_through=False), 10))
    return app


def test_only_a_few_replies_are_read_at_once() -> None:
    async def run() -> list[Any]:
        reached, go = asyncio.Semaphore(0), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            reached.release()
            await go.wait()
            yield b"![a](https://e.com/a.png)"

        async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://limner") as http:
            reading = [
                asyncio.create_task(http.post("/explain", content=slowly(), headers=KEY))
                for _ in range(MAX_CONCURRENT_EXPLAINS)
            ]
            for _ in reading:
                await reached.acquire()
            answers = [await http.post("/explain", content=b"", headers=KEY)]
            go.set()
            answers += [await each for each in reading]
            answers += [await http.post("/explain", content=b"", headers=KEY)]
        return [(answer.status_code, len(orjson.loads(answer.content).get("found", ()))) for answer in answers]

    assert asyncio.run(run()) == [(429, 0), *[(200, 1)] * MAX_CONCURRENT_EXPLAINS, (200, 0)]
