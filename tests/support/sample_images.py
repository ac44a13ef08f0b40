"""Small pictures for tests, as files in blobs and back."""

import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms

from app.images.blob import Blob

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]


def as_blob(data: bytes) -> Blob:
    blob = Blob()
    blob.write(data)
    return blob


def as_bytes(blob: Blob) -> bytes:
    return blob.read_at(0, blob.size)


def as_image(blob: Blob) -> Image.Image:
    image = Image.open(io.BytesIO(as_bytes(blob)))
    image.load()
    return image


def saved(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif(orientation: int, **more: str) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    for value in more.values():
        made[0x0131] = value
    return made.tobytes()


def gradient(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Each corner of another colour, alpha from left to right."""
    across, down = Image.linear_gradient("L").rotate(90).resize(size), Image.linear_gradient("L").resize(size)
    return Image.merge("RGBA", (across, down, Image.new("L", size, 90), across)).convert(mode)


def noise(size: tuple[int, int]) -> Image.Image:
    """Which no format can make small."""
    return Image.merge("RGB", [Image.effect_noise(size, 80) for _ in range(3)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, colour: int, row: bytes, extra: bytes = b"") -> bytes:
    """A PNG that Pillow itself cannot write; `row` is the one row, repeated."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress((b"\0" + row) * size[1]))
    return b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b"")
