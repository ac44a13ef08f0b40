"""Turn a job into an HTTP response: JSON, JSON behind white space, or server-sent events."""

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import RequestContext
from app.api.disconnects import UNACKNOWLEDGED, DisconnectWatcher, is_acknowledged
from app.api.responses import (
    ChunkedResponse,
    ClientDisconnected,
    OrjsonResponse,
    SizedBody,
    SizedResponse,
    coalesce,
)
from app.errors import ApiError
from app.jobs.job import summarize_request
from app.jobs.job_run import JobRun
from app.jobs.pipeline_interface import GenerationResult, Item, PartialImage
from app.jobs.service import JobReader
from app.jobs.tasks import TaskView
from app.jobs.telemetry import JobTelemetry
from app.protocol.attempt_costs import total_cost
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import (
    alpha_report,
    completed_event,
    credentials_report,
    error_event,
    images_json,
    partial_event,
    size_report,
)
from app.protocol.image_task import task_id, task_receipt
from app.protocol.json_stream import StreamingJson
from app.protocol.money import write_amount
from app.protocol.sse import StreamingEvent, comment
from app.protocol.values import value_class

#: Seconds without a byte after which a keep-alive is sent: middle boxes cut silent connections after 60 to 120 s.
KEEPALIVE_INTERVAL = 15.0

#: Seconds after which it is worth asking again for a result that is not there yet.
_POLL_AFTER = "5"

_JSON, _EVENTS = "application/json", "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """When a waiting client gets bytes, in seconds. `after`: before a plain JSON response begins; 0 means never."""

    after: float
    interval: float = KEEPALIVE_INTERVAL


@value_class
class Delivery:
    """The response to one client that waits for a job. `public_url`: see `deliver`."""

    reader: JobReader
    context: RequestContext
    watcher: DisconnectWatcher
    http: Request
    public_url: str | None = None

    @property
    def server_url(self) -> str:
        """How this client reaches this server."""
        return server_url_of(self.http, self.public_url)

    async def has_room(self) -> bool:
        """Wait until the connection takes more bytes. Return whether the client is there, as far as is known."""
        return await self.watcher.has_room()

    async def is_connected(self) -> bool:
        """Return whether the client is still connected."""
        return await self.watcher.is_connected()

    async def is_received(self) -> bool:
        """Return whether the client's system has acknowledged the response. Servers other than ours do not know."""
        unacknowledged = self.http.scope.get("extensions", {}).get(UNACKNOWLEDGED)
        return unacknowledged is None or await is_acknowledged(unacknowledged)

    def close(self, *, delivered: bool) -> None:
        """Release the job, and log its error: a response that has begun has no other place for it but its end."""
        self.watcher.cancel()
        error = self.reader.run.error
        if error is not None:
            self.context.note_error(error)
        self.reader.close(delivered=delivered)


async def deliver(
    reader: JobReader,
    http: Request,
    context: RequestContext,
    keepalive: KeepAlive,
    watcher: DisconnectWatcher,
    *,
    public_url: str | None,
) -> Response:
    """Wait for a job and return the response with what it brings. The response closes the reader and the watcher.

    `public_url` is how clients reach this server; None takes the address that this client has used.
    """
    context.log_fields.update(summarize_request(reader.job.request))
    delivery = Delivery(reader, context, watcher, http, public_url)
    try:
        return await build_response(delivery, keepalive)
    except ClientDisconnected:
        delivery.close(delivered=False)
        return Response(status_code=499)
    except BaseException:  # reason: tidied up, and raised again
        delivery.close(delivered=False)
        raise


