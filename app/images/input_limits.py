"""Limits above which input images are made smaller."""

from typing import NamedTuple, Protocol

_Size = tuple[int, int]


class _File(Protocol):
    @property
    def size(self) -> int: ...


class InputLimits(NamedTuple):
    """The limits above which input images are made smaller. None means no limit. `max_edge` is in pixels."""

    max_bytes: int | None
    max_edge: int | None

    def target_size(self, size: _Size) -> _Size:
        return fit(size, None if self.max_edge is None else (self.max_edge, self.max_edge))

    def permits(self, file: _File) -> bool:
        return self.max_bytes is None or file.size <= self.max_bytes


#: Upstreams drop images of more bytes, or with an edge of more pixels.
DEFAULT_LIMITS = InputLimits(20 * 2**20, 4096)
NO_LIMITS = InputLimits(None, None)


def fit(size: _Size, box: _Size | None) -> _Size:
    """Return the largest size of the same shape that fits into `box` and is not larger than `size`."""
    if box is None:
        return size
    ratio = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
