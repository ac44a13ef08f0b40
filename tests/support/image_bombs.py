"""Small files that demand much memory or time when they are decoded."""

import struct
import zlib

from PIL import Image

from tests.support.sample_images import exif, saved


def tiff_with_tile(size: int, tile: int) -> bytes:
    """Return a gray TIFF of `size` pixels squared, in one tile of `tile` pixels squared, all black."""
    squeezer = zlib.compressobj(9)
    piece = squeezer.compress(bytes(1 << 20)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = piece + again[2:] * (tile * tile >> 20)
    tags = (
        (256, 4, size),
        (257, 4, size),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (277, 3, 1),
        (322, 4, tile),
        (323, 4, tile),
        (324, 4, 8),
        (325, 4, len(data)),
    )
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + directory + bytes(4)


def rotated_palette_png(size: int) -> bytes:
    """Return a PNG with a palette and an EXIF orientation, of which nothing but the size is large."""
    return saved(Image.new("P", (size, size)), "PNG", exif=exif(6))


def transparent_palette_png(size: int) -> bytes:
    return saved(Image.new("P", (size, size)), "PNG", transparency=0)


def jpeg_with_scans(size: int, scans: int) -> bytes:
    """Return a progressive JPEG of which the last scan is repeated."""
    data = saved(Image.new("L", (size, size), 99), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (scans - data.count(b"\xff\xda")) + data[-2:]
