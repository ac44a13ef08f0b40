"""What every request passes: request id, access record, tidy path, last resort for faults. Plain ASGI classes."""

import logging
import re
import time
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from app.api.responses import ErrorResponse
from app.errors import ApiError
from app.observability.logging import log

#: Probes come every few seconds and say nothing new; a page has two dozen files.
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics", "/web/", "/v1/status")


class Account(Protocol):
    def close(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """What there is to say of the request that has ended with this record."""
        ...


class AccessLogMiddleware:
    """Gives each request an id, answers it in `x-request-id`, and writes one record when it has ended.

    What a route puts into `scope["state"]["record"]` joins the record, and what the account says that it has opened in
    `scope["state"]["account"]`. Those of questions about pictures go into `outcomes` too, with the time of their end.
    All that is logged on the way has the request's id.
    """

    def __init__(self, app: ASGIApp, outcomes: deque[Mapping[str, object]] | None = None) -> None:
        self._app = app
        self._outcomes = deque(maxlen=0) if outcomes is None else outcomes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = f"req_{uuid.uuid4().hex}"
        record: dict[str, object] = {}
        scope.setdefault("state", {}).update(request_id=request_id, record=record)
        scope["path"] = normalize_path(scope["path"])
        bind_contextvars(request_id=request_id)
        status = bytes_in = bytes_out = 0

        async def count_in() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            bytes_out += len(message.get("body", b""))
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, count_in, send_with_id)
        finally:
            level = logging.DEBUG if scope["path"].startswith(_QUIET_PATHS) else logging.INFO
            ms = round((time.perf_counter() - began) * 1000, 1)
            record.update(bytes_in=bytes_in, bytes_out=bytes_out)
            account: Account | None = scope["state"].get("account")
            if account is not None:
                record.update(account.close({"status": status, **record}))
            route = {"method": scope["method"], "path": scope["path"], "status": status, "ms": ms}
            log.log(level, "request", **route, **record)
            if "/images/" in scope["path"] and scope["method"] != "OPTIONS":
                self._outcomes.append({"id": request_id, "at": time.time(), **route, **record})


def normalize_path(path: str) -> str:
    """Open WebUI with a trailing slash in its base URL asks for `/v1//images/generations`; Spring AI and NextChat add
    a `/v1` of their own to one that has it.
    """
    single = re.sub("/{2,}", "/", path).rstrip("/") or "/"
    return re.sub("^(/v1){2,}(?=/|$)", "/v1", single)


class UnhandledErrorMiddleware:
    """Whatever nobody foresaw becomes a 500 in OpenAI's envelope, and a stack trace in the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:  # reason: the one place where a bug must not take the connection down
            log.exception("unhandled_error")
            if started:
                raise
            await ErrorResponse(ApiError())(scope, receive, send)
