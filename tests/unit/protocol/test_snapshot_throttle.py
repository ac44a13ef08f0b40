"""A growing reply is searched soon after an image arrived, and seldom enough to stay linear."""

import pytest

from app.protocol.snapshot_throttle import SnapshotThrottle, split_lines

PROGRESS = b'data: {"choices":[{"delta":{"content":"."}}]}\n\n'


@pytest.mark.parametrize("mark", [b"https://a", b"http://a", b"data:image/png", b'"b64_json"', b'"image_url"'])
def test_an_image_is_searched_for_at_once(mark: bytes) -> None:
    throttle = SnapshotThrottle(received=10_000, searched=10_000)
    assert not throttle.should_snapshot(PROGRESS, grown=True)
    assert throttle.should_snapshot(mark, grown=True)
    assert not throttle.should_snapshot(PROGRESS, grown=True)


def test_an_image_is_searched_for_once_the_reply_has_grown() -> None:
    throttle = SnapshotThrottle(received=10_000, searched=10_000)
    assert not throttle.should_snapshot(b"https://a", grown=False)
    assert throttle.should_snapshot(PROGRESS, grown=True)


def test_a_reply_that_has_not_grown_is_not_searched() -> None:
    assert not SnapshotThrottle().should_snapshot(bytes(99), grown=False)


def test_an_image_in_tiny_chunks_is_searched_for_after_an_eighth_more() -> None:
    throttle = SnapshotThrottle()
    throttle.should_snapshot(bytes(8000), grown=True)
    assert [throttle.should_snapshot(bytes(500), grown=True) for _ in range(4)] == [False, True, False, False]


def test_each_image_mark_uses_up_one_extra_search() -> None:
    throttle = SnapshotThrottle(received=10_000, searched=10_000, marks_left=2)
    assert [throttle.should_snapshot(b"https://a", grown=True) for _ in range(4)] == [True, True, False, False]


def test_all_searches_together_are_linear() -> None:
    throttle, received, searched = SnapshotThrottle(), 0, 0
    for _ in range(20_000):
        received += 100
        searched += received * throttle.should_snapshot(b"https://example.com/".ljust(100), grown=True)
    assert searched < 12 * received


@pytest.mark.parametrize(
    ("chunk", "lines"),
    [(b"", [b""]), (b"abc", [b"abc"]), (b"a\r\n\r\nb", [b"a\r\n", b"\r\n", b"b"]), (b"a\n", [b"a\n"])],
)
def test_a_chunk_is_split_into_lines(chunk: bytes, lines: list[bytes]) -> None:
    assert list(split_lines(chunk)) == lines
