"""Hold a client key to its monthly budget in money: reserve the price before asking, settle the cost after."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from app.access.keys import ClientKey
from app.errors import RateLimited
from app.protocol.money import from_units, to_units, write_amount
from app.state.budget import BudgetCounters, Reservation
from app.state.shared_state import SharedState

#: OpenAI's own words for an account that has used up what it may spend.
_QUOTA_EXCEEDED = "You exceeded your current quota, please check your plan and billing details."


class Grant(NamedTuple):
    """What a request may spend, None for a key without a budget, and the headers that tell what is left."""

    reservation: Reservation | None = None
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed


class MoneyBudgets:
    """The monthly budgets of all client keys, counted over all replicas. Months are those of UTC."""

    def __init__(self, state: SharedState, currency: str, now: Callable[[], float] = time.time) -> None:
        """`now` returns seconds since 1970."""
        self._counters = BudgetCounters(state)
        self._currency = currency
        self._now = now

    async def reserve(self, key: ClientKey | None, price: Decimal) -> Grant:
        """Reserve the price of a request.

        Raises:
            RateLimited: The budget has no room for it.
            ServiceUnavailable: Redis is down, and this server fails closed.
        """
        if key is None or key.monthly_cost is None:
            return Grant()
        limit = to_units(key.monthly_cost)
        granted = await self._counters.reserve(self._budget(key), to_units(price), limit)
        # Costs that nobody could foresee may have used up the budget, although this request has no price.
        if granted.reservation is None or (not granted.reservation.units and granted.used >= limit):
            if granted.reservation is not None:
                await self._counters.settle(granted.reservation, 0)
            raise self._exhausted(key, price, granted.used)
        return Grant(granted.reservation, self._headers(key, granted.used))

    async def settle(self, key: ClientKey | None, reservation: Reservation | None, cost: Decimal) -> None:
        """Count what a run has really cost, in the month in which it was reserved.

        A run without a reservation is one for redelivery: it costs something only if it has sent further chat requests.
        """
        if reservation is None and cost and key is not None and key.monthly_cost is not None:
            reservation = (await self._counters.reserve(self._budget(key), 0, None)).reservation
        if reservation is not None:
            await self._counters.settle(reservation, to_units(cost))

    async def used(self, key: ClientKey) -> Decimal:
        """Return what is spent or reserved this month."""
        return from_units(await self._counters.used(self._budget(key)))

    @property
    def ends_at(self) -> datetime:
        """When the present month ends."""
        today = datetime.fromtimestamp(self._now(), UTC)
        return datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC)

    def _budget(self, key: ClientKey) -> str:
        return f"{key.name}/{month_name(self._now())}"

    def _headers(self, key: ClientKey, used: int) -> dict[str, str]:
        limit = key.monthly_cost or Decimal(0)
        return {
            "x-ratelimit-limit-cost": write_amount(limit),
            "x-ratelimit-remaining-cost": write_amount(max(Decimal(0), limit - from_units(used))),
            "x-ratelimit-reset-cost": f"{self._seconds_left}s",
        }

    @property
    def _seconds_left(self) -> int:
        return math.ceil(self.ends_at.timestamp() - self._now())

    def _exhausted(self, key: ClientKey, price: Decimal, used: int) -> RateLimited:
        headers = self._headers(key, used)
        left, currency = headers["x-ratelimit-remaining-cost"], self._currency
        needed = f", and this request may cost {write_amount(price)} {currency}" if price else ""
        message = (
            f"{_QUOTA_EXCEEDED} Of this key's budget of {key.monthly_cost} {currency} a month, {left} {currency} are "
            f"left{needed}. The next month begins at {self.ends_at:%Y-%m-%dT%H:%M:%SZ}."
        )
        seconds = self._seconds_left
        waits = {"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000), "x-should-retry": "false"}
        quota = "insufficient_quota"
        return RateLimited(message, type=quota, code=quota, headers=headers | waits)


def month_name(seconds: float) -> str:
    """Return the name of the month of a time in seconds since 1970, as counters have it. Months are those of UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m}"
