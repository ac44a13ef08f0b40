"""Report what client keys have used of their limits, for operators."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from app.access.keys import ClientKey
from app.access.limits import KeyLimits
from app.errors import ServiceUnavailable
from app.protocol.money import write_amount

#: Keys that are reported, and seconds for which a report is good: each limit costs a look into the shared state.
MAX_KEYS, MAX_AGE = 100, 5.0


@dataclass(slots=True)
class KeyUsage:
    """The use of all limits. `keys` returns the client keys, `now` seconds that never go back."""

    limits: KeyLimits
    keys: Callable[[], Collection[ClientKey]]
    currency: str
    now: Callable[[], float] = time.monotonic
    _read_at: float = -math.inf
    _rows: list[dict[str, Any]] = field(default_factory=list)

    async def read(self) -> list[dict[str, Any]]:
        """Return a row for each limit of each key. `used` is None where the shared state does not tell it."""
        if self.now() - self._read_at >= MAX_AGE:
            self._read_at = self.now()
            self._rows = [row for key in list(self.keys())[:MAX_KEYS] for row in await self._rows_of(key)]
        return self._rows

    async def _rows_of(self, key: ClientKey) -> list[dict[str, Any]]:
        rows = _limits_of(key, self.currency)
        if not rows:
            return []
        try:
            used = await self._used_of(key)
        except ServiceUnavailable:
            used = {}
        return [{**row, "used": used.get((row["kind"], row["period"]))} for row in rows]

    async def _used_of(self, key: ClientKey) -> dict[tuple[str, str | None], int | str]:
        used: dict[tuple[str, str | None], int | str] = {
            (window.kind, window.rate.period): window.used for window in await self.limits.used_windows(key)
        }
        if key.monthly_images is not None:
            used["images", "month"] = await self.limits.used_images(key)
        if key.monthly_cost is not None:
            used["cost", "month"] = write_amount(await self.limits.budgets.used(key))
        used["concurrency", None] = self.limits.slots_in_use(key)
        return used


def _limits_of(key: ClientKey, currency: str) -> list[dict[str, Any]]:
    limits: list[tuple[str, str | None, int | str | None]] = [
        *(("requests", rate.period, rate.amount) for rate in key.requests),
        *(("images", rate.period, rate.amount) for rate in key.images),
        ("images", "month", key.monthly_images),
        ("cost", "month", None if key.monthly_cost is None else write_amount(key.monthly_cost)),
        ("concurrency", None, key.concurrency),
    ]
    return [
        {
            "key": key.name,
            "kind": kind,
            "period": period,
            "limit": limit,
            "currency": currency if kind == "cost" else None,
        }
        for kind, period, limit in limits
        if limit is not None
    ]
