"""Parse image sizes: which ones a client may request, and which ones go upstream in place of the old small ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from app.errors import UserError
from app.protocol.parameters import FormPart, Schema, single_text
from app.protocol.validation_errors import quote, wrong_type

#: The rules of gpt-image-2. The upstream's own page states the first, third and fifth.
SIZE_MULTIPLE = 16
MAX_EDGE = 3840
MAX_ASPECT_RATIO = 3
MAX_PIXELS = 3840 * 2160
MIN_PIXELS = 655_360


@dataclass(frozen=True, slots=True)
class Size:
    """A size that the client requests, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def upstream_size(self) -> "Size":
        """The size to request upstream: larger than a size of `LEGACY_SIZES`, whose image is scaled down afterwards."""
        return LEGACY_SIZES.get(self, self)


#: The small squares of dall-e-2. Clients still send them by default, but no upstream generates them any more.
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
    """Parse `WIDTHxHEIGHT`. Return None for `auto` and empty text, with which the model chooses.

    Raises:
        UserError: The text is not a size, or the size breaks a rule; in OpenAI's wording.
    """
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
    """The type of the `size` parameter (see `parameters.ParameterType`)."""

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
