"""The rules for requested sizes in numbers, for the page and for programs."""

from typing import NamedTuple

from app.access.keys import ClientKey
from app.protocol import sizes
from app.protocol.size_fit import SizeMode


class SizeRules(NamedTuple):
    """What a size must keep: pixels of both edges and of the whole image. Legacy sizes are legal besides."""

    multiple: int
    min_edge: int
    max_edge: int
    max_aspect_ratio: int
    min_pixels: int
    max_pixels: int
    legacy: tuple[sizes.Size, ...] = ()


_NATIVE = SizeRules(
    multiple=sizes.SIZE_MULTIPLE,
    min_edge=sizes.SIZE_MULTIPLE,
    max_edge=sizes.MAX_EDGE,
    max_aspect_ratio=sizes.MAX_ASPECT_RATIO,
    min_pixels=sizes.MIN_PIXELS,
    max_pixels=sizes.MAX_PIXELS,
    legacy=tuple(sizes.LEGACY_SIZES),
)
_EXACT = SizeRules(
    multiple=1,
    min_edge=sizes.MIN_EXACT_EDGE,
    max_edge=sizes.MAX_EXACT_EDGE,
    max_aspect_ratio=sizes.MAX_EXACT_EDGE // sizes.MIN_EXACT_EDGE,
    min_pixels=sizes.MIN_EXACT_EDGE**2,
    max_pixels=sizes.MAX_EXACT_EDGE**2,
)


def size_rules(mode: SizeMode) -> SizeRules:
    """Return the rules that hold in a size mode."""
    return _NATIVE if mode is SizeMode.NATIVE else _EXACT


def size_mode_of(key: ClientKey | None, default: SizeMode) -> SizeMode:
    """Return the size mode of a client key, or the server's `default`."""
    return default if key is None or key.size is None else key.size
