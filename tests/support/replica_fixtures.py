"""Fixtures for tests of several replicas. They use the `demo` of the test's own module."""

from collections.abc import Iterator

import pytest

from tests.support.redis import RedisServer, run_redis
from tests.support.servers import RunningDemo


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return the Redis of all replicas of a module."""
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def replicas_at_rest(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with a new demo upstream, and do not take a machine that is busy with other tests for a Redis that is down."""
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 10.0)
    demo.state.reset()
    yield
    demo.state.release()
