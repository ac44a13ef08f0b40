"""Turns of a key over all replicas: leases in Redis, which who holds one renews, so that those of the dead end."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.state.shared_state import SharedState

#: Seconds that a lease lasts, and between two signs of life: two of them may be lost.
_LEASE_SECONDS, _RENEW_INTERVAL = 6.0, 2.0

#: Seconds that a place in the line lasts, and between two looks.
_QUEUE_ENTRY_SECONDS, _POLL_INTERVAL = 2.0, 0.1


@dataclass(frozen=True, slots=True)
class _Lease:
    """Turns of one request. Its size is told at each step, since the limit may change while it waits."""

    state: SharedState
    name: str
    id: str

    async def call(self, command: str, slots: int, limit: int = 0, *, required: bool = False) -> int | None:
        """What semaphore.lua answers; None where Redis is away. Raises Unavailable then, if it is vital and so set."""
        keys = [f"limner:turns:{{{self.name}}}:{part}" for part in ("held", "line", "alive")]
        said = [command, self.id, slots, limit, round(_LEASE_SECONDS * 1000), round(_QUEUE_ENTRY_SECONDS * 1000)]
        answer: int | None = await self.state.run_script("semaphore.lua", keys, said, required=required)
        return answer

    async def renew(self, slots: int, sleep: Callable[[float], Awaitable[object]]) -> None:
        while True:
            await sleep(_RENEW_INTERVAL)
            await self.call("renew", slots)


class DistributedSemaphore:
    def __init__(self, state: SharedState, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._state = state
        self._sleep = sleep
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def acquire(self, name: str, slots: int, limit: Callable[[], int]) -> AsyncIterator[None]:
        """So many of `limit()` turns, or all where it needs more. While Redis is away nobody waits here.

        Of those who wait in this process one stands in the line for all of them. Raises Unavailable.
        """
        if not self._state.is_shared:
            yield
            return
        lease = _Lease(self._state, name, secrets.token_hex(8))
        share = slots
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                share = await self._wait(lease, slots, limit)
            keeper = asyncio.create_task(lease.renew(share, self._sleep))
            try:
                yield
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
        finally:
            await lease.call("release", share)

    async def _wait(self, lease: _Lease, slots: int, limit: Callable[[], int]) -> int:
        """How many turns it has."""
        while await lease.call("acquire", share := min(slots, limit()), limit(), required=True) == 0:
            await self._sleep(_POLL_INTERVAL)
        return share
