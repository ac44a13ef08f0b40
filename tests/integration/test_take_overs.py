"""Which requests may join a job whose result has to be had again, and what a replica keeps of a job that it takes over."""

import asyncio
from typing import Any

import pytest
from redis import Redis

from app.errors import ImageUnavailable, ServiceUnavailable
from app.jobs.job import Job
from tests.support.job_tables import EPOCH, RECORD, Replica, fail, finish, follow, play, stop_heartbeat
from tests.support.join_cases import KEYED, ME, RETRY
from tests.support.redis import RedisServer


def test_an_image_that_has_to_be_had_again_is_for_one_request_and_for_retries(
    server: RedisServer, redis: Redis
) -> None:
    """The request that has joined first takes the job over. Another client wants an image of its own."""

    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ImageUnavailable("404"), paid=True)
        await follow(other)
        assert await one.table.claim_or_join("req_3", ME, is_async=False) is None
        assert await one.table.claim_or_join("req_4", RETRY, is_async=False) == "req_1"

    play(scene, server)


@pytest.mark.parametrize("is_async", [False, True], ids=["whose client waits", "whose client comes back"])
def test_an_image_that_has_to_be_had_again_is_for_the_next_request(
    server: RedisServer, redis: Redis, is_async: bool
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ImageUnavailable("404"), is_async=is_async, paid=True)
        await follow(other)

    play(scene, server)


def test_an_asynchronous_job_that_has_cost_nothing_is_only_for_its_client(server: RedisServer, redis: Redis) -> None:
    """Whoever joined would share its image."""

    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ServiceUnavailable("no room"), is_async=True, paid=False)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) is None
        assert (await other.table.lookup("req_1", ME.caller)).answer == "done"

    play(scene, server)


@pytest.mark.parametrize("repeats", [1, 2], ids=["once", "once more, since the reply was lost"])
def test_a_job_that_is_taken_over_stays_asynchronous(server: RedisServer, redis: Redis, repeats: int) -> None:
    """The client that has begun it comes back for it, however the run of the new owner ends."""

    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ServiceUnavailable("no room"), key=KEYED, is_async=True, paid=False)
        job = await follow(other, KEYED)
        before = job.is_async
        assert [await other.table.take_over(job) for _ in range(repeats)] == [True] * repeats
        assert (before, job.is_async) == (False, True)
        await finish(other, job, delivered=True)
        assert (await one.table.lookup("req_1", ME.caller)).answer == "done"

    redis.set("limner:{jobs}:epoch", 0)
    play(scene, server)


def test_a_result_that_its_client_comes_back_for_stays_when_a_follower_has_got_it(
    server: RedisServer, redis: Redis
) -> None:
    """The follower has joined while the image was had once more."""

    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ImageUnavailable("404"), is_async=True, paid=True)
        follower = await follow(other)
        job = await follow(one, reader="req_3", key=RETRY)
        assert await one.table.take_over(job)
        await other.table._call("poll", follower.id, follower.key, reader=follower.reader_id)
        await finish(one, job, delivered=True)
        follower.delivered = True
        assert await other.table.unsubscribe(follower)
        assert redis.ttl(RECORD) > 500
        assert (await one.table.lookup("req_1", ME.caller)).answer == "done"

    redis.set(EPOCH, 0)
    play(scene, server)


def test_a_job_that_is_taken_over_for_a_client_that_comes_back_is_asynchronous(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        stop_heartbeat(redis)
        job = other.job(submitted=False, is_async=True)
        assert await other.table.take_over(job)
        assert job.is_async
        assert redis.hget("limner:{jobs}:req_1", "async") == b"1"

    play(scene, server)


def test_a_heartbeat_offers_no_job_whose_id_another_job_of_this_replica_has_by_now(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure was published while Redis answered, and a request has taken the job over at the same replica."""

    async def scene(one: Replica, _: Replica) -> None:
        failed = await one.claim(KEYED, error=ImageUnavailable("404"), paid=True)
        await failed.run.wait_done()
        failed.run.readers = 0
        give = one.table._give_heartbeats

        async def give_slowly(jobs: list[Job]) -> Any:
            reply = await give(jobs)
            assert await one.table.publish_result(failed, b"{}", briefly=False)
            assert await one.table.take_over(again := await follow(one, KEYED))
            assert (one.table.owns(again), one.table.owns(failed)) == (True, False)
            return reply

        monkeypatch.setattr(one.table, "_give_heartbeats", give_slowly)
        assert await one.table.heartbeat() == []

    redis.set("limner:{jobs}:epoch", 0)
    play(scene, server)


def test_a_job_that_is_taken_over_is_not_taken_for_the_one_that_was_delivered(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        before, after = await one.claim(), one.job()
        await before.run.wait_done()
        before.run.readers = 0
        assert await one.table.mark_delivered(before) == "ok"
        one.table.track(after)
        assert not any(one.table.is_kept_for_retries(job) for job in (before, after))
        assert one.table.kept_for_retries() == []
        one.table.untrack(before)
        assert one.table.owns(after)

    play(scene, server)


def test_a_job_that_was_taken_over_for_a_client_that_has_left_is_handed_over(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply of Redis was lost, so the replica does not know that it is the owner."""

    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        stop_heartbeat(redis)
        run_script = other.state.run_script

        async def lose_the_reply(*args: Any, **options: Any) -> None:
            await run_script(*args, **options)

        monkeypatch.setattr(other.state, "run_script", lose_the_reply)

        async def leave() -> None:
            waiting.cancel()
            await asyncio.sleep(0)

        other.between = leave
        job = other.job(submitted=False)
        waiting = asyncio.ensure_future(other.table.take_over(job))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        monkeypatch.undo()
        assert other.table.owns(job)
        assert await other.table.abandon(job) == "ok"
        assert await one.table.claim_or_join("req_2", ME, is_async=False) is None

    play(scene, server)
