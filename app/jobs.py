"""Work under way: its items are read by whoever is there, and it goes on when nobody is."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from app.errors import ApiError, Unavailable
from app.observability.logging import log

Item = TypeVar("Item")


class Job(Generic[Item]):
    """A task that collects `items`; `fault` is what it ended with where it did not end well.

    Each of the `readers` reads from the first item, and calls `leave` at last. `settle` is called whenever the work has
    ended and nobody reads it. `stirs`: how often there was something to tell of the work that is no item.
    """

    def __init__(self, items: AsyncGenerator[Item, None], settle: Callable[[], None], *, readers: int = 1) -> None:
        self.items: list[Item] = []
        self.fault: ApiError | None = None
        self.readers = readers
        self.stirs = 0
        self._settle = settle
        self._ended = False
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._run(items))
        self.task.add_done_callback(self._end)

    async def _run(self, items: AsyncGenerator[Item, None]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    self.items.append(item)
                    self._ring()
        except ApiError as error:
            # Without its frames, which hold the buffers of the request alive.
            self.fault = error.with_traceback(None)
        except asyncio.CancelledError:
            self.fault = Unavailable("The server is shutting down. Please try again.")
            raise
        except Exception:  # noqa: BLE001  # reason: a bug must not leave its reader waiting; who gets a 500
            log.exception("fault")
            self.fault = ApiError()

    def _end(self, _: asyncio.Task[None]) -> None:
        self._ended = True
        self._ring()
        self._settle_if_left()

    def _ring(self) -> None:
        """Wakes all who wait, and gives those who come later something new to wait for."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def stir(self) -> None:
        self.stirs += 1
        self._ring()

    async def more(self, have: int, stirs: int | None = None) -> bool:
        """Wait until there are more than `have` items, or the end: then False where nothing is left to read.

        Who knows of so many `stirs` is called for one more of them, too.
        """
        while len(self.items) <= have and not self.task.done() and stirs in {None, self.stirs}:
            await self._news.wait()
        return len(self.items) > have or not self.task.done()

    async def end(self) -> bool:
        """Wait for the end of the work; always True."""
        while not self.task.done():
            await self._news.wait()
        return True

    def leave(self) -> None:
        """The reader is done with the items, or gone."""
        self.readers -= 1
        self._settle_if_left()

    def _settle_if_left(self) -> None:
        """Not before `_end`, which does it too: a reader may hear of the end, and leave, before."""
        if self.readers == 0 and self._ended:
            self._settle()
