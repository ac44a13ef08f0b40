"""Nothing is said for as long as was asked, to those who have a key, and to few at once."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.access.auth import Authenticator
from app.api.diagnostics import MAX_CONCURRENT_SILENCES as MOST
from app.api.diagnostics import MAX_SILENCE_SECONDS, silence_routes
from app.api.middleware import AccessLogMiddleware
from app.errors import ApiError
from app.main import answer_fault
from tests.support.servers import RunningLimner, run_limner

KEY = {"authorization": "Bearer sk-client"}


class Clock:
    """Seconds that were asked for; they pass when `go` is set."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.full, self.go = asyncio.Event(), asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        if len(self.asked) == MOST:
            self.full.set()
        await self.go.wait()


def app(clock: Clock) -> FastAPI:
    made = FastAPI()
    made.add_exception_handler(ApiError, answer_fault)
    made.add_middleware(AccessLogMiddleware)
    made.include_router(silence_routes(Authenticator(["sk-client"], pass_through=False), clock.sleep))
    return made


def test_a_few_may_listen_at_once() -> None:
    async def run() -> tuple[list[Any], list[float]]:
        clock = Clock()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app(clock)), base_url="http://limner") as http:
            listening = [
                asyncio.create_task(http.get(f"/silence/{150 + number}", headers=KEY)) for number in range(MOST)
            ]
            await clock.full.wait()
            answers = [await http.get("/silence/1", headers=KEY)]
            clock.go.set()
            answers += [await each for each in listening]
            answers += [await http.get("/silence/1.5", headers=KEY)]
        return [(answer.status_code, answer.json().get("seconds")) for answer in answers], clock.asked

    answers, asked = asyncio.run(run())
    assert answers == [(429, None), *((200, 150 + number) for number in range(MOST)), (200, 1.5)]
    assert asked == [*(150 + number for number in range(MOST)), 1.5]


@pytest.fixture(scope="module")
def limner() -> Any:
    with run_limner("http://127.0.0.1:9", api_keys="sk-client") as running:
        yield running


@pytest.mark.parametrize(("path", "status"), [("0", 200), ("-1", 400), (str(MAX_SILENCE_SECONDS + 1), 400), ("nan", 400), ("soon", 400), ("", 404)])  # fmt: skip
def test_only_seconds_are_understood(limner: RunningLimner, path: str, status: int) -> None:
    answer = httpx.get(f"{limner.url}/v1/silence/{path}", headers=KEY, trust_env=False)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


def test_it_needs_a_key(limner: RunningLimner) -> None:
    assert httpx.get(f"{limner.url}/v1/silence/0", trust_env=False).status_code == 401
