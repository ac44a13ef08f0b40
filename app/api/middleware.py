"""ASGI middleware for every request: request id, access log, normalized paths, and a 500 for unhandled errors."""

import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from app.api.context import RequestContext, encode_record, set_context
from app.api.responses import ErrorResponse
from app.errors import ApiError
from app.observability.logging import log, shorten

#: Logged at level debug: probes that come every few seconds, and the two dozen files of the page.
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics", "/web/", "/v1/status")

#: Requests that would fill the list of the last ones: clients poll a task every few seconds.
_POLLED = "/images/tasks/"

#: What base URLs end in, in front of an endpoint of the API, or `/v1` twice in front of anything.
_PREFIXES = re.compile("^(?:(?:/openai|/api|/v1|/v1beta)+(?=/(?:images|models)(?:/|$))|(?:/v1){2,}(?=/|$))")

#: Headers of ours, which no response sets itself.
_OURS = (b"x-request-id", b"x-content-type-options")

#: Images, prompts in errors and links without a key: nothing that a shared cache may keep unasked.
_DEFAULTS = ((b"cache-control", b"no-store"), (b"vary", b"Origin"))


class AccessLogMiddleware:
    """Give each request an id and a context, send the id in `x-request-id`, and log one line when it has ended.

    The line has the log fields of the context and what its usage record adds. Those of requests for images are appended
    to `recent` too, encoded, with the time at which they ended. All that is logged meanwhile has the request's id.
    """

    def __init__(self, app: ASGIApp, recent: deque[bytes] | None = None, *, public_path: str = "") -> None:
        """`public_path` is the path below which clients reach this server. Most proxies remove it from requests."""
        self._app = app
        self._public_path = f"{public_path}/" if public_path else ""
        self._recent = deque(maxlen=0) if recent is None else recent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        context = RequestContext(f"req_{secrets.token_hex(16)}")
        set_context(scope, context)
        path = scope["path"]
        if self._public_path and path.startswith(self._public_path):
            path = path[len(self._public_path) - 1 :]
        scope["path"] = normalize_path(path)
        bind_contextvars(request_id=context.id)
        status = bytes_in = bytes_out = 0

        async def counting_receive() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = add_headers(message["headers"], context.id)
            bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counting_receive, send_with_id)
        finally:
            context.log_fields.update(status=status, bytes_in=bytes_in, bytes_out=bytes_out)
            self._log(scope, context)

    def _log(self, scope: Scope, context: RequestContext) -> None:
        ms = round((time.perf_counter() - context.started_at) * 1000, 1)
        fields = context.log_fields
        if context.usage is not None:
            fields.update(context.usage.finish(fields))
        line = {"method": scope["method"], "path": shorten(scope["path"]), "status": fields["status"], "ms": ms}
        record = line | fields
        level = logging.DEBUG if scope["path"].startswith(_QUIET_PATHS) else logging.INFO
        log.log(level, "request", **record)
        if "/images/" in scope["path"] and scope["method"] != "OPTIONS" and _POLLED not in scope["path"]:
            record.update(id=context.id, at=time.time())
            self._recent.append(encode_record(record))


def add_headers(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response with those that each response has."""
    given = [pair for pair in headers if pair[0] not in _OURS]
    names = [name for name, _ in given]
    ours = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
    return given + ours + [pair for pair in _DEFAULTS if pair[0] not in names]


def normalize_path(path: str) -> str:
    """Return a path without repeated or trailing slashes, and with one `/v1` in place of all that clients begin with.

    Open WebUI with a trailing slash in its base URL requests `/v1//images/generations`; Spring AI and NextChat add
    `/v1` to a base URL that already ends in it; Azure's newer clients and Groq's request `/openai/v1/…`, and base URLs
    that were copied from DeepInfra, Gemini or OpenRouter bring `/v1/openai`, `/v1beta/openai` and `/api/v1`.
    """
    single = (re.sub("/{2,}", "/", path) if "//" in path else path).rstrip("/") or "/"
    return _PREFIXES.sub("/v1", single)


class UnhandledErrorMiddleware:
    """Turn unhandled errors into a 500 in OpenAI's format. Their stack trace goes to the log only."""

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
