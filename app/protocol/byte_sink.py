"""Bytes of images: where they are written, how they are read, and when two are the same."""

from typing import Protocol

from app.protocol.json_stream import ByteSource


class ByteSink(ByteSource, Protocol):
    """Bytes that are written once, from front to back, and read afterwards."""

    def write(self, data: bytes) -> None: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


class Readable(Protocol):
    """Bytes of a known size that can be read at any offset."""

    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


def probably_equal(one: Readable, other: Readable) -> bool:
    """Compare two images by size and three samples of 1 KiB: compressed pixels that differ do so everywhere."""
    offsets = (0, one.size // 2, max(0, one.size - 1024))
    return one.size == other.size and all(one.read_at(at, 1024) == other.read_at(at, 1024) for at in offsets)
