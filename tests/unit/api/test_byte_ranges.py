"""Parsing of Range headers."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.stored_images import parse_range


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    header: str | None
    part: range | None


CASES = [
    Case("no header means the whole", None, None),
    Case("the first bytes", "bytes=0-3", range(4)),
    Case("one byte", "bytes=3-3", range(3, 4)),
    Case("from an offset to the end", "bytes=4-", range(4, 10)),
    Case("the last bytes", "bytes=-3", range(7, 10)),
    Case("more last bytes than there are", "bytes=-99", range(10)),
    Case("an end beyond the end", "bytes=8-99", range(8, 10)),
    Case("the unit in capitals, with a space", "BYTES= 0-3 ", range(4)),
    Case("a start at the end cannot be satisfied", "bytes=10-", range(10, 10)),
    Case("a start beyond the end cannot be satisfied", "bytes=11-12", range(11, 10)),
    Case("zero last bytes cannot be satisfied", "bytes=-0", range(10, 10)),
    Case("an end before the start is ignored", "bytes=3-2", None),
    Case("a range without numbers is ignored", "bytes=-", None),
    Case("several ranges mean the whole", "bytes=0-1,4-5", None),
    Case("another unit is ignored", "items=0-3", None),
    Case("words are ignored", "nonsense", None),
    Case("a sign is not a number", "bytes=+1-2", None),
    Case("digits of other scripts are not numbers", "bytes=٣-٤", None),
    Case("a number beyond all sizes is ignored", f"bytes={'9' * 19}-", None),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_requested_part_is_read_from_the_header(case: Case) -> None:
    assert parse_range(case.header, 10) == case.part


@given(st.text("0123456789-,= bytesBYTES", max_size=20), st.integers(1, 50))
def test_every_parsed_range_lies_within_the_image(header: str, size: int) -> None:
    part = parse_range(f"bytes={header}", size)
    assert part is None or not part or 0 <= part.start < part.stop <= size
