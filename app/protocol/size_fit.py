"""Exact sizes: who wishes them, and how an image of any size becomes exactly as large as a wish."""

import re
from dataclasses import dataclass
from enum import StrEnum

from app.errors import UserError
from app.protocol.sizes import Size
from app.protocol.validation_errors import quote

#: Width and height in pixels.
Pixels = tuple[int, int]


class SizeMode(StrEnum):
    """Which size an image has: that of the upstream, or that of the request. The values are how operators write it."""

    NATIVE = "native"
    COVER = "exact"
    CONTAIN = "exact; fit=contain"


#: The words of a size mode: `exact` may stand alone, before or behind its fit, and be left out beside one.
_WORDS = re.compile(r"(exact|native)|(?:fit=)?(cover|contain)")


def read_size_mode(text: str) -> SizeMode | None:
    """Return what a text like `exact; fit=contain` means; None if it means nothing."""
    words = [_WORDS.fullmatch(word) for word in re.split(r"[;,\s]+", text.strip().lower())]
    modes = [word[1] for word in words if word and word[1]]
    fits = [word[2] for word in words if word and word[2]]
    if None in words or len(modes) > 1 or len(fits) > 1 or (fits and modes == ["native"]):
        return None
    if modes == ["native"]:
        return SizeMode.NATIVE
    return SizeMode.CONTAIN if fits == ["contain"] else SizeMode.COVER


#: The request header that chooses a size mode. The response header of this name reports sizes.
SIZE_HEADER = "x-limner-size"


def parse_size_header(value: str) -> SizeMode:
    """Return the size mode that a request header names. Raises `UserError`."""
    mode = read_size_mode(value)
    if mode is None:
        message = (
            f"Invalid value of the header {SIZE_HEADER}: '{quote(value)}'. "
            "Expected 'native', 'exact' or 'exact; fit=contain'."
        )
        raise UserError(message, param=SIZE_HEADER, code="invalid_value")
    return mode


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How an image becomes exactly as large as a wish.

    Attributes:
        box: The part of the image that is kept: left, top, right, bottom. Whole pixels if it is not scaled.
        scaled: The size to which this part is scaled.
        offset: Where the scaled part stands in the wish; around it is padding.
        scale: How much larger the part becomes; below 1, how much smaller.
    """

    box: tuple[float, float, float, float]
    scaled: Pixels
    offset: Pixels
    scale: float


def plan_fit(got: Pixels, wish: Pixels, mode: SizeMode) -> FitPlan:
    """Return how an image of `got` pixels gets `wish` pixels, without distortion.

    `contain` shows all of the image, with padding around it. Otherwise the image covers the wish, and what does not fit
    its ratio is cut off around the middle: from one direction only, and no more than the ratio needs.
    """
    (width, height), (wide, high) = got, wish
    if mode is SizeMode.CONTAIN:
        scale = min(wide / width, high / height)
        scaled = (min(wide, max(1, round(width * scale))), min(high, max(1, round(height * scale))))
        offset = ((wide - scaled[0]) // 2, (high - scaled[1]) // 2)
        return FitPlan((0, 0, width, height), scaled, offset, scale)
    is_wider = width * high >= height * wide
    kept_width, kept_height = (height * wide / high, float(height)) if is_wider else (float(width), width * high / wide)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    if kept_width == wide and kept_height == high:
        left, top = float(int(left)), float(int(top))
    scale = high / height if is_wider else wide / width
    return FitPlan((left, top, left + kept_width, top + kept_height), wish, (0, 0), scale)


def upscaling(got: Pixels, size: Size, mode: SizeMode) -> float:
    """Return how much an image of `got` pixels is enlarged; 1 at least."""
    return max(1.0, plan_fit(got, (size.width, size.height), mode).scale)
