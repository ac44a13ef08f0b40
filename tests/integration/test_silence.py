"""`GET /v1/silence/N` waits for the given time, needs a key, and serves few clients at once."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.access.auth import Authenticator
from app.api.diagnostics import MAX_CONCURRENT_SILENCES, MAX_SILENCE_SECONDS, silence_routes
from app.api.middleware import AccessLogMiddleware
from app.errors import ApiError
from app.main import handle_api_error
from tests.support.servers import RunningLimner, run_limner

KEY = {"authorization": "Bearer sk-client"}


class Clock:
    """Records the seconds that were requested; they pass when `go` is set."""

    def __init__(self) -> None:
        self.requested: list[float] = []
        self.full, self.go = asyncio.Event(), asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.requested.append(seconds)
        if len(self.requested) == MAX_CONCURRENT_SILENCES:
            self.full.set()
        await self.go.wait()


def make_app(clock: Clock) -> FastAPI:
    app = FastAPI()
    app.add_exception_handler(ApiError, handle_api_error)
    app.add_middleware(AccessLogMiddleware)
    app.include_router(silence_routes(Authenticator(["sk-client"], pass_through=False), clock.sleep))
    return app


def test_only_a_few_clients_may_wait_at_once() -> None:
    async def run() -> tuple[list[Any], list[float]]:
        clock = Clock()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app(clock)), base_url="http://limner") as http:
            waiting = [
                asyncio.create_task(http.get(f"/silence/{150 + number}", headers=KEY))
                for number in range(MAX_CONCURRENT_SILENCES)
            ]
            await clock.full.wait()
            answers = [await http.get("/silence/1", headers=KEY)]
            clock.go.set()
            answers += [await each for each in waiting]
            answers += [await http.get("/silence/1.5", headers=KEY)]
        return [(answer.status_code, answer.json().get("seconds")) for answer in answers], clock.requested

    answers, requested = asyncio.run(run())
    assert answers == [(429, None), *((200, 150 + number) for number in range(MAX_CONCURRENT_SILENCES)), (200, 1.5)]
    assert requested == [*(150 + number for number in range(MAX_CONCURRENT_SILENCES)), 1.5]


@pytest.fixture(scope="module")
def limner() -> Any:
    with run_limner("http://127.0.0.1:9", api_keys="sk-client") as running:
        yield running


@pytest.mark.parametrize(("path", "status"), [("0", 200), ("-1", 400), (str(MAX_SILENCE_SECONDS + 1), 400), ("nan", 400), ("soon", 400), ("", 404)])  # fmt: skip
def test_only_a_number_of_seconds_is_accepted(limner: RunningLimner, path: str, status: int) -> None:
    answer = httpx.get(f"{limner.url}/v1/silence/{path}", headers=KEY, trust_env=False)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


def test_a_key_is_needed(limner: RunningLimner) -> None:
    assert httpx.get(f"{limner.url}/v1/silence/0", trust_env=False).status_code == 401
