"""Share the memory for decoding fairly between callers, with paid results before unpaid inputs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from app.fair_queue import FairQueue


@dataclass(slots=True, eq=False)
class _WaitingWork:
    memory: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class _WorkKind:
    """Work of one kind: which part of the whole it may use, and who waits."""

    memory: int
    count: int
    queue: FairQueue[_WaitingWork] = field(default_factory=FairQueue)


class MemoryBudget:
    """`memory` bytes for at most `count` pieces of work at once.

    Paid work comes first, and unpaid work always leaves room for one piece of it with an eighth of the memory. Of each
    kind, callers who wait get their turn in rotation. The next in turn is never overtaken by one that needs less.

    A `FairSemaphore` counts one thing for one kind of work, and refuses a request when too many wait. Here nobody is
    refused: whoever waits belongs to a request that has a slot already.

    Attributes:
        memory: Bytes in all.
        share: Bytes that may always be asked for, paid or not.
        in_use: Bytes that are held.
        running: How many hold them.
    """

    def __init__(self, memory: int, count: int) -> None:
        self.memory = memory
        self.share = memory // 8
        self.in_use = 0
        self.running = 0
        self._paid = _WorkKind(memory, count)
        self._unpaid = _WorkKind(memory - self.share, max(1, count - 1))

    def limit(self, *, paid: bool) -> int:
        """Return how many bytes one piece of work may have at most."""
        return (self._paid if paid else self._unpaid).memory

    @asynccontextmanager
    async def hold(self, caller: str, memory: int, *, paid: bool) -> AsyncIterator[None]:
        """Hold `memory` bytes, which must be no more than `limit`."""
        waiter = _WaitingWork(memory)
        kind = self._paid if paid else self._unpaid
        kind.queue.append(caller, waiter)
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            self._leave(kind, caller, waiter)
            raise
        try:
            yield
        finally:
            self._release(memory)

    def _leave(self, kind: _WorkKind, caller: str, waiter: _WaitingWork) -> None:
        """Remove a waiter that was canceled, or return what it was granted at the same moment."""
        if waiter.granted.cancelled():
            kind.queue.remove(caller, waiter)
            self._grant()
        else:
            self._release(waiter.memory)

    def _release(self, memory: int) -> None:
        self.in_use -= memory
        self.running -= 1
        self._grant()

    def _grant(self) -> None:
        """Grant what fits, paid work first."""
        for kind in (self._paid, self._unpaid):
            while kind.queue:
                waiter = kind.queue.first()
                if self.running >= kind.count or self.in_use + waiter.memory > kind.memory:
                    return
                kind.queue.pop_first()
                if not waiter.granted.cancelled():
                    self.in_use += waiter.memory
                    self.running += 1
                    waiter.granted.set_result(None)