async def build_response(delivery: Delivery, keepalive: KeepAlive) -> Response:
    """Return the response in the form that fits. Raises `ClientDisconnected` if the client leaves before it begins."""
    job, run, watcher = delivery.reader.job, delivery.reader.run, delivery.watcher
    request = job.request
    is_old = delivery.http.scope["http_version"] == "1.0"
    if is_old:
        # HTTP/1.0 has no chunks: the client gets everything at the end.
        await watcher.wait_for_run(run, None)
    elif request.stream:
        await watcher.wait_for_more(run, 0, None, keepalive.interval)
    else:
        await watcher.wait_for_run(run, keepalive.after or None)
    if run.error is not None and not run.items:
        error = run.error
        headers = cost_headers(run.telemetry) | error.headers
        return SizedResponse([StreamingJson(error.body)], _JSON, headers, delivery, error.status)
    result = run.result
    headers = response_headers(request, run.telemetry, result)
    if job.id != delivery.context.id:
        headers["x-limner-joined"] = job.id
    if is_old and request.stream:
        return SizedResponse(encode_events(request, run), _EVENTS, headers, delivery)
    if request.stream:
        return ChunkedResponse(stream_events(request, run, watcher, keepalive.interval), _EVENTS, headers, delivery)
    if result is None:
        chunks = stream_json_with_keepalive(request, run, watcher, keepalive.interval, delivery.server_url)
        return ChunkedResponse(chunks, _JSON, headers, delivery)
    server_url = delivery.server_url if any(image.is_stored for image in result.images) else ""
    return SizedResponse([encode_json(request, result, server_url)], _JSON, headers, delivery)


def server_url_of(http: Request, public_url: str | None) -> str:
    """Return how this client reaches this server, without a final slash."""
    return public_url or str(http.base_url).rstrip("/")


def task_receipt_response(job_id: str, expires_at: int, http: Request, public_path: str) -> Response:
    """Return the 202 for a client that polls a task. `public_path`: see `accepted_response`."""
    location = f"{public_path}{_images_path(http)}/tasks/{task_id(job_id)}"
    headers = {"location": location, "retry-after": _POLL_AFTER, "cache-control": "no-store"}
    return OrjsonResponse(task_receipt(job_id, location, expires_at), 202, headers)


def task_response(view: TaskView, http: Request, context: RequestContext) -> Response:
    """Return a task to a client that polls it. The response closes the reader."""
    headers = {"cache-control": "no-store"}
    if view.reader is None:
        return OrjsonResponse(view.document, 200, headers | {"retry-after": _POLL_AFTER})
    delivery = Delivery(view.reader, context, DisconnectWatcher.of(http), http)
    return SizedResponse([StreamingJson(view.document)], _JSON, headers, delivery)


def _images_path(http: Request) -> str:
    return f"{http.url.path.partition('/images/')[0]}/images"


def accepted_response(job_id: str, http: Request, public_path: str) -> Response:
    """Return the 202 for a client that does not wait: it gets the result from `location`.

    `public_path` is the path below which clients reach this server. Its proxy may have removed it.
    """
    location = f"{public_path}{_images_path(http)}/results/{job_id}"
    headers = {"location": location, "retry-after": _POLL_AFTER, "preference-applied": "respond-async"}
    return OrjsonResponse({"id": job_id, "object": "image.result", "status": "in_progress"}, 202, headers)


def response_headers(
    request: ImagesRequest, telemetry: JobTelemetry, result: GenerationResult | None = None
) -> dict[str, str]:
    """Return the headers that are known when they are sent: for a stream, only what the request itself tells."""
    images = () if result is None else result.images
    unmet = [name for image in images for name in image.ignored]
    values = {
        "x-limner-ignored": ", ".join(dict.fromkeys((*telemetry.ignored_of(request), *unmet))),
        "x-limner-size": size_report(request, images),
        "x-limner-alpha": alpha_report(images),
        "x-limner-credentials": credentials_report(images),
        "x-limner-shrunk": ", ".join(telemetry.shrunk),
        "x-limner-upstream": ", ".join(telemetry.answered_by),
    }
    early = {name: value for name, value in values.items() if value} | dict(telemetry.rate_limit_headers)
    if result is None:
        return early
    failed = {"x-limner-failed": str(result.failed)} if result.failed else {}
    return {
        "x-limner-reply-form": ", ".join(dict.fromkeys([image.form for image in result.images])),
        "x-limner-upstream-ms": f"{telemetry.upstream.seconds * 1000:.0f}",
        "x-limner-overhead-ms": f"{telemetry.overhead(time.perf_counter()) * 1000:.1f}",
        **early,
        **failed,
        **cost_headers(telemetry),
    }


