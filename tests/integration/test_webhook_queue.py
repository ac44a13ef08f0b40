"""The queue of webhooks, in Redis and in one process, by the same rules and on a clock of the test."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

import pytest
from redis import Redis

from app.state.shared_state import SharedState
from app.state.webhook import Webhook, WebhookTimings, slot_of
from app.state.webhook_queue import WebhookQueue
from tests.support.redis import RedisServer, run_redis

#: Gives the script the time that a test has set.
WITH_TIME = """
local real = redis
local redis = {call = function(name, ...)
  if name ~= 'TIME' then return real.call(name, ...) end
  local now = tonumber(real.call('GET', 'test-time'))
  return {math.floor(now / 1000), now % 1000 * 1000}
end}
"""
SCRIPT = files("app.state").joinpath("webhook_queue.lua").read_text()
START = 1_764_000_000.0


@dataclass
class Queues:
    """Queues of one or more replicas. In memory there is only one, however often it is opened."""

    redis: Redis | None
    url: str
    now: float = START
    local: WebhookQueue | None = None
    states: list[SharedState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.advance(0)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        if self.redis is not None:
            self.redis.set("test-time", round(self.now * 1000))

    def open(self) -> WebhookQueue:
        state = SharedState(self.url, fail_closed=False, now=lambda: 0.0)
        self.states.append(state)
        if self.redis is not None:
            assert state._redis is not None
            state._scripts["webhook_queue.lua"] = state._redis.register_script(WITH_TIME + SCRIPT)
            return WebhookQueue(state, now=lambda: self.now)
        self.local = self.local or WebhookQueue(state, now=lambda: self.now)
        return self.local


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["in Redis", "in one process"])
def queues(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    # A machine that is busy with other tests is no Redis that is down.
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 10.0)
    if request.param == "in one process":
        yield Queues(None, "memory:")
        return
    server: RedisServer = request.getfixturevalue("server")
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        yield Queues(redis, server.url)


def webhook(job: str = "req_1", host: str = "shop.example", caller: str = "caller") -> Webhook:
    url = f"https://{host}/hooks"
    return Webhook(slot_of(job, url), f"msg_{job}", job, caller, url, host, "https://limner.example")


def run(queues: Queues, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def run_and_close() -> None:
        try:
            await work()
        finally:
            for state in queues.states:
                await state.close()

    asyncio.run(run_and_close())


async def ids(queue: WebhookQueue, most: int = 10) -> list[str]:
    return [claimed.webhook.id for claimed in await queue.claim(most)]


def test_a_webhook_waits_for_its_task_and_is_then_sent_by_one_replica(queues: Queues) -> None:
    async def work() -> None:
        one, other = queues.open(), queues.open()
        assert await one.add(webhook())
        assert await ids(one) == []
        await one.ready(replace(webhook(), ended_at=START))
        (claimed,) = await other.claim(10)
        assert claimed.webhook == replace(webhook(), ended_at=START)
        assert await ids(one) == await ids(other) == []
        assert await one.size() == 1
        await other.release(claimed, after=None)
        queues.advance(100)
        assert (await one.size(), await ids(one)) == (0, [])

    run(queues, work)


def test_the_same_task_and_address_is_one_webhook(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.open()
        assert await queue.add(webhook())
        assert not await queue.add(replace(webhook(), id="msg_other"))
        await queue.ready(replace(webhook(), id="msg_req_1"))
        assert await ids(queue) == ["msg_req_1"]
        # Ready a second time, it is not sent a second time.
        await queue.ready(webhook(), restore=True)
        queues.advance(10)
        assert await ids(queue) == []

    run(queues, work)


def test_a_task_is_looked_at_again_and_again_by_one_replica_at_a_time(queues: Queues) -> None:
    async def work() -> None:
        one, other = queues.open(), queues.open()
        for number in range(3):
            await one.add(webhook(f"req_{number}"))
        assert await other.overdue(10) == []
        queues.advance(15)
        assert len(await one.overdue(2)) == 2
        assert len(await other.overdue(2)) == 1
        assert await one.overdue(2) == []
        queues.advance(15)
        assert {each.job for each in await other.overdue(10)} == {"req_0", "req_1", "req_2"}
        await one.forget(webhook("req_0"))
        await one.forget(webhook("req_0"))
        assert await one.size() == 2

    run(queues, work)


def test_a_host_gets_one_at_a_time_and_one_a_second(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.open()
        for number in range(3):
            await queue.add(webhook(f"req_{number}"))
            await queue.ready(webhook(f"req_{number}"))
            queues.advance(0.001)
        (first,) = await queue.claim(10)
        queues.advance(5)
        assert await ids(queue) == []
        await queue.release(first, after=None)
        # The first took longer than a second.
        (second,) = await queue.claim(10)
        queues.advance(0.3)
        await queue.release(second, after=None)
        assert await ids(queue) == []
        queues.advance(0.69)
        assert await ids(queue) == []
        queues.advance(0.02)
        assert await ids(queue) == ["msg_req_2"]

    run(queues, work)


def test_a_host_that_does_not_answer_delays_no_other(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.open()
        for number in range(50):
            await queue.add(webhook(f"req_{number}", "dead.example"))
            await queue.ready(webhook(f"req_{number}", "dead.example"))
        queues.advance(1)
        for host in ("a.example", "b.example"):
            await queue.add(webhook("req_other", host))
            await queue.ready(webhook("req_other", host))
        claimed = await queue.claim(10)
        assert sorted(each.webhook.host for each in claimed) == ["a.example", "b.example", "dead.example"]
        assert await queue.claim(0) == []

    run(queues, work)


def test_a_caller_with_many_webhooks_to_a_host_delays_no_other_caller_of_the_host(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.open()
        for number in range(50):
            await queue.add(webhook(f"req_{number}", caller="greedy"))
            await queue.ready(webhook(f"req_{number}", caller="greedy"))
        queues.advance(1)
        assert len(await ids(queue)) == 1
        await queue.add(webhook("req_other", caller="other"))
        await queue.ready(webhook("req_other", caller="other"))
        assert await ids(queue) == ["msg_req_other"]

    run(queues, work)


def test_of_two_that_have_sent_a_webhook_the_later_one_changes_nothing(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.open()
        await queue.add(webhook())
        await queue.ready(webhook())
        (paused,) = await queue.claim(10)
        queues.advance(46)
        (other,) = await queue.claim(10)
        await queue.release(other, after=None)
        await queue.release(paused, after=None)
        await queue.release(paused, after=5)
        queues.advance(100)
        assert await queue.claim(10) == []
        assert await queue.size() == 0

    run(queues, work)


def test_a_webhook_that_failed_comes_back_in_time_and_behind_newer_ones(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.open()
        for job in ("req_1", "req_2"):
            await queue.add(webhook(job))
            await queue.ready(webhook(job))
            queues.advance(0.001)
        (first,) = await queue.claim(10)
        tried = replace(first, webhook=replace(first.webhook, attempts=1))
        await queue.release(tried, after=30)
        queues.advance(1)
        (second,) = await queue.claim(10)
        assert second.webhook.id == "msg_req_2"
        await queue.release(second, after=None)
        queues.advance(28)
        assert await ids(queue) == []
        queues.advance(2)
        (again,) = await queue.claim(10)
        assert (again.webhook.id, again.webhook.attempts) == ("msg_req_1", 1)

    run(queues, work)


def test_the_webhook_of_a_replica_that_died_while_it_sent_is_sent_by_another(queues: Queues) -> None:
    async def work() -> None:
        one, other = queues.open(), queues.open()
        await one.add(webhook())
        await one.ready(webhook())
        assert await ids(one) == ["msg_req_1"]
        queues.advance(44.9)
        assert await ids(other) == []
        queues.advance(0.2)
        assert await ids(other) == ["msg_req_1"]

    run(queues, work)


def test_fewer_are_claimed_than_there_are_hosts_where_no_more_can_be_sent(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.open()
        for number in range(5):
            await queue.add(webhook("req", f"host{number}.example"))
            await queue.ready(webhook("req", f"host{number}.example"))
        assert [len(await queue.claim(2)) for _ in range(4)] == [2, 2, 1, 0]

    run(queues, work)


# What only Redis can do.


@pytest.fixture
def shared(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 10.0)
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        yield Queues(redis, server.url)


def test_a_webhook_that_redis_has_lost_is_restored_by_the_replica_that_took_it(shared: Queues) -> None:
    async def work() -> None:
        one, other = shared.open(), shared.open()
        await one.add(webhook())
        assert shared.redis is not None
        shared.redis.flushall()
        shared.advance(0)
        await other.ready(webhook())
        assert await ids(one) == []
        await one.ready(webhook(), restore=True)
        assert await ids(other) == ["msg_req_1"]

    run(shared, work)


def test_half_lost_data_are_no_obstacle(shared: Queues) -> None:
    async def work() -> None:
        queue = shared.open()
        for job in ("req_1", "req_2"):
            await queue.add(webhook(job))
        await queue.ready(webhook("req_2"))
        assert shared.redis is not None
        shared.redis.delete("limner:webhooks:records")
        shared.advance(20)
        assert await queue.overdue(10) == []
        assert await ids(queue) == []
        assert await ids(queue) == []
        assert not shared.redis.exists("limner:webhooks:queues", "limner:webhooks:waiting")

    run(shared, work)


def test_nothing_stays_in_redis_for_ever(shared: Queues) -> None:
    async def work() -> None:
        queue = shared.open()
        await queue.add(webhook())
        await queue.ready(webhook())
        await ids(queue)
        assert shared.redis is not None
        names = shared.redis.keys("limner:webhooks:*")
        assert isinstance(names, list)
        assert len(names) == 4
        assert all(0 < int(str(shared.redis.pttl(name))) <= 2 * 86_400_000 for name in names)

    run(shared, work)


def test_while_redis_is_down_this_process_keeps_its_webhooks() -> None:
    async def work() -> None:
        now = START
        down = SharedState("redis://127.0.0.1:1", fail_closed=True)
        queue = WebhookQueue(down, WebhookTimings(), lambda: now)
        assert queue.is_shared
        assert await queue.add(webhook())
        assert (queue.local_size, await queue.size()) == (1, 1)
        now += 20
        assert await queue.overdue(10) == [webhook()]
        await queue.ready(webhook())
        (claimed,) = await queue.claim(10)
        await queue.release(claimed, after=None)
        assert queue.local_size == 0
        # Redis had taken it, and is down when its task ends.
        await queue.ready(webhook("req_2"))
        assert queue.local_size == 0
        await queue.ready(webhook("req_2"), restore=True)
        now += 2
        assert await ids(queue) == ["msg_req_2"]
        await down.close()

    asyncio.run(work())
