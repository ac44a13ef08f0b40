"""The price list of an upstream, as an operator writes it."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.config.prices import PriceTable
from app.config.settings import Settings
from app.protocol.prices import Price

UPSTREAM = '[[upstreams]]\nname = "main"\nbase_url = "https://main.example/v1"\napi_key = "sk-main"\n'


def load(path: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Price, ...]:
    monkeypatch.chdir(path)
    (path / "limner.toml").write_text(UPSTREAM + lines)
    [upstream] = Settings().effective_upstreams
    return tuple(row.build() for row in upstream.prices)


def test_rows_have_exact_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = """
[[upstreams.prices]]
image = "0.10"
[[upstreams.prices]]
model = ["a", "b"]
size = "1024x1024"
quality = "high"
tokens_in = 5
tokens_out = "40.000000001"
reserve = "0.30"
"""
    assert load(tmp_path, lines, monkeypatch) == (
        Price(image=Decimal("0.10")),
        Price(("a", "b"), ("1024x1024",), ("high",), None, Decimal(5), Decimal("40.000000001"), Decimal("0.30")),
    )
    assert load(tmp_path, "", monkeypatch) == ()


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    lines: str
    message: str


MISTAKES = [
    Case("a number with a fraction, which is not exact", "image = 0.1", 'in quotes, like "0.04"'),
    Case("a currency", 'image = "$0.10"', 'in quotes, like "0.04"'),
    Case("no price", 'size = "1024x1024"', "expected one of `image`, `tokens_in` and `tokens_out`"),
    Case("an unknown quality", 'image = "1"\nquality = "best"', "quality"),
    Case("an unknown size", 'image = "1"\nsize = "large"', "size"),
    Case("an unknown field", 'image = "1"\ncurrency = "EUR"', "currency"),
    Case("two rows for the same", 'image = "1"\n[[upstreams.prices]]\nimage = "2"', "two rows for the same model"),
]  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.name)
def test_mistakes_are_named(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as caught:
        load(tmp_path, f"[[upstreams.prices]]\n{case.lines}", monkeypatch)
    assert case.message in str(caught.value)


def test_the_currency_is_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "https://main.example/v1")
    assert Settings().currency == "USD"
    with pytest.raises(ValidationError, match="currency"):
        Settings(currency="dollars")


@dataclass(frozen=True)
class Variable:
    name: str
    value: str
    prices: tuple[Price, ...]


def image_price(amount: str, **more: Any) -> Price:
    return PriceTable(image=Decimal(amount), **more).build()


VARIABLES = [
    Variable("nothing", "", ()),
    Variable("the price of every image", "0.04", (image_price("0.04"),)),
    Variable("rows", '[{"image": "0.04"}, {"quality": "high", "image": "0.25"}]', (image_price("0.04"), image_price("0.25", quality=("high",)))),
]  # fmt: skip


@pytest.mark.parametrize("case", VARIABLES, ids=lambda case: case.name)
def test_a_variable_holds_the_prices_of_a_single_upstream(case: Variable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "http://h/v1")
    monkeypatch.setenv("LIMNER_UPSTREAM_PRICES", case.value)
    (upstream,) = Settings().effective_upstreams
    assert tuple(row.build() for row in upstream.prices) == case.prices


def test_a_file_holds_the_prices_of_a_single_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "limner.toml").write_text('upstream_base_url = "http://h/v1"\nupstream_prices = [{image = "0.04"}]\n')
    (upstream,) = Settings().effective_upstreams
    assert [row.image for row in upstream.prices] == [Decimal("0.04")]


@pytest.mark.parametrize("value", ["cheap", "{}", "[1]", "-1", '[{"image": 0.04}]', '[{"picture": "1"}]'])
def test_a_variable_with_other_prices_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "http://h/v1")
    monkeypatch.setenv("LIMNER_UPSTREAM_PRICES", value)
    with pytest.raises(ValidationError, match="LIMNER_UPSTREAM_PRICES"):
        Settings()
