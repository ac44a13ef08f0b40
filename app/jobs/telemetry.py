"""What one run of a job has cost, and how long it took."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.observability.tracing import RequestTrace
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.image_request import ImagesRequest
from app.state.budget import Reservation


class OverlapTimer:
    """Measure the seconds during which at least one of several things was in progress."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running = 0
        self._since = 0.0

    def __enter__(self) -> None:
        if not self._running:
            self._since = time.perf_counter()
        self._running += 1

    def __exit__(self, *_: object) -> None:
        self._running -= 1
        if not self._running:
            self.seconds += time.perf_counter() - self._since


@dataclass(slots=True)
class JobTelemetry:
    """What one run has cost and how long it took, for headers, the log, the ledger and traces.

    Attributes:
        waiting: Runs while an upstream or a download is waited for.
        upstream: Runs while an upstream is waited for.
        download: Runs while a download is waited for.
        shrunk: Input images that were made smaller, each in ASCII for a header.
        upstreams: Names of the upstreams that have answered.
        answered_by: These names, for a header; empty where only one upstream could answer.
        attempts: How many requests were sent to upstreams.
        attempt_records: What each of these requests has cost.
        queue_seconds: How long the run waited for its slots.
        progress: The upstream's last words about its progress, on one line.
        progress_read_at: When these were looked for last, by `time.perf_counter`.
        rate_limit_headers: What the client key has left.
        reservation: What is reserved of the budget of the client key until the cost is known.
        ignored: Parameters without effect: at all upstreams that may answer, and then at those that have answered. None
            leaves it at what the request itself tells.
    """

    trace: RequestTrace = field(default_factory=RequestTrace)
    rate_limit_headers: Mapping[str, str] = field(default_factory=dict)
    waiting: OverlapTimer = field(default_factory=OverlapTimer)
    upstream: OverlapTimer = field(default_factory=OverlapTimer)
    download: OverlapTimer = field(default_factory=OverlapTimer)
    shrunk: list[str] = field(default_factory=list)
    answered_by: dict[str, None] = field(default_factory=dict)
    upstreams: dict[str, None] = field(default_factory=dict)
    started_at: float = field(default_factory=time.perf_counter)
    attempts: int = 0
    attempt_records: list[AttemptRecord] = field(default_factory=list)
    reservation: Reservation | None = None
    queue_seconds: float = 0.0
    progress: str = ""
    progress_read_at: float = -math.inf
    ignored: tuple[str, ...] | None = None

    def ignored_of(self, request: ImagesRequest) -> tuple[str, ...]:
        """Return the names of the parameters of a request that have no effect, as far as is known."""
        return request.ignored if self.ignored is None else self.ignored

    def overhead(self, until: float) -> float:
        """Return the seconds that Limner itself took until the given `time.perf_counter`."""
        return max(0.0, until - self.started_at - self.waiting.seconds - self.queue_seconds)
