"""Measure how late a busy machine is, so that a test can tell a fault of Limner from a want of processor time."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bench.wire import connect, head

#: Seconds between two measurements.
_INTERVAL = 0.25

#: Rounds of measurements that tell how late the machine is now.
_ROUNDS = 8


@dataclass(slots=True)
class Lateness:
    """The longest time in seconds by which something was late: this process, or one of the servers in an answer.

    Attributes:
        seconds: The longest so far.
        by_port: The longest answer of each server, without those that were killed meanwhile.
        rounds: The longest of each of the last rounds.
    """

    seconds: float = 0.0
    by_port: dict[int, float] = field(default_factory=dict)
    rounds: deque[float] = field(default_factory=lambda: deque([0.0], _ROUNDS))
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def watch(self, ports: Sequence[int]) -> None:
        """Measure until this is cancelled."""
        while True:
            due_at = self.now() + _INTERVAL
            await self.sleep(_INTERVAL)
            own = self.now() - due_at
            self.rounds.append(max(own, *await asyncio.gather(*map(self._ask, ports))))
            self.seconds = max(self.seconds, self.recent)

    @property
    def recent(self) -> float:
        """The longest of the last rounds: how late the machine is now."""
        return max(self.rounds)

    async def _ask(self, port: int) -> float:
        """Return how long a server takes for a request that costs nothing, 0 where it is away."""
        sent_at = self.now()
        with suppress(OSError):
            connection = await connect(port, 0)
            try:
                await connection.send([head("GET /healthz HTTP/1.1", 0, "application/json")])
            finally:
                connection.close()
            seconds = self.now() - sent_at
            self.by_port[port] = max(self.by_port.get(port, 0.0), seconds)
            return seconds
        return 0.0
