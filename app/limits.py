"""What a key may ask for and how much: models, sizes, qualities, requests and images in a time, questions at once."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter

from app.access import Caller, Turns
from app.errors import Forbidden, InvalidRequest, RateLimited, UserError
from app.keys import KeyRow
from app.pure.images import ImagesRequest
from app.pure.sizes import Size
from app.pure.wording import shorten
from app.state import State

_PERIODS: dict[str, type[RateLimitItem]] = {
    "minute": RateLimitItemPerMinute,
    "hour": RateLimitItemPerHour,
    "day": RateLimitItemPerDay,
}

_QUALITIES = ("low", "medium", "high")

#: Seconds after which a month's counter is of no use: the longest month and a day.
_MONTH = 32 * 86_400


@dataclass(frozen=True, slots=True)
class Window:
    """How much of one limit is used; `free_in` is in seconds, until the oldest part of it counts no more."""

    kind: str
    item: RateLimitItem
    cost: int
    used: int
    free_in: float

    @property
    def left(self) -> int:
        return self.item.amount - self.used


class Limits:
    """`queue` bounds the requests that wait for a turn of their key."""

    def __init__(self, state: State, queue: int, now: Callable[[], float] = time.time) -> None:
        self._state = state
        self._queue = queue
        self._now = now
        self._doors: dict[str, asyncio.Lock] = {}
        self._turns: dict[str, Turns] = {}

    def door(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """One request of a key at a time, so that of two equal ones the second finds the first, and is not counted."""
        return nullcontext() if caller.row is None else self._doors.setdefault(caller.row.name, asyncio.Lock())

    def turn(self, caller: Caller, questions: int) -> AbstractAsyncContextManager[None]:
        row = caller.row
        if row is None or row.concurrency is None:
            return nullcontext()
        turns = self._turns.setdefault(row.name, Turns(row.concurrency, self._queue))
        turns.limit = row.concurrency
        return turns.take(caller.id, questions)

    async def count(self, caller: Caller, images: int) -> dict[str, str]:
        """The headers that tell what is left. Raises RateLimited, and InvalidRequest for more than ever fits."""
        row = caller.row
        if row is None:
            return {}
        for rate in row.images:
            if images > rate.amount:
                message = f"Invalid 'n': this key may ask for {rate.amount} images per {rate.period}, but got {images}."
                raise InvalidRequest(message, param="n", code="invalid_value")
        return await self._state.count(lambda limiter: self._count(limiter, row, images))

    async def _count(self, limiter: MovingWindowRateLimiter, row: KeyRow, images: int) -> dict[str, str]:
        """Nothing is counted of a request that is refused; only one that loses a race may count in shorter windows."""
        windows = await self._windows(limiter, row, images)
        for window in windows:
            if window.left < window.cost:
                raise self._refusal(row, window)
        for window in windows:
            if not await limiter.hit(window.item, row.name, window.kind, cost=window.cost):
                raise self._refusal(row, replace(window, used=window.item.amount))
        if row.monthly_images is not None:
            await self._spend(limiter, row, images, row.monthly_images)
        return _headers(windows)

    async def _windows(self, limiter: MovingWindowRateLimiter, row: KeyRow, images: int) -> list[Window]:
        """Shortest first."""
        rates = [("requests", rate, 1) for rate in row.requests] + [("images", rate, images) for rate in row.images]
        windows = []
        for kind, rate, cost in sorted(rates, key=lambda each: _PERIODS[each[1].period].GRANULARITY.seconds):
            item = _PERIODS[rate.period](rate.amount)
            stats = await limiter.get_window_stats(item, row.name, kind)
            free_in = max(0.0, stats.reset_time - self._now())
            windows.append(Window(kind, item, cost, item.amount - stats.remaining, free_in))
        return windows

    def _refusal(self, row: KeyRow, window: Window) -> RateLimited:
        wait = max(window.free_in, 0.001)
        message = (
            f"Rate limit reached for {row.name} on {window.kind} per {window.item.GRANULARITY.name}: "
            f"Limit {window.item.amount}, Used {window.used}, Requested {window.cost}. "
            f"Please try again in {wait:.3g}s."
        )
        return RateLimited(message, type=window.kind, retry_after=wait, headers=_headers([replace(window, cost=0)]))

    async def _spend(self, limiter: MovingWindowRateLimiter, row: KeyRow, images: int, budget: int) -> None:
        """By calendar months, in UTC. Counted first and given back, so that replicas together never exceed it."""
        place = f"month/{row.name}/{datetime.fromtimestamp(self._now(), UTC):%Y-%m}"
        spent = await limiter.storage.incr(place, _MONTH, images)
        if spent > budget:
            await limiter.storage.incr(place, _MONTH, -images)
            message = f"This key's budget of {budget} images a month is used up."
            quota, never = "insufficient_quota", {"x-should-retry": "false"}
            raise RateLimited(message, type=quota, code=quota, retry_after=60, headers=never)


def _headers(windows: list[Window]) -> dict[str, str]:
    """As OpenAI tells them; of several windows of a kind the one with least left."""
    told: dict[str, str] = {}
    for window in sorted(windows, key=lambda each: each.cost - each.left):
        left = max(0, window.left - window.cost)
        told[f"x-ratelimit-limit-{window.kind}"] = str(window.item.amount)
        told[f"x-ratelimit-remaining-{window.kind}"] = str(left)
        told[f"x-ratelimit-reset-{window.kind}"] = f"{math.ceil(window.free_in)}s"
    return told


def within(row: KeyRow | None, request: ImagesRequest) -> ImagesRequest:
    """What the client leaves to us becomes the largest that is allowed. Raises Forbidden for a model, or UserError."""
    if row is None:
        return request
    if row.models and request.model not in row.models:
        named = f"the model '{shorten(request.model)}'" if request.model else "requests that name no model"
        raise Forbidden(f"This key does not have access to {named}.", param="model", code="model_not_found")
    size, quality = request.size or row.max_size, request.quality or row.max_quality
    if size and row.max_size and _pixels(size.asked_as) > _pixels(row.max_size):
        message = f"Invalid size '{size}'. This key may ask for as many pixels as {row.max_size} has."
        raise UserError(message, param="size", code="invalid_value")
    if quality and row.max_quality and _QUALITIES.index(quality) > _QUALITIES.index(row.max_quality):
        message = f"Invalid value: '{quality}'. This key may ask for '{row.max_quality}' at most."
        raise UserError(message, param="quality", code="invalid_value")
    return replace(request, size=size, quality=quality)


def _pixels(size: Size) -> int:
    return size.width * size.height
