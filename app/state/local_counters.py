"""Count in this process alone: the windows of limits, and plain numbers."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class _Use(NamedTuple):
    """When something was used, by the clock of the process, and how much."""

    at: float
    amount: int


@dataclass(slots=True)
class _Window:
    """What was used of one limit, the oldest first, and its sum."""

    uses: deque[_Use] = field(default_factory=deque)
    total: int = 0

    def forget_before(self, moment: float) -> None:
        while self.uses and self.uses[0].at < moment:
            self.total -= self.uses.popleft().amount

    def oldest_of_newest(self, amount: int) -> float:
        """Return when the oldest part of the newest `amount` was used. Something was."""
        older = self.total - amount
        for use in self.uses:
            older -= use.amount
            if older < 0:
                return use.at
        return self.uses[-1].at


class LocalCounters:
    """Count as the storages of `limits` do, but by a clock that nobody sets.

    The library's storage for one process goes by the time of day. When that was set back by an hour, a key at its limit
    was refused for that hour.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """`wall_clock` returns seconds since the epoch, in which answers are given."""
        self._monotonic, self._wall_clock = monotonic, wall_clock
        self._windows: dict[str, _Window] = {}
        #: Each number, and when it is forgotten.
        self._numbers: dict[str, tuple[int, float]] = {}

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Use `amount` of a limit, if no more than `limit` is used then within `expiry` seconds."""
        window = self._window(key, expiry)
        if window.total + amount > limit:
            return False
        window.uses.append(_Use(self._monotonic(), amount))
        window.total += amount
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return how much is used, and the time of the use after which there is room for one more."""
        window = self._window(key, expiry)
        if not window.uses:
            return self._wall_clock(), 0
        age = self._monotonic() - window.oldest_of_newest(limit)
        return self._wall_clock() - age, window.total

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a number, which is forgotten `expiry` seconds after it was first added to."""
        now = self._monotonic()
        self._numbers = {name: kept for name, kept in self._numbers.items() if kept[1] > now}
        number, forgotten_at = self._numbers.get(key, (0, now + expiry))
        self._numbers[key] = number + amount, forgotten_at
        return number + amount

    async def get(self, key: str) -> int:
        """Return a number; 0 where nothing was added to it."""
        number, forgotten_at = self._numbers.get(key, (0, 0.0))
        return number if forgotten_at > self._monotonic() else 0

    def _window(self, key: str, expiry: int) -> _Window:
        window = self._windows.setdefault(key, _Window())
        window.forget_before(self._monotonic() - expiry)
        return window
