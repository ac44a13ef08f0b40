"""Simulate a day of requests to a fleet of workers, event by event, and compute the resources that the fleet needs.

`python -m bench.simulation` prints the table of docs/scaling.md. The costs of one request are those of bench/README.md.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, log
from random import Random

_HOUR = 3600.0
_MIB = 2**20

#: Seconds for which an upstream generates one image: minimum, maximum and mode of a triangular distribution.
GENERATION_SECONDS = (30.0, 240.0, 75.0)

#: Minimum and maximum size of an image. The logarithm is distributed evenly, so small images are more frequent.
IMAGE_BYTES = (1 * _MIB, 20 * _MIB)

#: Bytes per second that a client receives; its image stays in the spool until the last byte is sent.
_CLIENT_BYTES_PER_SECOND = 2e6

#: MiB of an idle worker, KiB of a waiting request, and MiB of an image while it is sent.
_IDLE_MIB, _WAITING_KIB, _TRANSFER_MIB = 80, 80, 1.6

#: CPU time in ms of a request that waits a minute or more, and of each MiB that is fetched and sent as base64.
_CPU_MS, _CPU_MS_PER_MIB = 3.5, 1.4

#: File descriptors of a request at most: its client, its upstream, the download of its image, two spool files.
_DESCRIPTORS_PER_REQUEST = 5

#: Redis commands of a request: ten for the limits of its client key, if these are two on requests, two on images and a
#: monthly budget, and three for the job table. One heartbeat every two seconds covers all running jobs of a worker.
REDIS_COMMANDS, _HEARTBEAT = 13, 2.0


@dataclass(frozen=True, slots=True)
class Period:
    """A part of the day; `share` is its rate of arrivals relative to the busiest hour."""

    seconds: float
    share: float


#: Quiet at night, two peaks, and in the first of them ten minutes with one and a half times the rate.
DAY = (
    *(Period(_HOUR, share) for share in (0.2, 0.12, 0.08, 0.06, 0.06, 0.1, 0.2, 0.4, 0.65, 0.85)),
    *(Period(seconds, share) for seconds, share in ((1500.0, 0.9), (600.0, 1.5), (1500.0, 0.9))),
    *(Period(_HOUR, share) for share in (0.95, 0.8, 0.75, 0.85, 0.9, 0.85, 0.75, 0.7, 0.8, 0.9, 0.7, 0.5, 0.3)),
)

#: The highest share of `DAY`.
_PEAK_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet of workers and its load.

    Attributes:
        images_per_hour: Load in the busiest hour.
        slots: Concurrent upstream requests of one worker.
        queue: Requests that may wait for a slot of one worker.
        upstream_limit: Sum of the `max_concurrency` of all upstreams of one worker; None if it is not limited.
    """

    name: str
    images_per_hour: float
    workers: int = 1
    slots: int = 256
    queue: int = 256
    upstream_limit: int | None = None

    @property
    def capacity(self) -> int:
        return self.slots if self.upstream_limit is None else min(self.slots, self.upstream_limit)


FLEETS = (
    Fleet("10", 10),
    Fleet("1,000", 1_000, workers=2),
    Fleet("1,000, small upstreams", 1_000, workers=2, upstream_limit=18),
    Fleet("and a short queue", 1_000, workers=2, upstream_limit=18, queue=12),
    Fleet("100,000", 100_000, workers=24),
)


