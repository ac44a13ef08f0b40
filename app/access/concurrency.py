"""Who may call, and how many questions are under way at once."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import RateLimited


class FairSemaphore:
    """At most `limit` questions under way and `queue` requests waiting, fair between callers.

    Callers that wait are served in rotation, each caller's own requests in order: two hundred requests of one caller
    do not starve the one request of another.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.limit = limit
        self.in_use = 0
        self.waiting = 0
        self._max_waiting = max_waiting
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @asynccontextmanager
    async def acquire(self, caller: str, slots: int = 1) -> AsyncIterator[None]:
        """`questions` turns at once, so that no request holds some turns while it waits for others.

        A request that needs more than there are takes all. Raises RateLimited where the queue is full.
        """
        share = await self._enqueue(caller, slots)
        try:
            yield
        finally:
            self.in_use -= share
            self._wake()

    def set_limit(self, limit: int) -> None:
        """Who waits goes on where there is room now. Fewer than are in use: none is taken away."""
        self.limit = limit
        self._wake()

    async def _enqueue(self, caller: str, slots: int) -> int:
        """How many turns it has."""
        share = min(slots, self.limit)
        if not self._queues and self.in_use + share <= self.limit:
            self.in_use += share
            return share
        if self.waiting >= self._max_waiting and not self._evict_from_longest_queue(caller):
            raise _queue_full()
        ticket = _Waiter(slots)
        self._queues.setdefault(caller, deque()).append(ticket)
        self.waiting += 1
        try:
            await ticket.granted
        except asyncio.CancelledError:
            self._cancel(caller, ticket)
            raise
        return ticket.slots

    def _evict_from_longest_queue(self, caller: str) -> bool:
        """A caller with less in the queue takes the last place of the one with most: nobody fills it alone."""
        line = max(self._queues.values(), key=len, default=deque())
        if len(line) < len(self._queues.get(caller, ())) + 2:
            return False
        last = line.pop()
        self.waiting -= 1
        if not last.granted.cancelled():
            last.granted.set_exception(_queue_full())
        return True

    def _cancel(self, caller: str, ticket: "_Waiter") -> None:
        """A request whose client has gone gives back its turn if that came at the same moment, else its place."""
        line = self._queues.get(caller, deque())
        if not ticket.granted.cancelled():
            # Turned away at the same moment: it has neither.
            self.in_use -= ticket.slots if ticket.granted.exception() is None else 0
        elif ticket in line:
            self.waiting -= 1
            line.remove(ticket)
            if not line:
                del self._queues[caller]
        self._wake()

    def _wake(self) -> None:
        while self._queues:
            caller, line = next(iter(self._queues.items()))
            # Not when it came: by now there may be fewer in all than it needs.
            line[0].slots = min(line[0].requested, self.limit)
            if self.in_use + line[0].slots > self.limit:
                return
            ticket = line.popleft()
            self.waiting -= 1
            self._queues.move_to_end(caller)
            if not line:
                del self._queues[caller]
            if not ticket.granted.cancelled():
                self.in_use += ticket.slots
                ticket.granted.set_result(None)


def _queue_full() -> RateLimited:
    return RateLimited("Too many requests are waiting on this server. Please try again shortly.", retry_after=2)


class _Waiter:
    """`share`: the turns that it gets for its questions."""

    def __init__(self, requested: int) -> None:
        self.requested = requested
        self.slots = 0
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
