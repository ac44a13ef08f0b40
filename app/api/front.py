"""The first ASGI application of a request: it answers requests for images itself and hands all others to Starlette."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.context import context_of
from app.api.middleware import UnhandledErrorMiddleware
from app.api.request_headers import RequestHeaders, headers_of
from app.api.responses import ErrorResponse
from app.api.site_guard import SiteGuardMiddleware
from app.config.settings import Settings
from app.errors import ApiError

#: Answers one request. What it raises of `app/errors.py` is sent to the client.
Answer = Callable[[Request], Awaitable[Response]]


class FrontRequest(Request):
    """A request whose headers are found at once."""

    @property
    def headers(self) -> RequestHeaders:
        """The headers."""
        return headers_of(self.scope)


class FrontApp:
    """Serve some endpoints without Starlette, whose layers cost a twentieth of a request for a link.

    The endpoints are routes of Starlette, too: for other methods, and for requests of web pages, which get the headers
    of CORS there.
    """

    def __init__(self, starlette: ASGIApp, endpoints: Mapping[tuple[str, str], Answer], settings: Settings) -> None:
        """`endpoints`: by method and path."""
        self._starlette = starlette
        self._endpoints = endpoints
        self._own = SiteGuardMiddleware(UnhandledErrorMiddleware(self._answer), settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await (self._own if self._is_own(scope) else self._starlette)(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        if scope["type"] != "http" or (scope["method"], scope["path"]) not in self._endpoints:
            return False
        return "origin" not in headers_of(scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = FrontRequest(scope, receive)
        response: Response
        try:
            response = await self._endpoints[scope["method"], scope["path"]](http)
        except ApiError as error:
            context_of(scope).note_error(error)
            response = ErrorResponse(error)
        await response(scope, receive, send)
