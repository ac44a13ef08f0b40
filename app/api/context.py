"""What is known of a request while it is served, from the middleware that receives it to the route that answers it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
from starlette.types import Scope

from app.errors import ApiError
from app.jobs.usage_record import UsageRecord

#: What a request has cost, in the words of the ledger.
_COST_FIELDS = ("key", "cost", "currency", "cost_source")

#: Fields of a request's log line that `/v1/status` shows. Not `detail`: it may hold text of an upstream, or a prompt.
_SHOWN_FIELDS = (
    *("id", "at", "method", "path", "status", "ms", "operation", "n", "size", "stream", "error"),
    *_COST_FIELDS,
)

_KEY = "limner.context"


@dataclass(slots=True)
class RequestContext:
    """One HTTP request.

    Attributes:
        id: Sent in `x-request-id`, and in each log line.
        started_at: By `time.perf_counter`.
        log_fields: What the access log line tells besides route, status and time. Routes add to it.
        usage: The usage record, once the client key of a request for images is accepted.
        error: What the request has ended with, if it has failed.
    """

    id: str
    started_at: float = field(default_factory=time.perf_counter)
    log_fields: dict[str, object] = field(default_factory=dict)
    usage: UsageRecord | None = None
    error: ApiError | None = None

    def note_error(self, error: ApiError) -> None:
        """Take the error into the log line, its detail included."""
        self.error = error
        self.log_fields.update(error=error.code or error.type, detail=error.detail)


def encode_record(fields: Mapping[str, object]) -> bytes:
    """Return what `/v1/status` remembers of a request for images, as JSON.

    A hundred records of sixty objects each, from among those of thousands of requests, would keep 20 MiB of pages.
    """
    # Copied: what orjson has written stays in a block of 8 KiB.
    return bytes(memoryview(orjson.dumps({name: fields.get(name) for name in _SHOWN_FIELDS})))


def set_context(scope: Scope, context: RequestContext) -> None:
    """Attach the context to a request."""
    scope[_KEY] = context


def context_of(scope: Scope) -> RequestContext:
    """Return the context of a request."""
    context: RequestContext = scope[_KEY]
    return context
