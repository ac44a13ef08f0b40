"""Replicas join each other's jobs by the rules that hold within one process; against a real Redis."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from app.errors import IdempotencyKeyReused, ImageUnavailable, JobLost, ServiceUnavailable, UpstreamTimeout
from app.jobs.job import Job, JobKey
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from app.state.timings import SharingTimings
from tests.support.job_tables import (
    EPOCH,
    GROUPS,
    REACHED,
    RECORD,
    RUN,
    Replica,
    end_quietly,
    finish,
    never_end,
    play,
    stop_heartbeat,
)
from tests.support.join_cases import (
    COUNTED,
    JOIN_CASES,
    JOIN_CASES_IN_FLIGHT,
    KEYED,
    ME,
    RETRY,
    TWIN_CASES,
    JoinCase,
    TwinCase,
)
from tests.support.redis import RedisServer, run_redis

NO_REDIS = "redis://127.0.0.1:9"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    client: Redis = Redis.from_url(server.url, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.mark.parametrize("case", [case for case in JOIN_CASES if not case.later], ids=lambda case: case.name)
def test_a_finished_job_is_joined_from_another_replica_as_from_its_own(
    case: JoinCase, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(case.first, error=case.error, is_async=case.is_async, paid=case.paid)
        await finish(one, job, delivered=case.delivered)
        found = await other.table.claim_or_join("req_2", case.then, is_async=False)
        assert found == ("req_1" if case.joins else None)

    play(scene, server)


@pytest.mark.parametrize("case", JOIN_CASES_IN_FLIGHT, ids=lambda case: case.name)
def test_a_job_in_flight_is_joined_from_another_replica_as_from_its_own(
    case: JoinCase, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(case.first)
        assert await other.table.claim_or_join("req_2", case.then, is_async=False) == ("req_1" if case.joins else None)

    play(scene, server)


@pytest.mark.parametrize("case", TWIN_CASES, ids=lambda case: case.name)
def test_of_several_equal_jobs_a_request_at_another_replica_joins_the_one_that_its_client_has_lost(
    case: TwinCase, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        jobs = [await one.claim(COUNTED, f"req_{number}") for number in range(len(case.jobs))]
        for job, state in zip(jobs, case.jobs, strict=True):
            await bring_into_state(one, job, state)
        joined = []
        for number, is_retry in enumerate(case.requests):
            key = RETRY if is_retry else COUNTED
            found = await other.table.claim_or_join(f"req_1{number}", key, is_async=False)
            joined.append(None if found is None else int(found.removeprefix("req_")))
        assert joined == list(case.joined)
        for job in jobs:
            job.run.call_off()

    play(scene, server)


async def bring_into_state(replica: Replica, job: Job, state: str) -> None:
    """Bring a job of a replica into the state that a row of `TWIN_CASES` names."""
    if state in {"delivered", "undelivered"}:
        await finish(replica, job, delivered=state == "delivered")
    elif state == "failed":
        assert await replica.table.abandon(job) == "ok"
    else:
        never_end(job, readers=int(state == "read"))
        await replica.table.publish_status(job)


def test_each_failure_is_repeated_by_one_job_also_at_other_replicas(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        read = await one.claim()
        never_end(read)
        failed = await one.claim(COUNTED, "req_2")
        for _ in range(2):
            # The command may come twice.
            assert await one.table.abandon(failed) == "ok"
        for job_id, key in (("req_3", COUNTED), ("req_4", RETRY)):
            # A limit refuses the first request, and then a retry.
            assert await other.table.claim_or_join(job_id, key, is_async=False) is None
            await other.table.withdraw(job_id, key)
        assert await other.table.claim_or_join("req_5", RETRY, is_async=False) is None
        assert await one.table.claim_or_join("req_6", RETRY, is_async=False) is None
        assert await other.table.claim_or_join("req_7", RETRY, is_async=False) == "req_1"
        read.run.call_off()

    play(scene, server)


@pytest.mark.parametrize("case", ["under a key", "at a cost", "without a count", "a minute ago"])
def test_what_has_ended_otherwise_is_repeated_by_no_job_of_its_own(
    case: str, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        key = replace(KEYED, counts_attempts=True) if case == "under a key" else COUNTED
        if case == "without a count":
            key = ME
        ended = await one.claim(key, "req_2", paid=case == "at a cost")
        await one.table.abandon(ended)
        for counter in redis.scan_iter("*:unserved:*"):
            assert 59_000 < redis.pttl(counter) <= 60_000
            redis.delete(counter)
        read = await one.claim(key)
        never_end(read)
        again = replace(RETRY, key=key.key)
        assert await other.table.claim_or_join("req_3", again, is_async=False) == "req_1"
        read.run.call_off()

    play(scene, server)


def test_a_request_that_waits_at_another_replica_counts_as_a_reader(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        never_end(job, readers=0)
        await one.table.publish_status(job)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        job.run.call_off()
        assert await other.table.claim_or_join("req_3", ME, is_async=False) is None
        assert await one.table.abandon(job) == "awaited"
        assert redis.exists(RECORD)
        follower = other.job()
        follower.reader_id = "req_2"
        assert await other.table.unsubscribe(follower)
        assert await one.table.abandon(job) == "ok"
        assert not redis.hexists(RECORD, "owner")

    play(scene, server)


@pytest.mark.parametrize("key", [ME, KEYED], ids=["without a key", "under a key"])
@pytest.mark.parametrize("delivered", [False, True])
def test_a_result_delivered_by_another_replica_is_only_for_retries_unless_it_has_a_key(
    key: JobKey, delivered: bool, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await finish(one, await one.claim(key), delivered=False)
        assert await other.table.claim_or_join("req_2", key, is_async=False) == "req_1"
        follower = other.job(key)
        follower.reader_id, follower.delivered = "req_2", delivered
        await other.table.unsubscribe(follower)
        is_for_retries = delivered and key is ME
        assert (redis.ttl(RECORD) <= 60) is is_for_retries
        assert await one.table.claim_or_join("req_3", key, is_async=False) == (None if is_for_retries else "req_1")
        retry = replace(key, is_retry=True)
        assert await one.table.claim_or_join("req_4", retry, is_async=False) == ("req_3" if is_for_retries else "req_1")

    play(scene, server)


def test_a_key_with_another_body_is_refused_everywhere(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(KEYED)
        with pytest.raises(IdempotencyKeyReused):
            await other.table.claim_or_join("req_2", replace(KEYED, fingerprint="cat"), is_async=False)

    play(scene, server)


def lose_everything(redis: Redis) -> None:
    redis.flushall()


def lose_the_last_writes(redis: Redis) -> None:
    """Restore what an earlier run of Redis had written to its disk."""
    for name in redis.scan_iter("limner:{jobs}:*"):
        if name not in {EPOCH, RUN}:
            redis.delete(name)
    redis.set(EPOCH, 0)
    redis.set(RUN, "an earlier one")


@pytest.mark.parametrize("key", [KEYED, RETRY], ids=["with a key", "a retry"])
@pytest.mark.parametrize("lose", [lose_everything, lose_the_last_writes])
@pytest.mark.parametrize("closed", [False, True])
def test_a_new_table_is_not_trusted_before_owners_have_restored_their_records(
    closed: bool, lose: Callable[[Redis], None], key: JobKey, server: RedisServer, redis: Redis
) -> None:
    """Redis has lost its data while a job was in flight."""

    async def scene() -> None:
        one, other = Replica(server.url, closed=closed), Replica(server.url, closed=closed)
        job = await one.claim(replace(key, is_retry=False))
        never_end(job)
        lose(redis)
        other.between = one.table.heartbeat
        assert await other.table.claim_or_join("req_2", key, is_async=False) == "req_1"
        assert (other.pauses, 3 < other.waited <= 4) == (1, True)
        job.run.call_off()
        for replica in (one, other):
            await replica.state.close()

    asyncio.run(scene())


def test_a_request_waits_for_no_owner_longer_than_two_heartbeats(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        assert await one.table.claim_or_join("req_1", KEYED, is_async=False) is None
        assert 3 < one.waited <= 4
        await other.table.claim_or_join("req_2", ME, is_async=False)
        assert other.pauses == 0
        redis.decrby("limner:{jobs}:epoch", 5000)
        assert await other.table.claim_or_join("req_3", replace(KEYED, key="key-2"), is_async=False) is None
        assert other.pauses == 0

    play(scene, server)


def test_a_redis_that_loses_its_data_while_a_request_waits_is_waited_for_again(
    server: RedisServer, redis: Redis
) -> None:
    """The owner of an equal job restores its record in the second of the two waits."""

    async def scene(one: Replica, other: Replica) -> None:
        owned = await one.claim(KEYED)
        redis.flushall()

        async def between() -> None:
            if other.pauses > 1:
                await one.table.mark_submitted(owned)
                return
            redis.flushall()
            lost_at = redis.time()
            # Tables are told apart by the millisecond in which they began.
            while redis.time()[1] // 1000 == lost_at[1] // 1000:
                pass

        other.between = between
        assert await other.table.claim_or_join("req_2", KEYED, is_async=False) == owned.id
        assert other.pauses == 2

    play(scene, server)


def test_a_replica_without_jobs_tells_the_table_that_it_is_not_new(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        assert await one.table.heartbeat() == []
        assert redis.exists("limner:{jobs}:epoch")
        assert redis.ttl("limner:{jobs}:epoch") == -1

    play(scene, server)


def come_back(redis: Redis, away: int = 60) -> None:
    """Make Redis look as if it had been away for so many seconds, with all its data."""
    redis.hincrby(RECORD, "heartbeat", -1000 * away)
    redis.delete(REACHED)


def test_an_owner_is_not_dead_because_redis_was_away(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()

        async def go_on() -> None:
            if other.pauses == 3:
                assert await one.table.heartbeat() == []
            if other.pauses == 40:
                await finish(one, job, delivered=False)

        other.between = go_on
        come_back(redis)
        assert await other.table.wait_for_result(other.job()) == b"{}"

    play(scene, server)


@pytest.mark.parametrize("key", [KEYED, RETRY], ids=["with a key", "a retry"])
def test_a_repeat_joins_what_an_owner_runs_when_redis_is_back(key: JobKey, server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(replace(key, is_retry=False))
        come_back(redis)
        assert await other.table.claim_or_join("req_2", key, is_async=False) == "req_1"

    play(scene, server)


def test_an_equal_request_is_a_second_one_when_redis_is_back(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        come_back(redis)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) is None

    play(scene, server)


def test_an_owner_is_dead_that_stays_silent_after_redis_is_back(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        come_back(redis)

        async def pass_time() -> None:
            redis.decrby(REACHED, 500)

        other.between = pass_time
        with pytest.raises(JobLost):
            await other.table.wait_for_result(other.job())
        assert 15 <= other.waited <= 16

    play(scene, server)


@pytest.mark.parametrize("was_away", [True, False], ids=["since Redis was away", "since it is dead"])
def test_a_lease_that_could_not_be_renewed_lasts(server: RedisServer, redis: Redis, was_away: bool) -> None:
    """The owner may have ended while Redis was away, and its news may come before the next look of whoever waits."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        never_end(job, readers=0)
        await one.table.publish_status(job)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        readers = RECORD + ":readers"
        assert redis.pttl(readers) > 60_000
        redis.zincrby(readers, -60_000, "req_2")
        if was_away:
            redis.delete(REACHED)
        else:
            redis.decrby(REACHED, 60_000)
        assert (await other.table.claim_or_join("req_3", ME, is_async=False) is None) is was_away
        job.run.call_off()
        redis.zrem(readers, "req_3")
        assert await one.table.abandon(job) == ("awaited" if was_away else "ok")

    play(scene, server)


