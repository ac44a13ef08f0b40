"""A command comes to the job table once more, since its reply was lost: at once, or after its replica was paused for long."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis import Redis

from app.errors import ServiceUnavailable
from app.jobs.job import Job, JobKey
from tests.support.job_tables import EPOCH, GROUPS, RECORD, Replica, finish, never_end, play, stop_heartbeat
from tests.support.join_cases import COUNTED, KEYED, ME, RETRY
from tests.support.redis import RedisServer

Scene = Callable[[Replica, Redis], Awaitable[None]]


def remember(replica: Replica, command: str) -> Callable[[], Awaitable[list[str]]]:
    """Return what sends the last command of that name once more, exactly as it was, and returns its reply."""
    run_script, sent = replica.state.run_script, list[Any]()

    async def run(*args: Any, **options: Any) -> Any:
        if args[2][0] == command:
            sent.append(args)
        return await run_script(*args, **options)

    async def repeat() -> list[str]:
        return [value.decode() for value in await run_script(*sent[-1])]

    replica.state.run_script = run  # type: ignore[method-assign]
    return repeat


async def do_nothing(_: Replica, __: Redis) -> None: ...


async def take_over(other: Replica, redis: Redis) -> None:
    stop_heartbeat(redis)
    assert await other.table.take_over(other.job(KEYED, submitted=False))


async def take_over_and_deliver(other: Replica, redis: Redis) -> None:
    stop_heartbeat(redis)
    job = other.job(ME, submitted=True)
    assert await other.table.take_over(job)
    await other.table.mark_submitted(job)
    await finish(other, job, delivered=True)


async def take_over_and_publish(other: Replica, redis: Redis) -> None:
    stop_heartbeat(redis)
    job = other.job(KEYED, submitted=True)
    assert await other.table.take_over(job)
    await other.table.mark_submitted(job)
    await finish(other, job, delivered=True)


async def take_over_and_forget(other: Replica, redis: Redis) -> None:
    stop_heartbeat(redis)
    job = other.job(KEYED, submitted=False)
    assert await other.table.take_over(job)
    redis.delete("limner:{jobs}:req_1:readers")
    assert await other.table.abandon(job) == "ok"


async def take_its_place(other: Replica, redis: Redis) -> None:
    stop_heartbeat(redis)
    await other.claim(KEYED, "req_2")


@dataclass(frozen=True)
class Case:
    """`between`: what happens at another replica before the claim of `key` comes once more."""

    name: str
    key: JobKey
    between: Scene
    expected: list[str]


CASES = [
    Case("Nothing has happened meanwhile: the job is the request's.", KEYED, do_nothing, ["claimed", "req_1"]),
    Case("Another replica has taken the job over and runs it: the request joins.", KEYED, take_over, ["joined", "req_1"]),
    Case("Another replica has published the result under the key: the request joins.", KEYED, take_over_and_publish, ["joined", "req_1"]),
    Case("Another replica has delivered the result: the request joins.", ME, take_over_and_deliver, ["joined", "req_1"]),
    Case("Another replica has given the job up: it can be claimed anew.", KEYED, take_over_and_forget, ["claimed", "req_1"]),
    Case("A later request has taken the place of the job: the request joins that one.", KEYED, take_its_place, ["joined", "req_2"]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_claim_comes_once_more(case: Case, server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        redis.set(EPOCH, 0)
        key = case.key
        repeat = remember(one, "claim")
        assert await one.table.claim_or_join("req_1", key, is_async=False) is None
        await case.between(other, redis)
        assert await repeat() == case.expected

    redis.set("limner:{jobs}:epoch", 0)
    play(scene, server)


def test_a_claim_that_was_given_up_does_not_undo_what_its_owner_has_published(
    server: RedisServer, redis: Redis
) -> None:
    """Otherwise another replica would take the job over, and pay again, if this one died."""

    async def scene(one: Replica, _: Replica) -> None:
        repeat = remember(one, "claim")
        job = await one.claim()
        never_end(job)
        assert await repeat() == ["claimed", "req_1"]
        assert redis.hget(RECORD, "submitted") == b"1"
        job.run.call_off()

    play(scene, server)


@pytest.mark.parametrize("command", ["claim", "publish", "deliver"])
def test_a_command_that_comes_late_brings_no_job_back_that_its_owner_has_given_up(
    server: RedisServer, redis: Redis, command: str
) -> None:
    """Nobody would run it, and whoever asks for it would be told after a while that it is lost."""

    async def scene(one: Replica, other: Replica) -> None:
        repeat = remember(one, command)
        job = await one.claim(KEYED)
        never_end(job)
        await one.table.mark_delivered(job)
        assert await one.table.abandon(job) == "ok"
        await repeat()
        assert await other.table.claim_or_join("req_2", KEYED, is_async=False) is None
        assert 0 < redis.ttl(RECORD) <= 60
        job.run.call_off()

    redis.set("limner:{jobs}:epoch", 0)
    play(scene, server)


def test_a_job_that_was_given_up_begins_once_more(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(COUNTED, submitted=False)
        never_end(job, submitted=False)
        assert await one.table.abandon(job) == "ok"
        one.table.track(job)
        await one.table.mark_submitted(job)
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        job.run.call_off()

    play(scene, server)


def test_a_request_whose_job_was_taken_over_gets_its_result(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        repeat = remember(one, "claim")
        assert await one.table.claim_or_join("req_1", KEYED, is_async=False) is None
        await take_over_and_publish(other, redis)
        await repeat()
        follower = one.job(KEYED)
        follower.reader_id = "req_1"
        assert await one.table.wait_for_result(follower) == b"{}"

    redis.set("limner:{jobs}:epoch", 0)
    play(scene, server)


@pytest.mark.parametrize("is_finished", [True, False], ids=["a finished job", "a job in flight"])
def test_a_request_that_has_joined_a_job_joins_it_again(server: RedisServer, redis: Redis, is_finished: bool) -> None:
    """Without a key and a retry count only the first request may join, and that is the same one here."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        if is_finished:
            await finish(one, job, delivered=False)
        else:
            never_end(job, readers=0)
            await one.table.publish_status(job)
        repeat = remember(other, "claim")
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        assert await repeat() == ["joined", "req_1"]
        assert await other.table.claim_or_join("req_3", ME, is_async=False) is None
        job.run.call_off()

    play(scene, server)


