"""Which upstreams other replicas find broken: a hint whom to ask first, no verdict: each has circuits of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from app.state.shared_state import State

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Seconds between two exchanges, and for which a hint holds: one that is not given again is soon gone.
_BEAT, _HOLDS = 2.0, 6.0


class Circuits(Protocol):
    """`suspected`: names of upstreams that are asked only where no other can be."""

    suspected: Collection[str]

    def circuits(self) -> Mapping[str, str]: ...


async def exchange_hints(
    state: State, upstreams: Circuits, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> None:
    """Again and again, where anything is shared. Without Redis nobody is suspected."""
    while state.is_shared:
        await sleep(_BEAT)
        circuits = upstreams.circuits()
        broken = [name for name, circuit in circuits.items() if circuit == "open"]
        upstreams.suspected = await state.share(lambda redis: _exchange(redis, list(circuits), broken)) or ()  # noqa: B023  # reason: called at once


async def _exchange(redis: "Redis", names: list[str], broken: list[str]) -> list[str]:
    async with redis.pipeline(transaction=False) as pipeline:
        for name in broken:
            pipeline.set(_key(name), 1, px=round(_HOLDS * 1000))
        for name in names:
            pipeline.exists(_key(name))
        found = (await pipeline.execute())[len(broken) :]
    return [name for name, is_there in zip(names, found, strict=True) if is_there]


def _key(name: str) -> str:
    return f"limner:circuit:{name}"
