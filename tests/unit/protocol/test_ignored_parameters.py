"""Every reason why a parameter has no effect, and how it is named in the header."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from app.protocol.ignored_parameters import ignored_parameters, is_reserved_metadata
from app.protocol.parameters import Destination, Parameter, TextParam

ROWS = (
    Parameter(TextParam(8), Destination.NONE, "", name="style"),
    Parameter(TextParam(8), Destination.MESSAGE, "", name="prompt"),
)


@dataclass(frozen=True)
class Case:
    name: str
    values: dict[str, Any]
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = field(default=())


CASES = [
    Case("a parameter without effect", {"style": "vivid"}, ("style",)),
    Case("a parameter with an effect is not named", {"prompt": "a fox"}),
    Case("unknown parameters come last", {"style": "vivid"}, ("style", "tools"), ("tools",)),
    Case("a name twice", {"style": "vivid"}, ("style",), ("style",)),
    Case("a name is made safe for a header", {}, ("a__b",), ("a\r\nb",)),
    Case("a PNG is not compressed", {"output_compression": 80}, ("output_compression",)),
    Case("a WebP is compressed", {"output_compression": 80, "output_format": "webp"}),
    Case("a PNG of full quality is not affected", {"output_compression": 100}),
    Case("partial images without a stream", {"partial_images": 2}, ("partial_images",)),
    Case("partial images with a stream", {"partial_images": 2, "stream": True}),
    Case("metadata that would override that of Limner", {"metadata": {"a": "1", " Size": "9"}}, ("metadata._Size",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parameters_without_effect_are_named(case: Case) -> None:
    assert ignored_parameters(ROWS, case.values, case.unread) == case.ignored


def test_no_more_names_are_read_than_fit_into_the_header() -> None:
    seen = 0

    def endless() -> Iterator[str]:
        nonlocal seen
        for seen in count(1):
            yield f"x{seen}"

    assert ignored_parameters(ROWS, {}, endless()) == tuple(f"x{number}" for number in range(1, 33))
    assert seen == 33


@pytest.mark.parametrize(("key", "reserved"), [("size", True), (" Quality ", True), ("sizes", False)])
def test_reserved_metadata_is_recognized_by_its_key(key: str, reserved: bool) -> None:
    assert is_reserved_metadata(key) is reserved
