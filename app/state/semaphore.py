"""Limit the concurrency of a client key over all replicas.

Slots are leases in Redis. Their owner renews them, so that the slots of a replica that crashed become free. The rules
are in semaphore.lua, because each step must be atomic.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.state.shared_state import SharedState

#: Seconds after which a lease expires, and seconds between two renewals: two of them may be lost.
_LEASE_SECONDS, _RENEW_INTERVAL = 6.0, 2.0

#: Seconds for which a request stays in the queue without asking again, and seconds between two attempts.
_QUEUE_ENTRY_SECONDS, _POLL_INTERVAL = 2.0, 0.1


class DistributedSemaphore:
    """Semaphores in Redis, one for each name. While Redis is down, nothing is limited here."""

    def __init__(self, state: SharedState, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._state = state
        self._sleep = sleep
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def acquire(self, name: str, slots: int, limit: Callable[[], int]) -> AsyncIterator[None]:
        """Hold `slots` of the `limit()` slots of `name`. A request that needs more than there are holds all.

        The limit is read at each attempt, because it may change while a request waits. Of the requests that wait in
        this process, only the first stands in the shared queue.

        Raises:
            ServiceUnavailable: Redis is down, and this server fails closed.
        """
        if not self._state.is_shared:
            yield
            return
        lease = _Lease(self._state, name, secrets.token_hex(8))
        granted = slots
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                granted = await self._wait(lease, slots, limit)
            renewal = asyncio.create_task(lease.renew(granted, self._sleep))
            try:
                yield
            finally:
                renewal.cancel()
                await asyncio.gather(renewal, return_exceptions=True)
        finally:
            await lease.call("release", granted)

    async def _wait(self, lease: "_Lease", slots: int, limit: Callable[[], int]) -> int:
        """Return the number of slots granted."""
        while await lease.call("acquire", granted := min(slots, limit()), limit(), required=True) == 0:
            await self._sleep(_POLL_INTERVAL)
        return granted


@dataclass(frozen=True, slots=True)
class _Lease:
    """The slots of one request. Redis does not store their number, so each call passes it."""

    state: SharedState
    name: str
    id: str

    async def call(self, command: str, slots: int, limit: int = 0, *, required: bool = False) -> int | None:
        """Run a command of semaphore.lua. Returns None while Redis is down; raises as `SharedState.run` does."""
        keys = [f"limner:turns:{{{self.name}}}:{part}" for part in ("held", "line", "alive")]
        args = [command, self.id, slots, limit, round(_LEASE_SECONDS * 1000), round(_QUEUE_ENTRY_SECONDS * 1000)]
        reply: int | None = await self.state.run_script("semaphore.lua", keys, args, required=required)
        return reply

    async def renew(self, slots: int, sleep: Callable[[float], Awaitable[object]]) -> None:
        while True:
            await sleep(_RENEW_INTERVAL)
            await self.call("renew", slots)
