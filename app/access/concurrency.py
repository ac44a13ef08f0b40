"""Limit the concurrency of this process, fairly between callers."""

import asyncio

from app.errors import RateLimited
from app.fair_queue import FairQueue


class FairSemaphore:
    """A semaphore of `limit` slots for which at most `max_waiting` requests wait.

    Waiting callers get slots in rotation. The next in turn is never overtaken by one that needs fewer slots.

    Attributes:
        in_use: Slots that are held. May exceed `limit` after the limit was lowered.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._max_waiting = max_waiting
        self._queue: FairQueue[_Waiter] = FairQueue()

    @property
    def waiting(self) -> int:
        """How many requests wait for slots."""
        return len(self._queue)

    def acquire(self, caller: str, slots: int = 1) -> "HeldSlots":
        """Hold `slots` slots for an `async with`. They are granted together: no request holds some while it waits.

        A request that needs more slots than there are holds all of them.

        Raises:
            RateLimited: The queue is full.
        """
        return HeldSlots(self, caller, slots)

    async def take(self, caller: str, slots: int) -> int:
        """Wait for the slots and return how many were granted. They have to be given back."""
        granted = min(slots, self.limit)
        if self._has_room(granted):
            self.in_use += granted
            return granted
        self._evict_if_full(caller)
        waiter = _Waiter(slots)
        self._queue.append(caller, waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            self._cancel(caller, waiter)
            raise
        return waiter.slots

    def give_back(self, granted: int) -> None:
        self.in_use -= granted
        self._wake()

    def check_room(self, caller: str, slots: int = 1) -> None:
        """Raise `RateLimited` if a request of this caller would find the queue full."""
        if not self._has_room(min(slots, self.limit)) and self.waiting >= self._max_waiting:
            self._caller_to_evict(caller)

    def set_limit(self, limit: int) -> None:
        """Change the number of slots. Slots that are in use are not revoked."""
        self.limit = limit
        self._wake()

    def _has_room(self, slots: int) -> bool:
        return not self._queue and self.in_use + slots <= self.limit

    def _evict_if_full(self, caller: str) -> None:
        """Make room for one more request of `caller` in a full queue, by rejecting the last one of another caller."""
        if self.waiting < self._max_waiting:
            return
        last = self._queue.pop_last(self._caller_to_evict(caller))
        if not last.granted.cancelled():
            last.granted.set_exception(_queue_full())

    def _caller_to_evict(self, caller: str) -> str:
        """Return the caller of whom most requests wait. The last of them makes room: nobody fills the queue alone.

        Raises:
            RateLimited: `caller` would have as many then.
        """
        largest = self._queue.largest_caller()
        if largest is None or self._queue.count_of(largest) < self._queue.count_of(caller) + 2:
            raise _queue_full()
        return largest

    def _cancel(self, caller: str, waiter: "_Waiter") -> None:
        """Remove a waiter whose client has disconnected, or return the slots that were granted at the same moment."""
        if waiter.granted.cancelled():
            self._queue.remove(caller, waiter)
        elif waiter.granted.exception() is None:
            # Otherwise it was evicted at the same moment, and has no slots.
            self.in_use -= waiter.slots
        self._wake()

    def _wake(self) -> None:
        """Grant free slots to waiting requests."""
        while self._queue:
            waiter = self._queue.first()
            # Not computed at arrival, because the limit may have been lowered since.
            waiter.slots = min(waiter.requested, self.limit)
            if self.in_use + waiter.slots > self.limit:
                return
            self._queue.pop_first()
            if not waiter.granted.cancelled():
                self.in_use += waiter.slots
                waiter.granted.set_result(None)


class HeldSlots:
    """Slots of a semaphore, taken and given back by an `async with`. No generator: each request for images has one."""

    __slots__ = ("_caller", "_granted", "_semaphore", "_slots")

    def __init__(self, semaphore: FairSemaphore, caller: str, slots: int) -> None:
        self._semaphore, self._caller, self._slots = semaphore, caller, slots
        self._granted = 0

    async def __aenter__(self) -> None:
        self._granted = await self._semaphore.take(self._caller, self._slots)

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.give_back(self._granted)


class _Waiter:
    """A waiting request. `slots` is what it gets of the slots that it `requested`."""

    def __init__(self, requested: int) -> None:
        self.requested = requested
        self.slots = 0
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def _queue_full() -> RateLimited:
    return RateLimited("Too many requests are waiting on this server. Please try again shortly.", retry_after=2)
