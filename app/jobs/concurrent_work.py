"""Do several things at once, for a request of several images."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")


async def run_concurrently(works: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Return what all works bring, in order of arrival. No task is made for a single one."""
    if len(works) == 1:
        return [await works[0]]
    arrived: list[_T] = []

    async def run(work: Coroutine[Any, Any, _T]) -> None:
        arrived.append(await work)

    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(run(work))
    return arrived