def test_a_request_that_has_joined_a_job_of_its_own_replica_is_counted_once(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        job = await one.claim()
        never_end(job, readers=0)
        await one.table.publish_status(job)
        repeat = remember(one, "claim")
        assert await one.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        assert await repeat() == ["joined_own", "req_1"]
        assert redis.hget(RECORD, "readers") == b"1"
        job.run.call_off()

    play(scene, server)


def test_a_request_looks_anew_where_the_job_that_it_has_joined_is_gone(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await finish(one, await one.claim(), delivered=False)
        repeat = remember(other, "claim")
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        redis.delete(RECORD)
        assert await repeat() == ["claimed", "req_2"]

    play(scene, server)


def test_what_a_request_has_joined_is_forgotten_after_a_while(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await finish(one, await one.claim(), delivered=False)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        assert 0 < redis.ttl("limner:{jobs}:req_2") <= 60
        redis.set("limner:{jobs}:epoch", 0)
        assert (await other.table.lookup("req_2", ME.caller)).answer == "unknown"

    play(scene, server)


def test_an_outcome_that_comes_once_more_does_not_hide_that_it_was_delivered(server: RedisServer, redis: Redis) -> None:
    """Otherwise the next client would get the image of the one that has come meanwhile."""

    async def scene(one: Replica, other: Replica) -> None:
        repeat = remember(one, "publish")
        await finish(one, await one.claim(), delivered=False)
        retry = other.job(RETRY)
        retry.reader_id, retry.delivered = "req_2", True
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        await retry.run.wait_done()
        assert await other.table.unsubscribe(retry)
        assert await repeat() == ["ok"]
        assert redis.hget(RECORD, "delivered") == b"1"
        assert await other.table.claim_or_join("req_3", ME, is_async=False) is None

    play(scene, server)


@pytest.mark.parametrize("key", [KEYED, ME], ids=["under a key", "without a key"])
def test_a_job_that_was_forgotten_before_it_was_sent_does_not_begin_beside_another_of_its_key(
    server: RedisServer, redis: Redis, key: JobKey
) -> None:
    """Without a key each request may be paid for."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(key, submitted=False)
        never_end(job, submitted=False)
        redis.delete(RECORD)
        await other.claim(key, "req_2")
        if key is KEYED:
            with pytest.raises(ServiceUnavailable, match="taken over"):
                await one.table.mark_submitted(job)
        else:
            await one.table.mark_submitted(job)
        assert one.table.owns(job) is (key is ME)
        job.run.call_off()

    redis.set("limner:{jobs}:epoch", 0)
    play(scene, server)


@pytest.mark.parametrize("is_first", [True, False], ids=["nothing was sent yet", "something was sent"])
def test_a_job_that_was_forgotten_is_restored(server: RedisServer, redis: Redis, is_first: bool) -> None:
    """What was sent may have been paid for, so the table has to know it in any case."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(KEYED, submitted=False)
        never_end(job, submitted=not is_first)
        redis.delete(RECORD)
        if is_first:
            # A place without a job.
            redis.zadd(redis.keys(GROUPS)[0], {"req_0": -1e14})
        else:
            await other.claim(KEYED, "req_2")
        await one.table.mark_submitted(job)
        assert redis.hget(RECORD, "submitted") == b"1"
        job.run.call_off()

    redis.set("limner:{jobs}:epoch", 0)
    play(scene, server)


def test_a_result_that_a_client_seems_to_read_is_for_retries(server: RedisServer, redis: Redis) -> None:
    """A client had joined just before it was published. Later claims must not take it for delivered long ago."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        await job.run.wait_done()
        assert await one.table.publish_result(job, b"{}", briefly=False)
        assert redis.hget(RECORD, "readers") == b"1"
        assert await other.table.claim_or_join("req_2", ME, is_async=False) is None
        assert await other.table.claim_or_join("req_3", RETRY, is_async=False) == "req_2"
        assert await other.table.claim_or_join("req_4", RETRY, is_async=False) == "req_2"
        await other.table.withdraw("req_2", ME)
        redis.delete("limner:{jobs}:req_2:readers")
        await other.table.withdraw("req_2", ME)
        assert await other.table.claim_or_join("req_5", RETRY, is_async=False) == "req_1"

    play(scene, server)


async def give_a_heartbeat(owner: Replica, _: Job) -> None:
    await owner.table.heartbeat()


async def tell_that_a_reader_left(owner: Replica, job: Job) -> None:
    job.run.readers -= 1
    await owner.table.publish_status(job)


@pytest.mark.parametrize("tell", [give_a_heartbeat, tell_that_a_reader_left])
@pytest.mark.parametrize("is_first", [False, True], ids=["which has arrived", "which arrives later"])
def test_news_of_readers_that_cross_the_claim_of_another_reader_do_not_hide_it(
    server: RedisServer, redis: Redis, tell: Callable[[Replica, Job], Awaitable[None]], is_first: bool
) -> None:
    """The owner does not know of that reader yet. A third client must not join it, and share its image."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        never_end(job)
        run_script = one.state.run_script

        async def cross(*args: Any, **options: Any) -> Any:
            one.state.run_script = run_script  # type: ignore[method-assign]
            if is_first:
                await tell(one, job)
            reply = await run_script(*args, **options)
            if not is_first:
                await tell(one, job)
            return reply

        one.state.run_script = cross  # type: ignore[method-assign]
        assert await one.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        assert redis.hget(RECORD, "readers") == b"%d" % (job.readers + 1)
        assert await other.table.claim_or_join("req_3", ME, is_async=False) is None
        # From now on the owner knows of it, also where it has left.
        job.run.readers = 0
        await one.table.heartbeat()
        assert await other.table.claim_or_join("req_4", ME, is_async=False) == "req_1"
        job.run.call_off()

    play(scene, server)
