"""The times of day by which stored images expire, although the clock of the machine may be set at any time."""

import time
from collections.abc import Callable

#: Seconds by which the time of day may run ahead of the clock of the process: clocks are adjusted all the time.
_MAX_ADJUSTMENT = 60.0


def steady_clock(
    monotonic: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
) -> Callable[[], float]:
    """Return the time of day of a process, which nobody sets: for images whose times are told by it alone."""
    offset = wall_clock() - monotonic()
    return lambda: monotonic() + offset


class ExpiryClock:
    """Return the time of day for images whose times others tell: a file system, or a bucket.

    An image that was deleted too early is lost, and one that stays longer does no harm. So where the clock was set
    forward, the old time counts on until everything that was stored before is old enough in any case.
    """

    def __init__(
        self,
        patience: float,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`patience`: seconds after which a clock that was set forward is believed."""
        self._patience = patience
        self._monotonic, self._wall_clock = monotonic, wall_clock
        #: What is added to the clock of the process, and when the time of day was first seen to be ahead of that.
        self._offset = wall_clock() - monotonic()
        self._ahead_since: float | None = None

    def __call__(self) -> float:
        now, day = self._monotonic(), self._wall_clock()
        if day - now > self._offset + _MAX_ADJUSTMENT:
            self._ahead_since = now if self._ahead_since is None else self._ahead_since
            if now - self._ahead_since < self._patience:
                return now + self._offset
        self._offset, self._ahead_since = day - now, None
        return day
