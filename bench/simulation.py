"""Growth on paper: a day of questions through a fleet of workers, event by event, and what the fleet needs for it.

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

#: How long an upstream paints, in seconds: least, most, most often.
PAINTING = (30.0, 240.0, 75.0)

#: Bytes of a picture, small ones more often: the logarithm is spread evenly.
SIZES = (1 * _MIB, 20 * _MIB)

#: Bytes a second that a client takes; until it has them all, its picture lies in the spool.
_TAKEN = 2e6

#: MiB at rest, in all workers alike; KiB of a request that waits; MiB of a picture on its way.
_AT_REST, _WAITING, _MOVING = 80, 80, 1.6

#: Milliseconds of a processor: for a request that waits a minute or more, and for each MiB fetched and sent as base64.
_CPU, _CPU_MIB = 3.5, 1.4

#: File descriptors of a request at most: its client, its upstream, its picture's download, two files of the spool.
_DESCRIPTORS = 5

#: Commands to Redis for a question: ten count it, where its key has two limits of requests, two of images and a
#: budget; three tell other workers of it. A worker tells of all that it has under way in one, every two seconds.
COMMANDS, _BEAT = 13, 2.0


@dataclass(frozen=True, slots=True)
class Slot:
    """`share`: arrivals as a part of those in the busiest hour."""

    seconds: float
    share: float


#: Asleep at night, two peaks, and in the first of them ten minutes of half as much again.
DAY = (
    *(Slot(_HOUR, share) for share in (0.2, 0.12, 0.08, 0.06, 0.06, 0.1, 0.2, 0.4, 0.65, 0.85)),
    *(Slot(seconds, share) for seconds, share in ((1500.0, 0.9), (600.0, 1.5), (1500.0, 0.9))),
    *(Slot(_HOUR, share) for share in (0.95, 0.8, 0.75, 0.85, 0.9, 0.85, 0.75, 0.7, 0.8, 0.9, 0.7, 0.5, 0.3)),
)

#: Of DAY.
_RUSH = 1.5


@dataclass(frozen=True, slots=True)
class Fleet:
    """`pictures` an hour, in the busiest one. The rest is of each worker: `queue` requests may wait for one of its
    turns, `upstreams` is the sum of their `max_concurrency`.
    """

    name: str
    pictures: float
    workers: int = 1
    turns: int = 256
    queue: int = 256
    upstreams: int | None = None

    @property
    def places(self) -> int:
        return self.turns if self.upstreams is None else min(self.turns, self.upstreams)


FLEETS = (
    Fleet("10", 10),
    Fleet("1,000", 1_000, workers=2),
    Fleet("1,000, small upstreams", 1_000, workers=2, upstreams=18),
    Fleet("and a short queue", 1_000, workers=2, upstreams=18, queue=12),
    Fleet("100,000", 100_000, workers=24),
)


@dataclass(slots=True)
class Worker:
    """`used` turns; `line`: when each request that waits has come, and its `Question`."""

    used: int = 0
    line: deque[tuple[float, "Question"]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Question:
    seconds: float
    size: float


@dataclass(slots=True)
class Run:
    """What came of it. `levels`: seconds with so many questions under way; `waited` in seconds, of those that did.

    `under_way` and `waiting` are sums over time, in question-seconds; `painted` is the sum of the questions' own times.
    `held`: the most that one worker had, and `spooled` bytes and `moving` pictures that all had at once.
    """

    asked: int = 0
    served: int = 0
    refused: int = 0
    seconds: float = 0.0
    levels: dict[int, float] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    under_way: float = 0.0
    waiting: float = 0.0
    painted: float = 0.0
    held: int = 0
    spooled: float = 0.0
    moving: int = 0
    bytes: float = 0.0

    @property
    def most(self) -> int:
        return max(self.levels)

    def level(self, share: float) -> int:
        """So many or fewer were under way for that share of the time."""
        left = share * sum(self.levels.values())
        for level in sorted(self.levels):
            left -= self.levels[level]
            if left <= 0:
                break
        return level


class Simulation:
    """Requests go to the workers in turn, as most balancers send them; a refused one does not come back."""

    def __init__(self, fleet: Fleet, chance: Random) -> None:
        self._fleet = fleet
        self._chance = chance
        self._workers = [Worker() for _ in range(fleet.workers)]
        self._ends: list[tuple[float, int, Question]] = []
        self._sending: list[tuple[float, float]] = []
        self._now, self._used, self._waiting, self._spool = 0.0, 0, 0, 0.0
        self._run = Run()

    def play(self, day: Iterable[Slot]) -> Run:
        run = self._run
        for number, came in enumerate(self._arrivals(day)):
            self._finish(until=came)
            self._pass(came)
            run.asked += 1
            self._admit(number % self._fleet.workers)
        self._finish(until=inf)
        run.seconds = self._now
        return run

    def _arrivals(self, day: Iterable[Slot]) -> Iterator[float]:
        """A Poisson process, which forgets: each slot may begin anew."""
        begins = 0.0
        for slot in day:
            mean = _HOUR / (self._fleet.pictures * slot.share)
            came = begins + self._gap(mean)
            while came < begins + slot.seconds:
                yield came
                came += self._gap(mean)
            begins += slot.seconds

    def _gap(self, mean: float) -> float:
        return -log(1.0 - self._chance.random()) * mean

    def _question(self) -> Question:
        least, most = SIZES
        low, high, mode = PAINTING
        size = least * (most / least) ** self._chance.random()
        return Question(self._chance.triangular(low, high, mode), size)

    def _pass(self, until: float) -> None:
        run, gone = self._run, until - self._now
        run.levels[self._used] = run.levels.get(self._used, 0.0) + gone
        run.under_way += gone * self._used
        run.waiting += gone * self._waiting
        self._now = until

    def _admit(self, index: int) -> None:
        worker, question = self._workers[index], self._question()
        if worker.used < self._fleet.places:
            self._begin(index, question)
        elif len(worker.line) < self._fleet.queue:
            worker.line.append((self._now, question))
            self._waiting += 1
        else:
            self._run.refused += 1
        self._run.held = max(self._run.held, worker.used + len(worker.line))

    def _begin(self, index: int, question: Question) -> None:
        self._workers[index].used += 1
        self._used += 1
        self._run.painted += question.seconds
        heapq.heappush(self._ends, (self._now + question.seconds, index, question))

    def _finish(self, until: float) -> None:
        while self._ends and self._ends[0][0] <= until:
            ended, index, question = heapq.heappop(self._ends)
            self._pass(ended)
            self._run.served += 1
            self._send(question.size)
            worker = self._workers[index]
            worker.used -= 1
            self._used -= 1
            if worker.line:
                came, question = worker.line.popleft()
                self._waiting -= 1
                self._run.waited.append(ended - came)
                self._begin(index, question)

    def _send(self, size: float) -> None:
        while self._sending and self._sending[0][0] <= self._now:
            self._spool -= heapq.heappop(self._sending)[1]
        heapq.heappush(self._sending, (self._now + size / _TAKEN, size))
        self._spool += size
        run = self._run
        run.bytes += size
        run.spooled = max(run.spooled, self._spool)
        run.moving = max(run.moving, len(self._sending))


def simulate(fleet: Fleet, day: Iterable[Slot] = DAY, seed: int = 1) -> Run:
    return Simulation(fleet, Random(seed)).play(day)


def _rate(fleet: Fleet) -> float:
    """Pictures a second in the rush."""
    return fleet.pictures * _RUSH / _HOUR


def _size(run: Run) -> float:
    return run.bytes / run.served


def _memory(fleet: Fleet, run: Run) -> float:
    """MiB of the fullest worker; pictures on their way are spread over all."""
    return _AT_REST + run.held * _WAITING / 1024 + _MOVING * run.moving / fleet.workers


def _cores(fleet: Fleet, run: Run) -> float:
    return _rate(fleet) * (_CPU + _CPU_MIB * _size(run) / _MIB) / 1000


def _sum_up_waits(run: Run) -> str:
    return f"{len(run.waited):,}, {max(run.waited):.0f} s" if run.waited else "0"


#: What is told of each fleet, one line each.
QUANTITIES: tuple[tuple[str, Callable[[Fleet, Run], str]], ...] = (
    ("workers × questions at once", lambda fleet, _: f"{fleet.workers} × {fleet.places}"),
    ("workers × requests that may wait", lambda fleet, _: f"{fleet.workers} × {fleet.queue}"),
    ("pictures that day", lambda _, run: f"{run.served:,}"),
    ("questions under way, mean", lambda _, run: f"{run.under_way / run.seconds:,.1f}"),
    ("… not more for 95 % of the day", lambda _, run: f"{run.level(0.95):,}"),
    ("… at most: so many the upstreams must take", lambda _, run: f"{run.most:,}"),
    ("requests that waited for a turn, the longest", lambda _, run: _sum_up_waits(run)),
    ("429s", lambda _, run: f"{run.refused:,}"),
    ("memory of the fullest worker, MiB", lambda fleet, run: f"{_memory(fleet, run):,.0f}"),
    ("file descriptors of the fullest worker", lambda _, run: f"{run.held * _DESCRIPTORS:,}"),
    ("spool of all workers, MB", lambda _, run: f"{run.spooled / 1e6:,.0f}"),
    ("% of one processor core in the rush", lambda fleet, run: f"{100 * _cores(fleet, run):.2g}"),
    ("MB/s in the rush, from upstreams", lambda fleet, run: f"{_rate(fleet) * _size(run) / 1e6:,.2f}"),
    ("… to clients, as base64", lambda fleet, run: f"{_rate(fleet) * _size(run) * 4 / 3 / 1e6:,.2f}"),
    ("store, if all are kept for a day, GB", lambda _, run: f"{run.bytes / 1e9:,.1f}"),
    (
        "Redis commands a second in the rush",
        lambda fleet, _: f"{_rate(fleet) * COMMANDS + fleet.workers / _BEAT:,.0f}",
    ),
)


def tabulate(fleets: Sequence[Fleet] = FLEETS, day: Sequence[Slot] = DAY) -> str:
    """In Markdown."""
    runs = [(fleet, simulate(fleet, day)) for fleet in fleets]
    lines = [["pictures in the busiest hour", *(fleet.name for fleet in fleets)], ["---", *("---:" for _ in fleets)]]
    lines += [[says, *(tell(fleet, run) for fleet, run in runs)] for says, tell in QUANTITIES]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(tabulate())
