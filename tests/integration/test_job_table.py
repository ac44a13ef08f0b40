"""What replicas tell each other: the rules that hold within one of them hold between two; against a real Redis."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from app.errors import ApiError, IdempotencyKeyReused, ImageUnavailable, JobLost, ServiceUnavailable
from app.images.blob import Spool
from app.jobs.job import Errand, Exchange, Identity, Item, Job
from app.state.job_table import PATIENCE, Board, Heard
from app.state.shared_state import SharedState
from tests.support.redis import RedisServer, run_redis
from tests.unit.jobs.test_registry import ANSWER, CASES, KEYED, ME, REQUEST, RUNNING, Case

AGAIN = replace(ME, again=True)
NOBODY = "redis://127.0.0.1:9"
RECORD = "limner:{errands}:req_1"


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


class Replica:
    """A board, and errands without a server. `between` is done in each pause of the board's."""

    def __init__(self, url: str, *, closed: bool = False) -> None:
        self.state = SharedState(url, fail_closed=closed)
        self.board = Board(self.state, ttl=600, key_ttl=86_400, sleep=self.sleep)
        self.between: Callable[[], Coroutine[Any, Any, object]] | None = None
        self.pauses = 0

    async def sleep(self, _: float) -> None:
        self.pauses += 1
        if self.between is not None:
            await self.between()

    def errand(
        self,
        identity: Identity = ME,
        id: str = "req_1",  # noqa: A002  the API's word
        *,
        asked: bool = True,
        fault: ApiError | None = None,
        is_async: bool = False,
    ) -> Errand:
        """One whose work ends at the next turn of the loop."""

        async def work() -> AsyncGenerator[Item, None]:
            if fault is not None:
                raise fault
            yield ANSWER

        exchange = Exchange(REQUEST, 60)
        exchange.was_submitted = asked
        errand = Errand(id, identity, exchange, Spool(), is_async, reader="me")
        errand.job = Job(work(), lambda: None, readers=0 if is_async else 1)
        return errand

    async def post(
        self,
        identity: Identity = ME,
        id: str = "req_1",  # noqa: A002  the API's word
        *,
        asked: bool = True,
        **options: Any,
    ) -> Errand:
        assert await self.board.enter(id, identity, is_async=options.get("is_async", False)) is None
        errand = self.errand(identity, id, asked=asked, **options)
        self.board.own(errand)
        if asked:
            await self.board.announce(errand)
        return errand


def play(scene: Callable[[Replica, Replica], Awaitable[None]], server: RedisServer) -> None:
    async def run() -> None:
        replicas = Replica(server.url), Replica(server.url)
        await scene(*replicas)
        for replica in replicas:
            await replica.state.close()

    asyncio.run(run())


async def end(replica: Replica, errand: Errand, *, delivered: bool) -> None:
    """Its work has ended and its reader left: what somebody may come back for is handed over."""
    await errand.job.end()
    errand.delivered = delivered
    errand.job.readers = 0
    if errand.is_worth_keeping or await replica.board.withdraw(errand.id, errand.identity) == "kept":
        assert await replica.board.finish(errand, b"{}", briefly=not errand.is_worth_keeping)