@dataclass(slots=True)
class Worker:
    """Slots in use, and the waiting requests with their times of arrival."""

    used: int = 0
    queue: deque[tuple[float, "SimulatedRequest"]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    seconds: float
    size: float


@dataclass(slots=True)
class DayResult:
    """Result of a simulated day.

    Attributes:
        seconds: Time of the last completion.
        seconds_by_in_flight: For how long each number of requests was in flight.
        waits: Seconds in the queue, of the requests that waited.
        in_flight_seconds: Number of requests in flight, summed over time.
        waiting_seconds: Number of waiting requests, summed over time.
        generation_seconds: Sum of the generation times of all requests.
        peak_per_worker: Highest number of requests in one worker, waiting ones included.
        peak_spooled_bytes: Highest number of bytes in the spools of all workers.
        peak_transfers: Highest number of images that were sent at the same time.
    """

    requests: int = 0
    served: int = 0
    rejected: int = 0
    seconds: float = 0.0
    seconds_by_in_flight: dict[int, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    in_flight_seconds: float = 0.0
    waiting_seconds: float = 0.0
    generation_seconds: float = 0.0
    peak_per_worker: int = 0
    peak_spooled_bytes: float = 0.0
    peak_transfers: int = 0
    image_bytes: float = 0.0

    @property
    def peak_in_flight(self) -> int:
        return max(self.seconds_by_in_flight)

    def in_flight_quantile(self, share: float) -> int:
        """Return the number of requests in flight that was not exceeded for this share of the time."""
        remaining = share * sum(self.seconds_by_in_flight.values())
        for number in sorted(self.seconds_by_in_flight):
            remaining -= self.seconds_by_in_flight[number]
            if remaining <= 0:
                break
        return number


class Simulation:
    """Requests go to the workers round-robin, as most load balancers send them. A rejected one is not retried."""

    def __init__(self, fleet: Fleet, random_source: Random) -> None:
        self._fleet = fleet
        self._random = random_source
        self._workers = [Worker() for _ in range(fleet.workers)]
        self._completions: list[tuple[float, int, SimulatedRequest]] = []
        self._transfers: list[tuple[float, float]] = []
        self._now, self._in_flight, self._queued, self._spooled_bytes = 0.0, 0, 0, 0.0
        self._result = DayResult()

    def simulate_day(self, day: Iterable[Period]) -> DayResult:
        result = self._result
        for number, arrived_at in enumerate(self._arrivals(day)):
            self._complete_until(until=arrived_at)
            self._advance(arrived_at)
            result.requests += 1
            self._accept(number % self._fleet.workers)
        self._complete_until(until=inf)
        result.seconds = self._now
        return result

    def _arrivals(self, day: Iterable[Period]) -> Iterator[float]:
        """Yield the times of a Poisson process, which is memoryless, so each period may start with a new interval."""
        period_start = 0.0
        for period in day:
            mean = _HOUR / (self._fleet.images_per_hour * period.share)
            arrived_at = period_start + self._interval(mean)
            while arrived_at < period_start + period.seconds:
                yield arrived_at
                arrived_at += self._interval(mean)
            period_start += period.seconds

    def _interval(self, mean: float) -> float:
        return -log(1.0 - self._random.random()) * mean

    def _new_request(self) -> SimulatedRequest:
        smallest, largest = IMAGE_BYTES
        low, high, mode = GENERATION_SECONDS
        size = smallest * (largest / smallest) ** self._random.random()
        return SimulatedRequest(self._random.triangular(low, high, mode), size)

    def _advance(self, until: float) -> None:
        result, elapsed = self._result, until - self._now
        result.seconds_by_in_flight[self._in_flight] = result.seconds_by_in_flight.get(self._in_flight, 0.0) + elapsed
        result.in_flight_seconds += elapsed * self._in_flight
        result.waiting_seconds += elapsed * self._queued
        self._now = until

    def _accept(self, index: int) -> None:
        worker, request = self._workers[index], self._new_request()
        if worker.used < self._fleet.capacity:
            self._start(index, request)
        elif len(worker.queue) < self._fleet.queue:
            worker.queue.append((self._now, request))
            self._queued += 1
        else:
            self._result.rejected += 1
        self._result.peak_per_worker = max(self._result.peak_per_worker, worker.used + len(worker.queue))

    def _start(self, index: int, request: SimulatedRequest) -> None:
        self._workers[index].used += 1
        self._in_flight += 1
        self._result.generation_seconds += request.seconds
        heapq.heappush(self._completions, (self._now + request.seconds, index, request))

    def _complete_until(self, until: float) -> None:
        while self._completions and self._completions[0][0] <= until:
            completed_at, index, request = heapq.heappop(self._completions)
            self._advance(completed_at)
            self._result.served += 1
            self._transfer(request.size)
            worker = self._workers[index]
            worker.used -= 1
            self._in_flight -= 1
            if worker.queue:
                arrived_at, request = worker.queue.popleft()
                self._queued -= 1
                self._result.waits.append(completed_at - arrived_at)
                self._start(index, request)

    def _transfer(self, size: float) -> None:
        while self._transfers and self._transfers[0][0] <= self._now:
            self._spooled_bytes -= heapq.heappop(self._transfers)[1]
        heapq.heappush(self._transfers, (self._now + size / _CLIENT_BYTES_PER_SECOND, size))
        self._spooled_bytes += size
        result = self._result
        result.image_bytes += size
        result.peak_spooled_bytes = max(result.peak_spooled_bytes, self._spooled_bytes)
        result.peak_transfers = max(result.peak_transfers, len(self._transfers))


def simulate(fleet: Fleet, day: Iterable[Period] = DAY, seed: int = 1) -> DayResult:
    return Simulation(fleet, Random(seed)).simulate_day(day)


def _peak_rate(fleet: Fleet) -> float:
    """Return the number of images per second in the busiest ten minutes."""
    return fleet.images_per_hour * _PEAK_FACTOR / _HOUR


def _mean_image_bytes(result: DayResult) -> float:
    return result.image_bytes / result.served


def _memory(fleet: Fleet, result: DayResult) -> float:
    """Return the MiB of the fullest worker; images that are sent are spread over all workers."""
    return (
        _IDLE_MIB + result.peak_per_worker * _WAITING_KIB / 1024 + _TRANSFER_MIB * result.peak_transfers / fleet.workers
    )


def _cores(fleet: Fleet, result: DayResult) -> float:
    return _peak_rate(fleet) * (_CPU_MS + _CPU_MS_PER_MIB * _mean_image_bytes(result) / _MIB) / 1000


def _format_waits(result: DayResult) -> str:
    return f"{len(result.waits):,}, {max(result.waits):.0f} s" if result.waits else "0"


#: The lines of the table: label and value.
QUANTITIES: tuple[tuple[str, Callable[[Fleet, DayResult], str]], ...] = (
    ("workers × slots", lambda fleet, _: f"{fleet.workers} × {fleet.capacity}"),
    ("workers × queue length", lambda fleet, _: f"{fleet.workers} × {fleet.queue}"),
    ("images that day", lambda _, result: f"{result.served:,}"),
    ("requests in flight, mean", lambda _, result: f"{result.in_flight_seconds / result.seconds:,.1f}"),
    ("… not more for 95 % of the day", lambda _, result: f"{result.in_flight_quantile(0.95):,}"),
    ("… at most: as many must the upstreams accept", lambda _, result: f"{result.peak_in_flight:,}"),
    ("requests that waited for a slot, the longest", lambda _, result: _format_waits(result)),
    ("429s", lambda _, result: f"{result.rejected:,}"),
    ("memory of the fullest worker, MiB", lambda fleet, result: f"{_memory(fleet, result):,.0f}"),
    (
        "file descriptors of the fullest worker",
        lambda _, result: f"{result.peak_per_worker * _DESCRIPTORS_PER_REQUEST:,}",
    ),
    ("spool of all workers, MB", lambda _, result: f"{result.peak_spooled_bytes / 1e6:,.0f}"),
    ("% of one CPU core in the busiest ten minutes", lambda fleet, result: f"{100 * _cores(fleet, result):.2g}"),
    (
        "MB/s in the busiest ten minutes, from upstreams",
        lambda fleet, result: f"{_peak_rate(fleet) * _mean_image_bytes(result) / 1e6:,.2f}",
    ),
    (
        "… to clients, as base64",
        lambda fleet, result: f"{_peak_rate(fleet) * _mean_image_bytes(result) * 4 / 3 / 1e6:,.2f}",
    ),
    ("image store, if all images are kept for a day, GB", lambda _, result: f"{result.image_bytes / 1e9:,.1f}"),
    (
        "Redis commands per second in the busiest ten minutes",
        lambda fleet, _: f"{_peak_rate(fleet) * REDIS_COMMANDS + fleet.workers / _HEARTBEAT:,.0f}",
    ),
)


def tabulate(fleets: Sequence[Fleet] = FLEETS, day: Sequence[Period] = DAY) -> str:
    """Return the table in Markdown."""
    runs = [(fleet, simulate(fleet, day)) for fleet in fleets]
    lines = [["images in the busiest hour", *(fleet.name for fleet in fleets)], ["---", *("---:" for _ in fleets)]]
    lines += [[label, *(describe(fleet, result) for fleet, result in runs)] for label, describe in QUANTITIES]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(tabulate())
