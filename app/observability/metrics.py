"""Define all metrics, and render them for Prometheus: those of this process, or of all workers together."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing import current_process
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    values,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector


def configure_multiprocess() -> None:
    """Name the metric files of a worker after its slot (`worker-0`), in place of its process id.

    The worker that replaces a dead one then continues its counters. By process id, each death would leave files behind.
    """
    if values.ValueClass._multiprocess and current_process().name != "MainProcess":
        values.ValueClass = values.MultiProcessValue(lambda: current_process().name)  # type: ignore[no-untyped-call]


# Called at import, although that is a side effect: prometheus_client binds a metric to its file when the metric is made
# (below). Tried: a counter made before the class is replaced stays in `counter_<pid>.db`. A worker cannot call this
# earlier, because unpickling its main function imports this module.
configure_multiprocess()

# Without this, each counter and histogram has a second series (`_created`) with the time of its creation.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

#: An image takes 30 to 240 seconds, a request at most 600; most other steps take milliseconds.
_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600)

#: Milliseconds are normal; at seconds, clients notice.
_LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

#: Upstreams choose their error codes freely; only short plain words become label values.
_LABEL = re.compile(r"[a-z0-9_]{1,40}")


class LabeledCounter:
    """A counter whose last label has values from outside; the number of its series is limited.

    After `max_series` combinations, and for values that are not short plain words, the last label is `other`.
    """

    def __init__(self, counter: Counter, max_series: int = 100) -> None:
        self._counter = counter
        self._max_series = max_series
        self._bound: dict[tuple[str, ...], Counter] = {}

    def labels(self, *labels: str) -> Counter:
        return self._bound.get(labels) or self._bind(labels)

    def _bind(self, labels: tuple[str, ...]) -> Counter:
        if len(self._bound) >= self._max_series or not _LABEL.fullmatch(labels[-1]):
            labels = (*labels[:-1], "other")
        bound = self._bound[labels] = self._counter.labels(*labels)
        return bound


def _counter(name: str, description: str, *labels: str) -> Counter:
    return Counter(name, description, labels, registry=REGISTRY)


def _gauge(name: str, description: str, *labels: str) -> Gauge:
    """Create a gauge that is the sum over all living workers."""
    return Gauge(name, description, labels, registry=REGISTRY, multiprocess_mode="livesum")


REQUESTS = LabeledCounter(_counter("limner_questions", "Image requests that have ended.", "operation", "outcome"))
UPSTREAM_ATTEMPTS = LabeledCounter(
    _counter("limner_upstream_attempts", "HTTP requests to upstreams.", "upstream", "outcome")
)
IMAGES = _counter("limner_images", "Images that upstreams have generated.")
DOWNLOADED_BYTES = _counter("limner_downloaded_bytes", "Bytes of downloaded images.")

COST = _counter(
    "limner_cost", "What upstreams have charged, by their own word or by the price list.", "currency", "source"
)
UNKNOWN_COSTS = _counter("limner_unknown_costs", "Requests to upstreams whose cost is unknown.")

_tokens = _counter("limner_tokens", "Tokens as reported by upstreams.", "direction")
_bytes = _counter("limner_client_bytes", "Bytes of request and response bodies.", "direction")
TOKENS_IN, TOKENS_OUT = _tokens.labels("in"), _tokens.labels("out")
BYTES_IN, BYTES_OUT = _bytes.labels("in"), _bytes.labels("out")

_errors = _counter(
    "limner_part_errors", "Failures of the image store, the shared state, the ledger, the log and of signing.", "part"
)
STORE_ERRORS, STATE_ERRORS, LEDGER_ERRORS, LOG_ERRORS, SIGNING_ERRORS = (
    _errors.labels(part) for part in ("store", "state", "ledger", "log", "signing")
)

CONNECTIONS_REFUSED = _counter("limner_refused_connections", "Connections beyond the limit, which got a 503.")
_webhooks = _counter("limner_webhooks", "Attempts to deliver webhooks, by how they ended.", "outcome")
#: By outcome. After `failed` there is another attempt, after all others there is none.
WEBHOOKS = {
    outcome: _webhooks.labels(outcome) for outcome in ("delivered", "failed", "gone", "given_up", "expired", "unsigned")
}
# The maximum: with a Redis each worker counts those of all.
WEBHOOKS_PENDING = Gauge(
    "limner_webhooks_pending",
    "Webhooks that have not been delivered yet, those of running tasks among them.",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)

WORKER_DEATHS = _counter("limner_worker_deaths", "Workers that ended while the server was not shutting down.")

_step_seconds = Histogram(
    "limner_step_seconds", "Seconds of each step of an image request.", ("step",), buckets=_SECONDS, registry=REGISTRY
)
#: By name of the step. `turn` is the wait for a slot, `ask` the upstream request, `send` the time after the job has
#: finished, `total` the whole request, `overhead` the request without its waits for a slot, the upstream and downloads.
STEP_SECONDS = {
    step: _step_seconds.labels(step)
    for step in (
        *("read", "turn", "prepare", "ask", "fetch", "restore", "convert", "sign", "keep", "send"),
        *("total", "overhead"),
    )
}

_turns = _gauge(
    "limner_turns", "Upstream requests in flight (used) and requests that wait for a slot (waiting).", "state"
)
_TURNS_USED, _TURNS_WAITING = _turns.labels("used"), _turns.labels("waiting")
_TURNS_LIMIT = _gauge("limner_turns_limit", "Upstream requests that may be in flight at once.")
SPOOL_BYTES = _gauge("limner_spool_bytes", "Bytes in temporary image files, with up to 64 MiB of spare ones.")
SPOOL_MEMORY = _gauge(
    "limner_spool_memory_bytes", "Bytes of images in memory: at most LIMNER_SPOOL_MEMORY, 128 MiB more on a full disk."
)

# The maximum over the workers: one worker with an open circuit is worth an alert.
_CIRCUITS = Gauge(
    "limner_upstream_circuit",
    "Circuit breaker of an upstream: 0 closed, 1 half-open, 2 open.",
    ("upstream",),
    registry=REGISTRY,
    multiprocess_mode="livemax",
)

_STATES = {"closed": 0, "half-open": 1, "open": 2}

_LAG = Histogram(
    "limner_event_loop_lag_seconds", "Seconds by which the event loop wakes up late.", buckets=_LAGS, registry=REGISTRY
)


class SlotUsage(Protocol):
    """The part of `FairSemaphore` that is measured; this package must not import it."""

    @property
    def in_use(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def limit(self) -> int: ...


async def sample_gauges(
    slots: SlotUsage,
    circuits: Callable[[], Mapping[str, str]],
    interval: float = 1.0,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    now: Callable[[], float] = time.perf_counter,
) -> None:
    """Set the gauges every `interval` seconds, and measure how late the event loop wakes this task up. Never returns.

    `circuits` returns `closed`, `half-open` or `open` by the upstream's alias.
    """
    while True:
        _TURNS_USED.set(slots.in_use)
        _TURNS_WAITING.set(slots.waiting)
        _TURNS_LIMIT.set(slots.limit)
        for upstream, state in circuits().items():
            _CIRCUITS.labels(upstream).set(_STATES[state])
        started_at = now()
        await sleep(interval)
        _LAG.observe(max(0.0, now() - started_at - interval))


def render(accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that an `Accept` header prefers, and the media type of that format.

    If PROMETHEUS_MULTIPROC_DIR was set when the library was imported, these are the metrics of all processes that share
    this folder, read from their files.
    """
    encode, media_type = choose_encoder(accept)
    if not values.ValueClass._multiprocess:
        return encode(REGISTRY), media_type
    all_processes = CollectorRegistry()
    MultiProcessCollector(all_processes)  # type: ignore[no-untyped-call]
    return encode(all_processes), media_type
