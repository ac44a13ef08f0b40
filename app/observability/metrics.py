"""What is counted and timed, of this process or of all its workers, in the form that Prometheus reads."""

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
    """A worker that replaces another one counts on in its files: by process id there would be more after each death."""
    if values.ValueClass._multiprocess and current_process().name != "MainProcess":
        values.ValueClass = values.MultiProcessValue(lambda: current_process().name)  # type: ignore[no-untyped-call]


configure_multiprocess()

#: A second line for each counter and bucket, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

#: A picture takes 30 to 240 seconds, a question at most 600; most of the other steps are over in milliseconds.
_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600)

#: In milliseconds a server is well, in seconds its clients notice.
_LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

#: What an upstream may call an error is its own business; what becomes a label is not.
_LABEL = re.compile(r"[a-z0-9_]{1,40}")


class LabelledCounter:
    """A counter with labels, each set of values bound once.

    Of the last label not more than `most` values are told apart: the others, and what is no plain word, are `other`.
    """

    def __init__(self, counter: Counter, most: int = 100) -> None:
        self._counter = counter
        self._most = most
        self._bound: dict[tuple[str, ...], Counter] = {}

    def labels(self, *labels: str) -> Counter:
        return self._bound.get(labels) or self._bind(labels)

    def _bind(self, labels: tuple[str, ...]) -> Counter:
        if len(self._bound) >= self._most or not _LABEL.fullmatch(labels[-1]):
            labels = (*labels[:-1], "other")
        bound = self._bound[labels] = self._counter.labels(*labels)
        return bound


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(name, meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    """Of several workers the living ones are added up."""
    return Gauge(name, meaning, labels, registry=REGISTRY, multiprocess_mode="livesum")


REQUESTS = LabelledCounter(
    _counter("limner_questions", "Requests for pictures that have ended.", "operation", "outcome")
)
UPSTREAM_ATTEMPTS = LabelledCounter(
    _counter("limner_upstream_attempts", "Tries to ask an upstream.", "upstream", "outcome")
)
IMAGES = _counter("limner_images", "Pictures that were painted.")
DOWNLOADED_BYTES = _counter("limner_downloaded_bytes", "Bytes of pictures that were downloaded.")

_tokens = _counter("limner_tokens", "Tokens, as upstreams report them.", "direction")
_bytes = _counter("limner_client_bytes", "Bytes of the bodies of requests and answers.", "direction")
TOKENS_IN, TOKENS_OUT = _tokens.labels("in"), _tokens.labels("out")
BYTES_IN, BYTES_OUT = _bytes.labels("in"), _bytes.labels("out")

_errors = _counter("limner_part_errors", "Failures of what Limner stores and shares.", "part")
STORE_ERRORS, STATE_ERRORS, LEDGER_ERRORS = (_errors.labels(part) for part in ("store", "state", "ledger"))

WORKER_DEATHS = _counter("limner_worker_deaths", "Workers that ended while the server was not stopping.")

_step_seconds = Histogram(
    "limner_step_seconds", "Time of each step of a question.", ("step",), buckets=_SECONDS, registry=REGISTRY
)
#: By name. `turn` is the wait for one, `send` what follows the work, `total` all of a request, `overhead` its time
#: without the waits for a turn, the upstream and downloads.
STEP_SECONDS = {
    step: _step_seconds.labels(step)
    for step in (
        *("read", "turn", "prepare", "ask", "fetch", "restore", "convert", "keep", "send"),
        *("total", "overhead"),
    )
}

_turns = _gauge("limner_turns", "Questions under way, and requests that wait.", "state")
_TURNS_USED, _TURNS_WAITING = _turns.labels("used"), _turns.labels("waiting")
_TURNS_LIMIT = _gauge("limner_turns_limit", "Questions that may be under way at once.")
SPOOL_BYTES = _gauge("limner_spool_bytes", "Bytes in the temporary files of pictures on their way.")

#: One worker that has shut an upstream out is reason enough to look.
_CIRCUITS = Gauge(
    "limner_upstream_circuit",
    "Whether an upstream is asked: 0 yes, 1 a probe at a time, 2 no.",
    ("upstream",),
    registry=REGISTRY,
    multiprocess_mode="livemax",
)

_STATES = {"closed": 0, "half-open": 1, "open": 2}

_LAG = Histogram("limner_event_loop_lag_seconds", "How late the event loop wakes.", buckets=_LAGS, registry=REGISTRY)


class SlotUsage(Protocol):
    in_use: int
    waiting: int
    limit: int


async def sample_gauges(
    slots: SlotUsage,
    circuits: Callable[[], Mapping[str, str]],
    interval: float = 1.0,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    now: Callable[[], float] = time.perf_counter,
) -> None:
    """Looks every so many seconds at what changes by itself or too often, and at how late it comes to look.

    `circuits`: by the upstream's name, closed, half-open or open.
    """
    while True:
        _TURNS_USED.set(slots.in_use)
        _TURNS_WAITING.set(slots.waiting)
        _TURNS_LIMIT.set(slots.limit)
        for upstream, state in circuits().items():
            _CIRCUITS.labels(upstream).set(_STATES[state])
        began = now()
        await sleep(interval)
        _LAG.observe(max(0.0, now() - began - interval))


def render(accept: str) -> tuple[bytes, str]:
    """All metrics, and their media type, in the form that an `Accept` header prefers.

    Where the process was started with PROMETHEUS_MULTIPROC_DIR, of all processes that share this folder: the library
    decides so when it is imported.
    """
    encode, media_type = choose_encoder(accept)
    if not values.ValueClass._multiprocess:
        return encode(REGISTRY), media_type
    everyone = CollectorRegistry()
    MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
    return encode(everyone), media_type
