"""Amounts of money as exact decimals: read them from what upstreams and operators write, write and count them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

#: Counters hold whole billionths of the currency, since prices per token are that small.
_UNIT_DIGITS = 9

#: More than any request costs; an upstream that reports more is not believed.
_MAX_AMOUNT = 1_000_000

_AMOUNT = re.compile(
    r"(?:(?P<before>[A-Za-z]{3}\b|[$€£])\s*)?(?P<number>[0-9]{1,15}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?)"
    r"(?:\s*(?P<after>[A-Za-z]{3}|[$€£]))?"
)
#: An amount in a configuration, with at most as many digits as counters take.
_WRITTEN_AMOUNT = r"[0-9]{1,6}(\.[0-9]{1,9})?"

_SIGNS = {"$": "USD", "€": "EUR", "£": "GBP"}

#: What upstreams call the whole cost of a request. Where several are there, the first one counts.
_TOTALS = ("cost", "total_cost", "cost_usd", "estimated_cost")
_DETAILS = ("total_cost", "total", "upstream_inference_cost")

#: Headers that report a cost: `x-litellm-response-cost`, `x-request-cost`, `x-total-cost`.
_COST_HEADER = re.compile(r"x-(?:[a-z0-9_-]+-)?cost(?:-usd)?")


@dataclass(frozen=True, slots=True)
class ReportedCost:
    """What an upstream says it charged. `currency`: None where it does not say; it is then that of its account."""

    amount: Decimal
    currency: str | None = None


def read_cost(usage: object) -> ReportedCost | None:
    """Read the cost from the `usage` of a reply; None where there is none.

    Where the operator's own key at a provider was used (`is_byok`), the provider's charge comes on top.
    """
    if not isinstance(usage, dict):
        return None
    details = usage.get("cost_details")
    details = details if isinstance(details, dict) else {}
    found = _first_amount(usage, _TOTALS)
    if found is None:
        return _first_amount(details, _DETAILS)
    provider = read_amount(details.get("upstream_inference_cost")) if usage.get("is_byok") is True else None
    return found if provider is None else ReportedCost(found.amount + provider.amount, found.currency)


def _first_amount(usage: Mapping[str, Any], names: tuple[str, ...]) -> ReportedCost | None:
    for value in [usage[name] for name in names if name in usage]:
        if isinstance(value, dict):
            # Some list the parts beside their total.
            found = _first_amount(value, _DETAILS)
        elif (found := read_amount(value)) is not None:
            currency = usage.get("currency")
            known = currency.upper() if isinstance(currency, str) and re.fullmatch("[A-Za-z]{3}", currency) else None
            found = ReportedCost(found.amount, found.currency or known)
        if found is not None:
            return found
    return None


def read_cost_header(headers: Mapping[str, str]) -> ReportedCost | None:
    """Read the cost from the headers of a response, whose names are in lower case; None where there is none.

    Of several, the largest is the total. A 0 proves nothing: the head of a stream is sent before the work, and gateways
    write it where they know no price.
    """
    found = [read_amount(value) for name, value in headers.items() if "cost" in name and _COST_HEADER.fullmatch(name)]
    return max((cost for cost in found if cost is not None and cost.amount), key=lambda cost: cost.amount, default=None)


def read_amount(value: object) -> ReportedCost | None:
    """Read a number, or a text with a number and perhaps a currency; None for anything else and for debts."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    # The shortest text that means the same number: the digits that the upstream wrote.
    text = value.strip() if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)
    match = _AMOUNT.fullmatch(text)
    if match is None or (amount := Decimal(match["number"])) > _MAX_AMOUNT:
        return None
    sign = match["before"] or match["after"]
    return ReportedCost(amount, _SIGNS.get(sign, sign.upper()) if sign else None)


def parse_amount(value: object) -> Decimal | None:
    """Return an amount that an operator has written as a text or a whole number, None for anything else.

    A number with a fraction has lost its exact digits before it gets here.
    """
    text = str(value) if type(value) is int else value
    return Decimal(text) if isinstance(text, str) and re.fullmatch(_WRITTEN_AMOUNT, text) else None


def write_amount(amount: Decimal) -> str:
    """Write an amount without an exponent and without needless zeros."""
    return format(amount.normalize() if amount else Decimal(0), "f")


def to_units(amount: Decimal) -> int:
    """Return an amount in billionths for counters, rounded up."""
    return int(amount.scaleb(_UNIT_DIGITS).to_integral_value(ROUND_CEILING))


def from_units(units: int) -> Decimal:
    """Return the amount that a counter means."""
    return Decimal(units).scaleb(-_UNIT_DIGITS)
