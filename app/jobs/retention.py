"""Which finished jobs are kept, how much they hold, and which are dropped first. No operation looks at all of them.

Where there is no room, the first to go are jobs that cost nothing, then those whose result was delivered, then all
others; among these, the oldest job of the caller that holds most.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Self

from app.jobs.job import Job

#: Entries of a heap that may be out of date before it is rebuilt.
_SPARE = 64


class EvictionClass(IntEnum):
    """What is lost with a retained job. Where there is no room, jobs of a lower class are dropped first."""

    #: Nothing: it has failed at no cost.
    COST_NOTHING = 0
    #: What a client has got already, it seems.
    ONLY_FOR_RETRIES = 1
    #: What a client may come back for, and would pay for again.
    NEEDED = 2

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return the class of a finished job."""
        if job.has_failed and not job.may_have_cost:
            return cls.COST_NOTHING
        return cls.ONLY_FOR_RETRIES if job.is_only_for_retries else cls.NEEDED


class Retention:
    """Finished jobs that have no readers, until their time is over or there is no room."""

    def __init__(self, max_count: int, max_size: int) -> None:
        self._max_count, self._max_size = max_count, max_size
        #: The jobs that may be dropped, by eviction class, and by the id of each job those that it is among.
        self._by_class = tuple(RetainedJobs() for _ in EvictionClass)
        self._droppable: dict[str, RetainedJobs] = {}
        #: By the seconds for which jobs are kept: then the order of arrival is the order of expiry.
        self._expiring: dict[float, OrderedDict[str, Job]] = {}
        self._ttl_of: dict[str, float] = {}

    def keep(self, job: Job, ttl: float, now: float) -> None:
        """Keep a job for `ttl` seconds from `now`. One that is kept so already keeps its time."""
        if self._ttl_of.get(job.id) != ttl or job.expires_at == math.inf:
            self._stop_timer(job)
            job.expires_at, self._ttl_of[job.id] = now + ttl, ttl
            self._expiring.setdefault(ttl, OrderedDict())[job.id] = job
        self.protect(job)
        retained = self._droppable[job.id] = self._by_class[EvictionClass.of(job)]
        job.drop_unneeded()
        retained.add(job, job.held_bytes)

    def protect(self, job: Job) -> None:
        """Do not drop a job for want of room any more, since a client reads it."""
        retained = self._droppable.pop(job.id, None)
        if retained is not None:
            retained.remove(job)

    def forget(self, job: Job) -> None:
        """Forget everything of a job. One that is not kept has no timer."""
        if job.id in self._ttl_of:
            self.protect(job)
            self._stop_timer(job)

    def _stop_timer(self, job: Job) -> None:
        ttl = self._ttl_of.pop(job.id, None)
        if ttl is not None:
            self._expiring[ttl].pop(job.id, None)

    def expired(self, now: float) -> Iterator[Job]:
        """Yield the jobs whose time is over. Those that are read at present are due when their readers have left."""
        for jobs in self._expiring.values():
            while jobs and (job := next(iter(jobs.values()))).expires_at <= now:
                del jobs[job.id]
                if job.id in self._droppable:
                    yield job

    def over_limits(self) -> Iterator[Job]:
        """Yield jobs for which there is no room. The caller forgets each of them before it asks for the next."""
        while len(self._droppable) > self._max_count:
            yield next(each for each in self._by_class if each.count).oldest_of_largest(by_size=False)
        while sum([each.size for each in self._by_class]) > self._max_size:
            yield next(each for each in self._by_class if each.size).oldest_of_largest(by_size=True)

    def dispensable(self, size: int) -> Iterator[Job]:
        """Yield jobs whose loss costs nobody an image, until `size` bytes are free; none if all are not enough.

        The caller forgets each of them before it asks for the next.
        """
        dispensable = self._by_class[: EvictionClass.NEEDED]
        least = sum(each.size for each in dispensable) - size
        while 0 <= least < sum(each.size for each in dispensable):
            yield next(each for each in dispensable if each.size).oldest_of_largest(by_size=True)


class RetainedJobs:
    """Retained jobs of one eviction class, by caller."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._by_caller: dict[str, CallerJobs] = {}
        self._by_count, self._by_size = Ranking(), Ranking()

    def add(self, job: Job, size: int) -> None:
        """Add a job that holds `size` bytes."""
        of_caller = self._by_caller.get(job.key.caller)
        if of_caller is None:
            of_caller = self._by_caller[job.key.caller] = CallerJobs()
        of_caller.jobs[job.id] = job, size
        self._change(job.key.caller, 1, size)

    def remove(self, job: Job) -> None:
        """Remove a job that was added."""
        _, size = self._by_caller[job.key.caller].jobs.pop(job.id)
        self._change(job.key.caller, -1, -size)

    def _change(self, caller: str, count: int, size: int) -> None:
        of_caller = self._by_caller[caller]
        of_caller.size += size
        self.count += count
        self.size += size
        self._by_count.set(caller, len(of_caller.jobs))
        self._by_size.set(caller, of_caller.size)
        if not of_caller.jobs:
            del self._by_caller[caller]

    def oldest_of_largest(self, *, by_size: bool) -> Job:
        """Return the oldest job of the caller with most bytes, or with most jobs."""
        of_caller = self._by_caller[(self._by_size if by_size else self._by_count).largest()]
        return next(iter(of_caller.jobs.values()))[0]


@dataclass(slots=True)
class CallerJobs:
    """The retained jobs of one caller, the oldest first, with the bytes that each held when it was retained."""

    jobs: "OrderedDict[str, tuple[Job, int]]" = field(default_factory=OrderedDict)
    size: int = 0


class Ranking:
    """The caller with the largest number, found in O(log n). Entries that are out of date are skipped."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def set(self, caller: str, number: int) -> None:
        """Change the number of a caller; 0 removes it."""
        if not number:
            self._numbers.pop(caller, None)
            return
        self._numbers[caller] = number
        heappush(self._heap, (-number, caller))
        if len(self._heap) > 2 * len(self._numbers) + _SPARE:
            self._heap = [(-each, name) for name, each in self._numbers.items()]
            heapify(self._heap)

    def largest(self) -> str:
        """Return the caller with the largest number. There must be one."""
        while self._numbers.get(self._heap[0][1]) != -self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][1]
