"""What an attempt has cost: by the upstream's own word, else by the price list, else unknown."""

from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from app.protocol.attempt_costs import AttemptRecord, Charge, CostSource, budgeted_cost, total_cost
from app.protocol.money import ReportedCost
from app.protocol.prices import Price, PriceList

PRICES = PriceList("USD", (Price(image=Decimal("0.04")), Price(sizes=("1536x1024",), image=Decimal("0.06"))))


def record(**fields: object) -> AttemptRecord:
    return AttemptRecord("main", "m", PRICES, **fields)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    record: AttemptRecord
    amount: str | None
    source: str
    headers: dict[str, str] = field(default_factory=dict)


COST_HEADER = {"x-request-cost": "0.05"}
CASES = [
    Case("a failure that surely cost nothing", record(is_free=True, image_sizes=(None,)), "0", "upstream"),
    Case("the upstream says it", record(reported=ReportedCost(Decimal("0.03")), image_sizes=(None,)), "0.03", "upstream", COST_HEADER),
    Case("a header says it", record(image_sizes=(None,)), "0.05", "upstream", COST_HEADER),
    Case("in the same currency", record(reported=ReportedCost(Decimal("0.03"), "USD")), "0.03", "upstream"),
    Case("in another currency", record(reported=ReportedCost(Decimal("0.3"), "CNY"), image_sizes=(None,)), "0.04", "table"),
    Case("in another currency, with a header in ours", record(reported=ReportedCost(Decimal("0.3"), "CNY")), "0.05", "upstream", COST_HEADER),
    Case("the requested size has a price", record(size="1536x1024", image_sizes=("1254x1254",)), "0.06", "table"),
    Case("the measured size has a price", record(image_sizes=("1536x1024",)), "0.06", "table"),
    Case("an attempt without an answer", record(), None, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_strongest_word_counts(case: Case) -> None:
    case.record.read_head(case.headers)
    amount = None if case.amount is None else Decimal(case.amount)
    assert case.record.cost == Charge(amount, CostSource(case.source), "USD")


def test_ids_are_kept_once_in_their_order() -> None:
    attempt = record()
    attempt.read_head({"x-oneapi-request-id": "2026", "x-request-id": "req_1"})
    attempt.add_ids((None, "chatcmpl-1", "req_1", "", 7, "x" * 200, "a\nb"))
    attempt.read_reply("chatcmpl-1", attempt.usage, attempt.reported)
    assert attempt.ids == ["req_1", "2026", "chatcmpl-1"]
    attempt.sent_at, attempt.image_sizes = 1_700_000_000.12345, (None,)
    assert attempt.as_fields(attempt.cost) == {
        "at": 1_700_000_000.123,
        "upstream": "main",
        "model": "m",
        "ids": ["req_1", "2026", "chatcmpl-1"],
        "cost": "0.04",
        "cost_source": "table",
    }
    assert attempt.reserve == Decimal("0.06")


def test_the_total_has_the_weakest_source() -> None:
    known, listed, unknown = record(reported=ReportedCost(Decimal("0.03"))), record(image_sizes=(None,)), record()
    assert total_cost([known.cost, listed.cost], "USD") == Charge(Decimal("0.07"), CostSource.TABLE, "USD")
    assert total_cost([known.cost, unknown.cost, listed.cost], "USD") == Charge(
        Decimal("0.07"), CostSource.UNKNOWN, "USD"
    )
    assert total_cost([unknown.cost], "EUR").as_fields() == {"cost": None, "currency": "EUR", "cost_source": "unknown"}
    assert total_cost([known.cost], "USD") == known.cost
    assert total_cost([], "USD").as_fields() == {"cost": "0", "currency": "USD", "cost_source": "upstream"}


def test_an_unknown_cost_counts_in_a_budget_as_its_price() -> None:
    free, known, unknown = (
        record(is_free=True),
        record(reported=ReportedCost(Decimal("0.03"))),
        record(size="1536x1024"),
    )
    assert budgeted_cost([free, known, unknown]) == Decimal("0.09")
    assert budgeted_cost([]) == 0
