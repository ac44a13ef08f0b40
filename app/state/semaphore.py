"""Turns of a key over all replicas: leases in Redis, which who holds one renews, so that those of the dead end."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.state.shared_state import State

#: Seconds that a lease lasts, and between two signs of life: two of them may be lost.
_LEASE, _BEAT = 6.0, 2.0

#: Seconds that a place in the line lasts, and between two looks.
_PATIENCE, _LOOK = 2.0, 0.1


@dataclass(frozen=True, slots=True)
class Lease:
    """Turns of one request. Its size is told at each step, since the limit may change while it waits."""

    state: State
    name: str
    id: str

    async def tell(self, command: str, share: int, limit: int = 0, *, vital: bool = False) -> int | None:
        """What semaphore.lua answers; None where Redis is away. Raises Unavailable then, if it is vital and so set."""
        keys = [f"limner:turns:{{{self.name}}}:{part}" for part in ("held", "line", "alive")]
        said = [command, self.id, share, limit, round(_LEASE * 1000), round(_PATIENCE * 1000)]
        answer: int | None = await self.state.step("semaphore.lua", keys, said, vital=vital)
        return answer

    async def keep(self, share: int, sleep: Callable[[float], Awaitable[object]]) -> None:
        while True:
            await sleep(_BEAT)
            await self.tell("keep", share)


class Leases:
    def __init__(self, state: State, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._state = state
        self._sleep = sleep
        self._doors: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def take(self, name: str, questions: int, limit: Callable[[], int]) -> AsyncIterator[None]:
        """So many of `limit()` turns, or all where it needs more. While Redis is away nobody waits here.

        Of those who wait in this process one stands in the line for all of them. Raises Unavailable.
        """
        if not self._state.is_shared:
            yield
            return
        lease = Lease(self._state, name, secrets.token_hex(8))
        share = questions
        try:
            async with self._doors.setdefault(name, asyncio.Lock()):
                share = await self._wait(lease, questions, limit)
            keeper = asyncio.create_task(lease.keep(share, self._sleep))
            try:
                yield
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
        finally:
            await lease.tell("leave", share)

    async def _wait(self, lease: Lease, questions: int, limit: Callable[[], int]) -> int:
        """How many turns it has."""
        while await lease.tell("take", share := min(questions, limit()), limit(), vital=True) == 0:
            await self._sleep(_LOOK)
        return share
