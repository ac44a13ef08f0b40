"""Share the memory for decoding fairly between callers, with paid results before unpaid inputs."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Claim:
    memory: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class _Class:
    """Work of one kind: which part of the whole it may use, and who waits, each caller's work in order of arrival."""

    memory: int
    count: int
    queues: OrderedDict[str, deque[_Claim]] = field(default_factory=OrderedDict)


class MemoryBudget:
    """`memory` bytes for at most `count` pieces of work at once.

    Callers who wait get their turn in rotation, so that many images of one caller do not delay the single image of
    another. Paid work comes first, and unpaid work always leaves one place and an eighth of the memory to it. The next
    in turn is never overtaken by one that needs less.

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
        self._paid = _Class(memory, count)
        self._unpaid = _Class(memory - self.share, max(1, count - 1))

    def limit(self, *, paid: bool) -> int:
        """Return how many bytes one piece of work may have at most."""
        return (self._paid if paid else self._unpaid).memory

    @asynccontextmanager
    async def hold(self, caller: str, memory: int, *, paid: bool) -> AsyncIterator[None]:
        """Hold `memory` bytes, which must be no more than `limit`."""
        waiter = _Claim(memory)
        kind = self._paid if paid else self._unpaid
        kind.queues.setdefault(caller, deque()).append(waiter)
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

    def _leave(self, kind: _Class, caller: str, waiter: _Claim) -> None:
        """Remove a waiter that was canceled, or return what it was granted at the same moment."""
        if not waiter.granted.cancelled():
            self._release(waiter.memory)
            return
        queue = kind.queues.get(caller, deque())
        if waiter in queue:
            queue.remove(waiter)
            if not queue:
                del kind.queues[caller]
        self._grant()

    def _release(self, memory: int) -> None:
        self.in_use -= memory
        self.running -= 1
        self._grant()

    def _grant(self) -> None:
        """Grant what fits, paid work first."""
        for kind in (self._paid, self._unpaid):
            while kind.queues:
                caller, queue = next(iter(kind.queues.items()))
                if self.running >= kind.count or self.in_use + queue[0].memory > kind.memory:
                    return
                waiter = queue.popleft()
                kind.queues.move_to_end(caller)
                if not queue:
                    del kind.queues[caller]
                if not waiter.granted.cancelled():
                    self.in_use += waiter.memory
                    self.running += 1
                    waiter.granted.set_result(None)
