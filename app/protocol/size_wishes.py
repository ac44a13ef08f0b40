"""Read what clients say of the size: pixels, an aspect ratio, a tier, width and height; and choose a legal size."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from app.errors import UserError
from app.protocol.parameters import FormPart, Operation, Schema, single_text
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import (
    LEGACY_SIZES,
    MAX_ASPECT_RATIO,
    MAX_EDGE,
    MAX_PIXELS,
    MIN_PIXELS,
    SIZE_MULTIPLE,
    Size,
    ceil_to_grid,
    check_exact_size,
    check_size,
    floor_to_grid,
    invalid_size,
    is_legal,
    parse_pixels,
)
from app.protocol.tiers import RESOLUTIONS
from app.protocol.validation_errors import missing_parameter, quote, wrong_type

#: The tiers, by the spellings in which clients send them.
_TIER_NAMES = {**{name.lower(): name for name in RESOLUTIONS}, "0.5k": "512", "512px": "512"}

#: The short edge of an aspect ratio that comes without a tier: 2:3 is then OpenAI's own 1024x1536.
_USUAL_EDGE = 1024

#: A size of the exact ratio is taken if it is not further from the tier than this factor.
_MAX_DETOUR = 1.25

#: How far ratio and pixels may be apart to mean the same: 1824x1024 is 16:9, and 1536x1024 is not.
_SAME_RATIO = 0.03

#: The same for edges and tiers: both 1536x1024 and 1152x864 are 1K.
_SAME_TIER = 1.6

#: Words for shapes that other services have.
_SHAPES = {"square": "1:1", "square_hd": "1:1", "landscape": "3:2", "portrait": "2:3"} | {
    f"{shape}_{first}_{second}": f"{wide}:{high}"
    for first, second in ((4, 3), (16, 9), (3, 2))
    for shape, wide, high in (("landscape", first, second), ("portrait", second, first))
}

_RATIO = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,4})?) ?[:/：] ?([0-9]{1,5}(?:\.[0-9]{1,4})?)")
_QUOTIENT = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Ratio:
    """An aspect ratio. `text`: as `WIDTH:HEIGHT`."""

    text: str
    quotient: float


@dataclass(frozen=True, slots=True)
class SizeWish:
    """What one parameter says. One of the three is set."""

    pixels: Size | None = None
    ratio: Ratio | None = None
    tier: str | None = None

    @property
    def text(self) -> str:
        return str(self.pixels) if self.pixels else self.ratio.text if self.ratio else self.tier or ""


@dataclass(frozen=True, slots=True)
class SizeParam:
    """The type of `size` and `image_size` (see `parameters.ParameterType`). `is_exact`: any size can be made."""

    holds_image: ClassVar[bool] = False
    is_exact: bool = False

    def describe(self) -> str:
        legacy = " and ".join(f"`{size}`" for size in LEGACY_SIZES)
        return (
            f"`auto`; `WIDTHxHEIGHT`: multiples of {SIZE_MULTIPLE}, longest edge ≤ {MAX_EDGE}, "
            f"ratio ≤ {MAX_ASPECT_RATIO}:1, {MIN_PIXELS} to {MAX_PIXELS} pixels; {legacy} are scaled down; "
            f"a ratio like `16:9`; {', '.join(f'`{tier}`' for tier in RESOLUTIONS)}"
        )

    def from_json(self, name: str, value: object) -> SizeWish | None:
        if isinstance(value, dict) and value.keys() == {"width", "height"}:
            value = f"{value['width']}x{value['height']}"
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if value.lower() in {"", "auto"}:
            return None
        if size := parse_pixels(value):
            return SizeWish(pixels=_check(size, value, name, is_exact=self.is_exact))
        if ratio := parse_ratio(value, name):
            return SizeWish(ratio=ratio)
        if tier := _TIER_NAMES.get(value.lower()):
            return SizeWish(tier=tier)
        raise invalid_size(value, "Expected WIDTHxHEIGHT, for example '1824x1024'.", name)

    def from_form(self, name: str, parts: Sequence[FormPart]) -> SizeWish | None:
        return self.from_json(name, single_text(name, parts))

    def schema(self, form: bool) -> Schema:
        return {"type": "string", "pattern": f"^(|auto|{_SCHEMA_PIXELS}|{_SCHEMA_RATIO}|{'|'.join(RESOLUTIONS)})$"}


_SCHEMA_RATIO = "[1-9][0-9]?:[1-9][0-9]?"
_SCHEMA_PIXELS = "[1-9][0-9]{1,3}x[1-9][0-9]{1,3}"


@dataclass(frozen=True, slots=True)
class RatioParam:
    """The type of `aspect_ratio` (see `parameters.ParameterType`)."""

    holds_image: ClassVar[bool] = False

    def describe(self) -> str:
        return "`auto`, or a ratio like `16:9`, from `1:3` to `3:1`"

    def from_json(self, name: str, value: object) -> SizeWish | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:.4f}".rstrip("0").rstrip(".")
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if value.lower() in {"", "auto"}:
            return None
        ratio = parse_ratio(re.sub("[xX×*]", ":", value), name)
        if ratio is None and _QUOTIENT.fullmatch(value):
            ratio = parse_ratio(f"{value}:1", name)
        if ratio is None:
            raise _invalid_ratio(name, value, "Expected WIDTH:HEIGHT, for example '16:9'.")
        return SizeWish(ratio=ratio)

    def from_form(self, name: str, parts: Sequence[FormPart]) -> SizeWish | None:
        return self.from_json(name, single_text(name, parts))

    def schema(self, form: bool) -> Schema:
        return {"type": "string", "pattern": f"^(|auto|{_SCHEMA_RATIO})$"}


@dataclass(frozen=True, slots=True)
class TierParam:
    """The type of `resolution` (see `parameters.ParameterType`). Some services have sizes under this name."""

    holds_image: ClassVar[bool] = False
    is_exact: bool = False

    def describe(self) -> str:
        return ", ".join(f"`{tier}`" for tier in RESOLUTIONS)

    def from_json(self, name: str, value: object) -> SizeWish | None:
        return SizeParam(self.is_exact).from_json(name, str(value) if type(value) is int else value)

    def from_form(self, name: str, parts: Sequence[FormPart]) -> SizeWish | None:
        return self.from_json(name, single_text(name, parts))

    def schema(self, form: bool) -> Schema:
        return {"type": "string", "enum": list(RESOLUTIONS)}


def _check(size: Size, text: str, param: str, *, is_exact: bool) -> Size:
    return (check_exact_size if is_exact else check_size)(size, text, param)


def parse_ratio(text: str, param: str) -> Ratio | None:
    """Return the ratio that a text writes, None if it writes none. Raises `UserError` for one outside 1:3 to 3:1."""
    match = _RATIO.fullmatch(_SHAPES.get(text.lower(), text))
    if match is None:
        return None
    width, height = float(match[1]), float(match[2])
    if not width or not height or max(width / height, height / width) > MAX_ASPECT_RATIO:
        limit = MAX_ASPECT_RATIO
        raise _invalid_ratio(param, text, f"The ratio must lie between 1:{limit} and {limit}:1.")
    return Ratio(f"{match[1]}:{match[2]}", width / height)


def _invalid_ratio(param: str, text: str, rule: str) -> UserError:
    return UserError(f"Invalid {param} '{quote(text)}'. {rule}", param=param, code="invalid_value")


# From wishes to a size

#: The parameters that say something of the size. Width and height are one of them.
SIZE_PARAMETERS = ("size", "image_size", "aspect_ratio", "resolution")


def resolve_size(operation: Operation, values: Mapping[str, Any], mode: SizeMode = SizeMode.NATIVE) -> dict[str, Any]:
    """Return the fields of `ImagesRequest` that the parameters of the size give together.

    Args:
        operation: What is asked for. A generation in a tier without a ratio is square; an edit keeps its ratio.
        values: The checked values by the names of the parameters.
        mode: Whether the image gets exactly this size.

    Raises:
        UserError: Two of them contradict each other.
    """
    wishes = {name: values[name] for name in SIZE_PARAMETERS if name in values}
    ratios = [(name, wish.ratio) for name, wish in wishes.items() if wish.ratio]
    if edges := _edges(values, ratios[0][1] if ratios else None, is_exact=mode is not SizeMode.NATIVE):
        wishes["width"] = SizeWish(pixels=edges)
    sizes = [(name, wish.pixels) for name, wish in wishes.items() if wish.pixels]
    tiers = [(name, wish.tier) for name, wish in wishes.items() if wish.tier]
    if len(wishes) > 1:
        _refuse_contradictions(sizes, ratios, tiers)
    size = sizes[0][1] if sizes else None
    ratio = ratios[0][1] if ratios else None
    tier = tiers[0][1] if tiers else None
    if size is None and ratio:
        size = size_for(ratio.quotient, tier)
    elif size is None and tier and operation is Operation.GENERATION:
        size = size_for(1.0, tier)
    texts = {"aspect_ratio": None if ratio is None else ratio.text, "resolution": tier}
    asked = str(size) if sizes else ",".join(filter(None, texts.values()))
    image_size = wishes["image_size"].text if "image_size" in wishes else None
    mode = SizeMode.NATIVE if size is None else mode
    return {"size": size, "image_size": image_size, **texts, "asked_size": asked or "auto", "size_mode": mode}


def _edges(values: Mapping[str, Any], ratio: Ratio | None, *, is_exact: bool) -> Size | None:
    """Return what width and height say; with a ratio, one of them is enough."""
    width: int | None = values.get("width")
    height: int | None = values.get("height")
    if width is None and height is None:
        return None
    step = 1 if is_exact else SIZE_MULTIPLE
    if ratio is not None and width is None and height is not None:
        width = max(1, round(height * ratio.quotient / step)) * step
    elif ratio is not None and height is None and width is not None:
        height = max(1, round(width / ratio.quotient / step)) * step
    if width is None or height is None:
        raise missing_parameter("width" if width is None else "height")
    size = Size(width, height)
    return _check(size, str(size), "width", is_exact=is_exact)


def _refuse_contradictions(
    sizes: Sequence[tuple[str, Size]], ratios: Sequence[tuple[str, Ratio]], tiers: Sequence[tuple[str, str]]
) -> None:
    """Raise `UserError` for the first two parameters that cannot both be meant."""
    for found in (sizes, ratios, tiers):
        for (one, first), (other, second) in pairwise(found):
            if first != second:
                raise _contradiction(one, other)
    for name, size in sizes:
        for other, ratio in ratios:
            if abs(math.log(size.width / size.height / ratio.quotient)) > _SAME_RATIO:
                raise _contradiction(name, other)
        for other, tier in tiers:
            edge, lengths = RESOLUTIONS[tier].edge, (math.sqrt(size.pixels), max(size.width, size.height))
            if all(max(length / edge, edge / length) > _SAME_TIER for length in lengths):
                raise _contradiction(name, other)


def _contradiction(one: str, other: str) -> UserError:
    message = f"'{one}' and '{other}' contradict each other. Send only one of them."
    return UserError(message, param=other, code="invalid_value")


def size_for(quotient: float, tier: str | None) -> Size:
    """Return the legal size for an aspect ratio: of the exact ratio if one is near the tier, else the nearest.

    Without a tier the short edge has at least 1024 pixels. `512` and `1K` have about as many pixels as a square of that
    edge, since one edge of 1024 would leave too few; the long edge of `2K` has about 2048 pixels, that of `4K` as many
    as may be.
    """
    if tier == "512" and quotient == 1.0:
        return Size(512, 512)
    widths = range(SIZE_MULTIPLE, MAX_EDGE + 1, SIZE_MULTIPLE)
    candidates = [size for width in widths for size in _of_ratio(width, quotient)]
    exact = [size for size in candidates if abs(size.width / size.height / quotient - 1) < 1e-4]
    near = [size for size in exact if _detour(size, tier) <= math.log(_MAX_DETOUR)]
    return min(near or candidates, key=lambda size: (_detour(size, tier), _ratio_error(size, quotient)))


def _of_ratio(width: int, quotient: float) -> list[Size]:
    """Return the legal sizes of a width whose ratio differs by at most 1 %, or as little as the grid allows."""
    heights = {floor_to_grid(width / quotient), ceil_to_grid(width / quotient)}
    sizes = [Size(width, height) for height in sorted(heights) if height]
    return [size for size in sizes if is_legal(size) and _ratio_error(size, quotient) <= 0.01]


def _ratio_error(size: Size, quotient: float) -> float:
    return abs(math.log(size.width / size.height / quotient))


def _detour(size: Size, tier: str | None) -> float:
    """Return how far a size is from a tier, on a logarithmic scale."""
    if tier is None:
        short = min(size.width, size.height)
        # A smaller one is no choice at all, unless no other has this ratio.
        return math.log(short / _USUAL_EDGE) if short >= _USUAL_EDGE else 10 + math.log(_USUAL_EDGE / short)
    length = math.sqrt(size.pixels) if RESOLUTIONS[tier].edge <= _USUAL_EDGE else max(size.width, size.height)
    return abs(math.log(length / RESOLUTIONS[tier].edge))
