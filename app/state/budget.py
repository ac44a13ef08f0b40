"""Count monthly budgets in money over all replicas: reserve before asking, settle after.

Amounts are whole units. The rules are in budget.lua, because each step must be atomic. While Redis is down, this
process counts alone.
"""

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from app.state.shared_state import SharedState

#: Seconds after which the counters of a month expire: the longest month and a day.
MONTH_TTL = 32 * 86_400


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units of a budget that a request holds until it is settled. `is_local`: they are counted in this process."""

    budget: str
    id: str
    units: int
    is_local: bool


class BudgetReply(NamedTuple):
    """The answer to a reservation: None where the budget has no room for it; and the units that are used now."""

    reservation: Reservation | None
    used: int


class BudgetCounters:
    """The counters of all budgets, by their names, which contain the month."""

    def __init__(self, state: SharedState) -> None:
        self._state = state
        self._local: Counter[str] = Counter()
        #: Settlements that Redis has not taken yet. Each counts once there, however often it is sent.
        self._unsettled: dict[str, tuple[Reservation, int]] = {}

    async def reserve(self, budget: str, units: int, limit: int | None) -> BudgetReply:
        """Reserve units, if no more than `limit` are used then; None is no limit.

        Raises:
            ServiceUnavailable: Redis is down, and this server fails closed.
        """
        await self._settle_late()
        reservation = Reservation(budget, secrets.token_hex(8), units, is_local=False)
        reply = await self._call("reserve", reservation, units, -1 if limit is None else limit, required=True)
        if reply is not None:
            return BudgetReply(reservation if reply[0] else None, reply[1])
        if self._state.is_shared:
            # Redis may have counted it before it failed.
            self._unsettled[reservation.id] = reservation, 0
        if limit is not None and self._local[budget] + units > limit:
            return BudgetReply(None, self._local[budget])
        self._local[budget] += units
        return BudgetReply(Reservation(budget, reservation.id, units, is_local=True), self._local[budget])

    async def settle(self, reservation: Reservation, units: int) -> None:
        """Put what was spent in the place of what was reserved. Never fails: Redis gets it later, if it is down."""
        if reservation.is_local:
            self._local[reservation.budget] += units - reservation.units
            return
        self._unsettled[reservation.id] = reservation, units
        await self._settle_late()

    async def used(self, budget: str) -> int:
        """Return the units that are spent or reserved."""
        await self._settle_late()
        found = await self._state.run(lambda redis: redis.get(_keys(budget)[0]))
        return self._local[budget] + int(found or 0)

    async def _settle_late(self) -> None:
        for reservation, units in [*self._unsettled.values()]:
            if await self._call("settle", reservation, units) is None:
                return
            self._unsettled.pop(reservation.id, None)

    async def _call(
        self, command: str, reservation: Reservation, units: int, limit: int = -1, *, required: bool = False
    ) -> tuple[bool, int] | None:
        args = [command, reservation.id, units, limit, MONTH_TTL]
        reply = await self._state.run_script("budget.lua", _keys(reservation.budget), args, required=required)
        return None if reply is None else (bool(reply[0]), int(reply[1]))


def _keys(budget: str) -> list[str]:
    return [f"limner:money:{{{budget}}}:{part}" for part in ("used", "open")]
