"""Serve `/healthz`, `/readyz` and `/metrics` for load balancers, orchestrators and Prometheus."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.openapi import READINESS, STATUS, error_responses, json_response
from app.api.responses import OrjsonResponse
from app.api.route_table import RouteTable
from app.errors import ServiceUnavailable
from app.jobs.service import ImageService
from app.observability.metrics import render
from app.upstream.pool import UpstreamPool


def health_routes(service: ImageService, pool: UpstreamPool) -> RouteTable:
    router = RouteTable(("operations",))

    @router.add(
        "/healthz",
        ("GET", "HEAD"),
        summary="Whether the process is alive",
        responses={200: json_response(STATUS, "It is alive.")},
    )
    async def healthz() -> Response:
        return OrjsonResponse({"status": "ok"})

    @router.add(
        "/readyz",
        ("GET", "HEAD"),
        summary="Whether the server accepts requests: not while it is shutting down",
        responses={200: json_response(READINESS, "It accepts requests."), **error_responses(503)},
    )
    async def readyz() -> Response:
        if service.is_draining:
            raise ServiceUnavailable("The server is shutting down.")
        # An open circuit is not unready: without a better upstream, that one is tried nevertheless.
        return OrjsonResponse({"status": "ready", "upstreams": pool.public_circuits()})

    return router


def metrics_routes() -> RouteTable:
    """Return the route of the metrics, which need no key: they show neither callers nor prompts."""
    router = RouteTable(("operations",))

    # Not async, so Starlette runs it in a thread: with several workers it reads the files of all.
    @router.add(
        "/metrics",
        ("GET", "HEAD"),
        summary="Metrics for Prometheus",
        responses={200: {"description": "All metrics.", "content": {"text/plain": {}}}},
        response_class=Response,
    )
    def metrics(http: Request) -> Response:
        body, media_type = render(http.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    return router
