"""Create the ASGI application: middleware, routers and exception handlers around the services."""

import re
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.context import context_of
from app.api.delivery import KEEPALIVE_INTERVAL, KeepAlive
from app.api.diagnostics import explain_routes, silence_routes
from app.api.front import Answer, FrontApp
from app.api.health import health_routes, metrics_routes
from app.api.image_models import ImageModels, image_model_routes
from app.api.images import ImageEndpoints, image_routes
from app.api.middleware import AccessLogMiddleware, UnhandledErrorMiddleware
from app.api.models import model_routes
from app.api.pages import page_routes
from app.api.responses import ErrorResponse
from app.api.route_table import RouteTable, schema_routes
from app.api.site_guard import SiteGuardMiddleware
from app.api.status import MAX_RECENT_REQUESTS, status_routes
from app.api.stored_images import stored_image_routes
from app.config.settings import Settings
from app.errors import ApiError, InvalidRequest, MethodNotAllowed, NotFound
from app.observability.logging import configure_logging, unblock_standard_error
from app.protocol.validation_errors import truncate
from app.services.lifecycle import Services
from app.state.timings import DEFAULT_TIMINGS, SharingTimings
from app.upstream.transport import Transport

#: Headers that browsers show to scripts; they hide all others.
EXPOSED_HEADERS = (
    "x-request-id",
    "x-should-retry",
    "location",
    "retry-after",
    "retry-after-ms",
    *(
        f"x-ratelimit-{what}-{kind}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "images", "cost")
    ),
    "x-limner-cost",
    "x-limner-credentials",
    "x-limner-currency",
    "x-limner-alpha",
    "x-limner-dry-run",
    "x-limner-failed",
    "x-limner-ignored",
    "x-limner-joined",
    "x-limner-overhead-ms",
    "x-limner-reply-form",
    "x-limner-shrunk",
    "x-limner-size",
    "x-limner-upstream",
    "x-limner-upstream-ms",
)

#: Characters that an error quotes of a path.
_MAX_PATH = 100

#: What programs ask for, beside the scanners of the internet: an API, whatever its version and the folder before it.
_API_PATH = re.compile(r"/v[0-9]|/images?/|^/(?:api|openai)/")
_SERVED = "This server makes images: /v1/images/generations, /v1/images/edits and /v1/models."


