"""Mark classes whose objects each request makes and nobody changes."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value_class(cls: type[_T]) -> type[_T]:
    """Make a dataclass with slots, whose fields are not changed: mypy refuses that.

    Python itself would refuse it with `frozen=True`, and set each field by a call for that: 3 % of a small request.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
