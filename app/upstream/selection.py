"""Which of several upstreams is asked next."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Candidate:
    """An upstream that has the model. `asked`: this question has been there already; `welcome`: its circuit admits it.

    The lowest `priority` goes first. `full`: as many questions are under way there as it may have.
    """

    name: str
    priority: int = 0
    weight: float = 1.0
    available: bool = True
    full: bool = False
    tried: bool = False


class NoCandidate(Enum):
    """Why no upstream is chosen."""

    BUSY = "one that is left has no place now"
    EXHAUSTED = "none is left that this question has not been to"


def select(candidates: Sequence[Candidate], random: float) -> str | NoCandidate:
    """A name, by weight among those of equal priority; `random` is from [0, 1).

    A circuit is a reason to go elsewhere, not to refuse: where none admits the question, they do not count.
    """
    nobody_is_welcome = not any(candidate.available for candidate in candidates)
    left = [one for one in candidates if not one.tried and (one.available or nobody_is_welcome)]
    free = [one for one in left if not one.full]
    if not free:
        return NoCandidate.BUSY if left else NoCandidate.EXHAUSTED
    first = min(one.priority for one in free)
    equals = [one for one in free if one.priority == first]
    *sums, total = accumulate(one.weight for one in equals)
    return next(
        (one.name for one, so_far in zip(equals, sums, strict=False) if random * total < so_far), equals[-1].name
    )