def cost_headers(telemetry: JobTelemetry) -> dict[str, str]:
    """Return what the run has cost, if all of it is known."""
    costs = [attempt.cost for attempt in telemetry.attempt_records]
    if not costs or None in [cost.amount for cost in costs]:
        return {}
    cost = total_cost(costs, costs[0].currency)
    return {"x-limner-cost": write_amount(cost.amount or Decimal(0)), "x-limner-currency": cost.currency}


def late_headers_as_comments(request: ImagesRequest, telemetry: JobTelemetry, item: Item) -> bytes:
    """Return the headers that a stream was sent too early for, as comments ahead of its result."""
    headers = response_headers(request, telemetry, item) if isinstance(item, GenerationResult) else {}
    return b"".join(comment(f"{name}: {headers[name]}") for name in headers if name not in telemetry.rate_limit_headers)


def encode_json(request: ImagesRequest, result: GenerationResult, server_url: str) -> StreamingJson:
    """Return the body of a plain response."""
    return StreamingJson(images_json(request, result.images, result.usage, result.created, server_url))


def encode_event(request: ImagesRequest, item: Item, index: int) -> StreamingEvent:
    """Return one item as an event; `index` counts the partial images."""
    if isinstance(item, PartialImage):
        return StreamingEvent(*partial_event(request, item.image, index, int(time.time())))
    return StreamingEvent(*completed_event(request, item.images[0], item.usage, item.created))


def encode_events(request: ImagesRequest, run: JobRun) -> Sequence[SizedBody]:
    """Return all events of a run that has ended."""
    events = [encode_event(request, item, index) for index, item in enumerate(run.items)]
    return events if run.error is None else [*events, StreamingEvent(*error_event(run.error.body))]


async def stream_json_with_keepalive(
    request: ImagesRequest, run: JobRun, watcher: DisconnectWatcher, interval: float, server_url: str
) -> AsyncGenerator[bytes, None]:
    """Yield white space until the run has ended, then its result.

    The status has been sent as 200, so an error is followed by one stray byte: every client raises then, and none
    retries. A cut connection would make Python and the AI SDK retry twice, and a well-formed error object would pass
    for a success.
    """
    yield b" "
    while not await watcher.wait_for_run(run, interval):
        yield b" "
    if run.result is None:
        yield orjson.dumps((run.error or ApiError()).body) + b"!"
        return
    for chunk in coalesce(encode_json(request, run.result, server_url).chunks()):
        yield chunk


async def stream_events(
    request: ImagesRequest, run: JobRun, watcher: DisconnectWatcher, interval: float
) -> AsyncGenerator[bytes, None]:
    """Yield events, and comments while there is none: keep-alives, and what the upstream says of its progress.

    Never ends without `completed` or `error`.
    """
    read = revision = 0
    while (more := await watcher.wait_for_more(run, read, revision, interval)) is not False:
        if more is None:
            yield comment("keep-alive")
        elif len(run.items) > read:
            item = run.items[read]
            late = late_headers_as_comments(request, run.telemetry, item)
            for chunk in coalesce(chain((late,), encode_event(request, item, read).chunks())):
                yield chunk
            read += 1
        else:
            revision = run.revision
            yield comment(f"progress {run.telemetry.progress}")
    if run.error is not None:
        yield b"".join(StreamingEvent(*error_event(run.error.body)).chunks())
