"""What stands before an answer: how long it waits, what it refuses with, when it gives way."""

import asyncio
from typing import Any

import pytest
from starlette.responses import Response

from app.demo import interruptions as gates
from app.demo.chat_request import Question, Refused
from app.demo.interruptions import Call, Gate
from app.demo.state import DemoState


class Clock:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def call(state: DemoState | None = None, clock: Clock | None = None) -> Call:
    question = Question("m", "a fox", 1024, 1024, "auto", (), stream=False, openrouter=False)
    return Call(question, state or DemoState(), clock or Clock())


def pass_through(gate: Gate, at: Call) -> Response | None:
    async def run() -> Response | None:
        return await gate(at)

    return asyncio.run(run())


def refusal(gate: Gate, at: Call) -> Refused:
    with pytest.raises(Refused) as caught:
        pass_through(gate, at)
    return caught.value


def test_waiting() -> None:
    clock = Clock()
    assert pass_through(gates.slow(30), call(clock=clock)) is None
    assert clock.slept == [30]


def test_holding() -> None:
    state = DemoState()
    state.release()
    assert pass_through(gates.hold, call(state)) is None


def test_moderation() -> None:
    error: dict[str, Any] = refusal(gates.moderate, call()).body["error"]
    assert error["code"] == "moderation_blocked"
    assert error["moderation_details"] == {"moderation_stage": "input", "categories": ["violence"]}


def test_failing_at_first() -> None:
    at, gate = call(), gates.flaky(2)
    assert [refusal(gate, at).status for _ in range(2)] == [503, 503]
    assert pass_through(gate, at) is None


def test_a_limit_once() -> None:
    at, gate = call(), gates.limited(7)
    error = refusal(gate, at)
    assert (error.status, error.headers) == (429, {"retry-after": "7"})
    assert pass_through(gate, at) is None


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        *((status, *row) for status, row in gates.ERRORS.items()),
        (418, "invalid_request_error", None),
        (524, "server_error", None),
    ],
)
def test_any_status(status: int, kind: str, code: str | None) -> None:
    error = refusal(gates.fail(status), call())
    assert (error.status, error.body["error"]["type"], error.body["error"]["code"]) == (status, kind, code)


@pytest.mark.parametrize(("status", "title"), [(502, "502 Bad Gateway"), (504, "504 Error")])
def test_a_gateways_page(status: int, title: str) -> None:
    page = pass_through(gates.show_page(status), call())
    assert page is not None
    assert page.status_code == status
    assert f"<title>{title}</title>".encode() in bytes(page.body)


def test_an_error_that_looks_like_success() -> None:
    answer = pass_through(gates.fail_in_200(402), call())
    assert answer is not None
    assert answer.status_code == 200
    assert b'"insufficient_quota"' in bytes(answer.body)
