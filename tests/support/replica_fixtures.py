"""Fixtures for tests of several replicas. They use the `demo` of the test's own module."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from redis import Redis

from tests.support.redis import RedisServer, run_redis
from tests.support.servers import RunningDemo


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return the Redis of all replicas of a module."""
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    """Return a client of that Redis, which is empty at first."""
    with Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def stack(demo: RunningDemo) -> Iterator[ExitStack]:
    """Close everything at the end; the upstream answers then, so that no server waits for it."""
    with ExitStack() as stack:
        try:
            yield stack
        finally:
            demo.state.release()


@pytest.fixture
def replicas_at_rest(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with a new demo upstream, and do not take a machine that is busy with other tests for a Redis that is down."""
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 10.0)
    demo.state.reset()
    yield
    demo.state.release()
