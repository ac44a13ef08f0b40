"""What one schedule is about: who wants which images, what the upstream does, and what breaks when; all from a seed."""

from dataclasses import dataclass, field, replace
from random import Random

from simulate.replica import DOWNLOAD_FAILURES
from simulate.upstream import BEHAVIORS, GOOD, Behavior

REPLICAS = 3

#: How a client marks a repeat: with an idempotency key, with a count as the official SDKs do, with both, or not at all.
MARKS = ("key", "count", "key and count", "none")


@dataclass(slots=True)
class Wish:
    """One image, or several, that one client wants; it asks until it has them or gives up.

    Attributes:
        mark: One of `MARKS`.
        key: The idempotency key, if it sends one.
        patience: For each attempt, after how many seconds the client leaves; None: it waits for the response.
        leaves_after_steps: For each attempt, after how many turns of the replica the client leaves instead.
        vanishes: For each attempt, whether the replica does not notice at once that the client is gone.
        pauses: Seconds between two attempts.
        stalls: Seconds that each write of a response takes.
        is_async: The client does not wait; it comes back for the result.
        repeats_success: The client asks once more after it has got everything.
    """

    caller: int
    prompt: str
    mark: str
    starts_at: float
    key: str | None = None
    n: int = 1
    stream: bool = False
    wants_url: bool = False
    is_async: bool = False
    repeats_success: bool = False
    patience: list[float | None] = field(default_factory=list)
    leaves_after_steps: list[int | None] = field(default_factory=list)
    vanishes: list[bool] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    stalls: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks `at` a second, for some `seconds`.

    Attributes:
        replica: Which one, for faults of a replica.
        after_steps: So many turns of the replica later, between any two awaits.
    """

    kind: str
    at: float
    seconds: float
    replica: int = 0
    after_steps: int = 0

    @property
    def end(self) -> float:
        return self.at + self.seconds


@dataclass(slots=True)
class Plan:
    """All of one schedule but the chance on the way.

    Attributes:
        is_shared: Three replicas share a Redis; otherwise there is one that shares nothing.
        held: Commands of the job table, each by its name and its number among those, that are held up on their way: for how
            many seconds there, and for how many back.
    """

    seed: int
    wishes: list[Wish]
    faults: list[Fault]
    behaviors: dict[str, list[Behavior]]
    failing_downloads: dict[str, list[str]]
    fail_closed: bool
    keepalive_after: float
    is_shared: bool = True
    held: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    @property
    def is_calm(self) -> bool:
        """Whether Redis works all the time."""
        return not any(fault.kind.startswith("redis") for fault in self.faults)


#: Kinds of faults beside those of clients and upstreams: how often each is chosen, and for how many seconds it lasts.
FAULTS: dict[str, tuple[float, tuple[float, float]]] = {
    "replica killed": (5.0, (0.2, 20.0)),
    "replica paused": (4.0, (0.1, 25.0)),
    "replica drained": (2.0, (0.5, 5.0)),
    "redis down": (2.0, (0.5, 20.0)),
    "redis slow": (2.0, (0.5, 8.0)),
    "redis stalls": (2.0, (0.5, 25.0)),
    "redis falls back": (1.5, (0.1, 8.0)),
    "redis empty": (4.0, (0.0, 0.0)),
    "redis loses packets": (2.0, (1.0, 8.0)),
    "redis doubles packets": (3.0, (2.0, 20.0)),
    "store full": (1.5, (1.0, 8.0)),
    "disk full": (1.0, (0.5, 6.0)),
}


SHARED_FAULTS = {kind: weight for kind, (weight, _) in FAULTS.items()}

#: A replica that shares nothing has no Redis, and loses everything when it ends.
LONELY_FAULTS = {kind: FAULTS[kind][0] for kind in ("replica paused", "store full", "disk full")}


def make_plan(seed: int) -> Plan:
    """Return the plan of a schedule."""
    chance = Random(seed)
    wishes: list[Wish] = []
    prompts = [f"question {seed % 100:02d}{index}" for index in range(2)]
    for index in range(chance.choice((1, 1, 1, 2, 2, 3))):
        wishes += _equal_wishes(chance, index, prompts[index % 2], caller=chance.choice((0, 1)))
    if chance.random() < 0.12:
        # Another caller asks the very same.
        wishes.append(replace(_twin(chance, wishes[0]), caller=1 - wishes[0].caller))
    behaviors = {prompt: _behaviors(chance) for prompt in prompts}
    is_shared = chance.random() < 0.88
    if not is_shared and chance.random() < 0.5:
        wishes += _noise(chance, behaviors, f"question {seed % 100:02d}")
    return Plan(
        seed,
        wishes,
        _faults(chance, SHARED_FAULTS if is_shared else LONELY_FAULTS),
        behaviors,
        {prompt: _failing_downloads(chance) for prompt in prompts},
        fail_closed=chance.random() < 0.3,
        keepalive_after=chance.choice((240.0, 240.0, 0.5)),
        is_shared=is_shared,
    )


def _noise(chance: Random, behaviors: dict[str, list[Behavior]], prefix: str) -> list[Wish]:
    """Return wishes of another caller that cost nothing, and fill the memory of a replica with their failures."""
    busy = next(each for each in BEHAVIORS if each.name == "429")
    wishes = []
    for index in range(2, 12):
        prompt = f"{prefix}{index:x}"
        behaviors[prompt] = [busy] * 8
        wishes.append(Wish(7, prompt, "none", 2 + chance.random() * 10, is_async=True))
    return wishes


def _equal_wishes(chance: Random, index: int, prompt: str, caller: int) -> list[Wish]:
    """Return one wish, or several equal ones of the same caller, as SDKs send them for several images."""
    first = _wish(chance, index, prompt, caller)
    twins = chance.choice((0, 0, 0, 1, 2)) if not first.is_async else 0
    return [first] + [_twin(chance, first) for _ in range(twins)]


def _wish(chance: Random, index: int, prompt: str, caller: int) -> Wish:
    mark = chance.choice(MARKS)
    stream = chance.random() < 0.25
    wish = Wish(
        caller,
        prompt,
        mark,
        starts_at=chance.random() * 3,
        key=chance.choice((f"key-{index}", "key")) if "key" in mark else None,
        n=2 if not stream and chance.random() < 0.12 else 1,
        stream=stream,
        wants_url=not stream and chance.random() < 0.3,
        is_async=not stream and chance.random() < 0.08,
        repeats_success=chance.random() < 0.15,
        stalls=chance.random() * 2 if chance.random() < 0.15 else 0.0,
    )
    _add_attempts(chance, wish)
    return wish


def _twin(chance: Random, first: Wish) -> Wish:
    twin = Wish(
        first.caller, first.prompt, first.mark, first.starts_at + chance.choice((0.0, 0.01, 1.0)) * chance.random(),
        first.key, first.n, first.stream, first.wants_url,
    )  # fmt: skip
    _add_attempts(chance, twin)
    return twin


def _add_attempts(chance: Random, wish: Wish) -> None:
    """Decide when the client leaves, how, and when it comes back."""
    leaves = chance.random() < 0.6
    for _ in range(3):
        leaves_now = leaves and chance.random() < 0.7
        in_steps = leaves_now and chance.random() < 0.35
        wish.patience.append(chance.choice((0.02, 0.5, 3.0, 9.0)) * chance.random() if leaves_now else None)
        wish.leaves_after_steps.append(int(chance.random() ** 2 * 40) if in_steps else None)
        wish.vanishes.append(chance.random() < 0.12)
        wish.pauses.append(chance.choice((0.01, 0.6, 3.0, 9.0)) * (0.3 + chance.random()))


def _behaviors(chance: Random) -> list[Behavior]:
    weights = [behavior.weight for behavior in BEHAVIORS]
    if chance.random() < 0.03:
        return [each for each in BEHAVIORS if each.name in {"429", "503 at once", "refused"}] * 3
    first = chance.choices(BEHAVIORS, weights)[0] if chance.random() < 0.7 else chance.choice(GOOD)
    return [first] if chance.random() < 0.6 else [first, *chance.choices(BEHAVIORS, weights, k=2)]


def _failing_downloads(chance: Random) -> list[str]:
    if chance.random() < 0.8:
        return []
    return [chance.choice(DOWNLOAD_FAILURES) for _ in range(chance.choice((1, 1, 2)))]


def _faults(chance: Random, possible: dict[str, float]) -> list[Fault]:
    kinds, weights = list(possible), list(possible.values())
    chosen = chance.choices(kinds, weights, k=chance.choice((0, 0, 1, 1, 1, 2)))
    return [_fault(chance, kind) for kind in chosen]


def _fault(chance: Random, kind: str) -> Fault:
    shortest, longest = FAULTS[kind][1]
    return Fault(
        kind,
        at=chance.random() * chance.choice((4, 8)),
        seconds=shortest + (longest - shortest) * chance.random(),
        replica=int(chance.random() * REPLICAS),
        after_steps=int(chance.random() ** 2 * 30),
    )
