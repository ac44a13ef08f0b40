"""What stands before an answer: waiting, refusing, failing; None lets the question pass."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from app.demo.chat_request import Question, Refused
from app.demo.chat_response import Sleep
from app.demo.state import DemoState


@dataclass(frozen=True, slots=True)
class Call:
    question: Question
    state: DemoState
    sleep: Sleep

    def count(self) -> int:
        return self.state.count(self.question.model, self.question.prompt)


Gate = Callable[[Call], Awaitable[Response | None]]

#: type and code of the error object by status; others are a server's fault from 500 on, the client's below.
ERRORS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", "invalid_value"),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "model_not_found"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "server_is_overloaded"),
}


def slow(seconds: float) -> Gate:
    async def wait(call: Call) -> None:
        await call.sleep(seconds)

    return wait


async def hold(call: Call) -> None:
    await call.state.hold()


async def moderate(call: Call) -> None:
    message = "Your request was rejected by the safety system. safety_violations=[violence]."
    details = {"moderation_stage": "input", "categories": ["violence"]}
    kind = "image_generation_user_error"
    raise Refused(message, type=kind, code="moderation_blocked", moderation_details=details)


def flaky(times: float) -> Gate:
    async def fail_at_first(call: Call) -> None:
        if call.count() < times:
            raise _error(503)

    return fail_at_first


def limited(seconds: float) -> Gate:
    async def limit_once(call: Call) -> None:
        if not call.count():
            raise _error(429, {"retry-after": f"{seconds:g}"})

    return limit_once


def fail(status: float) -> Gate:
    async def refuse(call: Call) -> None:
        raise _error(int(status))

    return refuse


def show_page(status: float) -> Gate:
    async def show(call: Call) -> Response:
        title = f"{status:g} Bad Gateway" if status == 502 else f"{status:g} Error"
        logo = '<img src="https://gateway.example/logo.png">'
        page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1>{logo}<hr>nginx</body></html>"
        return Response(page, int(status), media_type="text/html")

    return show


def fail_in_200(status: float) -> Gate:
    async def tell(call: Call) -> Response:
        return JSONResponse(_error(int(status)).body)

    return tell


def _error(status: int, headers: dict[str, str] | None = None) -> Refused:
    kind, code = ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return Refused(
        f"The demo upstream answers {status}, as asked.", status=status, type=kind, code=code, headers=headers
    )
