"""Interruptions before a reply: waiting, errors, and when a request passes."""

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


def make_context(state: DemoState | None = None, clock: Clock | None = None) -> InterruptionContext:
    request = DemoChatRequest("m", "a fox", 1024, 1024, "auto", (), stream=False, has_image_modality=False)
    return InterruptionContext(request, state or DemoState(), clock or Clock())


def pass_through(interruption: Interruption, context: InterruptionContext) -> Response | None:
    async def run() -> Response | None:
        return await interruption(context)

    return asyncio.run(run())


def raised_error(interruption: Interruption, context: InterruptionContext) -> DemoApiError:
    with pytest.raises(DemoApiError) as caught:
        pass_through(interruption, context)
    return caught.value


def test_a_delay_sleeps_and_answers_then() -> None:
    clock = Clock()
    assert pass_through(interruptions.delay(30), make_context(clock=clock)) is None
    assert clock.slept == [30]


def test_a_held_request_is_answered_after_the_release() -> None:
    state = DemoState()
    state.release()
    assert pass_through(interruptions.wait_for_release, make_context(state)) is None


def test_moderation_rejects_with_details() -> None:
    error: dict[str, Any] = raised_error(interruptions.reject_as_unsafe, make_context()).body["error"]
    assert error["code"] == "moderation_blocked"
    assert error["moderation_details"] == {"moderation_stage": "input", "categories": ["violence"]}


def test_errors_for_the_first_calls() -> None:
    context, interruption = make_context(), interruptions.fail_first_calls(2)
    assert [raised_error(interruption, context).status for _ in range(2)] == [503, 503]
    assert pass_through(interruption, context) is None


def test_a_rate_limit_for_the_first_call() -> None:
    context, interruption = make_context(), interruptions.rate_limit_once(7)
    error = raised_error(interruption, context)
    assert (error.status, error.headers) == (429, {"retry-after": "7"})
    assert pass_through(interruption, context) is None


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        *((status, *row) for status, row in interruptions.ERRORS.items()),
        (418, "invalid_request_error", None),
        (524, "server_error", None),
    ],
)
def test_any_status_can_be_returned(status: int, kind: str, code: str | None) -> None:
    error = raised_error(interruptions.return_error(status), make_context())
    assert (error.status, error.body["error"]["type"], error.body["error"]["code"]) == (status, kind, code)


@pytest.mark.parametrize(("status", "title"), [(502, "502 Bad Gateway"), (504, "504 Error")])
def test_the_error_page_of_a_gateway(status: int, title: str) -> None:
    page = pass_through(interruptions.return_html_error(status), make_context())
    assert page is not None
    assert page.status_code == status
    assert f"<title>{title}</title>".encode() in bytes(page.body)


def test_an_error_with_status_200() -> None:
    answer = pass_through(interruptions.return_error_as_200(402), make_context())
    assert answer is not None
    assert answer.status_code == 200
    assert b'"insufficient_quota"' in bytes(answer.body)
