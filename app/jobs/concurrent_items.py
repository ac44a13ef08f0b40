"""Run several generators at once, for a request of several images."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

_Item = TypeVar("_Item")


async def run_concurrently(generators: Sequence[AsyncGenerator[_Item, None]]) -> AsyncGenerator[_Item, None]:
    """Yield the items of all generators in order of arrival."""
    arrived: asyncio.Queue[_Item | asyncio.Task[None]] = asyncio.Queue()

    async def drain(generator: AsyncGenerator[_Item, None]) -> None:
        async with aclosing(generator):
            async for item in generator:
                arrived.put_nowait(item)

    tasks = [asyncio.create_task(drain(generator)) for generator in generators]
    for task in tasks:
        task.add_done_callback(arrived.put_nowait)
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if isinstance(item, asyncio.Task):
                running -= 1
                item.result()
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
