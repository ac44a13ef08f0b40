"""What a key may ask for and how much: models, sizes, qualities, requests and images in a time, questions at once."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.access.auth import Caller
from app.access.concurrency import FairSemaphore
from app.access.keys import ClientKey, Rate
from app.errors import Forbidden, InvalidRequest, RateLimited, UserError
from app.protocol.image_request import ImagesRequest
from app.protocol.sizes import Size
from app.protocol.validation_errors import quote
from app.state.semaphore import DistributedSemaphore
from app.state.shared_state import Counters, SharedState

_SECONDS = {"minute": 60, "hour": 3_600, "day": 86_400}

_QUALITIES = ("low", "medium", "high")

#: Seconds after which a month's counter is of no use: the longest month and a day.
_BUDGET_COUNTER_TTL = 32 * 86_400


@dataclass(frozen=True, slots=True)
class LimitWindow:
    """How much of one limit is used; `free_in` is in seconds, until the oldest part of it counts no more.

    `place` does not tell the amount: a limit that is changed has not forgotten what was used.
    """

    kind: str
    rate: Rate
    cost: int
    counter: str
    used: int = 0
    resets_in: float = 0.0

    @property
    def seconds(self) -> int:
        return _SECONDS[self.rate.period]

    @property
    def remaining(self) -> int:
        return max(0, self.rate.amount - self.used)


class KeyLimits:
    """`queue` bounds the requests that wait for a turn of their key."""

    def __init__(self, state: SharedState, max_waiting: int, now: Callable[[], float] = time.time) -> None:
        self._state = state
        self._max_waiting = max_waiting
        self._now = now
        self._locks: dict[str, asyncio.Lock] = {}
        self._semaphores: dict[str, FairSemaphore] = {}
        self._shared_semaphore = DistributedSemaphore(state)

    def lock(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """One request of a key at a time, so that of two equal ones the second finds the first, and is not counted."""
        return nullcontext() if caller.key is None else self._locks.setdefault(caller.key.name, asyncio.Lock())

    @asynccontextmanager
    async def slot(self, caller: Caller, slots: int) -> AsyncIterator[None]:
        """Of this process first, which is fair and bounds who waits, then of all replicas."""
        row = caller.key
        if row is None or row.concurrency is None:
            yield
            return
        turns = self._semaphores.setdefault(row.name, FairSemaphore(row.concurrency, self._max_waiting))
        turns.set_limit(row.concurrency)
        async with (
            turns.acquire(caller.id, slots),
            self._shared_semaphore.acquire(row.name, slots, lambda: turns.limit),
        ):
            yield

    async def charge(self, caller: Caller, images: int) -> dict[str, str]:
        """The headers that tell what is left. Raises RateLimited, and InvalidRequest for more than ever fits."""
        row = caller.key
        if row is None:
            return {}
        for rate in row.images:
            if images > rate.amount:
                message = f"Invalid 'n': this key may ask for {rate.amount} images per {rate.period}, but got {images}."
                raise InvalidRequest(message, param="n", code="invalid_value")
        return await self._state.with_counters(row.name, lambda counters: self._charge(counters, row, images))

    async def _charge(self, counters: Counters, row: ClientKey, images: int) -> dict[str, str]:
        """All limits are looked at before anything is counted, so that nothing is counted of what is refused.

        Should replicas ever count at the same moment, each limit still holds, and only a shorter one is charged for
        what a longer one refuses.
        """
        month = f"month/{row.name}/{datetime.fromtimestamp(self._now(), UTC):%Y-%m}"
        if row.monthly_images is not None and await counters.get(month) + images > row.monthly_images:
            raise _budget_exhausted(row.monthly_images)
        windows = [await self._read_window(counters, window) for window in _limit_windows(row, images)]
        if any(window.remaining < window.cost for window in windows):
            raise await self._limit_exceeded(counters, row, windows)
        for window in windows:
            if not await counters.acquire_entry(window.counter, window.rate.amount, window.seconds, window.cost):
                full = replace(window, used=window.rate.amount)
                raise await self._limit_exceeded(counters, row, [full if each is window else each for each in windows])
        if row.monthly_images is not None:
            await self._spend_budget(counters, month, images, row.monthly_images)
        return _rate_limit_headers([replace(window, used=window.used + window.cost) for window in windows])

    async def _read_window(self, counters: Counters, window: LimitWindow) -> LimitWindow:
        begun, used = await counters.get_moving_window(window.counter, window.rate.amount, window.seconds)
        return replace(window, used=used, resets_in=max(0.0, begun + window.seconds - self._now()))

    async def _limit_exceeded(self, counters: Counters, row: ClientKey, windows: list[LimitWindow]) -> RateLimited:
        """For the limit that lasts longest: until there is room for all that was asked for.

        In memory the library tells no more than when there will be room for one.
        """
        waits = []
        for window in windows:
            if window.remaining < window.cost:
                among = replace(window, rate=Rate(window.rate.amount - window.cost + 1, window.rate.period))
                waits.append(((await self._read_window(counters, among)).resets_in, window))
        wait, window = max(waits, key=lambda each: each[0])
        message = (
            f"Rate limit reached for {row.name} on {window.kind} per {window.rate.period}: "
            f"Limit {window.rate.amount}, Used {window.used}, Requested {window.cost}. "
            f"Please try again in {max(wait, 0.001):.3g}s."
        )
        told = _rate_limit_headers(windows) | _rate_limit_headers([window])
        return RateLimited(message, type=window.kind, retry_after=wait, headers=told)

    async def _spend_budget(self, counters: Counters, month: str, images: int, budget: int) -> None:
        """Given back where another replica was faster."""
        if await counters.incr(month, _BUDGET_COUNTER_TTL, images) > budget:
            await counters.incr(month, _BUDGET_COUNTER_TTL, -images)
            raise _budget_exhausted(budget)


def _limit_windows(row: ClientKey, images: int) -> list[LimitWindow]:
    """Shortest first."""
    rates = [("requests", rate, 1) for rate in row.requests] + [("images", rate, images) for rate in row.images]
    windows = [LimitWindow(kind, rate, cost, f"{kind}/{row.name}/{rate.period}") for kind, rate, cost in rates]
    return sorted(windows, key=lambda window: window.seconds)


def _budget_exhausted(budget: int) -> RateLimited:
    """By calendar months, in UTC."""
    message = f"This key's budget of {budget} images a month is used up."
    quota, never = "insufficient_quota", {"x-should-retry": "false"}
    return RateLimited(message, type=quota, code=quota, retry_after=60, headers=never)


def _rate_limit_headers(windows: list[LimitWindow]) -> dict[str, str]:
    """As OpenAI tells them; of several windows of a kind the one with least left, of equal ones the longest."""
    told: dict[str, str] = {}
    for window in sorted(windows, key=lambda each: (-each.remaining, each.seconds)):
        told[f"x-ratelimit-limit-{window.kind}"] = str(window.rate.amount)
        told[f"x-ratelimit-remaining-{window.kind}"] = str(window.remaining)
        told[f"x-ratelimit-reset-{window.kind}"] = _format_duration(math.ceil(window.resets_in))
    return told


def _format_duration(seconds: int) -> str:
    """As OpenAI writes them: `6m0s`."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def apply_key_policy(key: ClientKey | None, request: ImagesRequest) -> ImagesRequest:
    """What the client leaves to us becomes the largest that is allowed. Raises Forbidden for a model, or UserError."""
    if key is None:
        return request
    if key.models and request.model not in key.models:
        named = f"the model '{quote(request.model)}'" if request.model else "requests that name no model"
        raise Forbidden(f"This key does not have access to {named}.", param="model", code="model_not_found")
    size, quality = request.size or key.max_size, request.quality or key.max_quality
    if size and key.max_size and _pixels(size.upstream_size) > _pixels(key.max_size):
        message = f"Invalid size '{size}'. This key may ask for as many pixels as {key.max_size} has."
        raise UserError(message, param="size", code="invalid_value")
    if quality and key.max_quality and _QUALITIES.index(quality) > _QUALITIES.index(key.max_quality):
        message = f"Invalid value: '{quality}'. This key may ask for '{key.max_quality}' at most."
        raise UserError(message, param="quality", code="invalid_value")
    return replace(request, size=size, quality=quality)


def _pixels(size: Size) -> int:
    return size.width * size.height
