"""Amounts of money are read exactly, wherever upstreams write them."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
import pytest

from app.protocol.money import (
    ReportedCost,
    from_units,
    parse_amount,
    read_amount,
    read_cost,
    read_cost_header,
    to_units,
    write_amount,
)


def usd(amount: str, currency: str | None = None) -> ReportedCost:
    return ReportedCost(Decimal(amount), currency)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    given: Any
    expected: ReportedCost | None


AMOUNTS = [
    Case("a number", 0.04, usd("0.04")),
    Case("a number that no binary fraction can hold", 0.1, usd("0.1")),
    Case("a whole number", 2, usd("2")),
    Case("a tiny number", 3.45e-05, usd("0.0000345")),
    Case("a text", "0.040", usd("0.040")),
    Case("a text with an exponent", "3.45e-05", usd("0.0000345")),
    Case("a text with a currency behind it", "0.04 USD", usd("0.04", "USD")),
    Case("a text with a currency in front of it", "eur 0.04", usd("0.04", "EUR")),
    Case("a text with a sign", " $0.04 ", usd("0.04", "USD")),
    Case("a sign behind the number", "0.04€", usd("0.04", "EUR")),
    Case("nothing charged", 0, usd("0")),
    Case("more digits than a binary fraction has", "0.123456789012345678", usd("0.123456789012345678")),
    Case("a debt", -0.04, None),
    Case("a boolean", True, None),
    Case("no number", "None", None),
    Case("an empty text", "", None),
    Case("infinity", float("inf"), None),
    Case("not a number", float("nan"), None),
    Case("an absurd amount", "1e9", None),
    Case("digits of another script", "１", None),
    Case("a list", [1], None),
    Case("null", None, None),
]  # fmt: skip


@pytest.mark.parametrize("case", AMOUNTS, ids=lambda case: case.name)
def test_an_amount_is_read_exactly(case: Case) -> None:
    assert read_amount(case.given) == case.expected


USAGES = [
    Case("OpenRouter", {"cost": 0.0387, "cost_details": {"upstream_inference_cost": 0.0387}, "is_byok": False}, usd("0.0387")),
    Case("OpenRouter with the operator's own key at the provider", {"cost": 0.002, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.04}}, usd("0.042")),
    Case("an own key, and no charge of the provider", {"cost": 0.002, "is_byok": True, "cost_details": None}, usd("0.002")),
    Case("a free model", {"cost": 0}, usd("0")),
    Case("details alone", {"cost_details": {"upstream_inference_cost": "0.04"}}, usd("0.04")),
    Case("details with a total", {"cost_details": {"total": 0.05, "upstream_inference_cost": 0.04}}, usd("0.05")),
    Case("an object of parts with their total", {"cost": {"input": 0.01, "total_cost": 0.03}}, usd("0.03")),
    Case("an object without a total", {"cost": {"input": 0.01}}, None),
    Case("an estimate", {"estimated_cost": 0.0021}, usd("0.0021")),
    Case("a currency beside it", {"cost": 0.3, "currency": "cny"}, usd("0.3", "CNY")),
    Case("a currency that is none", {"cost": 0.3, "currency": "credits"}, usd("0.3")),
    Case("a currency that is no text", {"cost": 0.3, "currency": 7}, usd("0.3")),
    Case("null, where nothing is known", {"cost": None, "total_cost": 0.2}, usd("0.2")),
    Case("tokens alone", {"prompt_tokens": 9}, None),
    Case("no object", [1], None),
]  # fmt: skip


@pytest.mark.parametrize("case", USAGES, ids=lambda case: case.name)
def test_a_cost_is_read_from_the_usage(case: Case) -> None:
    assert read_cost(case.given) == case.expected


def test_the_digits_of_json_are_not_lost() -> None:
    assert read_cost(orjson.loads('{"cost": 0.070, "total_cost": 9}')) == usd("0.07")


HEADERS = [
    Case("LiteLLM", {"x-litellm-response-cost": "3.45e-05"}, usd("0.0000345")),
    Case("the cost of a request", {"x-request-cost": "0.04"}, usd("0.04")),
    Case("the shortest name", {"x-cost": "0.04"}, usd("0.04")),
    Case("with the currency in its name", {"x-total-cost-usd": "0.04"}, usd("0.04")),
    Case("a total beside its parts", {"x-input-cost": "0.01", "x-total-cost": "0.05", "x-output-cost": "0.04"}, usd("0.05")),
    Case("zero at the head of a stream", {"x-litellm-response-cost": "0.0"}, None),
    Case("unknown to the gateway", {"x-litellm-response-cost": "None"}, None),
    Case("another header of costs", {"x-litellm-response-cost-original": "0.04", "x-cost-center": "7", "cost": "5"}, None),
    Case("none", {}, None),
]  # fmt: skip


@pytest.mark.parametrize("case", HEADERS, ids=lambda case: case.name)
def test_a_cost_is_read_from_the_headers(case: Case) -> None:
    assert read_cost_header(case.given) == case.expected


def test_operators_write_exact_amounts() -> None:
    assert [parse_amount(each) for each in ("50.00", 50, "0.000000001")] == [
        Decimal(50),
        Decimal(50),
        Decimal("0.000000001"),
    ]
    wrong = (0.1, "1e3", "-1", "1,000", "0.0000000001", "1234567", True, None, "")
    assert [parse_amount(each) for each in wrong] == [None] * len(wrong)


def test_counters_hold_billionths() -> None:
    assert to_units(Decimal("0.1")) * 3 == to_units(Decimal("0.3"))
    assert to_units(Decimal("0.0000000001")) == 1
    assert from_units(to_units(Decimal("49.99"))) == Decimal("49.99")
    assert [write_amount(Decimal(each)) for each in ("0.0400", "0E-9", "1E+2", "3.45e-5")] == [
        "0.04",
        "0",
        "100",
        "0.0000345",
    ]
