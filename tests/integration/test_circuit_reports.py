"""Replicas exchange reports of unreachable upstreams through a real Redis."""

import asyncio
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.state.circuit_reports import exchange_circuit_reports
from app.state.shared_state import SharedState
from tests.support.redis import RedisServer, run_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


class Replica:
    """A pool whose circuits are given by name; it keeps the last report."""

    def __init__(self, **circuits: str) -> None:
        self.states = circuits
        self.reported_down: Collection[str] = ("from an earlier report",)

    def circuits(self) -> dict[str, str]:
        return self.states

    def report_down(self, names: Collection[str]) -> None:
        self.reported_down = names

    async def exchange(self, url: str) -> None:
        """Exchange reports once, through the Redis at `url`."""
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) > 1:
                raise asyncio.CancelledError

        state = SharedState(url, fail_closed=False)
        try:
            await exchange_circuit_reports(state, self, sleep)
        except asyncio.CancelledError:
            assert pauses == [2.0, 2.0]
        finally:
            await state.close()


def test_an_open_circuit_is_reported_to_other_replicas_until_the_report_expires(server: RedisServer) -> None:
    async def exchange() -> None:
        one, other = Replica(main="open", spare="half-open", third="closed"), Replica(main="closed", spare="closed")
        await one.exchange(server.url)
        await other.exchange(server.url)
        assert other.reported_down == ["main"]
        with Redis.from_url(server.url) as redis:
            assert 5000 < redis.pttl("limner:circuit:main") <= 6000
            redis.delete("limner:circuit:main")
        await other.exchange(server.url)
        assert not other.reported_down

    asyncio.run(exchange())


def test_while_redis_is_down_no_upstream_is_reported(server: RedisServer) -> None:
    async def exchange() -> None:
        away = Replica(main="closed")
        await away.exchange("redis://127.0.0.1:9")
        assert not away.reported_down

    asyncio.run(exchange())


def test_without_shared_state_nothing_is_exchanged() -> None:
    replica = Replica(main="open")
    asyncio.run(exchange_circuit_reports(SharedState("memory:", fail_closed=False), replica))
    assert replica.reported_down == ("from an earlier report",)
