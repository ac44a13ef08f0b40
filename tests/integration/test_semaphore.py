"""Turns over all replicas, counted in a real Redis that goes away and comes back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import ServiceUnavailable
from app.state.semaphore import DistributedSemaphore
from app.state.shared_state import SharedState
from tests.support.redis import RedisServer, run_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


class Replica:
    """`begin` starts a request that holds its turns until `end`; `inside` lists who has some, over all replicas."""

    def __init__(self, url: str, inside: list[str], *, closed: bool = False) -> None:
        self.state = SharedState(url, fail_closed=closed, now=lambda: 0.0)
        self.inside = inside
        self.limit = 2
        self.looks = 0
        self.beat = asyncio.Event()
        self.leases = DistributedSemaphore(self.state, self.rest)
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def rest(self, seconds: float) -> None:
        """A look costs no time; a sign of life is given when the test says so."""
        if seconds > 1:
            await self.beat.wait()
            self.beat.clear()
        self.looks += 1
        await asyncio.sleep(0)

    def begin(self, who: str, questions: int = 1) -> None:
        self.ends[who] = asyncio.Event()
        self.tasks[who] = asyncio.create_task(self.request(who, questions))

    async def request(self, who: str, questions: int) -> None:
        async with self.leases.acquire("alice", questions, lambda: self.limit):
            self.inside.append(who)
            await self.ends[who].wait()
            self.inside.remove(who)

    async def end(self, who: str) -> None:
        self.ends[who].set()
        await self.tasks[who]

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.state.close()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


async def looks(*replicas: Replica) -> None:
    """Lets those who wait look a few times more."""
    seen = [replica.looks for replica in replicas]
    await until(lambda: all(replica.looks > before + 5 for replica, before in zip(replicas, seen, strict=True)))


def scene(redis: RedisServer, play: Callable[[Replica, Replica, list[str]], Awaitable[Any]]) -> None:
    async def run() -> None:
        inside: list[str] = []
        one, other = Replica(redis.url, inside), Replica(redis.url, inside)
        try:
            await play(one, other, inside)
        finally:
            await one.close()
            await other.close()

    asyncio.run(run())


def test_two_replicas_have_so_many_turns_together(redis: RedisServer) -> None:
    async def play(one: Replica, other: Replica, inside: list[str]) -> None:
        one.begin("a")
        other.begin("b")
        await until(lambda: len(inside) == 2)
        one.begin("c")
        other.begin("d")
        await looks(one, other)
        assert sorted(inside) == ["a", "b"]
        await one.end("a")
        await until(lambda: len(inside) == 2)
        await other.end("b")
        await until(lambda: sorted(inside) == ["c", "d"])

    scene(redis, play)


def held(inside: Replica) -> Awaitable[list[bytes] | None]:
    async def look(redis: Any) -> list[bytes]:
        members: list[bytes] = await redis.zrange("limner:turns:{alice}:held", 0, -1)
        return members

    return inside.state.run(look)


def test_who_needs_many_is_not_passed_by_those_who_need_few(redis: RedisServer) -> None:
    async def play(one: Replica, other: Replica, inside: list[str]) -> None:
        one.begin("few")
        await until(lambda: inside == ["few"])
        other.begin("many", 5)
        await looks(other)
        one.begin("late")
        await looks(one, other)
        assert inside == ["few"]
        await one.end("few")
        await until(lambda: inside == ["many"])
        assert len(await held(one) or []) == 2
        await other.end("many")
        await until(lambda: inside == ["late"])

    scene(redis, play)


def test_what_is_given_back_is_forgotten(redis: RedisServer) -> None:
    async def play(one: Replica, other: Replica, inside: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: inside == ["a"])
        other.begin("b")
        await looks(other)
        other.tasks["b"].cancel()
        await one.end("a")
        await asyncio.gather(other.tasks["b"], return_exceptions=True)
        assert await one.state.run(lambda shared: shared.keys("*")) == []

    scene(redis, play)


async def write(replica: Replica, part: str, who: str, score: float) -> None:
    await replica.state.run(lambda shared: shared.zadd(f"limner:turns:{{alice}}:{part}", {who: score}))


def test_the_dead_give_back_their_turns_and_their_places(redis: RedisServer) -> None:
    async def play(one: Replica, other: Replica, inside: list[str]) -> None:
        for turn in (1, 2):
            await write(one, "held", f"dead:{turn}", 4e12)
        await write(one, "line", "gone", 1)
        await write(one, "alive", "gone", 4e12)
        one.begin("a")
        await looks(one)
        for turn in (1, 2):
            await write(one, "held", f"dead:{turn}", 1)
        await looks(one)
        assert inside == []
        await write(one, "alive", "gone", 1)
        await until(lambda: inside == ["a"])

    scene(redis, play)


def test_who_works_long_stays_known(redis: RedisServer) -> None:
    """Also where Redis has forgotten everything in the meantime."""

    async def play(one: Replica, other: Replica, inside: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: inside == ["a"])
        before = await held(one)
        await one.state.run(lambda shared: shared.flushall())
        one.beat.set()
        # The renewal and this look travel over different connections, so the order in which Redis sees them is open.
        after: list[bytes] | None = []
        for _ in range(1000):
            if after := await held(other):
                break
        assert (after, len(before or [])) == (before, 2)

    scene(redis, play)


def test_a_limit_that_changes_holds_for_those_who_wait(redis: RedisServer) -> None:
    async def play(one: Replica, other: Replica, inside: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: inside == ["a"])
        other.begin("b", 2)
        await looks(other)
        other.limit = 4
        await until(lambda: inside == ["a", "b"])
        one.limit = 1
        one.begin("c", 2)
        await other.end("b")
        await looks(one)
        await one.end("a")
        await until(lambda: inside == ["c"])
        assert len(await held(one) or []) == 1

    scene(redis, play)


def test_without_redis_nobody_waits(redis: RedisServer) -> None:
    async def play(one: Replica, other: Replica, inside: list[str]) -> None:
        one.begin("a", 2)
        await until(lambda: inside == ["a"])
        other.begin("b")
        await looks(other)
        redis.kill()
        await until(lambda: inside == ["a", "b"])
        await one.end("a")
        await other.end("b")

    scene(redis, play)


@pytest.mark.parametrize("url", ["memory:", "redis://127.0.0.1:9"], ids=["nothing is shared", "redis is away"])
def test_alone_there_is_no_line(url: str) -> None:
    async def play() -> None:
        inside: list[str] = []
        replica = Replica(url, inside)
        for who in "abc":
            replica.begin(who)
        await until(lambda: inside == ["a", "b", "c"])
        for who in "abc":
            await replica.end(who)
        await replica.close()

    asyncio.run(play())


def test_nobody_goes_on_without_redis_where_that_is_set() -> None:
    async def play() -> None:
        replica = Replica("redis://127.0.0.1:9", [], closed=True)
        replica.begin("a")
        with pytest.raises(ServiceUnavailable):
            await replica.tasks["a"]
        await replica.close()

    asyncio.run(play())
