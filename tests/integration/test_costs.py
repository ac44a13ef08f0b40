"""What a request has cost, from the upstream's reply or the price list to the header and the ledger."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.observability.metrics import REGISTRY
from tests.support.billing_upstream import BilledLimner, BillingUpstream, billed_limner

PER_IMAGE = (
    {"image": "0.06"},
    {"image": "0.03", "size": "24x16"},
    {"image": "0.25", "quality": "high", "size": ["1536x1024"]},
)
PER_TOKEN = ({"tokens_in": "5", "tokens_out": "40.00"},)
QUIET = {"reports": False}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    cost: str | None
    source: str
    upstream: dict[str, Any] = field(default_factory=dict)
    prices: tuple[dict[str, Any], ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("the upstream says it", "0.04", "upstream"),
    Case("the upstream says it in a header", "0.0000345", "upstream", {**QUIET, "headers": {"x-litellm-response-cost": "3.45e-05"}}),
    Case("the upstream's own word wins over the price list", "0.04", "upstream", {}, PER_IMAGE),
    Case("the price of an image", "0.06", "table", QUIET, PER_IMAGE, {"size": "1024x1024"}),
    Case("the price of a size and a quality", "0.25", "table", QUIET, PER_IMAGE, {"size": "1536x1024", "quality": "high"}),
    Case("the price of a size that was measured", "0.03", "table", QUIET, PER_IMAGE),
    Case("the price of two images", "0.12", "table", QUIET, PER_IMAGE, {"size": "1024x1024", "n": 2}),
    Case("the price of tokens", "0.1605", "table", QUIET, PER_TOKEN),
    Case("nobody says it", None, "unknown", QUIET),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_image_costs_what_the_upstream_or_the_price_list_says(case: Case, tmp_path: Path) -> None:
    async def check() -> BilledLimner:
        async with billed_limner(BillingUpstream(**case.upstream), tmp_path, case.prices) as limner:
            response = await limner.generate(**case.parameters)
            assert response.status_code == 200
            assert response.headers.get("x-limner-cost") == case.cost
            assert response.headers.get("x-limner-currency") == (None if case.cost is None else "USD")
        return limner

    [entry] = asyncio.run(check()).entries
    assert (entry["cost"], entry["cost_source"], entry["currency"]) == (case.cost, case.source, "USD")


def test_every_attempt_is_in_the_ledger_with_the_ids_of_the_upstream(tmp_path: Path) -> None:
    faults = iter(["busy", "ok", "lost", "refused", "refused", "ok", "text"])

    async def check() -> BilledLimner:
        upstream = BillingUpstream(fault=lambda: next(faults))
        async with billed_limner(upstream, tmp_path) as limner:
            first = await limner.generate()
            assert first.headers["x-limner-cost"] == "0.04"
            lost = await limner.generate(prompt="a lost fox")
            assert (lost.status_code, "x-limner-cost" in lost.headers) == (500, False)
            assert (await limner.generate(prompt="a late fox")).headers["x-limner-cost"] == "0.04"
            refused = await limner.generate(prompt="a shy fox")
            assert (refused.status_code, refused.headers["x-limner-cost"]) == (400, "0.04")
        return limner

    first, lost, late, refused = asyncio.run(check()).entries
    attempts = [[(each["ids"], each["cost"]) for each in entry["upstream_attempts"]] for entry in (first, lost, late)]
    assert attempts == [
        [(["up-1"], "0"), (["up-2", "gen-2"], "0.04")],
        [([], None)],
        [([], "0"), ([], "0"), (["up-6", "gen-6"], "0.04")],
    ]
    assert (lost["cost"], lost["cost_source"]) == (None, "unknown")
    assert (refused["outcome"], refused["cost"]) == ("no_image_in_reply", "0.04")


def test_costs_are_counted_in_the_metrics_and_shown_in_the_status(tmp_path: Path) -> None:
    def counted() -> tuple[float, float]:
        labels = {"currency": "CHF", "source": "upstream"}
        known = REGISTRY.get_sample_value("limner_cost_total", labels) or 0
        return known, REGISTRY.get_sample_value("limner_unknown_costs_total") or 0

    async def check() -> None:
        faults = iter(["ok", "lost"])
        upstream = BillingUpstream(fault=lambda: next(faults), cost=lambda: "0.25")
        async with billed_limner(upstream, tmp_path, currency="CHF", api_keys="sk-a") as limner:
            await limner.generate("sk-a")
            await limner.generate("sk-a")
            key = {"authorization": "Bearer sk-a"}
            lost, first = (await limner.http.get("/v1/status", headers=key)).json()["outcomes"]
        assert (first["cost"], first["currency"], first["cost_source"]) == ("0.25", "CHF", "upstream")
        assert (lost["cost"], lost["cost_source"]) == (None, "unknown")

    before = counted()
    asyncio.run(check())
    assert counted() == (before[0] + 0.25, before[1] + 1)
