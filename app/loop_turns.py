"""Let other tasks run while one task has much to do and waits for nothing."""

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Seconds for which a task lets no other run.
MAX_SECONDS = 0.01

#: Bytes that are read at once. To read more of a reply may take longer than others should wait.
MAX_BYTES = 64 * 1024


class LoopTurn:
    """The time for which a task has kept the event loop to itself.

    A task that waits lets others run by that. But what has arrived already is read without waiting, and of compressed
    data there may be any amount: a loop over it gives way from time to time.

    `started_at`: when others have run last, by `time.perf_counter`.
    """

    __slots__ = ("started_at",)

    def __init__(self) -> None:
        self.started_at = time.perf_counter()

    def restart(self) -> None:
        """Note that the task has waited, so that others have run."""
        self.started_at = time.perf_counter()

    async def give_way(self) -> None:
        """Let others run if they have not for `MAX_SECONDS`."""
        if time.perf_counter() - self.started_at > MAX_SECONDS:
            await asyncio.sleep(0)
            self.restart()


async def in_thread_if_long(size: int, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that reads `size` bytes; in a thread if these are many, since others must not wait for it."""
    if size < MAX_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