class LimnerApp(Starlette):
    """Starlette behind an ASGI application of ours, `front`, which gets each request first."""

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self.front(scope, receive, send)

    async def serve_behind_front(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what the front has handed over."""
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings | None = None,
    *,
    transport: Transport | None = None,
    keepalive_interval: float = KEEPALIVE_INTERVAL,
    timings: SharingTimings = DEFAULT_TIMINGS,
) -> Starlette:
    """Return the application. Without arguments it takes its settings from the environment and sets up the log.

    Args:
        settings: What the operator has set. A caller that passes them has set up the log.
        transport: Sends the requests to upstreams; None opens connections.
        keepalive_interval: Seconds of silence after which a waiting client gets a keep-alive.
        timings: How replicas watch each other.

    Raises:
        InvalidKeyFile: The file of client keys cannot be read or used.
        InvalidSigner: The certificate or the key for signing cannot be used.
        OSError: The image store cannot be opened.
        ValidationError: A setting is wrong (only where `settings` is None).
    """
    settings = _settings_of_environment() if settings is None else settings
    services = Services.build(settings, transport=transport, timings=timings)
    app = LimnerApp(lifespan=_lifespan)
    app.router.redirect_slashes = False
    app.state.services = services
    app.add_exception_handler(ApiError, handle_api_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    recent: deque[bytes] = deque(maxlen=MAX_RECENT_REQUESTS)
    add_middleware(app, settings)
    tables = route_tables(services, KeepAlive(settings.keepalive_after, keepalive_interval), recent)
    add_routes(app, tables)
    add_front(app, tables, settings, recent)
    return app


def _settings_of_environment() -> Settings:
    settings = Settings()
    unblock_standard_error()
    configure_logging(settings.log_format, settings.log_level)
    return settings


def services_of(app: Starlette) -> Services:
    """Return the services of an application that `create_app` has made."""
    services: Services = app.state.services
    return services


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    async with services_of(app).running():
        yield


#: Routes, and the prefixes below which they are served. The first prefix is documented.
_Tables = list[tuple[RouteTable, tuple[str, ...]]]


def add_routes(app: Starlette, tables: _Tables) -> None:
    """Add all routes, and their description."""
    app.router.routes += [route for table, prefixes in tables for prefix in prefixes for route in table.routes(prefix)]
    app.router.routes += schema_routes([(table, prefixes[0]) for table, prefixes in tables]).routes()


def route_tables(services: Services, keepalive: KeepAlive, recent: Collection[bytes]) -> _Tables:
    """Return the routes in the order in which they are tried. `recent`: the last requests, for `/v1/status`."""
    settings, authenticator, service = services.settings, services.authenticator, services.service
    endpoints = ImageEndpoints(
        settings,
        authenticator,
        services.token_check,
        services.recorder,
        service,
        services.tasks,
        services.webhooks,
        keepalive,
        services.new_spool,
        public_path(settings),
    )
    image_models = ImageModels(services.pool, settings)
    # Also without /v1, for clients whose base URL has none.
    api, root, v1 = ("/v1", ""), ("",), ("/v1",)
    hourly, usage = services.hourly_reports(), services.key_usage()
    status = status_routes(settings, service, services.pool, recent, hourly=hourly, usage=usage)
    tables = [
        (image_routes(endpoints), api),
        (model_routes(settings.list_models, authenticator), api),
        (image_model_routes(image_models, authenticator), api),
        (silence_routes(authenticator, service.draining), api),
        (health_routes(service, services.pool), root),
    ]
    if settings.metrics:
        tables.append((metrics_routes(), root))
    tables += [(stored_image_routes(services.store, settings.image_ttl), root), (status, v1)]
    if settings.page:
        explain = explain_routes(
            authenticator,
            service.capacity,
            service.draining,
            new_blob=services.new_blob,
            timeout=settings.client_body_timeout,
        )
        tables += [(explain, api), (page_routes(settings), root)]
    return tables


def add_middleware(app: Starlette, settings: Settings) -> None:
    """Add the middleware of requests that Starlette serves. The last one added receives a request first."""
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(SiteGuardMiddleware, settings=settings)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
        allow_private_network=True,
        max_age=86_400,
    )


def add_front(app: LimnerApp, tables: _Tables, settings: Settings, recent: deque[bytes]) -> None:
    """Put the front before Starlette. `recent` gets the log lines of requests for images."""
    front = FrontApp(app.serve_behind_front, dict(front_endpoints(tables)), settings)
    app.front = AccessLogMiddleware(front, recent, public_path=public_path(settings))


def public_path(settings: Settings) -> str:
    """Return the path of `LIMNER_PUBLIC_URL`, below which clients reach this server; empty if they reach it at `/`."""
    return "" if settings.public_url is None else urlsplit(settings.public_url).path.rstrip("/")


def front_endpoints(tables: _Tables) -> Iterator[tuple[tuple[str, str], Answer]]:
    """Yield what the front serves itself, by method and path: requests for images."""
    for table, prefixes in tables:
        for each in table.endpoints:
            if each.methods == ("POST",) and each.path.startswith("/images/") and "{" not in each.path:
                for prefix in prefixes:
                    yield ("POST", f"{prefix}{each.path}"), each.handler


async def handle_api_error(http: Request, error: Exception) -> Response:
    """Send the message to the client, and put the detail into the log."""
    if not isinstance(error, ApiError):
        raise error
    context_of(http.scope).note_error(error)
    return ErrorResponse(error)


async def handle_http_exception(http: Request, error: Exception) -> Response:
    """Say in OpenAI's words what the router has found wrong."""
    if not isinstance(error, HTTPException):
        raise error
    line = f"{http.method} {truncate(http.url.path, _MAX_PATH)}"
    served = f". {_SERVED}" if _API_PATH.search(http.url.path) else ""
    allowed = sorted((error.headers or {}).get("Allow", "").split(", "))
    if error.status_code == 405 and http.method == "OPTIONS":
        # Not a preflight, which is answered before: load balancers and monitors ask so which methods there are.
        return Response(status_code=204, headers={"allow": ", ".join([*allowed, "OPTIONS"])})
    methods = " or ".join(allowed)
    errors = {
        404: NotFound(f"Invalid URL ({line}){served}"),
        405: MethodNotAllowed(f"Not allowed: {line}. Use {methods}.", headers=error.headers),
    }
    return ErrorResponse(errors.get(error.status_code) or InvalidRequest(str(error.detail)))
