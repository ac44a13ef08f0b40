"""Parse image sizes: which ones a client may request, and which ones go upstream in place of the old small ones."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from app.errors import UserError
from app.protocol.validation_errors import quote

#: The rules of gpt-image-2. The upstream's own page states the first, third and fifth.
SIZE_MULTIPLE = 16
MAX_EDGE = 3840
MAX_ASPECT_RATIO = 3
MAX_PIXELS = 3840 * 2160
MIN_PIXELS = 655_360

#: Sizes that are judged once: clients send the same few, and each is judged six times in a request. They are remembered
#: by their edges: to hash and compare a dataclass takes three calls.
_REMEMBERED_SIZES = 256


@dataclass(frozen=True, slots=True)
class Size:
    """A size that the client requests, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        """How many pixels an image of this size has."""
        return self.width * self.height

    @property
    def upstream_size(self) -> "Size":
        """The legal size to request upstream. The image is fitted to another size afterwards, see `size_fit`."""
        return _upstream_size(self.width, self.height)


#: The small squares of dall-e-2. Clients still send them by default, but no upstream generates them any more.
LEGACY_SIZES = {Size(256, 256): Size(1024, 1024), Size(512, 512): Size(1024, 1024)}


@lru_cache(_REMEMBERED_SIZES)
def _upstream_size(width: int, height: int) -> Size:
    size = Size(width, height)
    return size if is_legal(size) else LEGACY_SIZES.get(size) or covering_size(size)


#: `1024x1024`, also with a capital X, a times sign or an asterisk, spaces around it, and `px` behind it.
_PIXELS = re.compile(r"([1-9][0-9]{0,8}) ?[xX×✕*] ?([1-9][0-9]{0,8})(?: ?px)?")


@lru_cache(_REMEMBERED_SIZES)
def _broken_rule(width: int, height: int) -> str | None:
    short, long = sorted((width, height))
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


def is_legal(size: Size) -> bool:
    """Return whether upstreams make images of this size."""
    return _broken_rule(size.width, size.height) is None


def parse_pixels(text: str) -> Size | None:
    """Return the size that a text writes in any of the usual spellings, legal or not; None if it writes none."""
    match = _PIXELS.fullmatch(text)
    return None if match is None else Size(int(match[1]), int(match[2]))


def parse_size(text: str, param: str = "size") -> Size | None:
    """Parse `WIDTHxHEIGHT`. Return None for `auto` and empty text, with which the model chooses.

    Raises:
        UserError: The text is not a size, or the size breaks a rule; in OpenAI's wording.
    """
    if text.lower() in {"", "auto"}:
        return None
    size = parse_pixels(text)
    if size is None:
        raise invalid_size(text, "Expected WIDTHxHEIGHT, for example '1824x1024'.", param)
    return check_size(size, text, param)


def check_size(size: Size, text: str, param: str) -> Size:
    """Return the size if it is legal or a legacy size; `text` is how the client wrote it. Raises `UserError`."""
    rule = _broken_rule(size.width, size.height)
    if rule is None or size in LEGACY_SIZES:
        return size
    nearest = " and ".join(map(str, nearest_sizes(size)))
    raise invalid_size(text, f"{rule} The nearest legal sizes are {nearest}.", param)


#: The edges of an exact size.
MIN_EXACT_EDGE, MAX_EXACT_EDGE = 16, MAX_EDGE


def check_exact_size(size: Size, text: str, param: str) -> Size:
    """Return the size if an image can be fitted to it; `text` is how the client wrote it. Raises `UserError`."""
    if min(size.width, size.height) >= MIN_EXACT_EDGE and max(size.width, size.height) <= MAX_EXACT_EDGE:
        return size
    rule = f"Width and height of an exact size must both be between {MIN_EXACT_EDGE} and {MAX_EXACT_EDGE}."
    raise invalid_size(text, rule, param)


def covering_size(size: Size) -> Size:
    """Return the legal size that covers a size and has to be scaled down least, or the nearest one if none covers it.

    That keeps the ratio as far as possible.
    """
    high = ceil_to_grid(size.height)
    covering = [
        Size(width, max(lowest, high))
        for width, lowest, highest in _LEGAL_HEIGHTS
        if width >= size.width and high <= highest
    ]
    if not covering:
        return nearest_sizes(size)[0]
    return min(covering, key=lambda each: (max(each.width / size.width, each.height / size.height), each.pixels))


def nearest_sizes(size: Size) -> Sequence[Size]:
    """Return the two legal sizes nearest to a size, which is first brought within the limits."""
    width, height = _within_limits(size)
    return sorted(_candidates(height), key=lambda each: _distance(each, width, height))[:2]


def _distance(size: Size, width: float, height: float) -> float:
    # Rounded, so that equal distances keep the order of the widths.
    return round(math.log(size.width / width) ** 2 + math.log(size.height / height) ** 2, 9)


def _within_limits(size: Size) -> tuple[float, float]:
    """Return width and height with a ratio, edges and pixels that are allowed, off the grid."""
    ratio = min(max(size.width / size.height, 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO)
    pixels: float = min(max(size.pixels, MIN_PIXELS), MAX_PIXELS)
    # At this ratio, the longer edge has as many pixels as this at most.
    pixels = min(pixels, MAX_EDGE**2 * min(ratio, 1 / ratio))
    return math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)


def _candidates(middle: float) -> Iterator[Size]:
    """Yield, for each legal width, the legal heights next to a height."""
    below = floor_to_grid(middle)
    for width, lowest, highest in _LEGAL_HEIGHTS:
        heights = {min(max(height, lowest), highest) for height in (below, below + SIZE_MULTIPLE)}
        yield from (Size(width, height) for height in sorted(heights))


def floor_to_grid(pixels: float) -> int:
    return int(pixels // SIZE_MULTIPLE) * SIZE_MULTIPLE


def ceil_to_grid(pixels: float) -> int:
    return math.ceil(pixels / SIZE_MULTIPLE) * SIZE_MULTIPLE


def _legal_heights() -> Iterator[tuple[int, int, int]]:
    """Yield each width that can be legal, with its lowest and its highest legal height."""
    for width in range(SIZE_MULTIPLE, MAX_EDGE + 1, SIZE_MULTIPLE):
        lowest = max(ceil_to_grid(width / MAX_ASPECT_RATIO), ceil_to_grid(MIN_PIXELS / width))
        highest = min(MAX_EDGE, *map(floor_to_grid, (width * MAX_ASPECT_RATIO, MAX_PIXELS / width)))
        if lowest <= highest:
            yield width, lowest, highest


_LEGAL_HEIGHTS = tuple(_legal_heights())


def invalid_size(text: str, rule: str, param: str) -> UserError:
    return UserError(f"Invalid size '{quote(text)}'. {rule}", param=param, code="invalid_value")
