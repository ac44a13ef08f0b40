"""Measure how late a busy machine is, so that a test can tell a fault of Limner from a want of processor time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bench.wire import connect, head

#: Seconds between two measurements.
_INTERVAL = 0.25


@dataclass(slots=True)
class Lateness:
    """The longest time in seconds by which something was late: this process, or one of the servers in an answer.

    Attributes:
        seconds: The longest so far.
        by_port: The longest answer of each server, without those that were killed meanwhile.
    """

    seconds: float = 0.0
    by_port: dict[int, float] = field(default_factory=dict)
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def watch(self, ports: Sequence[int]) -> None:
        """Measure until this is cancelled."""
        while True:
            due_at = self.now() + _INTERVAL
            await self.sleep(_INTERVAL)
            self.seconds = max(self.seconds, self.now() - due_at)
            await asyncio.gather(*map(self._ask, ports))

    async def _ask(self, port: int) -> None:
        """Note how long a server takes for a request that costs nothing."""
        sent_at = self.now()
        with suppress(OSError):
            connection = await connect(port, 0)
            try:
                await connection.send([head("GET /healthz HTTP/1.1", 0, "application/json")])
            finally:
                connection.close()
            seconds = self.now() - sent_at
            self.by_port[port] = max(self.by_port.get(port, 0.0), seconds)
            self.seconds = max(self.seconds, seconds)
