"""Exchange reports of unreachable upstreams between replicas.

A report only changes the order in which a replica tries its upstreams. Each replica keeps circuit breakers of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from app.state.shared_state import SharedState

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Seconds between two exchanges, and seconds after which a report that was not renewed expires.
_INTERVAL, _REPORT_SECONDS = 2.0, 6.0


class ReportsTo(Protocol):
    """The upstream pool, as far as this module needs it."""

    def circuits(self) -> Mapping[str, str]:
        """Map each upstream's name to the state of its circuit breaker: "closed", "open" or "half-open"."""
        ...

    def report_down(self, names: Collection[str]) -> None:
        """Choose the upstreams of these names last. Each call replaces the names of the previous one."""
        ...


async def exchange_circuit_reports(
    state: SharedState, pool: ReportsTo, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> None:
    """Publish this replica's open circuits and read those of all replicas, every two seconds until canceled.

    Returns at once when no state is shared. While Redis is down, the pool gets an empty report.
    """
    while state.is_shared:
        await sleep(_INTERVAL)
        circuits = pool.circuits()
        open_here = [name for name, circuit in circuits.items() if circuit == "open"]
        exchange = partial(_exchange, names=list(circuits), open_here=open_here)
        pool.report_down(await state.run(exchange) or ())


async def _exchange(redis: "Redis", names: list[str], open_here: list[str]) -> list[str]:
    async with redis.pipeline(transaction=False) as pipeline:
        for name in open_here:
            pipeline.set(_key(name), 1, px=round(_REPORT_SECONDS * 1000))
        for name in names:
            pipeline.exists(_key(name))
        reported = (await pipeline.execute())[len(open_here) :]
    return [name for name, is_reported in zip(names, reported, strict=True) if is_reported]


def _key(name: str) -> str:
    return f"limner:circuit:{name}"
