"""What keys have used of their limits, as operators see it."""

import asyncio
import hashlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.access.auth import Caller
from app.access.key_usage import MAX_AGE, MAX_KEYS, KeyUsage
from app.access.keys import ClientKey, parse_keys
from app.access.limits import KeyLimits
from app.state.shared_state import SharedState
from tests.support.redis import RedisServer, run_redis

LINES = """requests = ["30/minute"]
images = ["2/hour", "500/day"]
monthly_images = 50
monthly_cost = "2.50"
concurrency = 4
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


def key(name: str = "shop", lines: str = LINES) -> ClientKey:
    digest = hashlib.sha256(name.encode()).hexdigest()
    (found,) = parse_keys(f'[[keys]]\nname = "{name}"\nsha256 = "{digest}"\n{lines}')
    return found


def used(rows: list[dict[str, Any]]) -> dict[tuple[str, str | None], Any]:
    return {(row["kind"], row["period"]): row["used"] for row in rows}


def test_all_limits_are_reported_with_what_is_used() -> None:
    async def work() -> None:
        limits = KeyLimits(SharedState("memory:", fail_closed=False), 8)
        shop = key()
        now = 0.0
        usage = KeyUsage(limits, lambda: [shop, key("free", "")], "EUR", lambda: now)
        rows = await usage.read()
        assert {row["key"] for row in rows} == {"shop"}
        assert set(used(rows).values()) == {0, "0"}
        grant = await limits.budgets.reserve(shop, Decimal("0.5"))
        await limits.charge(Caller("c", None, shop), 2)
        async with limits.slot(Caller("c", None, shop), 3):
            assert await usage.read() is rows
            now += MAX_AGE
            rows = await usage.read()
        assert used(rows) == {
            ("requests", "minute"): 1,
            ("images", "hour"): 2,
            ("images", "day"): 2,
            ("images", "month"): 2,
            ("cost", "month"): "0.5",
            ("concurrency", None): 3,
        }
        assert [row["limit"] for row in rows] == [30, 2, 500, 50, "2.5", 4]
        assert [row["currency"] for row in rows if row["currency"]] == ["EUR"]
        await limits.budgets.settle(shop, grant.reservation, Decimal(0))

    asyncio.run(work())


def test_replicas_report_the_same(redis: RedisServer) -> None:
    async def work() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        one, other = (KeyLimits(state, 8) for state in states)
        await one.charge(Caller("c", None, key()), 2)
        rows = await KeyUsage(other, lambda: [key()], "USD").read()
        assert used(rows)["images", "month"] == 2
        for state in states:
            await state.close()

    asyncio.run(work())


def test_what_redis_does_not_tell_is_unknown() -> None:
    async def work() -> None:
        state = SharedState("redis://127.0.0.1:1", fail_closed=True)
        rows = await KeyUsage(KeyLimits(state, 8), lambda: [key()], "USD").read()
        assert set(used(rows).values()) == {None}
        await state.close()

    asyncio.run(work())


def test_many_keys_are_not_all_reported() -> None:
    async def work() -> None:
        keys = [key(f"key-{number}", "concurrency = 1") for number in range(MAX_KEYS + 5)]
        limits = KeyLimits(SharedState("memory:", fail_closed=False), 8)
        assert len(await KeyUsage(limits, lambda: keys, "USD").read()) == MAX_KEYS

    asyncio.run(work())
