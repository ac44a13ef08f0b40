"""Pictures of any weight: a small valid PNG, padded by a chunk that every reader skips."""

import functools
import struct
import zlib

#: Pixels of an edge.
EDGE = 1024


@functools.cache
def picture(size: int) -> bytes:
    """A grey PNG of exactly `size` bytes (1,200 at least), 1024 x 1024 pixels."""
    begin = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", EDGE, EDGE, 1, 0, 0, 0, 0))
    begin += _chunk(b"IDAT", zlib.compress((b"\x00" + b"\x55" * (EDGE // 8)) * EDGE, 9))
    end = _chunk(b"IEND", b"")
    # Not zeros: what compresses well may be cheaper somewhere on the way.
    padding = (bytes(range(256)) * (size // 256 + 1))[: size - len(begin) - len(end) - 12]
    return begin + _chunk(b"beNc", padding) + end


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
