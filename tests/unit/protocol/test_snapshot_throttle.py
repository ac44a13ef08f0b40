"""A growing reply is searched soon after an image arrived, and seldom enough to stay linear."""

import pytest

from app.protocol.snapshot_throttle import SnapshotThrottle

PROGRESS = b'data: {"choices":[{"delta":{"content":"."}}]}\n\n'


@pytest.mark.parametrize("mark", [b"https://a", b"http://a", b"data:image/png", b'"b64_json"', b'"image_url"'])
def test_an_image_is_searched_for_at_once(mark: bytes) -> None:
    throttle = SnapshotThrottle(received=10_000, searched=10_000)
    assert not throttle.should_snapshot(PROGRESS, 100, grown=True)
    assert throttle.should_snapshot(mark, 100, grown=True)
    assert not throttle.should_snapshot(PROGRESS, 100, grown=True)


def test_an_image_is_searched_for_once_the_reply_has_grown() -> None:
    throttle = SnapshotThrottle(received=10_000, searched=10_000)
    assert not throttle.should_snapshot(b"https://a", 100, grown=False)
    assert throttle.should_snapshot(PROGRESS, 100, grown=True)


def test_a_reply_that_has_not_grown_is_not_searched() -> None:
    assert not SnapshotThrottle().should_snapshot(bytes(99), 100, grown=False)


def test_an_image_in_tiny_chunks_is_searched_for_after_an_eighth_more() -> None:
    throttle = SnapshotThrottle()
    throttle.should_snapshot(bytes(8000), 100, grown=True)
    assert [throttle.should_snapshot(bytes(500), 100, grown=True) for _ in range(4)] == [False, True, False, False]


def test_searches_for_image_marks_have_a_budget_that_grows_with_the_reply() -> None:
    throttle = SnapshotThrottle(received=10**9, searched=10**9)
    assert [throttle.should_snapshot(b"https://a", 100_000, grown=True) for _ in range(20)].count(True) == 11
    assert throttle.should_snapshot(b"https://a", 200_000, grown=True)


def test_all_searches_together_are_linear() -> None:
    throttle, received, searched = SnapshotThrottle(), 0, 0
    for _ in range(20_000):
        received += 100
        searched += received * throttle.should_snapshot(b"https://example.com/".ljust(100), received, grown=True)
    assert searched < 20 * received
