"""`POST /v1/explain` over real HTTP: what it finds, who may ask, and what it does with hostile text."""

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
from app.api.diagnostics import MAX_CONCURRENT_EXPLAINS as MOST
from app.api.diagnostics import MAX_REPLY_BYTES, explain_routes
from app.api.middleware import AccessLogMiddleware, UnhandledErrorMiddleware
from app.errors import ApiError
from app.main import answer_fault
from tests.support.raw_http import ask, connect, request
from tests.support.sample_images import noise, saved
from tests.support.servers import RunningLimner, run_limner

KEY = {"authorization": "Bearer sk-client"}
NO_UPSTREAM = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_limner(NO_UPSTREAM, api_keys="sk-client") as running:
        yield running


def explained(limner: RunningLimner, reply: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{limner.url}/v1/explain", content=reply, headers={**KEY, **headers}, trust_env=False)


def test_what_is_found_and_why_the_rest_was_dropped(limner: RunningLimner) -> None:
    picture = "data:image/png;base64," + base64.b64encode(saved(noise((64, 48)), "PNG")).decode()
    answer = explained(limner, f"![a]({picture})\n![logo](https://e.com/a.svg)".encode())
    assert answer.status_code == 200
    assert answer.json() == {
        "read_as": "plain words",
        "complete": True,
        "found": [{"form": "markdown-image", "url": picture, "is_lesser": False}],
        "dropped": [{"form": "markdown-image", "candidate": "https://e.com/a.svg", "reason": "it leads to a file that is not an image"}],
        "answer": None,
    }  # fmt: skip
    told = [answer.headers[name] for name in ("content-type", "cache-control", "x-content-type-options")]
    assert told == ["application/json", "no-store", "nosniff"]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    reply: bytes
    read_as: str


CASES = [
    Case("nothing", b"", "plain words"),
    Case("bytes that are no text", bytes(range(256)) * 9, "plain words"),
    Case("half a letter", b'{"content":"\\ud800 ![a](https://e.com/a.png)"}', "a body in JSON"),
    Case("markup", b"<script>alert(1)</script><img src=x onerror=alert(1)>", "plain words"),
    Case("what nests too deeply", b'{"content":' + b"[" * 900 + b"]" * 900 + b"}", "a body in JSON"),
    Case("an error that nests too deeply", b'{"error":{"a":' + b"[" * 900 + b"]" * 900 + b"}}", "a body in JSON"),
    Case("a hundred thousand brackets", b"[" * 100_000, "plain words"),
    Case("as many pictures that begin", b"![](" * 100_000, "plain words"),
    Case("a stream of events that do not end", b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 10_000 + b"data: {", "a stream of events"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whatever_is_pasted_is_read_as_something(limner: RunningLimner, case: Case) -> None:
    answer = explained(limner, case.reply, **{"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["read_as"]) == (200, case.read_as)


def test_it_needs_a_key(limner: RunningLimner) -> None:
    for headers in ({"authorization": ""}, {"authorization": "Bearer sk-wrong"}):
        assert explained(limner, b"![a](https://e.com/a.png)", **headers).status_code == 401


def test_a_reply_may_be_only_so_large(limner: RunningLimner) -> None:
    head = request("POST /v1/explain", "authorization: Bearer sk-client", f"content-length: {MAX_REPLY_BYTES + 1}")
    assert ask(limner.url, head).status == 413


def test_it_is_there_where_the_page_is() -> None:
    with run_limner(NO_UPSTREAM, api_keys="sk-client", page=False) as limner:
        assert explained(limner, b"").status_code == 404


def test_who_leaves_in_the_middle_takes_no_place(limner: RunningLimner) -> None:
    for _ in range(MOST + 1):
        with connect(limner.url) as wire:
            wire.send(b"POST /v1/explain HTTP/1.1\r\nhost: h\r\nauthorization: Bearer sk-client\r\n")
            wire.send(b"content-length: 9\r\n\r\n![a]")
    assert explained(limner, b"").status_code == 200


def app() -> FastAPI:
    made = FastAPI()
    made.add_exception_handler(ApiError, answer_fault)
    made.add_middleware(UnhandledErrorMiddleware)
    made.add_middleware(AccessLogMiddleware)
    made.include_router(explain_routes(Authenticator(["sk-client"], pass_through=False), 10))
    return made


def test_a_few_are_read_at_once() -> None:
    async def run() -> list[Any]:
        reached, go = asyncio.Semaphore(0), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            reached.release()
            await go.wait()
            yield b"![a](https://e.com/a.png)"

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://limner") as http:
            reading = [asyncio.create_task(http.post("/explain", content=slowly(), headers=KEY)) for _ in range(MOST)]
            for _ in reading:
                await reached.acquire()
            answers = [await http.post("/explain", content=b"", headers=KEY)]
            go.set()
            answers += [await each for each in reading]
            answers += [await http.post("/explain", content=b"", headers=KEY)]
        return [(answer.status_code, len(orjson.loads(answer.content).get("found", ()))) for answer in answers]

    assert asyncio.run(run()) == [(429, 0), *[(200, 1)] * MOST, (200, 0)]
