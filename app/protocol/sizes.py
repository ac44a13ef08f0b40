"""Sizes of pictures: which ones may be asked for, and what the old small ones are asked for as."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from app.errors import UserError
from app.protocol.parameters import FormPart, Schema, single_text
from app.protocol.validation_errors import quote, wrong_type

#: The rules of gpt-image-2. The upstream's own page has the first, third and fifth.
SIZE_MULTIPLE = 16
MAX_EDGE = 3840
MAX_ASPECT_RATIO = 3
MAX_PIXELS = 3840 * 2160
MIN_PIXELS = 655_360


@dataclass(frozen=True, slots=True)
class Size:
    """What the client wants to get, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def upstream_size(self) -> "Size":
        """What the upstream is asked for: larger for a size of LEGACY, whose picture is then to be scaled down."""
        return LEGACY_SIZES.get(self, self)


#: dall-e-2's small squares. Clients still send them by default, and no upstream paints them any more.
LEGACY_SIZES = {Size(256, 256): Size(1024, 1024), Size(512, 512): Size(1024, 1024)}


def _broken_rule(size: Size) -> str | None:
    short, long = sorted((size.width, size.height))
    rules = (
        (short % SIZE_MULTIPLE or long % SIZE_MULTIPLE, f"Width and height must both be divisible by {SIZE_MULTIPLE}."),
        (long > MAX_EDGE, f"The longest edge must be less than or equal to {MAX_EDGE}."),
        (
            long > MAX_ASPECT_RATIO * short,
            f"The ratio of the longer to the shorter edge must not exceed {MAX_ASPECT_RATIO}:1.",
        ),
        (short * long > MAX_PIXELS, "Requested resolution is above the current maximum pixel budget."),
        (short * long < MIN_PIXELS, "Requested resolution is below the current minimum pixel budget."),
    )
    return next((rule for broken, rule in rules if broken), None)


def parse_size(text: str, param: str = "size") -> Size | None:
    """None where the model may choose: `auto` and empty text. Raises UserError in the official wording."""
    if text in {"", "auto"}:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if match is None:
        raise _invalid(text, "Expected WIDTHxHEIGHT, for example '1824x1024'.", param)
    size = Size(int(match[1]), int(match[2]))
    rule = None if size in LEGACY_SIZES else _broken_rule(size)
    if rule is not None:
        raise _invalid(text, rule, param)
    return size


def _invalid(text: str, rule: str, param: str) -> UserError:
    return UserError(f"Invalid size '{quote(text)}'. {rule}", param=param, code="invalid_value")


@dataclass(frozen=True, slots=True)
class SizeParam:
    """The kind of the `size` parameter (see app.protocol.parameters)."""

    holds_image: ClassVar[bool] = False

    def describe(self) -> str:
        legacy = " and ".join(f"`{size}`" for size in LEGACY_SIZES)
        return (
            f"`auto`, or `WIDTHxHEIGHT`: multiples of {SIZE_MULTIPLE}, longest edge ≤ {MAX_EDGE}, "
            f"ratio ≤ {MAX_ASPECT_RATIO}:1, {MIN_PIXELS} to {MAX_PIXELS} pixels; {legacy} are scaled down"
        )

    def from_json(self, name: str, value: object) -> Size | None:
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        return parse_size(value, name)

    def from_form(self, name: str, parts: Sequence[FormPart]) -> Size | None:
        return self.from_json(name, single_text(name, parts))

    def schema(self, form: bool) -> Schema:
        return {"type": "string", "pattern": "^(|auto|[1-9][0-9]{1,3}x[1-9][0-9]{1,3})$"}
