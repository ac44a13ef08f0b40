"""Make valid PNG images of any size in bytes: a small image, padded with a chunk that every decoder skips.

They cost next to no processor time, so that whoever sends or serves them is not what a test measures.
"""

import functools
import struct
import zlib

#: Width and height in pixels.
_EDGE = 1024


@functools.cache
def padded_png(size: int) -> bytes:
    """Make a gray PNG of exactly `size` bytes, at least 1,200, with 1024 x 1024 pixels."""
    head, rest = _parts(_EDGE, _EDGE, size)
    return head + rest


def labeled_png(width: int, height: int, label: str, size: int) -> bytes:
    """Make a gray PNG of about `size` bytes, at least 100 KB, with the label near its beginning."""
    head, rest = _parts(width, height, size)
    return head + _chunk(b"tEXt", b"Description\0" + label.encode()) + rest


@functools.cache
def _parts(width: int, height: int, size: int) -> tuple[bytes, bytes]:
    """Return what stands before the place of further chunks, and what follows: `size` bytes in all."""
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    line = b"\x00" + b"\x55" * -(-width // 8)
    pixels, end = _chunk(b"IDAT", zlib.compress(line * height, 9)), _chunk(b"IEND", b"")
    # Not zeros: data that compresses well may be cheaper somewhere on the way.
    padding = (bytes(range(256)) * (size // 256 + 1))[: size - len(head) - len(pixels) - len(end) - 12]
    return head, pixels + _chunk(b"beNc", padding) + end


def _chunk(chunk_type: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + chunk_type + data + struct.pack(">I", zlib.crc32(chunk_type + data))
