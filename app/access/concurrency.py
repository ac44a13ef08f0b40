"""Limit the concurrency of this process, fairly between callers."""

import asyncio
from collections import OrderedDict, deque

from app.errors import RateLimited


class FairSemaphore:
    """A semaphore of `limit` slots for which at most `max_waiting` requests wait.

    Waiting callers get slots in rotation, each caller's requests in order of arrival. So two hundred requests of one
    caller do not delay the single request of another.

    Attributes:
        in_use: Slots that are held. May exceed `limit` after the limit was lowered.
        waiting: Requests that wait for slots.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.limit = limit
        self.in_use = 0
        self.waiting = 0
        self._max_waiting = max_waiting
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()

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
        if self.waiting >= self._max_waiting and not self._evict_from_longest_queue(caller):
            raise _queue_full()
        waiter = _Waiter(slots)
        self._queues.setdefault(caller, deque()).append(waiter)
        self.waiting += 1
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
        if self._has_room(min(slots, self.limit)):
            return
        longest = max(map(len, self._queues.values()), default=0)
        if self.waiting >= self._max_waiting and longest < len(self._queues.get(caller, ())) + 2:
            raise _queue_full()

    def set_limit(self, limit: int) -> None:
        """Change the number of slots. Slots that are in use are not revoked."""
        self.limit = limit
        self._wake()

    def _has_room(self, slots: int) -> bool:
        return not self._queues and self.in_use + slots <= self.limit

    def _evict_from_longest_queue(self, caller: str) -> bool:
        """Reject the last request of the longest queue if `caller` has fewer waiting, and return whether it was done.

        So no caller can fill the queue alone.
        """
        queue = max(self._queues.values(), key=len, default=deque())
        if len(queue) < len(self._queues.get(caller, ())) + 2:
            return False
        last = queue.pop()
        self.waiting -= 1
        if not last.granted.cancelled():
            last.granted.set_exception(_queue_full())
        return True

    def _cancel(self, caller: str, waiter: "_Waiter") -> None:
        """Remove a waiter whose client has disconnected, or return the slots that were granted at the same moment."""
        queue = self._queues.get(caller, deque())
        if not waiter.granted.cancelled():
            # A waiter that was evicted at the same moment has no slots and is in no queue.
            self.in_use -= waiter.slots if waiter.granted.exception() is None else 0
        elif waiter in queue:
            self.waiting -= 1
            queue.remove(waiter)
            if not queue:
                del self._queues[caller]
        self._wake()

    def _wake(self) -> None:
        """Grant free slots to waiting requests. The next one in turn is never overtaken by one that needs fewer."""
        while self._queues:
            caller, queue = next(iter(self._queues.items()))
            # Not computed at arrival, because the limit may have been lowered since.
            queue[0].slots = min(queue[0].requested, self.limit)
            if self.in_use + queue[0].slots > self.limit:
                return
            waiter = queue.popleft()
            self.waiting -= 1
            self._queues.move_to_end(caller)
            if not queue:
                del self._queues[caller]
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
