"""The orientation in EXIF is reset in either byte order; EXIF that cannot be read is ignored."""

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images.codec import EXIF_HEADER, reset_orientation


def directory(order: str, *entries: tuple[int, int]) -> bytes:
    """Return a TIFF block with these entries of (tag, short)."""
    rows = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return start + struct.pack(order + "H", len(entries)) + rows + bytes(4) + b"maker note"


@dataclass(frozen=True)
class Case:
    name: str
    exif: bytes
    upright: bytes
    orientation: int


CASES = (
    Case("little-endian", directory("<", (0x0112, 6)), EXIF_HEADER + directory("<", (0x0112, 1)), 6),
    Case("big-endian", directory(">", (0x0112, 8)), EXIF_HEADER + directory(">", (0x0112, 1)), 8),
    Case(
        "the header of JPEG in front",
        EXIF_HEADER + directory(">", (0x0112, 3)),
        EXIF_HEADER + directory(">", (0x0112, 1)),
        3,
    ),
    Case(
        "after another tag", directory("<", (7, 9), (0x0112, 5)), EXIF_HEADER + directory("<", (7, 9), (0x0112, 1)), 5
    ),
    Case("upright already", directory("<", (0x0112, 1)), EXIF_HEADER + directory("<", (0x0112, 1)), 1),
    Case("no orientation", directory("<", (7, 9)), EXIF_HEADER + directory("<", (7, 9)), 1),
    Case("an orientation below 1", directory("<", (0x0112, 0)), EXIF_HEADER + directory("<", (0x0112, 1)), 1),
    Case("an orientation above 8", directory("<", (0x0112, 9)), EXIF_HEADER + directory("<", (0x0112, 1)), 1),
    Case("nothing", b"", b"", 1),
    Case("no byte order", b"Exif\0\0no TIFF at all", b"", 1),
    Case("cut in the header", b"II*", b"", 1),
    Case("cut in the directory", directory("<", (7, 9), (0x0112, 6))[:24], b"", 1),
    Case("a directory beyond the end", b"II*\0\xff\xff\xff\xff", b"", 1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_orientation_is_reset(case: Case) -> None:
    assert reset_orientation(case.exif) == (case.upright, case.orientation)


@given(st.binary(max_size=60).map(lambda tail: b"II*\0\x08\0\0\0" + tail) | st.binary())
def test_any_bytes_are_upright_afterwards(exif: bytes) -> None:
    upright, orientation = reset_orientation(exif)
    assert orientation in range(1, 9)
    assert reset_orientation(upright) == (upright, 1)
