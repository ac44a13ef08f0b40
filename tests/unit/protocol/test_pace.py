"""What takes long to parse is parsed in small pieces."""

import pytest

from app.protocol.pace import Pace, split_events


@pytest.mark.parametrize(
    ("count", "seconds", "size"),
    [
        (16_384, 0.0, 32_768),
        (16_384, 0.000_01, 32_768),
        (16_384, 0.005, 16_384),
        (16_384, 0.05, 2 * 1024),
        (10_000, 0.01, 5_000),
        (200, 0.000_1, 10_000),
        (0, 0.1, 2 * 1024),
    ],
    ids=[
        "in no time",
        "fast",
        "as fast as it may be",
        "much too slow",
        "twice as slow",
        "few bytes tell of more",
        "no bytes",
    ],
)
def test_the_next_piece_is_as_large_as_the_last_one_was_fast(count: int, seconds: float, size: int) -> None:
    pace = Pace()
    assert pace.size == 16 * 1024
    pace.note(count, seconds)
    assert pace.size == size


def test_a_piece_is_at_most_twice_as_large_as_before() -> None:
    pace, sizes = Pace(), []
    for _ in range(5):
        pace.note(pace.size, 0.0)
        sizes.append(pace.size // 1024)
    assert sizes == [32, 64, 128, 128, 128]


@pytest.mark.parametrize(
    ("chunk", "events"),
    [
        (b"", []),
        (b"abc", [b"abc"]),
        (b"a\r\n\r\nb", [b"a\r\n\r\n", b"b"]),
        (b"a\nb\n\n\n\nc\n", [b"a\nb\n\n\n\n", b"c\n"]),
        (b"a\r\rb", [b"a\r\r", b"b"]),
        (b"a" * 20_000, [b"a" * 16_384, b"a" * 3_616]),
    ],
)
def test_a_chunk_is_split_behind_its_events(chunk: bytes, events: list[bytes]) -> None:
    assert list(split_events(chunk)) == events


def test_base64_is_cut_into_pieces_of_the_size_that_is_wanted() -> None:
    chunk, sizes = b"data: 1\n\ndata: image\n\n" + b"a\n\n" * 20_000, iter((0, 0, 50_000, 4_000, 0, 10**6))
    pieces = list(split_events(chunk, lambda: next(sizes)))
    assert b"".join(pieces) == chunk
    assert pieces[:2] == [b"data: 1\n\n", b"data: image\n\n"]
    assert [len(piece) for piece in pieces[2:]] == [50_000, 4_000, 3, 5_997]
    assert list(split_events(chunk, lambda: 10**6)) == [chunk]
