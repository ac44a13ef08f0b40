"""Replicas share state through a real Redis, which is killed and started again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from pydantic import TypeAdapter
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
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
    """Count one of ten per minute; False when they are used up."""
    return await counters.acquire_entry("alice", 10, 60)


def test_without_redis_each_process_counts_for_itself() -> None:
    async def check() -> None:
        one, other = SharedState("memory:", fail_closed=True), SharedState("memory:", fail_closed=True)
        assert sum([await one.with_counters("alice", hit) for _ in range(12)]) == 10
        assert await other.with_counters("alice", hit)
        await one.close()

    asyncio.run(check())


def test_two_replicas_count_together(redis: RedisServer) -> None:
    async def check() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        got = await asyncio.gather(*(states[number % 2].with_counters("alice", hit) for number in range(30)))
        assert sum(got) == 10
        for state in states:
            await state.close()

    asyncio.run(check())


@pytest.mark.parametrize("closed", [False, True], ids=["open: counts alone", "closed: refuses"])
def test_redis_is_killed_and_started_again(closed: bool, redis: RedisServer) -> None:
    now = 0.0

    async def check() -> None:
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
            # A connection that Redis closed in the meantime is opened again, which is not an error.
            redis.kill()
            redis.start()
            assert await state.with_counters("alice", hit)
        assert [record["event"] for record in logs] == ["state_down", "state_up"]
        await state.close()

    asyncio.run(check())


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
def test_every_form_of_address_is_understood(url: str, works: bool, tmp_path: Path) -> None:
    """The server has a password, a socket, and a self-signed certificate for another name."""
    (tmp_path / "key").write_text(certificate.KEY)
    (tmp_path / "certificate").write_text(certificate.CERTIFICATE)
    (tls,) = free_ports(1)
    options = (
        *("--requirepass", "s/e c@r#t", "--unixsocket", "socket", "--tls-port", str(tls), "--tls-auth-clients", "no"),
        *("--tls-cert-file", "certificate", "--tls-key-file", "key", "--tls-ca-cert-file", "certificate"),
    )
    with run_redis(tmp_path, *options) as server:
        url = url.format(password="s%2Fe%20c%40r%23t", port=server.url.rpartition(":")[2], tls=tls, folder=tmp_path)

        async def check() -> None:
            state = SharedState(TypeAdapter(StateUrl).validate_python(url), fail_closed=False)
            with capture_logs() as logs:
                assert await state.with_counters("alice", hit)
                assert await state.run(lambda shared: shared.ping()) is (True if works else None)
            assert [record["event"] for record in logs] == ([] if works else ["state_down"])
            assert "wrong" not in str(logs)
            await state.close()

        asyncio.run(check())


def test_a_ping_gives_the_reason_when_redis_does_not_answer(redis: RedisServer) -> None:
    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)
        await state.ping()
        redis.kill()
        with pytest.raises(OSError, match="Connect call failed"):
            await state.ping()
        await state.close()

    asyncio.run(check())


def test_without_redis_a_ping_does_nothing() -> None:
    asyncio.run(SharedState("memory:", fail_closed=True).ping())


def test_a_redis_that_is_down_is_not_tried_at_every_call() -> None:
    before = failures()

    async def check() -> None:
        state = SharedState("redis://127.0.0.1:9", fail_closed=False, now=lambda: 0.0)
        with capture_logs() as logs:
            assert sum([await state.with_counters("alice", hit) for _ in range(12)]) == 10
        assert (len(logs), failures() - before) == (1, 1)
        await state.close()

    asyncio.run(check())


def test_a_value_that_one_replica_writes_can_be_read_by_another(redis: RedisServer) -> None:
    async def check() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        await states[0].run(lambda shared: shared.set("limner:x", "1"))
        assert await states[1].run(lambda shared: shared.get("limner:x")) == b"1"
        for state in states:
            await state.close()

    asyncio.run(check())


def test_without_redis_nothing_is_run() -> None:
    alone = SharedState("memory:", fail_closed=True)
    assert not alone.is_shared
    assert asyncio.run(alone.run(lambda shared: shared.ping(), required=True)) is None


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_while_redis_is_down_only_required_calls_are_refused(closed: bool) -> None:
    async def check() -> None:
        state = SharedState("redis://127.0.0.1:9", fail_closed=closed)
        assert state.is_shared
        assert await state.run(lambda shared: shared.ping()) is None
        if closed:
            with pytest.raises(ServiceUnavailable):
                await state.run(lambda shared: shared.ping(), required=True)
        else:
            assert await state.run(lambda shared: shared.ping(), required=True) is None
        await state.close()

    asyncio.run(check())


def test_four_hundred_concurrent_calls_are_counted_together(redis: RedisServer) -> None:
    before = failures()

    async def check() -> None:
        state = SharedState(redis.url, fail_closed=True)
        assert sum(await asyncio.gather(*(state.with_counters("alice", hit) for _ in range(400)))) == 10
        await state.close()

    asyncio.run(check())
    assert failures() == before


def test_a_refusal_shows_that_redis_is_up_again(redis: RedisServer) -> None:
    now = 0.0

    async def refuse(_: Counters) -> None:
        raise RateLimited("Enough.")

    async def check() -> None:
        nonlocal now
        state = SharedState(redis.url, fail_closed=False, now=lambda: now)
        redis.kill()
        with capture_logs() as logs:
            assert await state.with_counters("alice", hit)
            redis.start()
            now += 2
            with pytest.raises(RateLimited):
                await state.with_counters("alice", refuse)
        assert [record["event"] for record in logs] == ["state_down", "state_up"]
        await state.close()

    asyncio.run(check())


def test_calls_with_the_same_name_run_one_at_a_time(redis: RedisServer) -> None:
    running = max_running = 0

    async def use(counters: Counters) -> None:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    both = asyncio.Barrier(2)

    async def meet(counters: Counters) -> None:
        async with asyncio.timeout(20):
            await both.wait()

    async def check() -> None:
        states = [SharedState(redis.url, fail_closed=False) for _ in range(2)]
        await asyncio.gather(*(states[number % 2].with_counters("alice", use) for number in range(6)))
        # Calls with other names run beside each other.
        await asyncio.gather(*(states[number % 2].with_counters(f"alice {number}", meet) for number in range(2)))
        for state in states:
            await state.close()

    asyncio.run(check())
    assert max_running == 1


def test_a_lock_that_is_held_for_too_long_does_not_stop_others(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.state.shared_state._LOCK_TIMEOUT", 0.02)

    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)
        await state.run(lambda shared: shared.set("limner:lock:alice", "of a replica that was killed"))
        assert await state.with_counters("alice", hit)
        assert await state.run(lambda shared: shared.get("limner:lock:alice")) is not None
        await state.close()

    asyncio.run(check())


def test_a_lock_that_expired_is_not_an_error(redis: RedisServer) -> None:
    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)

        async def lose_lock(counters: Counters) -> bool:
            await state.run(lambda shared: shared.delete("limner:lock:alice"))
            return await hit(counters)

        with capture_logs() as logs:
            assert await state.with_counters("alice", lose_lock)
        assert logs == []
        await state.close()

    asyncio.run(check())


def test_one_caller_tries_redis_again_and_the_others_do_not_wait(redis: RedisServer) -> None:
    now = 0.0

    async def check() -> None:
        nonlocal now
        state = SharedState(redis.url, fail_closed=False, now=lambda: now)
        redis.kill()
        assert await state.run(lambda shared: shared.ping()) is None
        redis.start()
        now += 1
        answered = asyncio.Event()

        async def probe(shared: Redis) -> bool:
            await answered.wait()
            return bool(await shared.ping())

        probing = asyncio.create_task(state.run(probe))
        await asyncio.sleep(0)
        assert await state.run(lambda shared: shared.ping()) is None
        answered.set()
        assert await probing
        assert await state.run(lambda shared: shared.ping())
        await state.close()

    asyncio.run(check())


@pytest.mark.parametrize("steps", range(12))
def test_a_loop_of_commands_ends_whenever_it_is_cancelled(steps: int, redis: RedisServer) -> None:
    """Sending a command in Python 3.11 swallows a cancellation that comes at a certain step of the event loop."""

    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)
        commands = 0

        async def repeat() -> None:
            nonlocal commands
            while commands < 500:
                commands += 1
                await state.run(lambda client: client.get("nothing"))

        await state.ping()
        task = asyncio.create_task(repeat())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert commands <= steps + 2
        await state.close()

    asyncio.run(check())


def test_what_runs_after_a_cancellation_is_not_cancelled_once_more(redis: RedisServer) -> None:
    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)
        found: list[object] = []

        async def tidy_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                found.append(await state.run(lambda client: client.set("tidied", "up")))

        task = asyncio.create_task(tidy_up())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert (task.cancelled(), found) == (True, [True])
        await state.close()

    asyncio.run(check())


@pytest.mark.parametrize("times", [1, 9])
def test_a_connection_that_uvloop_has_closed_is_a_lost_one(times: int, redis: RedisServer) -> None:
    """Another one is opened, and where that is lost, too, Redis is down."""

    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)
        assert await state.run(lambda client: client.set("name", "value"))
        losses = iter(range(times))

        async def send(connection: Any, *args: Any) -> None:
            if next(losses, None) is not None:
                transport = connection._writer.transport
                transport.abort()
                for _ in range(9):
                    await asyncio.sleep(0)  # until the handle is closed
            await whole(connection, *args)

        whole = AbstractConnection._send_packed_command
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AbstractConnection, "_send_packed_command", send)
            found = await state.run(lambda client: client.get("name"))
        assert (found, state.is_down) == ((b"value", False) if times == 1 else (None, True))
        await state.close()

    uvloop.run(check())


def test_a_bug_is_no_lost_connection(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        state = SharedState(redis.url, fail_closed=False)
        with pytest.raises(RuntimeError, match="a bug"):
            await state.run(lambda client: client.get("name"))
        await state.close()

    async def send(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(AbstractConnection, "_send_packed_command", send)
    asyncio.run(check())
