"""Serve `GET /v1/status` for operators: jobs in flight, upstreams, the last day and requests, important settings."""

import os
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app import __version__
from app.access.auth import Authenticator
from app.access.key_usage import KeyUsage
from app.api.responses import OrjsonResponse
from app.api.route_table import RouteTable
from app.config.field_types import is_loopback, variable
from app.config.settings import Settings
from app.errors import Forbidden
from app.jobs.job import Job, summarize_request
from app.jobs.service import ImageService
from app.observability.hourly import HourlyReports
from app.upstream.pool import UpstreamPool

#: How many of the last image requests are listed.
MAX_RECENT_REQUESTS = 100

_NO_STATUS_KEY = (
    "This server has no key for its status. Set LIMNER_STATUS_KEY, or LIMNER_API_KEYS, and present it as: "
    "Authorization: Bearer YOUR_KEY"
)

#: Settings that explain how the server behaves. None of them holds a secret or an address.
_SHOWN_SETTINGS = (
    *("upstream_stream", "upstream_timeout", "upstream_attempts"),
    *("retry_ambiguous", "default_response_format", "mask", "rehost", "image_ttl", "fetch_timeout"),
    *("max_image_bytes", "max_request_bytes", "max_concurrency", "max_queue", "keepalive_after"),
    *("answer_ttl", "idempotency_ttl", "max_answers", "max_answers_bytes", "shutdown_grace"),
)


def status_routes(
    settings: Settings,
    service: ImageService,
    pool: UpstreamPool,
    recent: Collection[bytes],
    *,
    hourly: HourlyReports,
    usage: KeyUsage,
) -> RouteTable:
    """Return the route of the status. `recent`: records of the last image requests, oldest first."""
    keys = (settings.status_key,) if settings.status_key is not None else settings.api_keys
    authenticator = Authenticator((key.get_secret_value() for key in keys), pass_through=False)
    # Keys of the key file belong to clients with limits, not to operators, so they do not open the status.
    is_open = bool(keys) or (is_loopback(settings.host) and not settings.has_client_keys)
    router = RouteTable()

    @router.add("/status", ("GET",))
    async def status(http: Request) -> Response:
        authenticator.authenticate(http.headers)
        if not is_open:
            raise Forbidden(_NO_STATUS_KEY, code="status_key_not_set")
        document = build_status(service, pool, settings, recent) | await hourly.read(datetime.now(UTC))
        document["key_limits"] = await usage.read()
        return OrjsonResponse(document, headers={"cache-control": "no-store"})

    return router


def build_status(
    service: ImageService, pool: UpstreamPool, settings: Settings, recent: Collection[bytes]
) -> dict[str, Any]:
    semaphore = service.semaphore
    return {
        "object": "status",
        "version": __version__,
        # Identifies the worker that responded; its log records have the same pid.
        "pid": os.getpid(),
        "now": time.time(),
        "closing": service.is_draining,
        "turns": {
            "used": semaphore.in_use,
            "limit": semaphore.limit,
            "waiting": semaphore.waiting,
            "queue": settings.max_queue,
        },
        "under_way": [describe_job(job) for job in service.registry.active()],
        "upstreams": describe_upstreams(pool),
        "outcomes": [orjson.loads(record) for record in reversed(list(recent))],
        "settings": {variable(name): to_json_number(getattr(settings, name)) for name in _SHOWN_SETTINGS},
    }


def describe_job(job: Job) -> dict[str, Any]:
    """Return what operators may see of a job in progress."""
    return {
        "id": job.id,
        **summarize_request(job.request),
        "seconds": round(time.perf_counter() - job.run.telemetry.started_at, 1),
        "asked": job.run.was_submitted,
        "readers": job.run.readers,
    }


def describe_upstreams(pool: UpstreamPool) -> list[dict[str, Any]]:
    circuits = pool.circuits()
    return [
        {
            "name": member.spec.name,
            "alias": member.spec.alias,
            "host": urlsplit(member.spec.base_url).netloc,
            "model": member.spec.models.default,
            "circuit": circuits[member.spec.name],
            "under_way": member.in_flight,
            "limit": member.spec.max_concurrency,
        }
        for member in pool.members
    ]


def to_json_number(value: object) -> object:
    """Return sizes as plain numbers: pydantic's ByteSize is an int that is serialized as text."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
