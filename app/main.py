"""Builds the server from its parts, opens and closes them; the only file that knows them all."""

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from app import __version__
from app.access.auth import Authenticator
from app.access.keys import KeyFile
from app.api.diagnostics import explain_routes, silence_routes
from app.api.health import health_routes, metrics_routes
from app.api.images import image_routes
from app.api.middleware import AccessLogMiddleware, UnhandledErrorMiddleware
from app.api.models import model_routes
from app.api.openapi import patch_schema
from app.api.pages import page_routes
from app.api.responses import ErrorResponse
from app.api.status import MAX_RECENT_REQUESTS, status_routes
from app.api.stored_images import stored_image_routes
from app.config.settings import Settings
from app.errors import ApiError, InvalidRequest, MethodNotAllowed, NotFound
from app.images.stores import open_store
from app.jobs.usage_record import Books
from app.services import open_access, open_books, open_parts, store_config

#: Browsers show scripts no other headers of an answer.
EXPOSED = (
    "x-request-id",
    "x-should-retry",
    "location",
    "retry-after",
    "retry-after-ms",
    *(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "images")),
    "x-limner-failed",
    "x-limner-ignored",
    "x-limner-joined",
    "x-limner-overhead-ms",
    "x-limner-reply-form",
    "x-limner-shrunk",
    "x-limner-upstream",
    "x-limner-upstream-ms",
)


class App(FastAPI):
    """Its document is made when somebody asks for it: that takes a megabyte, and most never do."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            patch_schema(super().openapi())
        return super().openapi()


def create_app(settings: Settings) -> FastAPI:
    """`app.state.studio` is set while the app runs. Raises OSError where the store cannot be opened, InvalidKeyFile."""
    names = [entry.name for entry in settings.effective_upstreams]
    book = None if settings.keys_file is None else KeyFile(settings.keys_file, names)
    store = open_store(store_config(settings))
    books = open_books(settings)
    app = App(
        title="Limner",
        version=__version__,
        summary="The OpenAI Images API in front of a chat model that paints.",
        lifespan=partial(open_parts, settings, store, books),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.keys = book
    app.add_exception_handler(ApiError, answer_fault)
    app.add_exception_handler(HTTPException, answer_framework)
    outcomes: deque[Mapping[str, object]] = deque(maxlen=MAX_RECENT_REQUESTS)
    add_middleware(app, settings, outcomes)
    add_routes(app, settings, open_access(settings, book), books, outcomes)
    return app


def add_routes(
    app: FastAPI, settings: Settings, access: Authenticator, books: Books, outcomes: deque[Mapping[str, object]]
) -> None:
    api = APIRouter()
    images = image_routes(settings, access, books)
    api.include_router(images)
    api.include_router(model_routes(settings.list_models, access))
    api.include_router(silence_routes(access))
    if settings.page:
        api.include_router(explain_routes(access, settings.client_body_timeout))
    app.include_router(api, prefix="/v1")
    # As a courtesy to clients whose base URL has no /v1.
    app.include_router(api, include_in_schema=False)
    app.include_router(health_routes())
    if settings.metrics:
        app.include_router(metrics_routes())
    app.include_router(stored_image_routes(settings.image_ttl))
    app.include_router(status_routes(settings, outcomes), prefix="/v1")
    if settings.page:
        app.include_router(page_routes(settings))
    serve_directly(app, images)


def add_middleware(app: FastAPI, settings: Settings, outcomes: deque[Mapping[str, object]]) -> None:
    """The last one added sees a request first."""
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=86_400,
    )
    app.add_middleware(AccessLogMiddleware, outcomes=outcomes)


def serve_directly(app: FastAPI, router: APIRouter) -> None:
    """FastAPI writes the document from these routes; it would serve them at twice the cost of what is beneath it.

    Those with parameters in their path stay with it.
    """
    plain = [route for route in router.routes if isinstance(route, APIRoute) and "{" not in route.path]
    app.router.routes[:0] = [
        Route(f"{prefix}{route.path}", route.endpoint, methods=list(route.methods or ()))
        for prefix in ("/v1", "")
        for route in plain
    ]


async def answer_fault(http: Request, error: Exception) -> Response:
    """The client sees the message, the record in the log gets the detail."""
    if not isinstance(error, ApiError):
        raise error
    http.scope["state"]["record"].update(error=error.code or error.type, detail=error.detail)
    return ErrorResponse(error)


async def answer_framework(http: Request, error: Exception) -> Response:
    """What the router has to say, in OpenAI's words."""
    if not isinstance(error, HTTPException):
        raise error
    line = f"{http.method} {http.url.path}"
    faults = {
        404: NotFound(f"Invalid URL ({line})"),
        405: MethodNotAllowed(f"Not allowed: {line}", headers=error.headers),
    }
    return ErrorResponse(faults.get(error.status_code) or InvalidRequest(str(error.detail)))
