"""Builds the server from its parts, opens and closes them; the only file that knows them all."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from app import __version__
from app.access.auth import Access
from app.access.concurrency import Turns
from app.access.keys import KeyBook
from app.access.limits import Limits
from app.config.settings import Settings
from app.diagnosis import diagnosis_routes
from app.errors import ApiError, InvalidRequest, MethodNotAllowed, NotFound
from app.images.blob import Blob
from app.images.fetch import Fetcher
from app.images.store import Store
from app.images.stores import open_store
from app.images.transcode import Transcoder
from app.jobs.pipeline_io import Parts
from app.jobs.registry import Once
from app.jobs.service import Studio
from app.jobs.sharing import Handover
from app.jobs.usage_record import Books
from app.middleware import LastResort, Record
from app.observability.logging import log
from app.observability.metrics import watch
from app.openapi import complete
from app.ops import health_routes, kept_routes, metrics_routes, model_routes
from app.pages import page_routes
from app.parts import (
    open_access,
    open_books,
    open_once,
    open_upstreams,
    policy,
    store_config,
    turns,
)
from app.responses import ErrorResponse
from app.routes import image_routes
from app.silence import silence_routes
from app.state.circuit_reports import exchange_hints
from app.state.job_table import Board
from app.state.shared_state import State
from app.status import REMEMBERED, status_routes

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

#: Seconds between two sweeps of the image store, at most.
_SWEEP = 600.0


class App(FastAPI):
    """Its document is made when somebody asks for it: that takes a megabyte, and most never do."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            complete(super().openapi())
        return super().openapi()


def create_app(settings: Settings) -> FastAPI:
    """`app.state.studio` is set while the app runs. Raises OSError where the store cannot be opened, KeysBroken."""
    names = [entry.name for entry in settings.roster]
    book = None if settings.keys_file is None else KeyBook(settings.keys_file, names)
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
    outcomes: deque[Mapping[str, object]] = deque(maxlen=REMEMBERED)
    add_middleware(app, settings, outcomes)
    add_routes(app, settings, open_access(settings, book), books, outcomes)
    return app


def add_routes(
    app: FastAPI, settings: Settings, access: Access, books: Books, outcomes: deque[Mapping[str, object]]
) -> None:
    api = APIRouter()
    images = image_routes(settings, access, books)
    api.include_router(images)
    api.include_router(model_routes(settings.list_models, access))
    api.include_router(silence_routes(access))
    if settings.page:
        api.include_router(diagnosis_routes(access, settings.client_body_timeout))
    app.include_router(api, prefix="/v1")
    # As a courtesy to clients whose base URL has no /v1.
    app.include_router(api, include_in_schema=False)
    app.include_router(health_routes())
    if settings.metrics:
        app.include_router(metrics_routes())
    app.include_router(kept_routes(settings.image_ttl))
    app.include_router(status_routes(settings, outcomes), prefix="/v1")
    if settings.page:
        app.include_router(page_routes(settings))
    serve_directly(app, images)


def add_middleware(app: FastAPI, settings: Settings, outcomes: deque[Mapping[str, object]]) -> None:
    """The last one added sees a request first."""
    app.add_middleware(LastResort)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=86_400,
    )
    app.add_middleware(Record, outcomes=outcomes)


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


@asynccontextmanager
async def open_parts(settings: Settings, store: Store, books: Books, app: FastAPI) -> AsyncGenerator[None, None]:
    """Everything that needs an event loop; closed in the opposite order, after the questions under way have ended."""
    new_blob = partial(Blob, settings.spool_dir)
    fetcher = Fetcher(
        new_blob=new_blob,
        allow=settings.fetch_allow,
        timeout=settings.fetch_timeout,
        max_bytes=settings.max_image_bytes,
    )
    transcoder = Transcoder(new_blob=new_blob)
    upstreams = open_upstreams(settings)
    once = open_once(settings)
    state = State(settings.shared_state, closed=settings.state_down == "closed")
    board = Board(state, ttl=settings.answer_ttl, key_ttl=settings.idempotency_ttl)
    studio = Studio(
        turns=Turns(turns(settings), settings.max_queue),
        limits=Limits(state, settings.max_queue),
        parts=Parts(upstreams, fetcher, transcoder, store, board, settings.shrink_inputs, settings.public_url),
        policy=policy(settings),
        once=once,
        handover=Handover(once, board, store),
        keepalive_after=settings.keepalive_after,
    )
    app.state.studio = studio
    beside = [asyncio.create_task(work) for work in recurring(settings, studio, store, state)]
    try:
        yield
    finally:
        await studio.drain(settings.shutdown_grace)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        once.close()
        await state.close()
        await upstreams.close()
        await fetcher.close()
        transcoder.close()
        store.close()
        await books.close()


def recurring(settings: Settings, studio: Studio, store: Store, state: State) -> list[Coroutine[Any, Any, None]]:
    return [
        sweep(store, studio.once, min(_SWEEP, settings.image_ttl, settings.answer_ttl)),
        watch(studio.turns, studio.parts.upstreams.circuits),
        studio.handover.beat(),
        exchange_hints(state, studio.parts.upstreams),
    ]


async def sweep(store: Store, once: Once, seconds: float) -> None:
    while True:
        once.sweep()
        try:
            log.debug("sweep", removed=await store.sweep())
        except ApiError as error:
            log.warning("sweep", error=error.detail)
        await asyncio.sleep(seconds)


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
