"""What operators and clients ask besides pictures: health, models, kept images."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.openapi import READINESS, STATUS, error_responses, json_response
from app.api.responses import JsonResponse
from app.errors import ServiceUnavailable
from app.observability.metrics import render


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
        responses={200: json_response(READINESS, "It does."), **error_responses(503)},
    )
    async def readyz(http: Request) -> Response:
        if http.app.state.studio.closing:
            raise ServiceUnavailable("The server is shutting down.")
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
