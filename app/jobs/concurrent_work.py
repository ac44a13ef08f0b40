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

    def take(task: asyncio.Task[_T]) -> None:
        if not task.cancelled() and task.exception() is None:
            arrived.append(task.result())

    # The works themselves are the tasks: one within another task would never be awaited if that is canceled at once.
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work).add_done_callback(take)
    return arrived