@pytest.mark.parametrize("case", [case for case in CASES if not case.later], ids=lambda case: case.name)
def test_who_gets_what_was_paid_for_elsewhere(case: Case, server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post(case.first, fault=case.fault, is_async=case.is_async)
        await end(one, errand, delivered=case.delivered)
        found = await other.board.enter("req_2", case.then, is_async=False)
        assert found == ("req_1" if case.joins else None)

    play(scene, server)


@pytest.mark.parametrize("case", RUNNING, ids=lambda case: case.name)
def test_who_joins_what_is_under_way_elsewhere(case: Case, server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(case.first)
        assert await other.board.enter("req_2", case.then, is_async=False) == ("req_1" if case.joins else None)

    play(scene, server)


def test_who_waits_elsewhere_counts_as_a_reader(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post()
        errand.job = Job(hanging(), lambda: None, readers=0)
        await one.board.tell(errand)
        assert await other.board.enter("req_2", ME, is_async=False) == "req_1"
        errand.job.task.cancel()
        assert await other.board.enter("req_3", ME, is_async=False) is None
        assert await one.board.withdraw("req_1", ME) == "kept"
        follower = other.errand()
        follower.reader = "req_2"
        assert await other.board.leave(follower)
        assert await one.board.withdraw("req_1", ME) == "dropped"

    play(scene, server)


@pytest.mark.parametrize(("identity", "kept"), [(ME, False), (KEYED, True)], ids=["without a key", "under a key"])
@pytest.mark.parametrize("delivered", [False, True])
def test_what_was_delivered_elsewhere_is_forgotten_but_under_a_key(
    identity: Identity, kept: bool, delivered: bool, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await end(one, await one.post(identity), delivered=False)
        assert await other.board.enter("req_2", identity, is_async=False) == "req_1"
        follower = other.errand(identity)
        follower.reader, follower.delivered = "req_2", delivered
        await other.board.leave(follower)
        assert redis.exists(RECORD) == (kept or not delivered)

    play(scene, server)


def test_a_key_with_another_body_is_refused_everywhere(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(KEYED)
        with pytest.raises(IdempotencyKeyReused):
            await other.board.enter("req_2", replace(KEYED, fingerprint="cat"), is_async=False)

    play(scene, server)


def test_a_call_whose_answer_was_lost_may_be_made_again(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        assert [await one.board.enter("req_1", AGAIN, is_async=False) for _ in range(2)] == [None, None]
        (place,) = redis.keys("limner:{errands}:at:*")
        assert redis.lrange(place, 0, -1) == ["req_1"]

    play(scene, server)


def test_what_is_told_is_forgotten_in_its_time(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        await one.post(KEYED, "req_1")
        brief = await one.post(ME, "req_2")
        await brief.job.end()
        assert redis.ttl(RECORD) > 86_000
        assert 590 < redis.ttl("limner:{errands}:req_2") <= 600
        assert await one.board.finish(brief, b"{}", briefly=True)
        assert 50 < redis.ttl("limner:{errands}:req_2") <= 60

    play(scene, server)


def bury(redis: Redis) -> None:
    redis.hset(RECORD, mapping={"beat": 0})


ORPHANS: list[tuple[str, Identity, bool, list[str]]] = [
    ("nothing was asked: it is as if it had never been", ME, False, ["new"]),
    ("something was asked: that is told once", ME, True, ["question_lost", "new"]),
    ("nothing was asked, under a key", KEYED, False, ["new"]),
    ("something was asked, under a key: that is told always", KEYED, True, ["question_lost", "question_lost"]),
]


@pytest.mark.parametrize(("name", "identity", "asked", "told"), ORPHANS, ids=[row[0] for row in ORPHANS])
def test_what_becomes_of_the_questions_of_a_replica_that_has_died(
    name: str, identity: Identity, asked: bool, told: list[str], server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(identity, asked=asked)
        bury(redis)
        heard = []
        for number in range(len(told)):
            try:
                heard.append(await other.board.enter(f"req_{2 + number}", identity, is_async=False) or "new")
            except JobLost as error:
                heard.append(str(error.code))
        assert heard == told

    play(scene, server)


def test_who_waits_gets_what_has_come_of_it(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post()
        await other.board.enter("req_2", AGAIN, is_async=False)

        async def finish() -> None:
            await errand.job.end()
            await one.board.finish(errand, b"what came", briefly=False)

        other.between = finish
        assert await other.board.wait(other.errand()) == b"what came"
        assert other.pauses == 1

    play(scene, server)


def test_what_is_done_outlives_its_replica(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await end(one, await one.post(), delivered=False)
        bury(redis)
        assert await other.board.enter("req_2", ME, is_async=False) == "req_1"
        assert await other.board.wait(other.errand()) == b"{}"

    play(scene, server)


def test_who_looks_is_counted_for_a_while_and_for_longer_when_it_is_done(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post()
        scores: list[object] = []

        async def finish() -> None:
            scores.append(redis.zscore(f"{RECORD}:readers", "me"))
            await end(one, errand, delivered=True)

        other.between = finish
        await other.board.wait(other.errand())
        scores.append(redis.zscore(f"{RECORD}:readers", "me"))
        first, last = (float(str(score)) for score in scores)
        assert 40_000 < last - first < 50_000

    play(scene, server)


def test_who_waits_for_one_that_dies_takes_over_what_was_not_asked(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(asked=False)
        follower = other.errand(asked=False)
        other.between = lambda: asyncio.to_thread(bury, redis)
        assert await other.board.wait(follower) is None
        assert other.board.owns(follower)
        assert redis.hget(RECORD, "here") == "1"

    play(scene, server)


def test_what_may_be_paid_for_is_not_taken_over(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post()
        bury(redis)
        assert not await other.board.adopt(other.errand())

    play(scene, server)


def test_what_was_delivered_is_only_for_those_who_wait_for_it_already(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post()
        assert await other.board.enter("req_2", AGAIN, is_async=False) == "req_1"
        await end(one, errand, delivered=True)
        assert await other.board.wait(other.errand()) == b"{}"
        assert await other.board.enter("req_3", AGAIN, is_async=False) is None

    play(scene, server)


@pytest.mark.parametrize(("seconds", "joins"), [(4, False), (6, True)])
def test_who_comes_while_a_replica_is_silent_may_be_the_client_that_it_has_lost(
    seconds: int, joins: bool, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post()
        redis.hincrby(RECORD, "beat", -1000 * seconds)
        assert await other.board.enter("req_2", ME, is_async=False) == ("req_1" if joins else None)

    play(scene, server)


@pytest.mark.parametrize(("seconds", "joins"), [(4, False), (6, True)])
def test_who_comes_while_one_who_waits_is_silent_may_be_the_client_that_it_has_lost(
    seconds: int, joins: bool, server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post()
        redis.hset(RECORD, "here", 0)
        assert await other.board.enter("req_2", ME, is_async=False) == "req_1"
        redis.zincrby(f"{RECORD}:readers", -1000 * seconds, "req_2")
        assert await one.board.enter("req_3", ME, is_async=False) == ("req_1" if joins else None)

    play(scene, server)


def test_of_two_who_wait_one_takes_over(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(asked=False)
        bury(redis)
        followers = [other.errand(asked=False), one.errand(asked=False)]
        followers[1].reader = "somebody else"
        assert await other.board.adopt(followers[0])
        assert not await one.board.adopt(followers[1])

    play(scene, server)


def test_what_was_paid_for_and_not_delivered_can_be_taken_over(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post(fault=ImageUnavailable("404"))
        assert not await other.board.adopt(other.errand())
        await end(one, errand, delivered=True)
        assert await other.board.adopt(other.errand())
        assert not redis.hexists(RECORD, "outcome")

    play(scene, server)


def test_who_waits_for_one_that_dies_after_asking_is_told(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post()
        bury(redis)
        with pytest.raises(JobLost):
            await other.board.wait(other.errand())

    play(scene, server)


def test_a_record_that_does_not_come_back_is_lost(server: RedisServer, redis: Redis) -> None:
    async def scene(_: Replica, other: Replica) -> None:
        with pytest.raises(JobLost):
            await other.board.wait(other.errand())
        assert other.pauses * 0.5 == PATIENCE

    play(scene, server)


def test_signs_of_life_are_given_until_it_is_told_what_has_come_of_it(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        errands = [await one.post(id=f"req_{number}") for number in (1, 2, 3)]
        running, read, idle = errands
        running.job = Job(hanging(), lambda: None)
        await asyncio.gather(read.job.end(), idle.job.end())
        idle.job.readers = 0
        bury(redis)
        assert await one.board.beat() == [idle]
        assert float(str(redis.hget(RECORD, "beat"))) > 0
        redis.flushall()
        await one.board.beat()
        assert [redis.exists(f"limner:{{errands}}:{errand.id}") for errand in errands] == [1, 1, 0]
        one.board.let_go("req_2")
        redis.flushall()
        assert await one.board.beat() == [idle]
        assert [redis.exists(f"limner:{{errands}}:{errand.id}") for errand in errands] == [1, 0, 0]
        running.job.task.cancel()

    play(scene, server)


def test_signs_of_life_of_many_are_few_commands(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.state.job_table._AT_ONCE", 2)

    async def scene(one: Replica, _: Replica) -> None:
        for number in range(5):
            await one.post(id=f"req_{number}")
        calls: Any = redis.info("commandstats")
        await one.board.beat()
        more: Any = redis.info("commandstats")
        assert more["cmdstat_evalsha"]["calls"] - calls["cmdstat_evalsha"]["calls"] == 3
        await one.board.rest()
        assert one.pauses == 1

    play(scene, server)


def test_a_sign_of_life_keeps_the_place_and_says_how_it_stands(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        errand = await one.post(asked=False)
        errand.exchange.was_submitted = True
        errand.job.readers = 2
        (place,) = redis.keys("limner:{errands}:at:*")
        redis.pexpire(place, 5000)
        redis.pexpire(RECORD, 5000)
        await one.board.beat()
        assert redis.hmget(RECORD, "here", "asked") == ["2", "1"]
        assert min(redis.ttl(place), redis.ttl(RECORD)) > 500

    play(scene, server)


def test_who_takes_long_to_tell_of_one_errand_does_not_silence_the_others(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        errand = await one.post()
        errand.job = Job(hanging(), lambda: None)
        redis.flushall()
        async with errand.telling:
            await one.board.beat()
        assert not redis.exists(RECORD)
        await one.board.beat()
        assert redis.exists(RECORD)
        errand.job.task.cancel()

    play(scene, server)


def test_of_what_has_ended_while_redis_was_away_the_oldest_is_forgotten_first(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.state.job_table._UNTOLD", 1)

    async def scene(one: Replica, _: Replica) -> None:
        errands = [await one.post(id=f"req_{number}") for number in (1, 2)]
        for errand in errands:
            await errand.job.end()
            errand.job.readers = 0
        assert await one.board.beat() == errands[1:]
        assert not one.board.owns(errands[0])

    play(scene, server)


async def hanging() -> AsyncGenerator[Item, None]:
    await asyncio.Event().wait()
    yield ANSWER


def test_a_replica_that_was_taken_for_dead_learns_it(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post(asked=False)
        errand.job = Job(hanging(), lambda: None)
        bury(redis)
        assert await other.board.adopt(other.errand(asked=False))
        with pytest.raises(ServiceUnavailable, match="taken over"):
            await one.board.tell(errand)
        assert not one.board.owns(errand)
        one.board.own(errand)
        assert await one.board.beat() == []
        assert not one.board.owns(errand)
        assert redis.hget(RECORD, "owner") == other.board._owner
        errand.job.task.cancel()

    play(scene, server)


def test_what_another_has_taken_over_is_not_asked_however_long_ago_it_was_learnt(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post(asked=False)
        errand.job = Job(hanging(), lambda: None)
        bury(redis)
        assert await other.board.adopt(other.errand(asked=False))
        await one.board.beat()
        with pytest.raises(ServiceUnavailable, match="taken over"):
            await one.board.announce(errand)
        errand.job.task.cancel()

    play(scene, server)


def test_what_was_paid_for_stays_so_whoever_takes_it_over(server: RedisServer, redis: Redis) -> None:
    """Dead in its turn, it must not leave behind what looks as if nothing had been asked."""

    async def scene(one: Replica, other: Replica) -> None:
        await end(one, await one.post(fault=ImageUnavailable("404")), delivered=True)
        follower = other.errand(asked=False)
        assert await other.board.adopt(follower)
        await other.board.tell(follower)
        await other.board.beat()
        bury(redis)
        with pytest.raises(JobLost):
            await one.board.enter("req_3", ME, is_async=False)

    play(scene, server)


def test_taking_over_may_be_said_twice(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(asked=False)
        bury(redis)
        follower = other.errand(asked=False)
        assert [await other.board.adopt(follower) for _ in range(2)] == [True, True]

    play(scene, server)


def test_a_loss_is_told_again_where_the_answer_was_lost(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post()
        bury(redis)
        for _ in range(2):
            with pytest.raises(JobLost):
                await other.board.enter("req_2", ME, is_async=False)
        assert await other.board.enter("req_3", ME, is_async=False) is None

    play(scene, server)


def test_who_was_told_of_a_loss_while_waiting_is_not_told_again(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post()
        bury(redis)
        with pytest.raises(JobLost):
            await other.board.wait(other.errand())
        assert await other.board.enter("req_3", ME, is_async=False) is None

    play(scene, server)


def test_of_two_who_wait_the_second_gets_what_the_first_has_taken(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post()
        followers = [other.errand(), other.errand()]
        for follower, name in zip(followers, ("req_2", "req_3"), strict=True):
            follower.reader = name
            assert await other.board.enter(name, AGAIN, is_async=False) == "req_1"
        await end(one, errand, delivered=False)
        assert await other.board.wait(followers[0]) == b"{}"
        followers[0].delivered = True
        await other.board.leave(followers[0])
        assert await other.board.enter("req_4", ME, is_async=False) is None
        assert await other.board.wait(followers[1]) == b"{}"
        followers[1].delivered = True
        await other.board.leave(followers[1])
        assert not redis.exists(RECORD)

    play(scene, server)


def test_what_somebody_waits_for_is_not_forgotten_under_his_hands(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post()
        assert await other.board.enter("req_2", AGAIN, is_async=False) == "req_1"
        await end(one, errand, delivered=False)
        redis.pexpire(RECORD, 1000)
        assert await other.board.wait(other.errand()) == b"{}"
        assert redis.ttl(RECORD) > 50
        assert redis.ttl(f"{RECORD}:readers") > 50

    play(scene, server)


def test_an_answer_that_is_kept_for_a_second_is_kept_for_those_who_wait(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        one.board._ttl = 1
        errand = await one.post()
        assert await other.board.enter("req_2", AGAIN, is_async=False) == "req_1"
        await end(one, errand, delivered=False)
        assert redis.ttl(RECORD) > 50

    play(scene, server)


def test_what_a_new_question_has_replaced_is_not_asked_by_an_owner_that_comes_back(
    server: RedisServer, redis: Redis
) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post(asked=False)
        errand.job = Job(hanging(), lambda: None)
        bury(redis)
        assert await other.board.enter("req_2", ME, is_async=False) is None
        with pytest.raises(ServiceUnavailable, match="taken over"):
            await one.board.announce(errand)
        late = other.errand(asked=False)
        late.reader = "req_0"
        assert not await other.board.adopt(late)
        errand.job.task.cancel()

    play(scene, server)


def test_a_new_question_leaves_to_those_who_wait_what_they_will_take_over(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(asked=False)
        assert await other.board.enter("req_2", AGAIN, is_async=False) == "req_1"
        bury(redis)
        assert await one.board.enter("req_3", ME, is_async=False) == "req_1"
        assert await one.board.enter("req_4", AGAIN, is_async=False) == "req_1"
        follower = other.errand(asked=False)
        follower.reader = "req_2"
        assert await other.board.wait(follower) is None

    play(scene, server)


def test_an_owner_that_was_replaced_does_not_forget_what_is_anothers(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        await one.post(asked=False)
        bury(redis)
        assert await other.board.adopt(other.errand(asked=False))
        assert await one.board.withdraw("req_1", ME) == "taken"
        assert redis.exists(RECORD)

    play(scene, server)


def test_who_has_asked_once_has_asked(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, _: Replica) -> None:
        errand = await one.post()
        errand.exchange.was_submitted = False
        errand.job = Job(hanging(), lambda: None)
        await one.board.tell(errand)
        assert redis.hget(RECORD, "asked") == "1"
        errand.job.task.cancel()

    play(scene, server)


def test_what_is_found_by_its_id_alone(server: RedisServer, redis: Redis) -> None:
    async def scene(one: Replica, other: Replica) -> None:
        errand = await one.post(is_async=True)
        assert await other.board.find("req_1", "me") == Heard("under way")
        assert await other.board.find("req_1", "you") == Heard("gone")
        assert await other.board.find("req_9", "me") == Heard("gone")
        await end(one, errand, delivered=False)
        assert await other.board.find("req_1", "me") == Heard("done", b"{}")
        await one.post(ME, "req_2")
        redis.hset("limner:{errands}:req_2", "beat", 0)
        assert await other.board.find("req_2", "me") == Heard("lost")

    play(scene, server)


@pytest.mark.parametrize("url", ["memory:", NOBODY], ids=["nothing is shared", "Redis is away"])
def test_alone_it_is_as_if_nobody_else_were_there(url: str) -> None:
    async def scene() -> None:
        replica = Replica(url)
        board = replica.board
        errand = replica.errand()
        assert await board.enter("req_1", ME, is_async=False) is None
        board.own(errand)
        assert board.owns(errand) is board.is_shared is (url == NOBODY)
        await board.tell(errand)
        assert not await board.finish(errand, b"{}", briefly=False)
        assert not await board.leave(errand)
        assert not await board.adopt(errand)
        assert await board.withdraw("req_1", ME) == ""
        assert (await board.find("req_1", "me")).word == ""
        assert await board.beat() == []
        await replica.state.close()

    asyncio.run(scene())


def test_where_a_replica_may_not_go_on_alone_nothing_new_is_asked() -> None:
    async def scene() -> None:
        replica = Replica(NOBODY, closed=True)
        with pytest.raises(ServiceUnavailable):
            await replica.board.enter("req_1", ME, is_async=False)
        errand = replica.errand(asked=False)
        replica.board.own(errand)
        with pytest.raises(ServiceUnavailable):
            await replica.board.announce(errand)
        await replica.state.close()

    asyncio.run(scene())
