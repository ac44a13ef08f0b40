"""Slots are shared over all replicas, through a real Redis that may be killed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import ServiceUnavailable
from app.state import semaphore, shared_state
from app.state.semaphore import DistributedSemaphore
from app.state.shared_state import SharedState
from tests.support.redis import RedisServer, run_redis


@pytest.fixture(autouse=True)
def on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing depend on how fast Redis and this process get their share of a machine."""
    monkeypatch.setattr(shared_state, "_TIMEOUT", 30.0)
    monkeypatch.setattr(semaphore, "_LEASE_SECONDS", 600.0)
    monkeypatch.setattr(semaphore, "_QUEUE_ENTRY_SECONDS", 600.0)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


class Replica:
    """`begin` starts a request that holds its slots until `end`.

    `running` names the requests that hold slots, over all replicas. `polls` counts attempts and renewals.
    """

    def __init__(self, url: str, running: list[str], *, closed: bool = False) -> None:
        self.state = SharedState(url, fail_closed=closed, now=lambda: 0.0)
        self.running = running
        self.limit = 2
        self.polls = 0
        self.renew = asyncio.Event()
        self.semaphore = DistributedSemaphore(self.state, self.sleep)
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def sleep(self, seconds: float) -> None:
        """Return at once between attempts. Before a renewal, wait until the test sets `renew`."""
        if seconds > 1:
            await self.renew.wait()
            self.renew.clear()
        self.polls += 1
        await asyncio.sleep(0)

    def begin(self, name: str, slots: int = 1) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self.request(name, slots))

    async def request(self, name: str, slots: int) -> None:
        async with self.semaphore.acquire("alice", slots, lambda: self.limit):
            self.running.append(name)
            await self.ends[name].wait()
            self.running.remove(name)

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.state.close()


async def until(holds: Callable[[], bool]) -> None:
    latest = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < latest, "the condition was never met"
        await asyncio.sleep(0)


async def more_polls(*replicas: Replica) -> None:
    """Wait until every replica has made a few more attempts."""
    seen = [replica.polls for replica in replicas]
    await until(lambda: all(replica.polls > before + 5 for replica, before in zip(replicas, seen, strict=True)))


def with_two_replicas(redis: RedisServer, steps: Callable[[Replica, Replica, list[str]], Awaitable[Any]]) -> None:
    async def run() -> None:
        running: list[str] = []
        one, other = Replica(redis.url, running), Replica(redis.url, running)
        try:
            await steps(one, other, running)
        finally:
            await one.close()
            await other.close()

    asyncio.run(run())


def test_two_replicas_share_the_slots_of_a_key(redis: RedisServer) -> None:
    async def steps(one: Replica, other: Replica, running: list[str]) -> None:
        one.begin("a")
        other.begin("b")
        await until(lambda: len(running) == 2)
        one.begin("c")
        other.begin("d")
        await more_polls(one, other)
        assert sorted(running) == ["a", "b"]
        await one.end("a")
        await until(lambda: len(running) == 2)
        await other.end("b")
        await until(lambda: sorted(running) == ["c", "d"])

    with_two_replicas(redis, steps)


def held_slots(replica: Replica) -> Awaitable[list[bytes] | None]:
    async def read(redis: Any) -> list[bytes]:
        members: list[bytes] = await redis.zrange("limner:turns:{alice}:held", 0, -1)
        return members

    return replica.state.run(read)


def test_a_request_that_needs_many_slots_is_not_overtaken_by_later_ones(redis: RedisServer) -> None:
    async def steps(one: Replica, other: Replica, running: list[str]) -> None:
        one.begin("few")
        await until(lambda: running == ["few"])
        other.begin("many", 5)
        await more_polls(other)
        one.begin("late")
        await more_polls(one, other)
        assert running == ["few"]
        await one.end("few")
        await until(lambda: running == ["many"])
        assert len(await held_slots(one) or []) == 2
        await other.end("many")
        await until(lambda: running == ["late"])

    with_two_replicas(redis, steps)


def test_released_slots_leave_nothing_in_redis(redis: RedisServer) -> None:
    async def steps(one: Replica, other: Replica, running: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: running == ["a"])
        other.begin("b")
        await more_polls(other)
        other.tasks["b"].cancel()
        await one.end("a")
        await asyncio.gather(other.tasks["b"], return_exceptions=True)
        assert await one.state.run(lambda shared: shared.keys("*")) == []

    with_two_replicas(redis, steps)


async def write(replica: Replica, part: str, member: str, score: float) -> None:
    await replica.state.run(lambda shared: shared.zadd(f"limner:turns:{{alice}}:{part}", {member: score}))


def test_slots_and_queue_places_of_a_crashed_replica_expire(redis: RedisServer) -> None:
    async def steps(one: Replica, other: Replica, running: list[str]) -> None:
        for slot in (1, 2):
            await write(one, "held", f"dead:{slot}", 4e12)
        await write(one, "line", "gone", 1)
        await write(one, "alive", "gone", 4e12)
        one.begin("a")
        await more_polls(one)
        for slot in (1, 2):
            await write(one, "held", f"dead:{slot}", 1)
        await more_polls(one)
        assert running == []
        await write(one, "alive", "gone", 1)
        await until(lambda: running == ["a"])

    with_two_replicas(redis, steps)


def test_slots_are_renewed_while_a_request_runs(redis: RedisServer) -> None:
    """They are restored even if Redis has lost them."""

    async def steps(one: Replica, other: Replica, running: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: running == ["a"])
        before = await held_slots(one)
        await one.state.run(lambda shared: shared.flushall())
        one.renew.set()
        # The renewal and this read travel over different connections, so the order in which Redis sees them is open.
        after: list[bytes] | None = []
        for _ in range(1000):
            if after := await held_slots(other):
                break
        assert (after, len(before or [])) == (before, 2)

    with_two_replicas(redis, steps)


def test_a_changed_limit_applies_to_waiting_requests(redis: RedisServer) -> None:
    async def steps(one: Replica, other: Replica, running: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: running == ["a"])
        other.begin("b", 2)
        await more_polls(other)
        other.limit = 4
        await until(lambda: running == ["a", "b"])
        one.limit = 1
        one.begin("c", 2)
        await other.end("b")
        await more_polls(one)
        await one.end("a")
        await until(lambda: running == ["c"])
        assert len(await held_slots(one) or []) == 1

    with_two_replicas(redis, steps)


def test_requests_stop_waiting_when_redis_goes_down(redis: RedisServer) -> None:
    async def steps(one: Replica, other: Replica, running: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: running == ["a"])
        other.begin("b")
        await more_polls(other)
        redis.kill()
        await until(lambda: running == ["a", "b"])
        await one.end("a")
        await other.end("b")

    with_two_replicas(redis, steps)


@pytest.mark.parametrize("url", ["memory:", "redis://127.0.0.1:9"], ids=["nothing is shared", "redis is down"])
def test_without_redis_no_request_waits(url: str) -> None:
    async def steps() -> None:
        running: list[str] = []
        replica = Replica(url, running)
        for name in "abc":
            replica.begin(name)
        await until(lambda: running == ["a", "b", "c"])
        for name in "abc":
            await replica.end(name)
        await replica.close()

    asyncio.run(steps())


def test_a_server_that_fails_closed_refuses_requests_while_redis_is_down() -> None:
    async def steps() -> None:
        replica = Replica("redis://127.0.0.1:9", [], closed=True)
        replica.begin("a")
        with pytest.raises(ServiceUnavailable):
            await replica.tasks["a"]
        await replica.close()

    asyncio.run(steps())
