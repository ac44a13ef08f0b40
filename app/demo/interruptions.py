"""Interruptions before a reply: waiting, errors, error pages. Each returns a response, or None to continue."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from app.demo.chat_request import DemoApiError, DemoChatRequest
from app.demo.chat_response import Sleep
from app.demo.state import DemoState


@dataclass(frozen=True, slots=True)
class InterruptionContext:
    request: DemoChatRequest
    state: DemoState
    sleep: Sleep

    def count_repeat(self) -> int:
        return self.state.count_repeat(self.request.model, self.request.prompt)


Interruption = Callable[[InterruptionContext], Awaitable[Response | None]]

#: Type and code of the error object by status. Other statuses are server errors from 500 on, else invalid requests.
ERRORS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", "invalid_value"),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "model_not_found"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "server_is_overloaded"),
}


def delay(seconds: float) -> Interruption:
    async def wait(context: InterruptionContext) -> None:
        await context.sleep(seconds)

    return wait


async def wait_for_release(context: InterruptionContext) -> None:
    await context.state.wait_for_release()


async def reject_as_unsafe(context: InterruptionContext) -> None:
    message = "Your request was rejected by the safety system. safety_violations=[violence]."
    details = {"moderation_stage": "input", "categories": ["violence"]}
    kind = "image_generation_user_error"
    raise DemoApiError(message, type=kind, code="moderation_blocked", moderation_details=details)


def fail_first_calls(times: float) -> Interruption:
    async def fail_at_first(context: InterruptionContext) -> None:
        if context.count_repeat() < times:
            raise _error(503)

    return fail_at_first


def rate_limit_once(seconds: float) -> Interruption:
    async def limit_once(context: InterruptionContext) -> None:
        if not context.count_repeat():
            raise _error(429, {"retry-after": f"{seconds:g}"})

    return limit_once


def return_error(status: float) -> Interruption:
    async def refuse(context: InterruptionContext) -> None:
        raise _error(int(status))

    return refuse


def return_html_error(status: float) -> Interruption:
    async def show(context: InterruptionContext) -> Response:
        title = f"{status:g} Bad Gateway" if status == 502 else f"{status:g} Error"
        logo = '<img src="https://gateway.example/logo.png">'
        page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1>{logo}<hr>nginx</body></html>"
        return Response(page, int(status), media_type="text/html")

    return show


def return_error_as_200(status: float) -> Interruption:
    async def tell(context: InterruptionContext) -> Response:
        return JSONResponse(_error(int(status)).body)

    return tell


def _error(status: int, headers: dict[str, str] | None = None) -> DemoApiError:
    kind, code = ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return DemoApiError(
        f"The demo upstream returns {status}, as requested.", status=status, type=kind, code=code, headers=headers
    )
