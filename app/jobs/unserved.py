"""Requests that have ended with nothing, at no cost: their clients had left, or were told of an error.

A client that marks its retries comes back with one, which is no evidence that the client of another job is gone.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from app.jobs.job import JobKey


class UnservedRequests:
    """Count such requests in each group, for as long as their clients may repeat them.

    Not under an idempotency key, where all requests are one job.
    """

    def __init__(self, *, ttl: float, max_groups: int, now: Callable[[], float] = time.monotonic) -> None:
        """Remember the latest `max_groups` groups, each for `ttl` seconds after its latest change."""
        self._ttl, self._max_groups, self._now = ttl, max_groups, now
        self._groups: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def has_any(self, key: JobKey) -> bool:
        """Return whether one of these requests has not been repeated yet."""
        return self._count(key) > 0

    def note_end(self, key: JobKey) -> None:
        """Note that a request has ended with nothing, at no cost."""
        if key.counts_attempts and key.key is None:
            self._set(key, self._count(key) + 1)

    def note_new_job(self, key: JobKey) -> None:
        """Note that a request starts a job of its own. If it is a retry, it repeats one of these requests.

        Also where there is none yet: it may have overtaken the request that it repeats, which then ends later.
        """
        if key.is_retry and key.key is None:
            self._set(key, self._count(key) - 1)

    def _count(self, key: JobKey) -> int:
        count, until = self._groups.get(key.group, (0, 0.0))
        return count if until > self._now() else 0

    def _set(self, key: JobKey, count: int) -> None:
        self._groups.pop(key.group, None)
        if count:
            self._groups[key.group] = count, self._now() + self._ttl
        if len(self._groups) > self._max_groups:
            self._groups.popitem(last=False)
