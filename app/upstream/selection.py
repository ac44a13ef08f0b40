"""Select the upstream for the next attempt, by priority, weight and availability."""

from collections.abc import Sequence
from enum import Enum
from itertools import accumulate

from app.protocol.values import value_class


@value_class
class Candidate:
    """An upstream that has the requested model.

    Attributes:
        priority: The lowest goes first.
        weight: The share of requests among upstreams of equal priority.
        available: Its circuit breaker allows the request.
        full: It has as many requests in flight as it may have.
        tried: An attempt at it has failed, and no retry there is due.
    """

    name: str
    priority: int = 0
    weight: float = 1.0
    available: bool = True
    full: bool = False
    tried: bool = False


class NoCandidate(Enum):
    """Why no upstream is selected."""

    BUSY = "an upstream is left, but it has no free slot now"
    EXHAUSTED = "every upstream whose circuit allows the request has been tried"


def select(candidates: Sequence[Candidate], random: float) -> str | NoCandidate:
    """Return the name of the upstream to try next. `random`: from [0, 1), decides between equal priorities by weight.

    An open circuit is a reason to go elsewhere, not to refuse: if all circuits are open, they do not count.
    """
    all_open = True not in [candidate.available for candidate in candidates]
    untried = [each for each in candidates if not each.tried and (each.available or all_open)]
    free = [each for each in untried if not each.full]
    if not free:
        return NoCandidate.BUSY if untried else NoCandidate.EXHAUSTED
    first = min([each.priority for each in free])
    equals = [each for each in free if each.priority == first]
    if len(equals) == 1:
        return equals[0].name
    *sums, total = accumulate(each.weight for each in equals)
    return next(
        (each.name for each, so_far in zip(equals, sums, strict=False) if random * total < so_far), equals[-1].name
    )
