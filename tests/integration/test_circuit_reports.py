"""What replicas tell each other of upstreams that are down, through a real Redis."""

import asyncio
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.state.circuit_reports import exchange_hints
from app.state.shared_state import State
from tests.support.redis import RedisServer, run_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


class Replica:
    def __init__(self, **circuits: str) -> None:
        self.states = circuits
        self.suspected: Collection[str] = ("left over",)

    def circuits(self) -> dict[str, str]:
        return self.states

    async def exchange(self, url: str) -> None:
        """Once."""
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) > 1:
                raise asyncio.CancelledError

        state = State(url, closed=False)
        try:
            await exchange_hints(state, self, sleep)
        except asyncio.CancelledError:
            assert pauses == [2.0, 2.0]
        finally:
            await state.close()


def test_what_one_finds_broken_the_others_suspect_for_a_while(server: RedisServer) -> None:
    async def scene() -> None:
        one, other = Replica(main="open", spare="half-open", third="closed"), Replica(main="closed", spare="closed")
        await one.exchange(server.url)
        await other.exchange(server.url)
        assert other.suspected == ["main"]
        with Redis.from_url(server.url) as redis:
            assert 5000 < redis.pttl("limner:circuit:main") <= 6000
            redis.delete("limner:circuit:main")
        await other.exchange(server.url)
        assert not other.suspected

    asyncio.run(scene())


def test_without_redis_nobody_is_suspected(server: RedisServer) -> None:
    async def scene() -> None:
        away = Replica(main="closed")
        await away.exchange("redis://127.0.0.1:9")
        assert not away.suspected

    asyncio.run(scene())


def test_alone_there_is_nothing_to_exchange() -> None:
    replica = Replica(main="open")
    asyncio.run(exchange_hints(State("memory:", closed=False), replica))
    assert replica.suspected == ("left over",)
