"""Values are compared by what they hold, are keys of dictionaries, and have no other attributes than their fields."""

from dataclasses import field, replace

import pytest

from app.protocol.values import value_class


@value_class
class Point:
    x: int
    y: int = 0
    names: list[str] = field(default_factory=list, compare=False)


def test_equal_values_are_one_key() -> None:
    assert {Point(1): "a", replace(Point(1, 2), y=0): "b"} == {Point(1): "b"}
    assert Point(1) != Point(2)
    assert repr(Point(1)) == "Point(x=1, y=0, names=[])"


def test_a_value_has_no_other_attributes_than_its_fields() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 3  # type: ignore[attr-defined]
