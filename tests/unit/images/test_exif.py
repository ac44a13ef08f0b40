"""EXIF is turned up whatever its byte order, and never fails a picture."""

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images.codec import EXIF_HEADER, reset_orientation


def directory(order: str, *entries: tuple[int, int]) -> bytes:
    """A TIFF block whose entries are (tag, short)."""
    rows = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return start + struct.pack(order + "H", len(entries)) + rows + bytes(4) + b"maker note"


@dataclass(frozen=True)
class Case:
    what: str
    exif: bytes
    upright: bytes
    orientation: int


CASES = (
    Case("little end first", directory("<", (0x0112, 6)), EXIF_HEADER + directory("<", (0x0112, 1)), 6),
    Case("big end first", directory(">", (0x0112, 8)), EXIF_HEADER + directory(">", (0x0112, 1)), 8),
    Case(
        "the mark of JPEG in front",
        EXIF_HEADER + directory(">", (0x0112, 3)),
        EXIF_HEADER + directory(">", (0x0112, 1)),
        3,
    ),
    Case(
        "behind another tag", directory("<", (7, 9), (0x0112, 5)), EXIF_HEADER + directory("<", (7, 9), (0x0112, 1)), 5
    ),
    Case("upright already", directory("<", (0x0112, 1)), EXIF_HEADER + directory("<", (0x0112, 1)), 1),
    Case("no orientation", directory("<", (7, 9)), EXIF_HEADER + directory("<", (7, 9)), 1),
    Case("an orientation below the eight", directory("<", (0x0112, 0)), EXIF_HEADER + directory("<", (0x0112, 1)), 1),
    Case("an orientation above the eight", directory("<", (0x0112, 9)), EXIF_HEADER + directory("<", (0x0112, 1)), 1),
    Case("nothing", b"", b"", 1),
    Case("no byte order", b"Exif\0\0no TIFF at all", b"", 1),
    Case("cut in the header", b"II*", b"", 1),
    Case("cut in the directory", directory("<", (7, 9), (0x0112, 6))[:24], b"", 1),
    Case("a directory behind the end", b"II*\0\xff\xff\xff\xff", b"", 1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_turn_up(case: Case) -> None:
    assert reset_orientation(case.exif) == (case.upright, case.orientation)


@given(st.binary(max_size=60).map(lambda tail: b"II*\0\x08\0\0\0" + tail) | st.binary())
def test_any_bytes_are_upright_afterwards(exif: bytes) -> None:
    upright, orientation = reset_orientation(exif)
    assert orientation in range(1, 9)
    assert reset_orientation(upright) == (upright, 1)
