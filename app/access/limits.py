"""What a key may ask for and how much: models, sizes, qualities, requests and images in a time, questions at once."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.access.auth import Caller
from app.access.concurrency import Turns
from app.access.keys import KeyRow, Rate
from app.errors import Forbidden, InvalidRequest, RateLimited, UserError
from app.protocol.image_request import ImagesRequest
from app.protocol.sizes import Size
from app.protocol.validation_errors import quote
from app.state.semaphore import Leases
from app.state.shared_state import Counters, State

_SECONDS = {"minute": 60, "hour": 3_600, "day": 86_400}

_QUALITIES = ("low", "medium", "high")

#: Seconds after which a month's counter is of no use: the longest month and a day.
_MONTH = 32 * 86_400


@dataclass(frozen=True, slots=True)
class Window:
    """How much of one limit is used; `free_in` is in seconds, until the oldest part of it counts no more.

    `place` does not tell the amount: a limit that is changed has not forgotten what was used.
    """

    kind: str
    rate: Rate
    cost: int
    place: str
    used: int = 0
    free_in: float = 0.0

    @property
    def seconds(self) -> int:
        return _SECONDS[self.rate.period]

    @property
    def left(self) -> int:
        return max(0, self.rate.amount - self.used)


class Limits:
    """`queue` bounds the requests that wait for a turn of their key."""

    def __init__(self, state: State, queue: int, now: Callable[[], float] = time.time) -> None:
        self._state = state
        self._queue = queue
        self._now = now
        self._doors: dict[str, asyncio.Lock] = {}
        self._turns: dict[str, Turns] = {}
        self._leases = Leases(state)

    def door(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """One request of a key at a time, so that of two equal ones the second finds the first, and is not counted."""
        return nullcontext() if caller.row is None else self._doors.setdefault(caller.row.name, asyncio.Lock())

    @asynccontextmanager
    async def turn(self, caller: Caller, questions: int) -> AsyncIterator[None]:
        """Of this process first, which is fair and bounds who waits, then of all replicas."""
        row = caller.row
        if row is None or row.concurrency is None:
            yield
            return
        turns = self._turns.setdefault(row.name, Turns(row.concurrency, self._queue))
        turns.resize(row.concurrency)
        async with turns.take(caller.id, questions), self._leases.take(row.name, questions, lambda: turns.limit):
            yield

    async def count(self, caller: Caller, images: int) -> dict[str, str]:
        """The headers that tell what is left. Raises RateLimited, and InvalidRequest for more than ever fits."""
        row = caller.row
        if row is None:
            return {}
        for rate in row.images:
            if images > rate.amount:
                message = f"Invalid 'n': this key may ask for {rate.amount} images per {rate.period}, but got {images}."
                raise InvalidRequest(message, param="n", code="invalid_value")
        return await self._state.count(row.name, lambda counters: self._count(counters, row, images))

    async def _count(self, counters: Counters, row: KeyRow, images: int) -> dict[str, str]:
        """All limits are looked at before anything is counted, so that nothing is counted of what is refused.

        Should replicas ever count at the same moment, each limit still holds, and only a shorter one is charged for
        what a longer one refuses.
        """
        month = f"month/{row.name}/{datetime.fromtimestamp(self._now(), UTC):%Y-%m}"
        if row.monthly_images is not None and await counters.get(month) + images > row.monthly_images:
            raise _spent(row.monthly_images)
        windows = [await self._look(counters, window) for window in _windows(row, images)]
        if any(window.left < window.cost for window in windows):
            raise await self._refusal(counters, row, windows)
        for window in windows:
            if not await counters.acquire_entry(window.place, window.rate.amount, window.seconds, window.cost):
                full = replace(window, used=window.rate.amount)
                raise await self._refusal(counters, row, [full if each is window else each for each in windows])
        if row.monthly_images is not None:
            await self._spend(counters, month, images, row.monthly_images)
        return _headers([replace(window, used=window.used + window.cost) for window in windows])

    async def _look(self, counters: Counters, window: Window) -> Window:
        begun, used = await counters.get_moving_window(window.place, window.rate.amount, window.seconds)
        return replace(window, used=used, free_in=max(0.0, begun + window.seconds - self._now()))

    async def _refusal(self, counters: Counters, row: KeyRow, windows: list[Window]) -> RateLimited:
        """For the limit that lasts longest: until there is room for all that was asked for.

        In memory the library tells no more than when there will be room for one.
        """
        waits = []
        for window in windows:
            if window.left < window.cost:
                among = replace(window, rate=Rate(window.rate.amount - window.cost + 1, window.rate.period))
                waits.append(((await self._look(counters, among)).free_in, window))
        wait, window = max(waits, key=lambda each: each[0])
        message = (
            f"Rate limit reached for {row.name} on {window.kind} per {window.rate.period}: "
            f"Limit {window.rate.amount}, Used {window.used}, Requested {window.cost}. "
            f"Please try again in {max(wait, 0.001):.3g}s."
        )
        told = _headers(windows) | _headers([window])
        return RateLimited(message, type=window.kind, retry_after=wait, headers=told)

    async def _spend(self, counters: Counters, month: str, images: int, budget: int) -> None:
        """Given back where another replica was faster."""
        if await counters.incr(month, _MONTH, images) > budget:
            await counters.incr(month, _MONTH, -images)
            raise _spent(budget)


def _windows(row: KeyRow, images: int) -> list[Window]:
    """Shortest first."""
    rates = [("requests", rate, 1) for rate in row.requests] + [("images", rate, images) for rate in row.images]
    windows = [Window(kind, rate, cost, f"{kind}/{row.name}/{rate.period}") for kind, rate, cost in rates]
    return sorted(windows, key=lambda window: window.seconds)


def _spent(budget: int) -> RateLimited:
    """By calendar months, in UTC."""
    message = f"This key's budget of {budget} images a month is used up."
    quota, never = "insufficient_quota", {"x-should-retry": "false"}
    return RateLimited(message, type=quota, code=quota, retry_after=60, headers=never)


def _headers(windows: list[Window]) -> dict[str, str]:
    """As OpenAI tells them; of several windows of a kind the one with least left, of equal ones the longest."""
    told: dict[str, str] = {}
    for window in sorted(windows, key=lambda each: (-each.left, each.seconds)):
        told[f"x-ratelimit-limit-{window.kind}"] = str(window.rate.amount)
        told[f"x-ratelimit-remaining-{window.kind}"] = str(window.left)
        told[f"x-ratelimit-reset-{window.kind}"] = _duration(math.ceil(window.free_in))
    return told


def _duration(seconds: int) -> str:
    """As OpenAI writes them: `6m0s`."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def within(row: KeyRow | None, request: ImagesRequest) -> ImagesRequest:
    """What the client leaves to us becomes the largest that is allowed. Raises Forbidden for a model, or UserError."""
    if row is None:
        return request
    if row.models and request.model not in row.models:
        named = f"the model '{quote(request.model)}'" if request.model else "requests that name no model"
        raise Forbidden(f"This key does not have access to {named}.", param="model", code="model_not_found")
    size, quality = request.size or row.max_size, request.quality or row.max_quality
    if size and row.max_size and _pixels(size.upstream_size) > _pixels(row.max_size):
        message = f"Invalid size '{size}'. This key may ask for as many pixels as {row.max_size} has."
        raise UserError(message, param="size", code="invalid_value")
    if quality and row.max_quality and _QUALITIES.index(quality) > _QUALITIES.index(row.max_quality):
        message = f"Invalid value: '{quality}'. This key may ask for '{row.max_quality}' at most."
        raise UserError(message, param="quality", code="invalid_value")
    return replace(request, size=size, quality=quality)


def _pixels(size: Size) -> int:
    return size.width * size.height
