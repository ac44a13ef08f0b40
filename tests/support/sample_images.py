"""Small images for tests, as files in blobs and back."""

import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms

from app.images.blob import Blob

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]


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


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return the image as a file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def exif(orientation: int, **more: str) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    for value in more.values():
        data[0x0131] = value
    return data.tobytes()


def gradient(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Return an image with a different color in each corner, and alpha that grows from left to right."""
    across, down = Image.linear_gradient("L").rotate(90).resize(size), Image.linear_gradient("L").resize(size)
    return Image.merge("RGBA", (across, down, Image.new("L", size, 90), across)).convert(mode)


def noise(size: tuple[int, int]) -> Image.Image:
    """Return an image that no format can compress well."""
    return Image.merge("RGB", [Image.effect_noise(size, 80) for _ in range(3)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, color: int, row: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG that Pillow itself cannot write. All rows are the same."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress((b"\0" + row) * size[1]))
    return b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b"")
