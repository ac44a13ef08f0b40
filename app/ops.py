"""What operators and clients ask besides pictures: health, models, kept images."""

from collections.abc import Callable, Iterable

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.access.auth import Access
from app.errors import NotFound, Unavailable
from app.images.store import cache_control
from app.kept import KeptResponse
from app.observability.metrics import render
from app.openapi import MODEL, MODELS, NEEDS_KEY, READINESS, STATUS, fault_responses, json_response
from app.responses import JsonResponse

#: 2024-12-01: a date that never changes, so that answers can be cached and compared.
_CREATED = 1_733_011_200


def health_routes() -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Whether the process lives", responses={200: json_response(STATUS, "It does.")})
    async def healthz() -> Response:
        return JsonResponse({"status": "ok"})

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Whether it takes questions: not while it is shutting down",
        responses={200: json_response(READINESS, "It does."), **fault_responses(503)},
    )
    async def readyz(http: Request) -> Response:
        if http.app.state.studio.closing:
            raise Unavailable("The server is shutting down.")
        # An open circuit turns nobody away: where there is no better upstream, this one is asked nevertheless.
        return JsonResponse({"status": "ready", "upstreams": http.app.state.studio.parts.upstreams.circuits()})

    return router


def metrics_routes() -> APIRouter:
    """No key: nothing here tells who asks, or what."""
    router = APIRouter(tags=["operations"])

    # Not async, so that it runs beside the event loop: with several workers it reads the files of all.
    @router.head("/metrics", include_in_schema=False)
    @router.get(
        "/metrics",
        summary="What is counted and timed, for Prometheus",
        responses={200: {"description": "All metrics.", "content": {"text/plain": {}}}},
        response_class=Response,
    )
    def metrics(http: Request) -> Response:
        body, media_type = render(http.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    return router


#: The names of models at an upstream, None being any of them, and of those only the ones that are given, if any are.
ListModels = Callable[[str | None, tuple[str, ...]], Iterable[str]]


def model_routes(list_models: ListModels, access: Access) -> APIRouter:
    """A key with a row in the file of keys is told of what it may use, and of nothing else."""
    router = APIRouter(tags=["models"])

    def cards(http: Request) -> dict[str, dict[str, object]]:
        row = access.admit(http.headers).row
        names = list_models(None, ()) if row is None else list_models(row.upstream, row.models)
        return {name: {"id": name, "object": "model", "created": _CREATED, "owned_by": "limner"} for name in names}

    @router.head("/models", include_in_schema=False)
    @router.get(
        "/models",
        summary="The names that clients may use; any other is accepted too",
        responses={200: json_response(MODELS, "All of them."), **fault_responses(401)},
        openapi_extra=NEEDS_KEY,
    )
    async def models(http: Request) -> Response:
        return JsonResponse({"object": "list", "data": list(cards(http).values())})

    @router.head("/models/{name:path}", include_in_schema=False)
    @router.get(
        "/models/{name:path}",
        summary="One of them",
        responses={200: json_response(MODEL, "It is listed."), **fault_responses(401, 404)},
        openapi_extra=NEEDS_KEY,
    )
    async def model(name: str, http: Request) -> Response:
        card = cards(http).get(name)
        if card is None:
            raise NotFound(f"The model '{name[:100]}' does not exist.", param="model", code="model_not_found")
        return JsonResponse(card)

    return router


def kept_routes(ttl: float) -> APIRouter:
    """No key: whoever has the address, which nobody can guess, may see the picture."""
    router = APIRouter(tags=["kept images"])
    headers = {
        "cache-control": cache_control(ttl),
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'",
        "cross-origin-resource-policy": "cross-origin",
    }

    @router.head("/kept/{name}", include_in_schema=False)
    @router.get(
        "/kept/{name}",
        summary="A picture that is kept for its time",
        response_class=Response,
        responses={
            200: {"description": "The picture.", "content": {"image/*": {}}},
            **fault_responses(404, missing="image_not_found"),
        },
    )
    async def kept(name: str, http: Request) -> Response:
        stored = await http.app.state.studio.parts.store.find(name)
        if stored is None:
            raise NotFound("This image does not exist, or its time is over.", code="image_not_found")
        return KeptResponse(stored, http.headers, headers)

    return router
