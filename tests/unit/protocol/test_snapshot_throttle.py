"""How often a growing reply is looked at: soon after a picture came, and seldom enough."""

import pytest

from app.protocol.chat_reply import SnapshotThrottle, split_lines

PROGRESS = b'data: {"choices":[{"delta":{"content":"."}}]}\n\n'


@pytest.mark.parametrize("hint", [b"https://a", b"http://a", b"data:image/png", b'"b64_json"', b'"image_url"'])
def test_a_picture_is_seen_at_once(hint: bytes) -> None:
    pace = SnapshotThrottle(received=10_000, searched=10_000)
    assert not pace.should_snapshot(PROGRESS, grown=True)
    assert pace.should_snapshot(hint, grown=True)
    assert not pace.should_snapshot(PROGRESS, grown=True)


def test_a_picture_is_seen_when_it_has_grown_into_the_reply() -> None:
    pace = SnapshotThrottle(received=10_000, searched=10_000)
    assert not pace.should_snapshot(b"https://a", grown=False)
    assert pace.should_snapshot(PROGRESS, grown=True)


def test_what_has_not_grown_is_not_looked_at() -> None:
    assert not SnapshotThrottle().should_snapshot(bytes(99), grown=False)


def test_a_picture_in_tiny_pieces_is_seen_after_an_eighth_more() -> None:
    pace = SnapshotThrottle()
    pace.should_snapshot(bytes(8000), grown=True)
    assert [pace.should_snapshot(bytes(500), grown=True) for _ in range(4)] == [False, True, False, False]


def test_all_looks_together_are_linear() -> None:
    pace, came, looked = SnapshotThrottle(), 0, 0
    for _ in range(20_000):
        came += 100
        looked += came * pace.should_snapshot(b"https://example.com/".ljust(100), grown=True)
    assert looked < 12 * came


@pytest.mark.parametrize(
    ("piece", "lines"),
    [(b"", [b""]), (b"abc", [b"abc"]), (b"a\r\n\r\nb", [b"a\r\n", b"\r\n", b"b"]), (b"a\n", [b"a\n"])],
)
def test_a_piece_is_fed_line_by_line(piece: bytes, lines: list[bytes]) -> None:
    assert list(split_lines(piece)) == lines
