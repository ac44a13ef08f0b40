"""Enforce what a client key may request.

Its limits: models, sizes, qualities, requests and images per period, images per month, and concurrency.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace

from app.access.auth import Caller
from app.access.budgets import MoneyBudgets, month_name
from app.access.concurrency import FairSemaphore
from app.access.keys import ClientKey, Rate
from app.errors import Forbidden, InvalidRequest, RateLimited, UserError
from app.protocol.image_request import ImagesRequest
from app.protocol.validation_errors import quote
from app.state.budget import MONTH_TTL
from app.state.semaphore import DistributedSemaphore
from app.state.shared_state import Counters, SharedState

_SECONDS = {"minute": 60, "hour": 3_600, "day": 86_400}

#: From the least to the best.
QUALITIES = ("low", "medium", "high")

#: What is held where there is no limit.
_NO_LIMIT = nullcontext()


@dataclass(frozen=True, slots=True)
class LimitWindow:
    """One limit, what a request would use of it, and how much is used.

    Attributes:
        kind: "requests" or "images".
        cost: How much this request uses.
        counter: The name of the counter. It does not contain the amount, so that what was used still counts when the
            operator changes the limit.
        resets_in: Seconds until the oldest use no longer counts.
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
    """The limits of all client keys, counted in the shared state."""

    def __init__(
        self, state: SharedState, max_waiting: int, now: Callable[[], float] = time.time, currency: str = "USD"
    ) -> None:
        """`max_waiting`: requests of one key that may wait for a slot. `now`: returns seconds since 1970."""
        self.budgets = MoneyBudgets(state, currency, now)
        self._state = state
        self._max_waiting = max_waiting
        self._now = now
        self._locks: dict[str, asyncio.Lock] = {}
        self._semaphores: dict[str, FairSemaphore] = {}
        self._shared_semaphore = DistributedSemaphore(state)

    def lock(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Return a lock of the caller's key.

        Held while a request looks for an equal job and is charged, so that the second of two equal requests finds the
        job of the first and is not charged.
        """
        return _NO_LIMIT if caller.key is None else self._locks.setdefault(caller.key.name, asyncio.Lock())

    def slot(self, caller: Caller, slots: int) -> AbstractAsyncContextManager[None]:
        """Hold `slots` of the concurrency of the caller's key.

        Slots of this process are acquired first, because its queue is bounded and fair, then those of all replicas.

        Raises:
            RateLimited: Too many requests of the key wait.
            ServiceUnavailable: Redis is down, and this server fails closed.
        """
        key = caller.key
        if key is None or key.concurrency is None:
            return _NO_LIMIT
        semaphore = self._semaphores.setdefault(key.name, FairSemaphore(key.concurrency, self._max_waiting))
        semaphore.set_limit(key.concurrency)
        return self._slot(caller, key.name, semaphore, slots)

    @asynccontextmanager
    async def _slot(self, caller: Caller, name: str, semaphore: FairSemaphore, slots: int) -> AsyncIterator[None]:
        async with (
            semaphore.acquire(caller.id, slots),
            self._shared_semaphore.acquire(name, slots, lambda: semaphore.limit),
        ):
            yield

    async def charge(self, caller: Caller, images: int) -> dict[str, str]:
        """Charge one request and its `images` to the caller's key, and return the rate limit headers.

        Raises:
            InvalidRequest: A limit can never hold that many images.
            RateLimited: A limit or the monthly budget is exhausted. The request is not charged.
            ServiceUnavailable: Redis is down, and this server fails closed.
        """
        key = caller.key
        if key is None:
            return {}
        check_image_count(key, images)
        return await self._state.with_counters(key.name, lambda counters: self._charge(counters, key, images))

    async def _charge(self, counters: Counters, key: ClientKey, images: int) -> dict[str, str]:
        # All limits are read before any is charged, so that a refused request is charged to none. Should two replicas
        # charge at the same moment, each limit still holds; only a shorter limit may be charged for a request that a
        # longer one refuses.
        month = self._month_of(key)
        if key.monthly_images is not None and await counters.get(month) + images > key.monthly_images:
            raise _budget_exhausted(key.monthly_images)
        windows = [await self._read_window(counters, window) for window in _limit_windows(key, images)]
        if any(window.remaining < window.cost for window in windows):
            raise await self._limit_exceeded(counters, key, windows)
        for window in windows:
            if not await counters.acquire_entry(window.counter, window.rate.amount, window.seconds, window.cost):
                full = replace(window, used=window.rate.amount)
                raise await self._limit_exceeded(counters, key, [full if each is window else each for each in windows])
        if key.monthly_images is not None:
            await self._spend_budget(counters, month, images, key.monthly_images)
        return _rate_limit_headers([replace(window, used=window.used + window.cost) for window in windows])

    async def used_windows(self, key: ClientKey) -> list[LimitWindow]:
        """Return the limits of the key on requests and images, with what is used of each."""
        return await self._state.with_counters(key.name, lambda counters: self._read_windows(counters, key))

    async def _read_windows(self, counters: Counters, key: ClientKey) -> list[LimitWindow]:
        return [await self._read_window(counters, window) for window in _limit_windows(key, 0)]

    def slots_in_use(self, key: ClientKey) -> int:
        """Return how many slots of the key are in use in this process."""
        return self._semaphores[key.name].in_use if key.name in self._semaphores else 0

    async def used_images(self, key: ClientKey) -> int:
        """Return how many images of this month's budget are used."""
        return await self._state.with_counters(key.name, lambda counters: counters.get(self._month_of(key)))

    def _month_of(self, key: ClientKey) -> str:
        return f"month/{key.name}/{month_name(self._now())}"

    async def _read_window(self, counters: Counters, window: LimitWindow) -> LimitWindow:
        start, used = await counters.get_moving_window(window.counter, window.rate.amount, window.seconds)
        # In Redis stands the time of day of the replica that has used it, which may have been set back since.
        resets_in = min(max(0.0, start + window.seconds - self._now()), window.seconds)
        return replace(window, used=used, resets_in=resets_in)

    async def _limit_exceeded(self, counters: Counters, key: ClientKey, windows: list[LimitWindow]) -> RateLimited:
        """Build the error for the exhausted limit that resets last."""
        waits = []
        for window in windows:
            if window.remaining < window.cost:
                # The library reports when a limit has room for one more. A limit lower by `cost - 1` has room for one
                # more when the real one has room for the whole cost.
                lowered = replace(window, rate=Rate(window.rate.amount - window.cost + 1, window.rate.period))
                waits.append(((await self._read_window(counters, lowered)).resets_in, window))
        wait, window = max(waits, key=lambda each: each[0])
        message = (
            f"Rate limit reached for {key.name} on {window.kind} per {window.rate.period}: "
            f"Limit {window.rate.amount}, Used {window.used}, Requested {window.cost}. "
            f"Please try again in {max(wait, 0.001):.3g}s."
        )
        headers = _rate_limit_headers(windows) | _rate_limit_headers([window])
        return RateLimited(message, type=window.kind, retry_after=wait, headers=headers)

    async def _spend_budget(self, counters: Counters, month: str, images: int, budget: int) -> None:
        # Another replica may have used the rest of the budget since it was read. The images are then given back.
        if await counters.incr(month, MONTH_TTL, images) > budget:
            await counters.incr(month, MONTH_TTL, -images)
            raise _budget_exhausted(budget)


def _limit_windows(key: ClientKey, images: int) -> list[LimitWindow]:
    """Return the limits of the key, the shortest period first."""
    rates = [("requests", rate, 1) for rate in key.requests] + [("images", rate, images) for rate in key.images]
    windows = [LimitWindow(kind, rate, cost, f"{kind}/{key.name}/{rate.period}") for kind, rate, cost in rates]
    return sorted(windows, key=lambda window: window.seconds)


def _budget_exhausted(budget: int) -> RateLimited:
    message = f"This key's budget of {budget} images a month is used up."
    quota, never = "insufficient_quota", {"x-should-retry": "false"}
    return RateLimited(message, type=quota, code=quota, retry_after=60, headers=never)


def _rate_limit_headers(windows: list[LimitWindow]) -> dict[str, str]:
    """Return OpenAI's headers. Of several limits of a kind they show the one with least left, then the longest."""
    headers: dict[str, str] = {}
    for window in sorted(windows, key=lambda each: (-each.remaining, each.seconds)):
        headers[f"x-ratelimit-limit-{window.kind}"] = str(window.rate.amount)
        headers[f"x-ratelimit-remaining-{window.kind}"] = str(window.remaining)
        headers[f"x-ratelimit-reset-{window.kind}"] = _format_duration(math.ceil(window.resets_in))
    return headers


def _format_duration(seconds: int) -> str:
    """Format a duration as OpenAI does: `6m0s`."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def check_image_count(key: ClientKey | None, images: int) -> None:
    """Raise `InvalidRequest` for more images than a limit of the key can ever hold."""
    for rate in () if key is None else key.images:
        if images > rate.amount:
            message = f"Invalid 'n': this key may ask for {rate.amount} images per {rate.period}, but got {images}."
            raise InvalidRequest(message, param="n", code="invalid_value")


def apply_key_policy(key: ClientKey | None, request: ImagesRequest) -> ImagesRequest:
    """Return the request with the largest size and quality that the key permits, where the client set none.

    Raises:
        Forbidden: The key does not permit the model.
        UserError: The size or the quality is above what the key permits.
    """
    if key is None:
        return request
    if key.models and request.model not in key.models:
        named = f"the model '{quote(request.model)}'" if request.model else "requests that name no model"
        raise Forbidden(f"This key does not have access to {named}.", param="model", code="model_not_found")
    size, quality = request.size or key.max_size, request.quality or key.max_quality
    if size and key.max_size and size.upstream_size.pixels > key.max_size.pixels:
        message = f"Invalid size '{size}'. This key may ask for as many pixels as {key.max_size} has."
        raise UserError(message, param="size", code="invalid_value")
    if quality and key.max_quality and QUALITIES.index(quality) > QUALITIES.index(key.max_quality):
        message = f"Invalid value: '{quality}'. This key may ask for '{key.max_quality}' at most."
        raise UserError(message, param="quality", code="invalid_value")
    return replace(request, size=size, quality=quality)
