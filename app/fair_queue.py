"""A queue that is fair between callers."""

from collections import OrderedDict, deque
from itertools import islice
from typing import Generic, TypeVar

W = TypeVar("W")


class FairQueue(Generic[W]):
    """Those who wait: callers in rotation, each caller's in order of arrival.

    So two hundred requests of one caller do not delay the single request of another.
    """

    def __init__(self) -> None:
        self._by_caller: OrderedDict[str, deque[W]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def count_of(self, caller: str) -> int:
        """Return how many of a caller wait."""
        return len(self._by_caller.get(caller, ()))

    def append(self, caller: str, waiter: W) -> None:
        """Let one more wait, behind all others of its caller."""
        self._by_caller.setdefault(caller, deque()).append(waiter)
        self._length += 1

    def first(self) -> W:
        """Return the next in turn, without a change. There must be one."""
        return next(iter(self._by_caller.values()))[0]

    def pop_first(self) -> W:
        """Remove and return the next in turn. Its caller is the last in turn then."""
        caller, waiters = next(iter(self._by_caller.items()))
        self._by_caller.move_to_end(caller)
        waiter = waiters.popleft()
        self._note_removal(caller)
        return waiter

    def largest_caller(self) -> str | None:
        """Return the caller of whom most wait; None if nobody waits."""
        # Needed by each request that comes while the queue is full: no function of Python runs for each caller.
        counts = [*map(len, self._by_caller.values())]
        return next(islice(self._by_caller, counts.index(max(counts)), None)) if counts else None

    def pop_last(self, caller: str) -> W:
        """Remove and return the last to arrive of a caller of whom some wait."""
        waiter = self._by_caller[caller].pop()
        self._note_removal(caller)
        return waiter

    def remove(self, caller: str, waiter: W) -> None:
        """Remove one, if it waits."""
        if waiter in self._by_caller.get(caller, ()):
            self._by_caller[caller].remove(waiter)
            self._note_removal(caller)

    def _note_removal(self, caller: str) -> None:
        self._length -= 1
        if not self._by_caller[caller]:
            del self._by_caller[caller]
