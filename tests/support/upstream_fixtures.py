"""Fixtures for tests with an upstream. A module that needs another kind of `demo` defines its own."""

from collections.abc import Iterator

import pytest
import structlog

from tests.support.servers import RunningDemo, run_demo, serve
from tests.support.wayward_upstream import WaywardUpstream


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    """Return a demo upstream that takes any key."""
    with run_demo() as running:
        yield running


@pytest.fixture
def demo_at_rest(demo: RunningDemo) -> Iterator[None]:
    """Begin with a demo upstream that has served nobody, and let it answer at the end whatever it still holds."""
    demo.state.reset()
    yield
    demo.state.release()


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[WaywardUpstream, str]]:
    """Return an upstream whose answers the test chooses, and its address."""
    wayward = WaywardUpstream()
    with serve(wayward.app()) as url:
        yield wayward, url


@pytest.fixture
def default_log() -> Iterator[None]:
    """Undo that a command configures the log to write to the standard error of this test."""
    yield
    structlog.reset_defaults()
