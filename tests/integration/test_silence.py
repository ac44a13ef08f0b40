"""`GET /v1/silence/N` waits for the given time, needs a key, and serves few clients at once."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from app.access.auth import Authenticator
from app.api.diagnostics import MAX_SILENCE_SECONDS, MAX_SILENCES, MAX_SILENCES_OF_CALLER, silence_routes
from app.api.middleware import AccessLogMiddleware
from app.errors import ApiError
from app.main import handle_api_error
from tests.support.raw_http import RawConnection, connect
from tests.support.raw_http_lines import wait_until
from tests.support.servers import RunningLimner, run_limner

KEY = {"authorization": "Bearer sk-client"}


class Clock:
    """Records the seconds that were requested; they pass when `go` is set."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.requested: list[float] = []
        self.full, self.go = asyncio.Event(), asyncio.Event()

    def expect_another(self) -> None:
        self.expected += 1
        self.full.clear()

    async def sleep(self, seconds: float) -> None:
        self.requested.append(seconds)
        if len(self.requested) == self.expected:
            self.full.set()
        await self.go.wait()


def make_app(clock: Clock, callers: int) -> Starlette:
    keys = [f"sk-{number}" for number in range(callers)]
    table = silence_routes(Authenticator(keys, pass_through=False), asyncio.Event(), clock.sleep)
    app = Starlette(routes=[*table.routes()], exception_handlers={ApiError: handle_api_error})
    app.add_middleware(AccessLogMiddleware)
    return app


@dataclass(frozen=True, slots=True)
class Limit:
    name: str
    callers: int
    requests_of_each: int
    status_of_next_caller: int


LIMITS = [
    Limit("one caller waits with all requests it may", 1, MAX_SILENCES_OF_CALLER, 200),
    Limit("all callers together have all places", MAX_SILENCES // MAX_SILENCES_OF_CALLER, MAX_SILENCES_OF_CALLER, 429),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_few_clients_of_one_caller_may_wait_at_once(limit: Limit) -> None:
    async def run() -> tuple[list[int], list[float]]:
        clock = Clock(limit.callers * limit.requests_of_each)
        app = make_app(clock, limit.callers + 1)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://limner") as http:

            async def wait(seconds: float, caller: int) -> int:
                response = await http.get(f"/silence/{seconds}", headers={"authorization": f"Bearer sk-{caller}"})
                return response.status_code

            waiting = [
                asyncio.create_task(wait(150, caller))
                for caller in range(limit.callers)
                for _ in range(limit.requests_of_each)
            ]
            await clock.full.wait()
            statuses = [await wait(1, 0)]
            clock.expect_another()
            other = asyncio.create_task(wait(1.5, limit.callers))
            waits = asyncio.create_task(clock.full.wait())
            await asyncio.wait((other, waits), return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
            clock.go.set()
            statuses += [await other, *[await each for each in waiting], await wait(2, 0)]
        return statuses, clock.requested

    statuses, requested = asyncio.run(run())
    count = limit.callers * limit.requests_of_each
    assert statuses == [429, limit.status_of_next_caller, *[200] * count, 200]
    assert requested == [*[150] * count, *([1.5] if limit.status_of_next_caller == 200 else []), 2]


def silence(wire: RawConnection, seconds: int) -> None:
    wire.send(b"GET /v1/silence/%d HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-client\r\n\r\n" % seconds)


def test_a_client_that_has_left_keeps_no_place() -> None:
    with run_limner("http://127.0.0.1:9", api_keys="sk-client") as limner, ExitStack() as waiting:
        refused = 0
        while not refused:
            wire = waiting.enter_context(connect(limner.url))
            silence(wire, MAX_SILENCE_SECONDS)
            with connect(limner.url) as probe:
                silence(probe, 0)
                refused = probe.read_response().status == 429
        waiting.close()
        wait_until(lambda: httpx.get(f"{limner.url}/v1/silence/0", headers=KEY, trust_env=False).status_code == 200)


@pytest.fixture(scope="module")
def limner() -> Any:
    with run_limner("http://127.0.0.1:9", api_keys="sk-client") as running:
        yield running


@pytest.mark.parametrize(("path", "status"), [pytest.param("0", 200, id="no silence at all"), pytest.param("-1", 400, id="a negative number"), pytest.param(str(MAX_SILENCE_SECONDS + 1), 400, id="more than the longest silence"), pytest.param("nan", 400, id="not a number"), pytest.param("soon", 400, id="a word"), pytest.param("", 404, id="nothing")])  # fmt: skip
def test_only_a_number_of_seconds_is_accepted(limner: RunningLimner, path: str, status: int) -> None:
    answer = httpx.get(f"{limner.url}/v1/silence/{path}", headers=KEY, trust_env=False)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


def test_a_key_is_needed(limner: RunningLimner) -> None:
    assert httpx.get(f"{limner.url}/v1/silence/0", trust_env=False).status_code == 401
