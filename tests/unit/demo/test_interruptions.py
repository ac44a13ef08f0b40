"""What stands before an answer: how long it waits, what it refuses with, when it gives way."""

import asyncio
from typing import Any

import pytest
from starlette.responses import Response

from app.demo import interruptions
from app.demo.chat_request import DemoApiError, DemoChatRequest
from app.demo.interruptions import Interruption, InterruptionContext
from app.demo.state import DemoState


class Clock:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def call(state: DemoState | None = None, clock: Clock | None = None) -> InterruptionContext:
    question = DemoChatRequest("m", "a fox", 1024, 1024, "auto", (), stream=False, has_image_modality=False)
    return InterruptionContext(question, state or DemoState(), clock or Clock())


def pass_through(gate: Interruption, at: InterruptionContext) -> Response | None:
    async def run() -> Response | None:
        return await gate(at)

    return asyncio.run(run())


def refusal(gate: Interruption, at: InterruptionContext) -> DemoApiError:
    with pytest.raises(DemoApiError) as caught:
        pass_through(gate, at)
    return caught.value


def test_waiting() -> None:
    clock = Clock()
    assert pass_through(interruptions.delay(30), call(clock=clock)) is None
    assert clock.slept == [30]


def test_holding() -> None:
    state = DemoState()
    state.release()
    assert pass_through(interruptions.wait_for_release, call(state)) is None


def test_moderation() -> None:
    error: dict[str, Any] = refusal(interruptions.reject_as_unsafe, call()).body["error"]
    assert error["code"] == "moderation_blocked"
    assert error["moderation_details"] == {"moderation_stage": "input", "categories": ["violence"]}


def test_failing_at_first() -> None:
    at, gate = call(), interruptions.fail_first_calls(2)
    assert [refusal(gate, at).status for _ in range(2)] == [503, 503]
    assert pass_through(gate, at) is None


def test_a_limit_once() -> None:
    at, gate = call(), interruptions.rate_limit_once(7)
    error = refusal(gate, at)
    assert (error.status, error.headers) == (429, {"retry-after": "7"})
    assert pass_through(gate, at) is None


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        *((status, *row) for status, row in interruptions.ERRORS.items()),
        (418, "invalid_request_error", None),
        (524, "server_error", None),
    ],
)
def test_any_status(status: int, kind: str, code: str | None) -> None:
    error = refusal(interruptions.return_error(status), call())
    assert (error.status, error.body["error"]["type"], error.body["error"]["code"]) == (status, kind, code)


@pytest.mark.parametrize(("status", "title"), [(502, "502 Bad Gateway"), (504, "504 Error")])
def test_a_gateways_page(status: int, title: str) -> None:
    page = pass_through(interruptions.return_html_error(status), call())
    assert page is not None
    assert page.status_code == status
    assert f"<title>{title}</title>".encode() in bytes(page.body)


def test_an_error_that_looks_like_success() -> None:
    answer = pass_through(interruptions.return_error_as_200(402), call())
    assert answer is not None
    assert answer.status_code == 200
    assert b'"insufficient_quota"' in bytes(answer.body)
