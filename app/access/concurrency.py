"""Limit the concurrency of this process, fairly between callers."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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

    @asynccontextmanager
    async def acquire(self, caller: str, slots: int = 1) -> AsyncIterator[None]:
        """Hold `slots` slots, which are granted together, so that no request holds some while it waits for others.

        A request that needs more slots than there are holds all of them.

        Raises:
            RateLimited: The queue is full.
        """
        granted = await self._enqueue(caller, slots)
        try:
            yield
        finally:
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

    async def _enqueue(self, caller: str, slots: int) -> int:
        """Wait for the slots and return how many were granted."""
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


class _Waiter:
    """A waiting request. `slots` is what it gets of the slots that it `requested`."""

    def __init__(self, requested: int) -> None:
        self.requested = requested
        self.slots = 0
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def _queue_full() -> RateLimited:
    return RateLimited("Too many requests are waiting on this server. Please try again shortly.", retry_after=2)
