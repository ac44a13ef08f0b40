"""ASGI middleware for every request: request id, access log, normalized paths, and a 500 for unhandled errors."""

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

#: Logged at level debug: probes that come every few seconds, and the two dozen files of the page.
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics", "/web/", "/v1/status")


class Account(Protocol):
    def close(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return further fields for the record of the request that has ended."""
        ...


class AccessLogMiddleware:
    """Gives each request an id, returns it in `x-request-id`, and logs one record when the request has ended.

    Everything that is logged during the request has its id. Fields that a route puts into `scope["state"]["record"]`
    become part of the record, and so do those of the account in `scope["state"]["account"]`. Records of image requests
    are also appended to `outcomes`, with the time at which they ended.
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

        started_at = time.perf_counter()
        try:
            await self._app(scope, count_in, send_with_id)
        finally:
            level = logging.DEBUG if scope["path"].startswith(_QUIET_PATHS) else logging.INFO
            ms = round((time.perf_counter() - started_at) * 1000, 1)
            record.update(bytes_in=bytes_in, bytes_out=bytes_out)
            account: Account | None = scope["state"].get("account")
            if account is not None:
                record.update(account.close({"status": status, **record}))
            route = {"method": scope["method"], "path": scope["path"], "status": status, "ms": ms}
            log.log(level, "request", **route, **record)
            if "/images/" in scope["path"] and scope["method"] != "OPTIONS":
                self._outcomes.append({"id": request_id, "at": time.time(), **route, **record})


def normalize_path(path: str) -> str:
    """Return a path without repeated or trailing slashes and without a repeated `/v1`.

    Open WebUI with a trailing slash in its base URL requests `/v1//images/generations`; Spring AI and NextChat add
    `/v1` to a base URL that already ends in it.
    """
    single = re.sub("/{2,}", "/", path).rstrip("/") or "/"
    return re.sub("^(/v1){2,}(?=/|$)", "/v1", single)


class UnhandledErrorMiddleware:
    """Turns unhandled errors into a 500 in OpenAI's format. Their stack trace goes to the log only."""

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
