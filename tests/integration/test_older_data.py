"""Redis starts again with what it had written to its disk a while ago: what it tells of jobs may be out of date."""

from collections.abc import Iterator

import pytest
from redis import Redis

from app.errors import ServiceUnavailable
from tests.support.job_tables import EPOCH, RUN, Replica, fail, finish, follow, never_end, play
from tests.support.join_cases import KEYED, ME
from tests.support.redis import RedisServer


class Disk:
    """What Redis has written to its disk."""

    def __init__(self, server: RedisServer) -> None:
        # The data are no texts.
        self._redis: Redis = Redis.from_url(server.url)
        self._saved: dict[bytes, bytes] = {}

    def save(self) -> None:
        self._saved = {name: self._redis.dump(name) or b"" for name in self._redis.scan_iter()}

    def fall_back(self) -> None:
        """Let Redis have what it had saved, a minute ago."""
        self._redis.flushall()
        for name, value in self._saved.items():
            self._redis.restore(name, 0, value)
            if self._redis.type(name) == b"hash":
                self._redis.hincrby(name.decode(), "heartbeat", -60_000)
        self._redis.set(RUN, "an earlier one")

    async def let_owners_answer(self) -> None:
        """Let so much time pass that each owner has given a heartbeat."""
        self._redis.decrby(EPOCH, 5000)

    def close(self) -> None:
        self._redis.close()


@pytest.fixture
def disk(server: RedisServer) -> Iterator[Disk]:
    disk = Disk(server)
    disk._redis.flushall()
    disk._redis.set(EPOCH, 0)
    yield disk
    disk.close()


def test_a_job_that_was_given_up_is_not_joined_beside_the_one_that_has_taken_its_place(
    server: RedisServer, disk: Disk
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(KEYED, submitted=False)
        disk.save()
        await one.table.abandon(job)
        later = await other.claim(KEYED, "req_2")
        never_end(later)
        disk.fall_back()
        await other.table.heartbeat()
        await disk.let_owners_answer()
        assert await one.table.claim_or_join("req_3", KEYED, is_async=False) == "req_2"
        later.run.call_off()

    play(scene, server)


def test_a_job_that_its_owner_goes_on_with_is_joined(server: RedisServer, disk: Disk) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        job = await one.claim(KEYED, submitted=False)
        never_end(job, submitted=False)
        disk.save()
        disk.fall_back()
        await one.table.heartbeat()
        await disk.let_owners_answer()
        assert await other.table.claim_or_join("req_2", KEYED, is_async=False) == "req_1"
        job.run.call_off()

    play(scene, server)


def test_a_job_that_was_taken_over_is_not_taken_over_once_more(server: RedisServer, disk: Disk) -> None:
    """Redis has forgotten the take-over. The new owner tells of it while others wait for the table to settle."""

    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ServiceUnavailable("no room"), key=KEYED, paid=False)
        disk.save()
        job = await follow(other, KEYED)
        assert await other.table.take_over(job)
        never_end(job)
        await other.table.mark_submitted(job)
        disk.fall_back()
        one.between = other.table.heartbeat
        assert not await one.table.take_over(await follow(one, KEYED, "req_3"))
        assert one.pauses == 1
        assert other.table.owns(job)
        job.run.call_off()

    play(scene, server)


def test_a_failure_that_nobody_confirms_is_not_joined_when_the_table_has_settled(
    server: RedisServer, disk: Disk
) -> None:
    """It has cost nothing, and may have been taken over since by a replica that has paid."""

    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ServiceUnavailable("no room"), key=KEYED, paid=False)
        disk.save()
        disk.fall_back()
        other.between = disk.let_owners_answer
        assert await other.table.claim_or_join("req_2", KEYED, is_async=False) is None
        assert other.pauses == 1

    play(scene, server)


def test_a_failure_that_another_replica_waits_for_is_taken_over_when_the_table_has_settled(
    server: RedisServer, disk: Disk
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await fail(one, ServiceUnavailable("no room"), key=KEYED, paid=False)
        disk.save()
        job = await follow(other, KEYED)
        disk.fall_back()
        other.between = disk.let_owners_answer
        assert await other.table.take_over(job)
        assert other.pauses == 1

    play(scene, server)


def test_an_outcome_that_was_written_before_is_delivered(server: RedisServer, disk: Disk) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await finish(one, await one.claim(ME), delivered=False)
        disk.save()
        disk.fall_back()
        assert await other.table.claim_or_join("req_2", ME, is_async=False) == "req_1"
        assert await other.table.wait_for_result(other.job()) == b"{}"

    play(scene, server)
