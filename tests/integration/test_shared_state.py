"""What replicas share: counted in a real Redis, which goes away and comes back."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.config.field_types import StateUrl
from app.errors import RateLimited, ServiceUnavailable
from app.observability.metrics import REGISTRY
from app.state.shared_state import Counters, SharedState
from tests.support import certificates as certificate
from tests.support.ports import free_ports
from tests.support.redis import RedisServer, run_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


async def hit(counters: Counters) -> bool:
    """One of ten a minute."""
    return await counters.acquire_entry("alice", 10, 60)


def test_without_a_url_each_process_counts_for_itself() -> None:
    async def scene() -> None:
        one, other = SharedState("memory:", fail_closed=True), SharedState("memory:", fail_closed=True)
        assert sum([await one.with_counters("alice", hit) for _ in range(12)]) == 10
        assert await other.with_counters("alice", hit)
        await one.close()

    asyncio.run(scene())


def test_two_count_together(redis: RedisServer) -> None:
    async def scene() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        got = await asyncio.gather(*(states[number % 2].with_counters("alice", hit) for number in range(30)))
        assert sum(got) == 10
        for state in states:
            await state.close()

    asyncio.run(scene())


@pytest.mark.parametrize("closed", [False, True], ids=["open: counted here", "closed: refused"])
def test_redis_is_killed_and_comes_back(closed: bool, redis: RedisServer) -> None:
    now = 0.0

    async def scene() -> None:
        nonlocal now
        state = SharedState(redis.url, fail_closed=closed, now=lambda: now)
        assert await state.with_counters("alice", hit)
        redis.kill()
        with capture_logs() as logs:
            for _ in range(3):
                if closed:
                    with pytest.raises(ServiceUnavailable):
                        await state.with_counters("alice", hit)
                else:
                    assert await state.with_counters("alice", hit)
                now += 2
            redis.start()
            assert sum([await state.with_counters("alice", hit) for _ in range(12)]) == 10
            # A connection that was closed in the meantime is opened anew: that is no loss.
            redis.kill()
            redis.start()
            assert await state.with_counters("alice", hit)
        assert [each["event"] for each in logs] == ["shared state is away", "shared state is back"]
        await state.close()

    asyncio.run(scene())


def failures() -> float:
    return REGISTRY.get_sample_value("limner_part_errors_total", {"part": "state"}) or 0.0


@pytest.mark.parametrize(
    ("url", "works"),
    [
        ("redis://:{password}@127.0.0.1:{port}", True),
        ("valkey://:{password}@127.0.0.1:{port}/3", True),
        ("unix://:{password}@{folder}/socket?db=1", True),
        ("rediss://:{password}@127.0.0.1:{tls}?ssl_ca_certs={folder}/certificate&ssl_check_hostname=false", True),
        ("valkeys://:{password}@127.0.0.1:{tls}?ssl_cert_reqs=none", True),
        ("rediss://:{password}@127.0.0.1:{tls}?ssl_ca_certs={folder}/certificate", False),
        ("rediss://:{password}@127.0.0.1:{tls}", False),
        ("rediss://:{password}@127.0.0.1:{port}", False),
        ("redis://:wrong@127.0.0.1:{port}", False),
        ("redis://127.0.0.1:{port}", False),
    ],
)
def test_each_form_of_address(url: str, works: bool, tmp_path: Path) -> None:
    """That of a server with a password, a socket, and a certificate for another name that nobody has signed."""
    (tmp_path / "key").write_text(certificate.KEY)
    (tmp_path / "certificate").write_text(certificate.CERTIFICATE)
    (tls,) = free_ports(1)
    options = (
        *("--requirepass", "s/e c@r#t", "--unixsocket", "socket", "--tls-port", str(tls), "--tls-auth-clients", "no"),
        *("--tls-cert-file", "certificate", "--tls-key-file", "key", "--tls-ca-cert-file", "certificate"),
    )
    with run_redis(tmp_path, *options) as server:
        url = url.format(password="s%2Fe%20c%40r%23t", port=server.url.rpartition(":")[2], tls=tls, folder=tmp_path)

        async def scene() -> None:
            state = SharedState(TypeAdapter(StateUrl).validate_python(url), fail_closed=False)
            with capture_logs() as logs:
                assert await state.with_counters("alice", hit)
                assert await state.run(lambda shared: shared.ping()) is (True if works else None)
            assert [each["event"] for each in logs] == ([] if works else ["shared state is away"])
            assert "wrong" not in str(logs)
            await state.close()

        asyncio.run(scene())


def test_a_redis_that_is_away_is_not_asked_each_time() -> None:
    before = failures()

    async def scene() -> None:
        state = SharedState("redis://127.0.0.1:9", fail_closed=False, now=lambda: 0.0)
        with capture_logs() as logs:
            assert sum([await state.with_counters("alice", hit) for _ in range(12)]) == 10
        assert (len(logs), failures() - before) == (1, 1)
        await state.close()

    asyncio.run(scene())


def test_something_of_their_own_is_shared(redis: RedisServer) -> None:
    async def scene() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        await states[0].run(lambda shared: shared.set("limner:x", "1"))
        assert await states[1].run(lambda shared: shared.get("limner:x")) == b"1"
        for state in states:
            await state.close()

    asyncio.run(scene())


def test_alone_there_is_nothing_to_share() -> None:
    alone = SharedState("memory:", fail_closed=True)
    assert not alone.is_shared
    assert asyncio.run(alone.run(lambda shared: shared.ping(), required=True)) is None


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_only_what_is_vital_is_refused_without_redis(closed: bool) -> None:
    async def scene() -> None:
        state = SharedState("redis://127.0.0.1:9", fail_closed=closed)
        assert state.is_shared
        assert await state.run(lambda shared: shared.ping()) is None
        if closed:
            with pytest.raises(ServiceUnavailable):
                await state.run(lambda shared: shared.ping(), required=True)
        else:
            assert await state.run(lambda shared: shared.ping(), required=True) is None
        await state.close()

    asyncio.run(scene())


def test_a_crowd_is_counted_together_too(redis: RedisServer) -> None:
    before = failures()

    async def scene() -> None:
        state = SharedState(redis.url, fail_closed=True)
        assert sum(await asyncio.gather(*(state.with_counters("alice", hit) for _ in range(400)))) == 10
        await state.close()

    asyncio.run(scene())
    assert failures() == before


def test_a_refusal_is_an_answer_of_redis_too(redis: RedisServer) -> None:
    now = 0.0

    async def refuse(_: Counters) -> None:
        raise RateLimited("Enough.")

    async def scene() -> None:
        nonlocal now
        state = SharedState(redis.url, fail_closed=False, now=lambda: now)
        redis.kill()
        with capture_logs() as logs:
            assert await state.with_counters("alice", hit)
            redis.start()
            now += 2
            with pytest.raises(RateLimited):
                await state.with_counters("alice", refuse)
        assert [each["event"] for each in logs] == ["shared state is away", "shared state is back"]
        await state.close()

    asyncio.run(scene())


def test_one_counts_at_a_time_with_a_name(redis: RedisServer) -> None:
    inside = most = 0

    async def look(counters: Counters) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(5):
            await asyncio.sleep(0)
        inside -= 1

    async def scene() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        await asyncio.gather(*(states[number % 2].with_counters("alice", look) for number in range(6)))
        assert most == 1
        await asyncio.gather(*(states[number % 2].with_counters(f"alice {number}", look) for number in range(2)))
        assert most == 2
        for state in states:
            await state.close()

    asyncio.run(scene())


def test_whoever_holds_up_the_others_for_long_is_passed_by(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.shared_state._LOCK_TIMEOUT", 0.02)

    async def scene() -> None:
        state = SharedState(redis.url, fail_closed=False)
        await state.run(lambda shared: shared.set("limner:lock:alice", "of one that was killed"))
        assert await state.with_counters("alice", hit)
        assert await state.run(lambda shared: shared.get("limner:lock:alice")) is not None
        await state.close()

    asyncio.run(scene())


def test_a_lock_that_was_lost_is_no_fault(redis: RedisServer) -> None:
    async def scene() -> None:
        state = SharedState(redis.url, fail_closed=False)

        async def outlast(counters: Counters) -> bool:
            await state.run(lambda shared: shared.delete("limner:lock:alice"))
            return await hit(counters)

        with capture_logs() as logs:
            assert await state.with_counters("alice", outlast)
        assert logs == []
        await state.close()

    asyncio.run(scene())


def test_one_finds_out_whether_redis_is_back_and_nobody_waits_for_that(redis: RedisServer) -> None:
    now = 0.0

    async def scene() -> None:
        nonlocal now
        state = SharedState(redis.url, fail_closed=False, now=lambda: now)
        redis.kill()
        assert await state.run(lambda shared: shared.ping()) is None
        redis.start()
        now += 1
        answered = asyncio.Event()

        async def look(shared: Redis) -> bool:
            await answered.wait()
            return bool(await shared.ping())

        probe = asyncio.create_task(state.run(look))
        await asyncio.sleep(0)
        assert await state.run(lambda shared: shared.ping()) is None
        answered.set()
        assert await probe
        assert await state.run(lambda shared: shared.ping())
        await state.close()

    asyncio.run(scene())