def test_a_replica_without_jobs_shows_that_redis_is_there(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        await one.table.heartbeat()
        since = redis.get(REACHED)
        redis.pexpire(REACHED, 100)
        await one.table.heartbeat()
        assert redis.get(REACHED) == since
        assert 10_000 < redis.pttl(REACHED) <= 11_000

    play(scene, server)


def test_a_replica_waits_for_an_outcome_while_redis_is_away(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        run = other.state.run_script

        async def answer_nothing(*_: Any, **__: Any) -> None:
            if other.pauses > 400:
                other.state.run_script = run  # type: ignore[method-assign]
                await finish(one, job, delivered=False)

        other.state.run_script = answer_nothing  # type: ignore[method-assign]
        assert await other.table.wait_for_result(other.job()) == b"{}"

    play(scene, server)


def test_a_replica_waits_no_longer_than_an_outcome_is_kept_while_redis_is_away() -> None:
    async def scene() -> None:
        replica = Replica(NO_REDIS)
        with pytest.raises(JobLost):
            await replica.table.wait_for_result(replica.job())
        assert replica.waited == 600
        await replica.state.close()

    asyncio.run(scene())


def test_heartbeats_come_sooner_while_redis_does_not_answer() -> None:
    async def scene() -> None:
        replica = Replica(NO_REDIS)
        await replica.table.sleep_until_heartbeat()
        assert replica.waited == 2
        assert await replica.table.heartbeat() == []
        await replica.table.sleep_until_heartbeat()
        assert replica.waited == 2.5
        await replica.table.sleep_until_poll()
        assert replica.waited == 3
        await replica.state.close()

    asyncio.run(scene())


def test_a_job_whose_last_reader_has_just_left_is_joined_although_that_is_not_published_yet(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        await one.claim()
        assert await one.table.claim_or_join("req_2", ME, is_async=False, unread=lambda: ["req_1"]) == "req_1"
        assert redis.hget(RECORD, "readers") == "1"
        assert await one.table.claim_or_join("req_3", ME, is_async=False) is None

    play(scene, server)


def test_a_job_that_a_client_of_another_replica_reads_is_not_joined_though_no_client_reads_it_here(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        assert await one.table.claim_or_join("req_3", ME, is_async=False, unread=lambda: ["req_1"]) is None
        assert await other.table.claim_or_join("req_4", ME, is_async=False, unread=lambda: ["req_1"]) is None

    play(scene, server)


def test_a_job_without_a_record_can_only_be_joined_where_it_is(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        assert await one.table.claim_or_join("req_2", ME, is_async=False, unread=lambda: ["req_1"]) == "req_1"
        assert not redis.exists("limner:{jobs}:req_2")

    play(scene, server)


def test_a_delivered_result_is_published_when_a_retry_reaches_another_replica(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        await finish(one, job, delivered=True)
        assert one.table.kept_for_retries() == [job]
        assert await one.table.heartbeat() == []
        redis.delete(RECORD)
        assert await one.table.heartbeat() == []
        assert redis.hget(RECORD, "delivered") == "1"
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        assert await one.table.heartbeat() == [job]
        await finish(one, job, delivered=True)
        assert await other.table.wait_for_result(other.job()) == b"{}"
        assert one.table.kept_for_retries() == []

    play(scene, server)


def test_a_job_that_was_taken_over_is_not_marked_as_delivered_by_its_former_owner(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(submitted=False)
        stop_heartbeat(redis)
        assert await other.table.take_over(other.job(submitted=False))
        assert await one.table.mark_delivered(job) == "not_owner"
        assert not one.table.owns(job)

    play(scene, server)


def commands_during_a_claim(server: RedisServer, redis: Redis, equal_jobs: int) -> int:
    async def scene(one: Replica, _: Replica) -> None:
        # However long a busy machine takes, no job may look as if its owner were dead.
        one.table._timings = SharingTimings(suspect_after=600, dead_after=1200)
        for number in range(equal_jobs):
            assert await one.table.claim_or_join(f"req_f{number}", ME, is_async=False) is None
        redis.config_resetstat()
        assert await one.table.claim_or_join("req_1", ME, is_async=False) is None

    redis.flushall()
    play(scene, server)
    stats: Any = redis.info("commandstats")
    return sum(stats[name]["calls"] for name in stats if name != "cmdstat_info")


def test_looking_for_a_job_costs_no_more_the_more_equal_jobs_are_in_flight(server: RedisServer, redis: Redis) -> None:
    few, many = (commands_during_a_claim(server, redis, number) for number in (3, 300))
    assert many <= few + 3


def test_a_claim_whose_reply_was_lost_can_be_repeated(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        assert [await one.table.claim_or_join("req_1", RETRY, is_async=False) for _ in range(2)] == [None, None]
        (group,) = redis.keys(GROUPS)
        assert redis.zrange(group, 0, -1) == ["req_1"]

    play(scene, server)


def test_records_and_outcomes_expire(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        await one.claim(KEYED, "req_1")
        brief = await one.claim(ME, "req_2")
        await brief.run.wait_done()
        assert redis.ttl(RECORD) > 86_000
        assert 590 < redis.ttl("limner:{jobs}:req_2") <= 600
        assert await one.table.publish_result(brief, b"{}", briefly=True)
        assert 50 < redis.ttl("limner:{jobs}:req_2") <= 60

    play(scene, server)


ORPHANS: list[tuple[str, JobKey, bool, list[str]]] = [
    ("nothing was submitted: the next request starts a new job", ME, False, ["new"]),
    ("submitted: the loss is reported once", ME, True, ["question_lost", "new"]),
    ("nothing was submitted, under a key", KEYED, False, ["new"]),
    ("submitted, under a key: the loss is reported always", KEYED, True, ["question_lost", "question_lost"]),
]


@pytest.mark.parametrize(("name", "key", "submitted", "answers"), ORPHANS, ids=[row[0] for row in ORPHANS])
def test_a_request_that_equals_a_job_of_a_dead_replica(
    name: str, key: JobKey, submitted: bool, answers: list[str], server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(key, submitted=submitted)
        stop_heartbeat(redis)
        received = []
        for number in range(len(answers)):
            try:
                received.append(await other.table.claim_or_join(f"req_{2 + number}", key, is_async=False) or "new")
            except JobLost as error:
                received.append(str(error.code))
        assert received == answers

    play(scene, server)


def test_a_waiting_replica_gets_the_outcome(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        await other.table.claim_or_join("req_2", RETRY, is_async=False)

        async def publish() -> None:
            await job.run.wait_done()
            await one.table.publish_result(job, b"an outcome", briefly=False)

        other.between = publish
        assert await other.table.wait_for_result(other.job()) == b"an outcome"
        assert other.pauses == 1

    play(scene, server)


def test_an_outcome_outlives_its_replica(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await finish(one, await one.claim(), delivered=False)
        stop_heartbeat(redis)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        assert await other.table.wait_for_result(other.job()) == b"{}"

    play(scene, server)


def test_the_next_request_gets_what_a_replica_was_sending_when_it_died(server: RedisServer, redis: Redis) -> None:
    """It does not look again while it sends, so it is suspected as soon as if it waited."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        other.between = lambda: finish(one, job, delivered=False)
        await other.table.wait_for_result(other.job())
        assert await one.table.claim_or_join("req_2", ME, is_async=False) is None
        redis.set(REACHED, 0)
        redis.zincrby(f"{RECORD}:readers", -1000 * SharingTimings().suspect_after, "me")
        assert await one.table.claim_or_join("req_3", ME, is_async=False) == "req_1"

    play(scene, server)


def test_a_waiting_replica_takes_over_an_orphan_that_was_not_submitted(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        follower = other.job(submitted=False)
        other.between = lambda: asyncio.to_thread(stop_heartbeat, redis)
        assert await other.table.wait_for_result(follower) is None
        assert other.table.owns(follower)
        assert redis.hget(RECORD, "readers") == "1"

    play(scene, server)


def test_a_submitted_job_cannot_be_taken_over(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        stop_heartbeat(redis)
        assert not await other.table.take_over(other.job())

    play(scene, server)


def test_a_delivered_result_is_only_for_replicas_that_wait_for_it_already_and_for_retries(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        await finish(one, job, delivered=True)
        assert await other.table.wait_for_result(other.job()) == b"{}"
        assert await other.table.claim_or_join("req_3", ME, is_async=False) is None
        await other.table.withdraw("req_3", ME)
        assert await other.table.claim_or_join("req_4", RETRY, is_async=False) == "req_1"

    play(scene, server)


@pytest.mark.parametrize(("seconds", "joins"), [(4, False), (6, True)])
def test_a_request_joins_a_job_whose_owner_may_be_dead(
    seconds: int, joins: bool, server: RedisServer, redis: Redis
) -> None:
    """It may come from the client which that replica has lost."""

    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        redis.hincrby(RECORD, "heartbeat", -1000 * seconds)
        redis.decrby(REACHED, 1000 * seconds)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == ("req_1" if joins else None)

    play(scene, server)


@pytest.mark.parametrize(("seconds", "joins"), [(4, False), (6, True)])
def test_a_request_joins_a_job_whose_only_waiting_replica_may_be_dead(
    seconds: int, joins: bool, server: RedisServer, redis: Redis
) -> None:
    """It may come from the client which that replica has lost."""

    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        redis.hset(RECORD, "readers", 0)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        redis.set(REACHED, 0)
        redis.zincrby(f"{RECORD}:readers", -1000 * seconds, "req_2")
        assert await one.table.claim_or_join("req_3", ME, is_async=False) == ("req_1" if joins else None)

    play(scene, server)


def test_of_two_waiting_replicas_one_takes_over(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        stop_heartbeat(redis)
        followers = [other.job(submitted=False), one.job(submitted=False)]
        followers[1].reader_id = "somebody else"
        assert await other.table.take_over(followers[0])
        assert not await one.table.take_over(followers[1])

    play(scene, server)


def test_a_job_that_needs_redelivery_can_be_taken_over(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(error=ImageUnavailable("404"))
        assert not await other.table.take_over(other.job())
        await finish(one, job, delivered=True)
        assert await other.table.take_over(other.job())
        assert not redis.hexists(RECORD, "outcome")

    play(scene, server)


def test_a_waiting_replica_learns_that_a_submitted_job_is_lost(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        stop_heartbeat(redis)
        with pytest.raises(JobLost):
            await other.table.wait_for_result(other.job())

    play(scene, server)


def test_a_record_that_does_not_come_back_is_lost(server: RedisServer, redis: Redis) -> None:
    async def scene(_: Replica, other: Replica) -> None:
        with pytest.raises(JobLost):
            await other.table.wait_for_result(other.job())
        assert other.pauses * 0.5 == SharingTimings().dead_after == 15

    play(scene, server)


def test_heartbeats_are_given_until_the_outcome_is_published(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        jobs = [await one.claim(job_id=f"req_{number}") for number in (1, 2, 3)]
        running, read, unread = jobs
        never_end(running)
        await asyncio.gather(read.run.wait_done(), unread.run.wait_done())
        unread.run.readers = 0
        stop_heartbeat(redis)
        assert await one.table.heartbeat() == [unread]
        assert float(str(redis.hget(RECORD, "heartbeat"))) > 0
        redis.flushall()
        await one.table.heartbeat()
        assert [redis.exists(f"limner:{{jobs}}:{job.id}") for job in jobs] == [1, 1, 0]
        one.table.untrack(read)
        redis.flushall()
        assert await one.table.heartbeat() == [unread]
        assert [redis.exists(f"limner:{{jobs}}:{job.id}") for job in jobs] == [1, 0, 0]
        running.run.call_off()

    play(scene, server)


def test_heartbeats_of_many_jobs_are_few_commands(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.state.job_table._HEARTBEATS_AT_ONCE", 2)

    async def scene(one: Replica, _: Replica) -> None:
        for number in range(5):
            await one.claim(job_id=f"req_{number}")
        before: Any = redis.info("commandstats")
        await one.table.heartbeat()
        after: Any = redis.info("commandstats")
        assert after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"] == 3
        await one.table.sleep_until_heartbeat()
        assert one.pauses == 1

    play(scene, server)


def test_a_heartbeat_keeps_the_group_and_updates_the_record(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        job = await one.claim(submitted=False)
        job.run.was_submitted = True
        job.run.readers = 2
        (group,) = redis.keys(GROUPS)
        redis.pexpire(group, 5000)
        redis.pexpire(RECORD, 5000)
        await one.table.heartbeat()
        assert redis.hmget(RECORD, "readers", "submitted") == ["2", "1"]
        assert min(redis.ttl(group), redis.ttl(RECORD)) > 500

    play(scene, server)


def test_a_job_that_takes_long_to_publish_does_not_delay_the_heartbeats_of_others(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        job = await one.claim()
        never_end(job)
        redis.flushall()
        async with job.publish_lock:
            await one.table.heartbeat()
        assert not redis.exists(RECORD)
        await one.table.heartbeat()
        assert redis.exists(RECORD)
        job.run.call_off()

    play(scene, server)


def test_of_the_jobs_that_ended_while_redis_was_down_the_oldest_are_dropped_first(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.state.job_table._MAX_UNPUBLISHED", 1)

    async def scene(one: Replica, _: Replica) -> None:
        jobs = [await one.claim(job_id=f"req_{number}") for number in (1, 2)]
        for job in jobs:
            await job.run.wait_done()
            job.run.readers = 0
        assert await one.table.heartbeat() == jobs[1:]
        assert not one.table.owns(jobs[0])

    play(scene, server)


def test_a_replica_that_was_taken_for_dead_learns_that_its_job_was_taken_over(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(submitted=False)
        never_end(job, submitted=False)
        stop_heartbeat(redis)
        assert await other.table.take_over(other.job(submitted=False))
        with pytest.raises(ServiceUnavailable, match="taken over"):
            await one.table.publish_status(job)
        assert not one.table.owns(job)
        one.table.track(job)
        assert await one.table.heartbeat() == []
        assert not one.table.owns(job)
        assert redis.hget(RECORD, "owner") == other.table._owner
        job.run.call_off()

    play(scene, server)


def test_a_job_that_another_replica_has_taken_over_is_not_submitted(server: RedisServer, redis: Redis) -> None:
    """However long ago this replica has learned it."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(submitted=False)
        never_end(job, submitted=False)
        stop_heartbeat(redis)
        assert await other.table.take_over(other.job(submitted=False))
        await one.table.heartbeat()
        with pytest.raises(ServiceUnavailable, match="taken over"):
            await one.table.mark_submitted(job)
        job.run.call_off()

    play(scene, server)


def test_a_job_that_was_paid_for_stays_so_when_it_is_taken_over(server: RedisServer, redis: Redis) -> None:
    """The death of the second owner must not leave a job behind that looks as if nothing had been submitted."""

    async def scene(one: Replica, other: Replica) -> None:
        await finish(one, await one.claim(error=ImageUnavailable("404")), delivered=True)
        follower = other.job(submitted=False)
        assert await other.table.take_over(follower)
        await other.table.publish_status(follower)
        await other.table.heartbeat()
        stop_heartbeat(redis)
        with pytest.raises(JobLost):
            await one.table.claim_or_join("req_3", ME, is_async=False)

    play(scene, server)


def test_taking_over_can_be_repeated(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        stop_heartbeat(redis)
        follower = other.job(submitted=False)
        assert [await other.table.take_over(follower) for _ in range(2)] == [True, True]

    play(scene, server)


def test_a_loss_is_reported_to_the_same_request_again(server: RedisServer, redis: Redis) -> None:
    """The first report may have been lost on the way."""

    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        stop_heartbeat(redis)
        for _ in range(2):
            with pytest.raises(JobLost):
                await other.table.claim_or_join("req_2", ME, is_async=False)
        assert await other.table.claim_or_join("req_3", ME, is_async=False) is None

    play(scene, server)


def test_a_loss_that_was_reported_to_a_waiting_request_is_not_reported_to_the_next(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim()
        stop_heartbeat(redis)
        with pytest.raises(JobLost):
            await other.table.wait_for_result(other.job())
        assert await other.table.claim_or_join("req_3", ME, is_async=False) is None

    play(scene, server)


def test_of_two_waiting_requests_the_second_gets_the_result_that_the_first_was_delivered(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        followers = [other.job(), other.job()]
        for follower, name in zip(followers, ("req_2", "req_3"), strict=True):
            follower.reader_id = name
            assert await other.table.claim_or_join(name, RETRY, is_async=False) == "req_1"
        await finish(one, job, delivered=False)
        assert await other.table.wait_for_result(followers[0]) == b"{}"
        followers[0].delivered = True
        await other.table.unsubscribe(followers[0])
        assert await other.table.claim_or_join("req_4", ME, is_async=False) is None
        assert await other.table.wait_for_result(followers[1]) == b"{}"
        followers[1].delivered = True
        await other.table.unsubscribe(followers[1])
        assert redis.ttl(RECORD) <= 60

    play(scene, server)


def test_an_outcome_does_not_expire_while_it_is_delivered(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        await finish(one, job, delivered=False)
        redis.pexpire(RECORD, 1000)
        assert await other.table.wait_for_result(other.job()) == b"{}"
        assert redis.ttl(RECORD) > 50

    play(scene, server)


def test_an_outcome_with_a_short_retention_is_kept_for_replicas_that_wait_for_it(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        one.table._ttl = 1
        job = await one.claim()
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        await finish(one, job, delivered=False)
        assert redis.ttl(RECORD) > 50

    play(scene, server)


def test_an_owner_that_comes_back_does_not_submit_a_job_that_a_new_one_has_replaced(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(submitted=False)
        never_end(job, submitted=False)
        stop_heartbeat(redis)
        assert await other.table.claim_or_join("req_2", ME, is_async=False) is None
        with pytest.raises(ServiceUnavailable, match="taken over"):
            await one.table.mark_submitted(job)
        late = other.job(submitted=False)
        late.reader_id = "req_0"
        assert not await other.table.take_over(late)
        job.run.call_off()

    play(scene, server)


def test_a_new_request_leaves_an_orphan_to_the_replicas_that_wait_for_it(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        stop_heartbeat(redis)
        assert await one.table.claim_or_join("req_3", ME, is_async=False) == "req_1"
        assert await one.table.claim_or_join("req_4", RETRY, is_async=False) == "req_1"
        follower = other.job(submitted=False)
        follower.reader_id = "req_2"
        assert await other.table.wait_for_result(follower) is None

    play(scene, server)


def test_a_former_owner_does_not_delete_the_record_of_the_new_one(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(submitted=False)
        stop_heartbeat(redis)
        assert await other.table.take_over(other.job(submitted=False))
        assert await one.table.abandon(job) == "ok"
        assert not one.table.owns(job)
        assert redis.hget(RECORD, "owner") == other.table._owner

    play(scene, server)


def test_a_submitted_job_stays_submitted(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        job = await one.claim()
        never_end(job, submitted=False)
        await one.table.publish_status(job)
        assert redis.hget(RECORD, "submitted") == "1"
        job.run.call_off()

    play(scene, server)


def test_a_new_table_does_not_say_that_a_job_is_gone(server: RedisServer, redis: Redis) -> None:
    """Redis has lost its data, and the owner may give its next heartbeat in two seconds."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(is_async=True)
        never_end(job)
        redis.flushall()
        assert (await other.table.lookup("req_1", "me")).answer == "settling"
        assert (await other.table.cancel("req_1", "me", b"{}")).answer == "settling"
        await one.table.heartbeat()
        assert (await other.table.lookup("req_1", "me")).answer == "in_flight"
        redis.decrby(EPOCH, 5000)
        assert (await other.table.lookup("req_9", "me")).answer == "unknown"
        assert (await other.table.cancel("req_9", "me", b"{}")).answer == "unknown"
        job.run.call_off()

    play(scene, server)


def test_a_job_is_found_by_its_id_alone(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        redis.set(EPOCH, 0)
        job = await one.claim(is_async=True)
        assert (await other.table.lookup("req_1", "me"))[:2] == ("in_flight", b"")
        assert (await other.table.lookup("req_1", "you"))[:2] == ("unknown", b"")
        assert (await other.table.lookup("req_9", "me"))[:2] == ("unknown", b"")
        await finish(one, job, delivered=False)
        assert (await other.table.lookup("req_1", "me"))[:2] == ("done", b"{}")
        await one.claim(ME, "req_2")
        stop_heartbeat(redis, "limner:{jobs}:req_2")
        assert (await other.table.lookup("req_2", "me"))[:2] == ("lost", b"")

    play(scene, server)


def test_an_orphan_that_a_replica_waits_for_and_that_has_cost_nothing_is_not_lost(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(KEYED, submitted=False)
        assert await other.table.claim_or_join("req_2", KEYED, is_async=False) == "req_1"
        stop_heartbeat(redis)
        assert (await one.table.lookup("req_1", "me"))[:2] == ("in_flight", b"")
        redis.delete(RECORD + ":readers")
        assert (await one.table.lookup("req_1", "me"))[:2] == ("orphaned", b"")

    play(scene, server)


def test_a_failure_is_only_for_those_that_wait_for_it(server: RedisServer, redis: Redis) -> None:
    """A request that comes later must find the result of an equal job that nobody has read yet."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(error=UpstreamTimeout("late"))
        assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
        await finish(one, job, delivered=False)
        assert await other.table.wait_for_result(other.job()) == b"{}"
        assert await other.table.claim_or_join("req_3", RETRY, is_async=False) is None

    play(scene, server)


def test_a_heartbeat_that_arrives_after_the_outcome_changes_nothing(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        late = one.job()
        never_end(late)
        await finish(one, job, delivered=False)
        one.table.track(late)
        await one.table.heartbeat()
        assert redis.hget(RECORD, "readers") == "0"
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        late.run.call_off()

    play(scene, server)


def test_a_job_that_ends_while_the_table_names_it_is_not_joined(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        await one.claim(submitted=False)
        unread = ["req_1"]

        def is_here(job_id: str) -> bool:
            """Let the owner give the job up before it knows that the job was joined."""
            redis.delete(RECORD)
            unread.clear()
            return False

        claimed = await one.table.claim_or_join("req_2", ME, is_async=False, unread=lambda: unread, is_here=is_here)
        assert claimed is None
        assert redis.exists("limner:{jobs}:req_2")

    play(scene, server)


@pytest.mark.parametrize("is_awaited", [False, True], ids=["that nobody waits for", "that another replica waits for"])
def test_no_other_request_joins_a_failure_that_the_table_does_not_know_yet(
    server: RedisServer, redis: Redis, is_awaited: bool
) -> None:
    """A request that joined it would wait for an owner that knows nothing of it, and be told that its image is lost."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(error=UpstreamTimeout("late"))
        if is_awaited:
            assert await other.table.claim_or_join("req_2", RETRY, is_async=False) == "req_1"
            redis.zadd(f"{RECORD}:readers", {"req_2": 9e14})
        await end_quietly(job)
        joined = await one.table.claim_or_join("req_3", RETRY, is_async=False, is_here=lambda _: False)
        assert joined == ("req_1" if is_awaited else None)
        assert redis.hget(RECORD, "owner") is None or is_awaited
        # The request counts as one that waits elsewhere: it learns of the outcome like the others.
        assert is_awaited == (redis.zscore(f"{RECORD}:readers", "req_3") is not None)

    redis.set(EPOCH, 0)
    play(scene, server)


def test_a_take_over_whose_reply_was_lost_is_tried_again(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        stop_heartbeat(redis)
        run_script, lost = other.state.run_script, ["the first reply"]

        async def lose_first_reply(*args: Any, **options: Any) -> Any:
            reply = await run_script(*args, **options)
            return None if lost and lost.pop() else reply

        other.state.run_script = lose_first_reply  # type: ignore[method-assign]
        assert await other.table.take_over(other.job(submitted=False))
        assert other.pauses == 1

    play(scene, server)


def test_a_take_over_belongs_to_a_replica_whose_client_leaves_meanwhile(server: RedisServer, redis: Redis) -> None:
    """Otherwise the job would have an owner that gives no heartbeats, and look lost."""

    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        stop_heartbeat(redis)
        run_script, sent, answered = other.state.run_script, asyncio.Event(), asyncio.Event()

        async def answer_late(*args: Any, **options: Any) -> Any:
            reply = await run_script(*args, **options)
            sent.set()
            await answered.wait()
            return reply

        other.state.run_script = answer_late  # type: ignore[method-assign]
        job = other.job(submitted=False)
        caller = asyncio.create_task(other.table.take_over(job))
        await sent.wait()
        caller.cancel()
        answered.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert other.table.owns(job)

    play(scene, server)


@pytest.mark.parametrize("delivered", [True, False], ids=["and has delivered it", "and runs it"])
def test_the_error_of_an_earlier_run_is_forgotten_when_its_owner_has_started_the_job_again(
    server: RedisServer, redis: Redis, delivered: bool
) -> None:
    """The reply to the publication was lost, so the job is still here. Others must wait for the present run."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(error=ImageUnavailable("404"), paid=True)
        await finish(one, job, delivered=True)
        assert redis.hget(RECORD, "retry_free") == "1"
        never_end(job)
        one.table.track(job)
        if delivered:
            assert await one.table.mark_delivered(job) == "ok"
        else:
            await one.table.publish_status(job)
        assert (await other.table._call("poll", "req_1", ME, reader="you")).answer == "in_flight"
        job.run.call_off()

    play(scene, server)


def test_a_heartbeat_that_is_overtaken_by_the_leave_of_a_client_does_not_count_it(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        never_end(job)
        run_script, may_go_on = one.state.run_script, asyncio.Event()

        async def run_later(*args: Any, **options: Any) -> Any:
            if args[2][0] == "heartbeat":
                await may_go_on.wait()
            return await run_script(*args, **options)

        one.state.run_script = run_later  # type: ignore[method-assign]
        heartbeat = asyncio.create_task(one.table.heartbeat())
        await asyncio.sleep(0)
        job.run.readers = 0
        await one.table.publish_status(job)
        may_go_on.set()
        await heartbeat
        assert redis.hget(RECORD, "readers") == "0"
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        job.run.call_off()

    play(scene, server)


@pytest.mark.parametrize("overtaken", [False, True], ids=["in order", "overtaken by a heartbeat"])
def test_a_state_that_was_published_earlier_changes_no_number_of_readers(
    server: RedisServer, redis: Redis, overtaken: bool
) -> None:
    """A client of the same replica has joined meanwhile."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        never_end(job, readers=0)
        run_script, may_go_on = one.state.run_script, asyncio.Event()

        async def run_later(*args: Any, **options: Any) -> Any:
            if args[2][0] == "publish" and overtaken:
                await may_go_on.wait()
            return await run_script(*args, **options)

        one.state.run_script = run_later  # type: ignore[method-assign]
        publish = asyncio.create_task(one.table.publish_status(job))
        await asyncio.sleep(0)
        if not overtaken:
            await publish
        job.run.readers = 2
        await one.table.heartbeat()
        may_go_on.set()
        await publish
        assert redis.hget(RECORD, "readers") == "2"
        job.run.call_off()

    play(scene, server)


def test_an_outcome_is_for_the_next_request_although_one_has_joined_while_it_was_published(
    server: RedisServer, redis: Redis
) -> None:
    """That client may have left again, and the command of the claim was sent behind the outcome, but arrived before it."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        await job.run.wait_done()
        job.run.readers = 0
        run_script, may_go_on = one.state.run_script, asyncio.Event()

        async def run_later(*args: Any, **options: Any) -> Any:
            if args[2][0] == "publish":
                await may_go_on.wait()
            return await run_script(*args, **options)

        one.state.run_script = run_later  # type: ignore[method-assign]
        publish = asyncio.create_task(one.table.publish_result(job, b"{}", briefly=False))
        await asyncio.sleep(0)
        assert await one.table.claim_or_join("req_2", ME, is_async=False, unread=lambda: ["req_1"]) == "req_1"
        may_go_on.set()
        assert await publish
        assert await other.table.claim_or_join("req_3", ME, is_async=False) == "req_1"

    play(scene, server)


@pytest.mark.parametrize("command", ["publish", "deliver"])
def test_a_command_that_was_given_up_takes_no_outcome_away(server: RedisServer, redis: Redis, command: str) -> None:
    """It arrives behind the outcome, which would be lost: its owner has forgotten it."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        never_end(job)
        run_script, late = one.state.run_script, list[Any]()

        async def give_up(*args: Any, **options: Any) -> Any:
            late.append(args)

        one.state.run_script = give_up  # type: ignore[method-assign]
        await (one.table.publish_status(job) if command == "publish" else one.table.mark_delivered(job))
        one.state.run_script = run_script  # type: ignore[method-assign]
        job.run.call_off()
        assert await one.table.publish_result(job, b"{}", briefly=False)
        await run_script(*late[0])
        assert redis.hget(RECORD, "outcome") == "{}"
        assert redis.hget(RECORD, "delivered") == "0"

    play(scene, server)


def test_a_new_owner_counts_its_readers_anew(server: RedisServer, redis: Redis) -> None:
    """Whatever the former owner has counted, and however many commands it has sent."""

    async def scene(one: Replica, other: Replica) -> None:
        await one.claim(submitted=False)
        one.table._sequence = 1000
        await one.table.heartbeat()
        stop_heartbeat(redis)
        job = other.job(submitted=False)
        never_end(job)
        assert await other.table.take_over(job)
        job.run.readers = 0
        await other.table.publish_status(job)
        assert redis.hget(RECORD, "readers") == "0"
        job.run.call_off()

    play(scene, server)


def test_a_heartbeat_does_not_offer_to_others_what_was_just_delivered(server: RedisServer, redis: Redis) -> None:
    """The client has everything, and the command that says so is still on its way."""

    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim()
        await job.run.wait_done()
        job.delivered, job.run.readers = True, 0
        await one.table.heartbeat()
        assert await other.table.claim_or_join("req_2", ME, is_async=False) is None
        assert await other.table.claim_or_join("req_3", RETRY, is_async=False) == "req_1"
        assert await one.table.mark_delivered(job) == "awaited"

    play(scene, server)


@pytest.mark.parametrize("url", ["memory:", NO_REDIS], ids=["nothing is shared", "Redis is down"])
def test_alone_a_replica_behaves_as_if_there_were_no_other(url: str) -> None:
    async def scene() -> None:
        replica = Replica(url)
        table = replica.table
        job = replica.job()
        assert await table.claim_or_join("req_1", ME, is_async=False) is None
        table.track(job)
        assert table.owns(job) is table.is_shared is (url == NO_REDIS)
        await table.publish_status(job)
        assert not await table.publish_result(job, b"{}", briefly=False)
        assert not await table.unsubscribe(job)
        assert not await table.take_over(job)
        assert await table.abandon(job) == ""
        assert (await table.lookup("req_1", "me")).answer == ""
        assert await table.heartbeat() == []
        await replica.state.close()

    asyncio.run(scene())


def test_a_replica_that_may_not_go_on_alone_submits_nothing_new() -> None:
    async def scene() -> None:
        replica = Replica(NO_REDIS, closed=True)
        with pytest.raises(ServiceUnavailable):
            await replica.table.claim_or_join("req_1", ME, is_async=False)
        job = replica.job(submitted=False)
        replica.table.track(job)
        with pytest.raises(ServiceUnavailable):
            await replica.table.mark_submitted(job)
        await replica.state.close()

    asyncio.run(scene())


def test_a_command_that_was_sent_is_waited_for_by_a_caller_that_is_cancelled() -> None:
    """Otherwise it could reach Redis after the commands that follow, and undo what they have done."""

    async def scene() -> list[str]:
        answered, events = asyncio.Event(), list[str]()

        class SlowState(SharedState):
            async def run_script(self, *_: Any, **__: Any) -> Any:
                events.append("sent")
                await answered.wait()
                events.append("answered")
                return [b"ok"]

        table: JobTable[Job] = JobTable(SlowState("memory:", fail_closed=False), ttl=600, key_ttl=86_400)
        caller = asyncio.create_task(table.withdraw("req_1", ME))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        events.append("cancelled" if caller.done() else "still there")
        answered.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        return events

    assert asyncio.run(scene()) == ["sent", "still there", "answered"]
