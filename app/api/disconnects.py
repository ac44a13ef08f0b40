"""Notice whether a client is still connected, and whether it has received what was sent."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from app.api.responses import ClientDisconnected
from app.jobs.job_run import JobRun

T = TypeVar("T")

#: The extension of an ASGI scope by which `app/server` tells how many bytes the client has not acknowledged.
UNACKNOWLEDGED = "limner.unacknowledged"

#: The extension by which it tells that the client has left.
DISCONNECT = "limner.disconnect"

#: Seconds between two looks at these bytes, growing, and seconds without an acknowledgment that mean a dead connection.
_FIRST_PAUSE, _LONGEST_PAUSE, _MAX_SILENCE = 0.005, 0.25, 3.0


class DisconnectSignal(Protocol):
    """What the server knows of a client that leaves."""

    def __call__(self) -> asyncio.Future[None]:
        """Return a future that ends when the client leaves."""
        ...

    def has_left(self) -> bool:
        """Return whether the client has left by now."""
        ...

    async def has_room(self) -> bool:
        """Wait until the connection takes more bytes. Return whether the client is there, as far as is known."""
        ...


class DisconnectWatcher:
    """Watch whether the client is still connected, from the moment its request body has been read."""

    def __init__(self, receive: Receive, disconnect: DisconnectSignal | None = None) -> None:
        """Begin to watch: by `disconnect`, where the server has it, which needs no task."""
        self._disconnect = disconnect
        self._disconnected: asyncio.Future[None]
        self._disconnected = asyncio.create_task(_wait_for_disconnect(receive)) if disconnect is None else disconnect()

    @classmethod
    def of(cls, http: Request) -> "DisconnectWatcher":
        """Watch the client of a request."""
        return cls(http.receive, http.scope.get("extensions", {}).get(DISCONNECT))

    async def wait_for(self, work: Awaitable[T], seconds: float | None) -> T | None:
        """Return what `work` gives, None where it is not ready in time; it is canceled then.

        Raises:
            ClientDisconnected: The client has left first.
        """
        task = asyncio.ensure_future(work)
        try:
            await _wait_for_either(task, self._disconnected, seconds)
            if task.done():
                return task.result()
            if self._disconnected.done():
                raise ClientDisconnected
            return None
        finally:
            task.cancel()

    async def wait_for_run(self, run: JobRun, seconds: float | None) -> bool:
        """Return whether the run has ended in time. Raises `ClientDisconnected` if the client has left first."""
        if run.task is not None:
            await _wait_for_either(run.task, self._disconnected, seconds)
        else:
            # The run has ended, but the event loop has a turn to report a connection that was closed.
            await asyncio.sleep(0)
        if not run.is_done and self._disconnected.done():
            raise ClientDisconnected
        return run.is_done

    async def wait_for_more(self, run: JobRun, have: int, revision: int | None, seconds: float) -> bool | None:
        """Wait for what `has_more` of a run tells, and return it; None where it is not known in time.

        Raises:
            ClientDisconnected: The client has left first.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (more := run.has_more(have, revision)) is None and (left := until - loop.time()) > 0:
            if self._disconnected.done():
                raise ClientDisconnected
            await _wait_for_either(run.next_change(), self._disconnected, left)
        return more

    async def is_connected(self) -> bool:
        """Return whether the client is still connected.

        Where the server does not know, the event loop gets two turns, in which uvicorn reports a connection that was
        closed and the task here notices it.
        """
        if self._disconnect is not None:
            return not self._disconnect.has_left()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return not self._disconnected.done()

    async def has_room(self) -> bool:
        """Wait until the connection takes more bytes. Return whether the client is there, as far as is known.

        Other servers wait when they get more, and hold these bytes meanwhile.
        """
        return not self._disconnected.done() if self._disconnect is None else await self._disconnect.has_room()

    def cancel(self) -> None:
        """Stop watching."""
        self._disconnected.cancel()


async def _wait_for_either(first: asyncio.Future[T], second: asyncio.Future[None], seconds: float | None) -> None:
    """Wait until one of two futures is done, for `seconds` at most. The event loop gets one turn at least.

    `asyncio.wait` does the same for 1 KiB more, which counts for thousands of clients that wait.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    wake = partial(_wake, waiter)
    timer = None if seconds is None else loop.call_later(seconds, wake)
    first.add_done_callback(wake)
    second.add_done_callback(wake)
    try:
        await waiter
    finally:
        first.remove_done_callback(wake)
        second.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def is_acknowledged(
    unacknowledged: Callable[[], float | None], sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> bool:
    """Return whether the client's system acknowledges everything, or at least some bytes every few seconds until then.

    `unacknowledged` returns the bytes that are on their way: None where this is unknown, infinity where the connection
    was lost with some of them. Then nobody has got the result, although all of it was written.
    """
    left, silence, pause = unacknowledged(), 0.0, _FIRST_PAUSE
    while left and left < math.inf and silence < _MAX_SILENCE:
        await sleep(pause)
        before, left = left, unacknowledged()
        silence = silence + pause if left == before else 0.0
        pause = min(2 * pause, _LONGEST_PAUSE)
    return not left
