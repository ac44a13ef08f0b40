"""Each reason for which something has no effect, and what a header can carry of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from app.protocol.image_request import ignored_parameters, is_reserved_metadata
from app.protocol.parameters import Destination, Parameter, TextParam

ROWS = (
    Parameter(TextParam(8), Destination.NONE, "", name="style"),
    Parameter(TextParam(8), Destination.MESSAGE, "", name="prompt"),
)


@dataclass(frozen=True)
class Case:
    name: str
    said: dict[str, Any]
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = field(default=())


CASES = [
    Case("what goes nowhere", {"style": "vivid"}, ("style",)),
    Case("what goes somewhere is not named", {"prompt": "a fox"}),
    Case("what nobody reads comes last", {"style": "vivid"}, ("style", "tools"), ("tools",)),
    Case("a name twice", {"style": "vivid"}, ("style",), ("style",)),
    Case("a name is made fit for a header", {}, ("a__b",), ("a\r\nb",)),
    Case("a PNG is not compressed", {"output_compression": 80}, ("output_compression",)),
    Case("a WebP is", {"output_compression": 80, "output_format": "webp"}),
    Case("a PNG of full quality is what it is", {"output_compression": 100}),
    Case("pictures on the way of no stream", {"partial_images": 2}, ("partial_images",)),
    Case("pictures on the way of a stream", {"partial_images": 2, "stream": True}),
    Case("metadata that would choose over ours", {"metadata": {"a": "1", " Size": "9"}}, ("metadata._Size",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_has_no_effect_is_named(case: Case) -> None:
    assert ignored_parameters(ROWS, case.said, case.unread) == case.ignored


def test_no_more_is_looked_at_than_a_header_carries() -> None:
    seen = 0

    def endless() -> Iterator[str]:
        nonlocal seen
        for seen in count(1):
            yield f"x{seen}"

    assert ignored_parameters(ROWS, {}, endless()) == tuple(f"x{number}" for number in range(1, 33))
    assert seen == 33


@pytest.mark.parametrize(("key", "ours"), [("size", True), (" Quality ", True), ("sizes", False)])
def test_metadata_of_ours_is_told_by_its_key(key: str, ours: bool) -> None:
    assert is_reserved_metadata(key) is ours
