"""Who may call, and how many questions are under way at once."""

import asyncio
import hashlib
import hmac
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.datastructures import Headers

from app.errors import RateLimited, Unauthorized
from app.keys import KeyBook, KeyRow

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


@dataclass(frozen=True, slots=True, repr=False)
class Caller:
    """`id` tells callers apart without telling their keys; `token` is what they presented, None where nothing.

    `row` is that of the file of keys, None for who has no key there.
    """

    id: str
    token: str | None
    row: KeyRow | None = None

    @property
    def name(self) -> str | None:
        return None if self.row is None else self.row.name


class Access:
    """`keys`, or `sha256:` and their digests, and those of the `book`.

    Neither of them: everybody may call, but pass-through needs a key to pass on.
    """

    def __init__(self, keys: Iterable[str], *, pass_through: bool, book: KeyBook | None = None) -> None:
        self._digests = [_digest(key) for key in keys]
        self._pass_through = pass_through
        self._book = book

    def admit(self, headers: Headers) -> Caller:
        """Raises Unauthorized."""
        token = _bearer(headers)
        closed = self._book is not None or bool(self._digests)
        if token is None and (closed or self._pass_through):
            raise Unauthorized(_NO_KEY)
        row = self._row_of(token) if closed and token is not None else None
        return Caller(_fingerprint(token), token, row)

    def _row_of(self, token: str) -> KeyRow | None:
        """Keys of the settings are all compared, each in constant time: digests, so not even a length tells."""
        presented = hashlib.sha256(token.encode()).digest()
        known = sum([hmac.compare_digest(presented, digest) for digest in self._digests])
        row = None if self._book is None else self._book.find(presented)
        if not known and row is None:
            raise Unauthorized("Incorrect API key provided.", code="invalid_api_key")
        if row is not None and row.expires is not None and row.expires <= datetime.now(UTC):
            raise Unauthorized("This API key has expired.", code="invalid_api_key")
        return row


def _digest(key: str) -> bytes:
    """Of a key, or of one that is told as its digest: that itself opens nothing."""
    scheme, _, digits = key.rpartition(":")
    return bytes.fromhex(digits) if scheme == "sha256" else hashlib.sha256(key.encode()).digest()


def _bearer(headers: Headers) -> str | None:
    # Clients of Azure's have a header of their own for it.
    values = headers.getlist("authorization") or [f"Bearer {key}" for key in headers.getlist("api-key")]
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    # A token goes into a header of ours in pass-through mode: visible ASCII only, and only one of them.
    if len(values) > 1 or scheme.lower() != "bearer" or not token or not (token.isascii() and token.isprintable()):
        raise Unauthorized("Malformed Authorization header. Send exactly one, as: Authorization: Bearer YOUR_KEY")
    return token


def _fingerprint(token: str | None) -> str:
    return hashlib.sha256((token or "").encode("latin-1")).hexdigest()[:16]


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
