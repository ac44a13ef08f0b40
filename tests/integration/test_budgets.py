"""Monthly budgets in money: exact over all replicas, reserved before asking, settled after."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from app.access.auth import Caller
from app.access.budgets import MoneyBudgets
from app.access.keys import ClientKey, parse_keys
from app.cli.main import main
from app.errors import RateLimited, ServiceUnavailable
from app.images.blob import Spool
from app.jobs.service import Submission
from app.protocol.image_request import ImagesRequest
from app.protocol.money import from_units
from app.protocol.parameters import Operation
from app.protocol.prices import Price, PriceList
from app.protocol.sizes import Size
from app.state.budget import BudgetCounters, BudgetReply
from app.state.shared_state import SharedState
from app.upstream.pool import PoolMember, UpstreamPool
from app.upstream.spec import ModelMap, UpstreamSpec
from tests.support.billing_upstream import BillingUpstream, billed_limner
from tests.support.redis import RedisServer, run_redis

pytestmark = pytest.mark.usefixtures("default_log")

HEAD = f'[[keys]]\nname = "shop"\nsha256 = "{hashlib.sha256(b"sk-shop").hexdigest()}"\n'
PRICES = ({"image": "0.04"},)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


def key_with(budget: str) -> ClientKey:
    [key] = parse_keys(f'{HEAD}monthly_cost = "{budget}"\n')
    return key


def write_keys(folder: Path, lines: str) -> str:
    (folder / "keys.toml").write_text(HEAD + lines)
    return str(folder / "keys.toml")


# The counters, in Redis and without it.


@pytest.mark.parametrize("is_shared", [False, True], ids=["one process", "Redis"])
def test_reservations_are_settled_once(is_shared: bool, redis: RedisServer) -> None:
    async def check() -> None:
        state = SharedState(redis.url if is_shared else "memory:", fail_closed=False)
        counters = BudgetCounters(state)
        first = await counters.reserve("b", 60, 100)
        assert (first.reservation is not None, first.used) == (True, 60)
        assert await counters.reserve("b", 41, 100) == BudgetReply(None, 60)
        assert (await counters.reserve("b", 40, 100)).used == 100
        assert (await counters.reserve("b", 5, None)).used == 105
        assert first.reservation is not None
        await counters.settle(first.reservation, 10)
        assert await counters.used("b") == 55
        if is_shared:
            # Redis may have executed a command whose answer was lost.
            await counters.settle(first.reservation, 10)
            assert await counters.used("b") == 55
        assert await counters.used("other") == 0
        await state.close()

    asyncio.run(check())


def test_two_replicas_never_grant_more_than_the_budget(redis: RedisServer) -> None:
    async def check() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        counters = [BudgetCounters(state) for state in states]
        granted = await asyncio.gather(*(counters[number % 2].reserve("b", 7, 100) for number in range(40)))
        assert sum(each.reservation is not None for each in granted) == 14
        assert await counters[0].used("b") == 98
        for state in states:
            await state.close()

    asyncio.run(check())


def test_what_redis_could_not_take_is_settled_later(redis: RedisServer) -> None:
    async def check() -> None:
        now = 0.0
        state = SharedState(redis.url, fail_closed=False, now=lambda: now)
        counters = BudgetCounters(state)
        reservation = (await counters.reserve("b", 60, 100)).reservation
        assert reservation is not None
        redis.kill()
        await counters.settle(reservation, 10)
        # This process counts alone meanwhile.
        local = await counters.reserve("b", 80, 100)
        assert local.reservation is not None
        assert await counters.reserve("b", 30, 100) == BudgetReply(None, 80)
        await counters.settle(local.reservation, 50)
        assert await counters.used("b") == 50
        redis.start()
        now = 100.0
        # A Redis that has lost its memory takes the settlement as one that it knows already.
        assert await counters.used("b") == 50
        await state.close()

    asyncio.run(check())


def test_a_server_that_fails_closed_refuses_without_redis(redis: RedisServer) -> None:
    async def check() -> None:
        state = SharedState(redis.url, fail_closed=True)
        redis.kill()
        with pytest.raises(ServiceUnavailable):
            await MoneyBudgets(state, "USD").reserve(key_with("1"), Decimal(1))
        await state.close()

    asyncio.run(check())


# The budgets of keys.


def test_a_key_without_a_budget_reserves_nothing() -> None:
    async def check() -> None:
        budgets = MoneyBudgets(SharedState("memory:", fail_closed=False), "USD")
        [key] = parse_keys(HEAD)
        for each in (None, key):
            assert await budgets.reserve(each, Decimal(1)) == (None, {})
            await budgets.settle(each, None, Decimal(1))
        assert await budgets.used(key) == 0

    asyncio.run(check())


def test_a_budget_lasts_for_a_month_and_says_when_it_begins_again() -> None:
    now = 1_798_675_199.5  # 2026-12-30T23:59:59.5Z

    async def check() -> None:
        nonlocal now
        budgets = MoneyBudgets(SharedState("memory:", fail_closed=False), "EUR", lambda: now)
        key = key_with("0.10")
        _, headers = await budgets.reserve(key, Decimal("0.07"))
        assert headers == {
            "x-ratelimit-limit-cost": "0.1",
            "x-ratelimit-remaining-cost": "0.03",
            "x-ratelimit-reset-cost": "86401s",
        }
        with pytest.raises(RateLimited) as caught:
            await budgets.reserve(key, Decimal("0.0300000001"))
        error = caught.value
        assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
        assert error.message == (
            "You exceeded your current quota, please check your plan and billing details. Of this key's budget of 0.10 "
            "EUR a month, 0.03 EUR are left, and this request may cost 0.0300000001 EUR. The next month begins at "
            "2027-01-01T00:00:00Z."
        )
        assert (error.headers["retry-after"], error.headers["x-should-retry"]) == ("86401", "false")
        grant = await budgets.reserve(key, Decimal("0.03"))
        now += 86_402
        assert (await budgets.reserve(key, Decimal("0.10"))).headers["x-ratelimit-remaining-cost"] == "0"
        # It is settled in its own month.
        await budgets.settle(key, grant.reservation, Decimal(5))
        assert await budgets.used(key) == Decimal("0.10")

    asyncio.run(check())


@pytest.mark.parametrize("spent", ["0.10", "0.11"], ids=["to the last cent", "and more"])
def test_a_budget_that_is_used_up_refuses_requests_whose_price_is_unknown(spent: str) -> None:
    async def check() -> None:
        budgets = MoneyBudgets(SharedState("memory:", fail_closed=False), "USD")
        key = key_with("0.10")
        grant = await budgets.reserve(key, Decimal(0))
        await budgets.settle(key, grant.reservation, Decimal(spent))
        with pytest.raises(RateLimited, match=r"a month, 0 USD are left\. The next") as caught:
            await budgets.reserve(key, Decimal(0))
        assert caught.value.headers["x-ratelimit-remaining-cost"] == "0"
        assert await budgets.used(key) == Decimal(spent)
        # What is spent without a reservation counts too.
        await budgets.settle(key, None, Decimal("0.04"))
        assert await budgets.used(key) == Decimal(spent) + Decimal("0.04")

    asyncio.run(check())


def test_a_refusal_leaves_no_open_reservation_in_redis(redis: RedisServer) -> None:
    """Each would stay there to the end of the month."""

    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)
        budgets = MoneyBudgets(state, "USD")
        key = key_with("0.10")
        grant = await budgets.reserve(key, Decimal("0.10"))
        with pytest.raises(RateLimited):
            await budgets.reserve(key, Decimal(0))
        await budgets.settle(key, grant.reservation, Decimal("0.10"))
        await state.close()

    asyncio.run(check())
    with Redis.from_url(redis.url, decode_responses=True) as client:
        assert [name for name in client.scan_iter() if str(name).endswith(":open")] == []


# The whole server.


def test_the_price_is_that_of_the_upstreams_that_may_be_asked() -> None:
    def member(name: str, price: str, models: ModelMap) -> PoolMember:
        prices = PriceList("USD", (Price(image=Decimal(price)), Price(sizes=("1024x1024",), image=Decimal("0.01"))))
        client: Any = None
        return PoolMember(UpstreamSpec("https://up.example", name=name, models=models, prices=prices), client)

    listed = ModelMap(names={"a": "x"})
    pool = UpstreamPool([member("main", "0.04", ModelMap("m")), member("spare", "0.09", listed)])
    asked = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", model="a")
    assert pool.highest_price(asked) == Decimal("0.09")
    assert pool.highest_price(asked, "main") == Decimal("0.04")
    assert pool.highest_price(replace(asked, size=Size(512, 512), quality="low")) == Decimal("0.01")
    assert pool.highest_price(replace(asked, model="b")) == Decimal("0.04")
    assert pool.highest_price(replace(asked, model="b"), "spare") == 0


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    fault: str
    used: str
    status: int = 200
    cost: str = "0.04"
    reports: bool = True
    parameters: dict[str, Any] | None = None


CASES = [
    Case("an image at its price", "ok", "0.04"),
    Case("an image at another cost", "ok", "0.0345", cost="0.0345"),
    Case("an image by the price list", "ok", "0.04", reports=False),
    Case("two images", "ok", "0.08", parameters={"n": 2}),
    Case("a failure that surely cost nothing", "refused", "0", 500),
    Case("a timeout counts as the price", "timeout", "0.04", 500),
    Case("a reply without an image, at an unknown cost", "text", "0.04", 400, reports=False),
    Case("a reply without an image, at a known cost", "text", "0.01", 400, cost="0.01"),
    Case("an invalid request", "ok", "0", 400, parameters={"size": "7x7"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_real_cost_counts(case: Case, tmp_path: Path) -> None:
    async def check() -> Decimal:
        upstream = BillingUpstream(lambda: case.fault, lambda: case.cost, case.reports)
        keys = write_keys(tmp_path, 'monthly_cost = "0.10"')
        async with billed_limner(upstream, tmp_path, PRICES, keys_file=keys) as limner:
            assert (await limner.generate("sk-shop", **case.parameters or {})).status_code == case.status
            used: Decimal = await limner.services.service.limits.budgets.used(key_with("0.10"))
        return used

    assert asyncio.run(check()) == Decimal(case.used)


def test_beyond_the_budget_nothing_is_asked(tmp_path: Path) -> None:
    async def check() -> None:
        upstream = BillingUpstream()
        keys = write_keys(tmp_path, 'monthly_cost = "0.10"\nimages = ["9/day"]')
        async with billed_limner(upstream, tmp_path, PRICES, keys_file=keys) as limner:
            responses = [await limner.generate("sk-shop", prompt=f"fox {number}") for number in range(3)]
            assert [response.status_code for response in responses] == [200, 200, 429]
            assert responses[1].headers["x-ratelimit-remaining-cost"] == "0.02"
            error = responses[2].json()["error"]
            assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
            assert len(upstream.bill) == 2
            # A request that is refused by its budget counts for no other limit, nor the other way round.
            limits = limner.services.service.limits
            remaining = (await limner.generate("sk-shop", prompt="fox 4")).headers.get("x-ratelimit-remaining-images")
            assert remaining is None
            assert from_units(2 * 40_000_000) == await limits.budgets.used(key_with("0.10"))

    asyncio.run(check())


def test_a_request_that_another_limit_refuses_reserves_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        keys = write_keys(tmp_path, 'monthly_cost = "1"\nimages = ["1/day"]')
        async with billed_limner(BillingUpstream(), tmp_path, PRICES, keys_file=keys) as limner:
            assert (await limner.generate("sk-shop")).status_code == 200
            assert (await limner.generate("sk-shop", prompt="another fox")).status_code == 429
            assert await limner.services.service.limits.budgets.used(key_with("1")) == Decimal("0.04")

    asyncio.run(check())


def test_a_request_whose_client_leaves_before_the_run_begins_releases_what_it_has_reserved(tmp_path: Path) -> None:
    async def always() -> bool:
        return True

    async def check() -> None:
        upstream, caller = BillingUpstream(), Caller("id", "sk-shop", key_with("0.10"))
        async with billed_limner(upstream, tmp_path, PRICES) as limner:
            service, recorder = limner.services.service, limner.services.recorder
            request = ImagesRequest(operation=Operation.GENERATION, prompt="a fox")
            usage = recorder.start("req_1", caller, Operation.GENERATION, None)
            reader = await service.submit(Submission("req_1", request, caller, Spool(None), usage, is_connected=always))
            assert await service.limits.budgets.used(key_with("0.10")) == Decimal("0.04")
            reader.close(delivered=False)
            await reader.run.wait_done()
            await service.drain(1)
            assert await service.limits.budgets.used(key_with("0.10")) == 0
        assert upstream.bill == []

    asyncio.run(check())


# What `limner keys` shows.


def show_keys(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    assert main(["keys"]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "https://up.example/v1")
    monkeypatch.setenv("LIMNER_KEYS_FILE", write_keys(tmp_path, 'monthly_cost = "50.00"\nmonthly_images = 7'))
    return tmp_path


def test_the_use_is_read_from_the_shared_state(
    environment: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def use() -> None:
        state = SharedState(redis.url, fail_closed=False)
        budgets = MoneyBudgets(state, "USD")
        await budgets.reserve(key_with("50.00"), Decimal("1.25"))
        await state.close()

    asyncio.run(use())
    monkeypatch.setenv("LIMNER_SHARED_STATE", redis.url)
    assert show_keys(capsys)[1] == ["shop", "0", "7", "1.25", "50"]
    redis.kill()
    assert main(["keys"]) == 1
    assert "limner keys: " in capsys.readouterr().err


def test_the_use_is_read_from_the_ledger(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_keys(capsys) == [["key", "images", "of", "cost", "USD", "of"], ["shop", "-", "7", "-", "50"]]
    month = f"{datetime.now(UTC):%Y-%m}"
    spent = {"at": f"{month}-01T00:00:00.000+00:00", "key": "shop", "images": 2, "cost": "0.1", "currency": "USD"}
    lines = [spent, spent, spent | {"currency": "EUR"}, spent | {"at": "2020-01-01"}, {**spent, "cost": None}, [1]]
    ledger = environment / "ledger.jsonl"
    ledger.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b'\n{"cut')
    monkeypatch.setenv("LIMNER_LEDGER", str(ledger))
    assert show_keys(capsys)[1] == ["shop", "8", "7", "0.2", "50"]
    ledger.write_bytes(b"")
    assert show_keys(capsys)[1] == ["shop", "0", "7", "0", "50"]


def test_mistakes_are_explained(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_keys(environment, "monthly_cost = 50.5")
    assert main(["keys"]) == 2
    assert 'monthly_cost: expected an amount of money in quotes, like "50.00"' in capsys.readouterr().err
    monkeypatch.delenv("LIMNER_KEYS_FILE")
    assert main(["keys"]) == 2
    assert "LIMNER_KEYS_FILE is not set" in capsys.readouterr().err
