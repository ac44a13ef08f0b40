"""Make valid PNG images of any size in bytes: a small image, padded with a chunk that every decoder skips."""

import functools
import struct
import zlib

#: Width and height in pixels.
_EDGE = 1024


@functools.cache
def padded_png(size: int) -> bytes:
    """Make a gray PNG of exactly `size` bytes, at least 1,200, with 1024 x 1024 pixels."""
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", _EDGE, _EDGE, 1, 0, 0, 0, 0))
    start += _chunk(b"IDAT", zlib.compress((b"\x00" + b"\x55" * (_EDGE // 8)) * _EDGE, 9))
    end = _chunk(b"IEND", b"")
    # Not zeros: data that compresses well may be cheaper somewhere on the way.
    padding = (bytes(range(256)) * (size // 256 + 1))[: size - len(start) - len(end) - 12]
    return start + _chunk(b"beNc", padding) + end


def _chunk(chunk_type: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + chunk_type + data + struct.pack(">I", zlib.crc32(chunk_type + data))
