"""What each attempt at an upstream has cost, and what they have cost together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from app.protocol.money import ReportedCost, read_cost_header, write_amount
from app.protocol.prices import NO_PRICES, PriceList
from app.protocol.usage import NO_USAGE, Usage
from app.protocol.values import value_class

#: Headers in which upstreams name a request: those of OpenAI and most others, of new-api and its relatives, of
#: OpenRouter, and of Anthropic.
_ID_HEADERS = ("x-request-id", "x-oneapi-request-id", "x-generation-id", "request-id")

#: Characters of the longest id of an upstream that is kept.
_MAX_ID = 128


class CostSource(StrEnum):
    """Who says what something has cost, from the strongest to the weakest source."""

    UPSTREAM = "upstream"
    TABLE = "table"
    UNKNOWN = "unknown"


_SOURCES = tuple(CostSource)


@value_class
class Charge:
    """What one or several attempts have cost. `amount` leaves out what is unknown; None if nothing is known."""

    amount: Decimal | None
    source: CostSource
    currency: str

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of the ledger, the amount as a text: JSON has no exact decimals."""
        amount = None if self.amount is None else write_amount(self.amount)
        return {"cost": amount, "currency": self.currency, "cost_source": str(self.source)}


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """One request to one upstream, for the ledger and the bill.

    Attributes:
        model: The upstream's name of the model.
        size: The size that was requested; None where the model chose it.
        sent_at: Seconds since 1970.
        ids: The upstream's own names of the request.
        reported: What the upstream says it charged.
        image_sizes: The measured size of each image of the reply, None where it was not measured.
        is_free: The attempt has failed in a way that surely cost nothing.
    """

    upstream: str
    model: str
    prices: PriceList = NO_PRICES
    size: str | None = None
    quality: str | None = None
    sent_at: float = 0.0
    ids: list[str] = field(default_factory=list)
    usage: Usage = NO_USAGE
    reported: ReportedCost | None = None
    image_sizes: Sequence[str | None] = ()
    is_free: bool = False
    _from_header: ReportedCost | None = None

    def read_head(self, headers: Mapping[str, str]) -> None:
        """Take in the head of the response. The names of its headers are in lower case."""
        self.add_ids([headers[name] for name in _ID_HEADERS if name in headers])
        self._from_header = read_cost_header(headers)

    def read_reply(self, reply_id: str | None, usage: Usage, reported: ReportedCost | None) -> None:
        """Take in what the body of the response says, of which more may follow."""
        self.add_ids((reply_id,))
        self.usage, self.reported = usage, reported

    def add_ids(self, ids: Any) -> None:
        """Add the upstream's names of the request that are usable and new."""
        for each in ids:
            is_usable = isinstance(each, str) and 0 < len(each) <= _MAX_ID and each.isprintable()
            if is_usable and each not in self.ids:
                self.ids.append(each)

    @property
    def cost(self) -> Charge:
        """What the attempt has cost: nothing for sure, as the upstream says, by the price list, or unknown."""
        currency = self.prices.currency
        if self.is_free:
            return Charge(Decimal(0), CostSource.UPSTREAM, currency)
        for reported in (self.reported, self._from_header):
            if reported is not None and reported.currency in {None, currency}:
                return Charge(reported.amount, CostSource.UPSTREAM, currency)
        sizes = [self.size or measured for measured in self.image_sizes]
        amount = self.prices.cost(self.model, sizes, self.quality, self.usage)
        return Charge(amount, CostSource.UNKNOWN if amount is None else CostSource.TABLE, currency)

    @property
    def reserve(self) -> Decimal:
        """What the attempt counts as while its cost is unknown."""
        return self.prices.reserve(self.model, self.size, self.quality)

    def as_fields(self, charge: Charge) -> dict[str, Any]:
        """Return the attempt as the ledger has it; `charge` is its cost."""
        cost = charge.as_fields()
        return {
            "at": round(self.sent_at, 3),
            "upstream": self.upstream,
            "model": self.model,
            "ids": self.ids,
            "cost": cost["cost"],
            "cost_source": cost["cost_source"],
        }


def budgeted_cost(attempts: Sequence[AttemptRecord]) -> Decimal:
    """Return what the attempts count in a budget. A cost that is unknown counts as what was reserved for it."""
    amounts = [(attempt.cost.amount, attempt) for attempt in attempts]
    return sum((attempt.reserve if amount is None else amount for amount, attempt in amounts), Decimal(0))


def total_cost(costs: Sequence[Charge], currency: str) -> Charge:
    """Return what attempts with these costs have cost together; its source is the weakest of theirs."""
    if len(costs) == 1 and costs[0].currency == currency:
        return costs[0]
    known = [cost.amount for cost in costs if cost.amount is not None]
    amount = sum(known, Decimal(0)) if known or not costs else None
    source = max((cost.source for cost in costs), key=_SOURCES.index, default=CostSource.UPSTREAM)
    return Charge(amount, source, currency)
