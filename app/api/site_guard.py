"""ASGI middleware that keeps the pages of other sites away from routes that need no key."""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.sites import SitePolicy, check_content_type
from app.api.context import context_of
from app.api.request_headers import headers_of
from app.api.responses import ErrorResponse
from app.config.field_types import is_loopback
from app.config.settings import Settings
from app.errors import ApiError

#: What any page may ask for: it tells nothing, or only those who know a name that cannot be guessed.
_FOR_ANYONE = ("/healthz", "/readyz")
_STORED_IMAGES = "/kept/"

#: The pages, which every site may link to, and their files.
_PAGES = ("/", "/docs", "/status")
_PAGE_FILES = "/web/"


class SiteGuardMiddleware:
    """Answer requests from pages of other sites, and under names that are not this server's, with a 403."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._policy = site_policy(settings)
        has_keys = settings.has_client_keys
        self._needs_no_key = not has_keys and not settings.pass_through
        # Also in pass-through mode. Prometheus knows a server by whatever name the network has for it, so the metrics
        # of a server that others reach stay open.
        self._status_needs_no_key = not has_keys and settings.status_key is None
        self._metrics_need_no_key = not has_keys and is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_guarded(scope["path"]):
            headers, path = headers_of(scope), scope["path"]
            try:
                self._policy.check(headers, is_page=path in _PAGES or path.startswith(_PAGE_FILES))
                check_content_type(headers)
            except ApiError as error:
                context_of(scope).log_fields.update(error=error.code, detail=error.message)
                await ErrorResponse(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_guarded(self, path: str) -> bool:
        if path == "/v1/status":
            return self._status_needs_no_key
        if path == "/metrics":
            return self._metrics_need_no_key
        return self._needs_no_key and path not in _FOR_ANYONE and not path.startswith(_STORED_IMAGES)


def site_policy(settings: Settings) -> SitePolicy:
    """Return the names of this server, and whose pages may use it."""
    is_local = is_loopback(settings.host)
    hosts = [*settings.allowed_hosts, settings.host]
    if settings.public_url is not None:
        hosts.append(urlsplit(settings.public_url).hostname or "")
    return SitePolicy.from_names(hosts, settings.cors_origins, is_local=is_local)
