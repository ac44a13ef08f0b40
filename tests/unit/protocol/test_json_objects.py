"""The objects of a JSON value are found from outside to inside, within limits."""

from typing import Any

import pytest

from app.protocol.json_objects import objects_in

DOCUMENT = {"a": [{"b": 1}, "{}", [{"c": {"d": 2}}]], "e": {"f": None}}


@pytest.mark.parametrize(
    ("name", "document", "limit", "depth", "found"),
    [
        ("all, by depth", DOCUMENT, 9, 9, ["ae", "f", "b", "c", "d"]),
        ("no more than the limit", DOCUMENT, 2, 9, ["ae", "f"]),
        ("none below the depth", DOCUMENT, 9, 3, ["ae", "f", "b"]),
        ("a list at the top", [{"a": 1}, {"b": 2}], 9, 9, ["a", "b"]),
        ("nothing", "text", 9, 9, []),
    ],
)
def test_objects_are_found(name: str, document: Any, limit: int, depth: int, found: list[str]) -> None:
    assert ["".join(each) for each in objects_in(document, limit=limit, depth=depth)] == found


def test_a_function_may_say_what_lies_in_a_value() -> None:
    """Some upstreams write JSON into texts."""
    found = objects_in(
        {"a": "x"},
        limit=9,
        depth=9,
        values_of=lambda value: value.values() if isinstance(value, dict) else [{"b": 1}] if value == "x" else (),
    )
    assert list(found) == [{"a": "x"}, {"b": 1}]
