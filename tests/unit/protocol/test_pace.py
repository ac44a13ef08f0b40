"""What takes long to parse is parsed in small pieces."""

import pytest

from app.protocol.pace import Pace


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
