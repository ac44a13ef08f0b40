"""Who may call, and how many questions are under way at once."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import RateLimited


class Turns:
    """At most `limit` questions under way and `queue` requests waiting, fair between callers.

    Callers that wait are served in rotation, each caller's own requests in order: two hundred requests of one caller
    do not starve the one request of another.
    """

    def __init__(self, limit: int, queue: int) -> None:
        self.limit = limit
        self.used = 0
        self.waiting = 0
        self._queue = queue
        self._lines: OrderedDict[str, deque[_Ticket]] = OrderedDict()

    @asynccontextmanager
    async def take(self, caller: str, questions: int = 1) -> AsyncIterator[None]:
        """`questions` turns at once, so that no request holds some turns while it waits for others.

        A request that needs more than there are takes all. Raises RateLimited where the queue is full.
        """
        share = await self._enter(caller, questions)
        try:
            yield
        finally:
            self.used -= share
            self._admit()

    def resize(self, limit: int) -> None:
        """Who waits goes on where there is room now. Fewer than are in use: none is taken away."""
        self.limit = limit
        self._admit()

    async def _enter(self, caller: str, questions: int) -> int:
        """How many turns it has."""
        share = min(questions, self.limit)
        if not self._lines and self.used + share <= self.limit:
            self.used += share
            return share
        if self.waiting >= self._queue and not self._make_room(caller):
            raise _crowded()
        ticket = _Ticket(questions)
        self._lines.setdefault(caller, deque()).append(ticket)
        self.waiting += 1
        try:
            await ticket.called
        except asyncio.CancelledError:
            self._leave(caller, ticket)
            raise
        return ticket.share

    def _make_room(self, caller: str) -> bool:
        """A caller with less in the queue takes the last place of the one with most: nobody fills it alone."""
        line = max(self._lines.values(), key=len, default=deque())
        if len(line) < len(self._lines.get(caller, ())) + 2:
            return False
        last = line.pop()
        self.waiting -= 1
        if not last.called.cancelled():
            last.called.set_exception(_crowded())
        return True

    def _leave(self, caller: str, ticket: "_Ticket") -> None:
        """A request whose client has gone gives back its turn if that came at the same moment, else its place."""
        line = self._lines.get(caller, deque())
        if not ticket.called.cancelled():
            # Turned away at the same moment: it has neither.
            self.used -= ticket.share if ticket.called.exception() is None else 0
        elif ticket in line:
            self.waiting -= 1
            line.remove(ticket)
            if not line:
                del self._lines[caller]
        self._admit()

    def _admit(self) -> None:
        while self._lines:
            caller, line = next(iter(self._lines.items()))
            # Not when it came: by now there may be fewer in all than it needs.
            line[0].share = min(line[0].questions, self.limit)
            if self.used + line[0].share > self.limit:
                return
            ticket = line.popleft()
            self.waiting -= 1
            self._lines.move_to_end(caller)
            if not line:
                del self._lines[caller]
            if not ticket.called.cancelled():
                self.used += ticket.share
                ticket.called.set_result(None)


def _crowded() -> RateLimited:
    return RateLimited("Too many requests are waiting on this server. Please try again shortly.", retry_after=2)


class _Ticket:
    """`share`: the turns that it gets for its questions."""

    def __init__(self, questions: int) -> None:
        self.questions = questions
        self.share = 0
        self.called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
