"""A file of each format and kind, of 21x13 pixels, as Pillow writes it, with what its head says."""

import io
from dataclasses import dataclass
from random import Random

import pybase64
from PIL import Image

from app.protocol.image_format import ImageInfo


def picture(format_: str, mode: str = "RGB", size: tuple[int, int] = (21, 13), **options: object) -> bytes:
    """Return a file with noise, the same in each run: `Image.effect_noise` depends on what else has called it."""
    file = io.BytesIO()
    image = Image.frombytes("L", size, Random(90).randbytes(size[0] * size[1])).convert(mode)
    if mode == "RGBA":
        image.putpixel((2, 2), (9, 9, 9, 0))
    image.save(file, format_, **options)
    return file.getvalue()


def palette_with_trns() -> bytes:
    return picture("PNG", "P", transparency=3)


@dataclass(frozen=True)
class ImageFile:
    name: str
    data: bytes
    info: ImageInfo
    extension: str


def info(format_: str, *, alpha: bool = False) -> ImageInfo:
    return ImageInfo(f"image/{format_}", 21, 13, alpha)


IMAGE_FILES = [
    ImageFile("a PNG without alpha", picture("PNG"), info("png"), "png"),
    ImageFile("a PNG with an alpha channel", picture("PNG", "RGBA"), info("png", alpha=True), "png"),
    ImageFile("a PNG whose palette has transparent colors", palette_with_trns(), info("png", alpha=True), "png"),
    ImageFile("a JPEG", picture("JPEG"), info("jpeg"), "jpg"),
    ImageFile("a progressive JPEG", picture("JPEG", progressive=True), info("jpeg"), "jpg"),
    ImageFile("a JPEG with a long comment", picture("JPEG", comment=b"\xff\xd9" * 30000), info("jpeg"), "jpg"),
    ImageFile("a lossy WebP", picture("WEBP"), info("webp"), "webp"),
    ImageFile("a lossless WebP", picture("WEBP", lossless=True), info("webp"), "webp"),
    ImageFile("a WebP with alpha", picture("WEBP", "RGBA"), info("webp", alpha=True), "webp"),
    ImageFile("a lossless WebP with alpha", picture("WEBP", "RGBA", lossless=True), info("webp", alpha=True), "webp"),
    ImageFile("a GIF", picture("GIF"), info("gif"), "gif"),
    ImageFile("a GIF with a transparent color", picture("GIF", "RGBA"), info("gif", alpha=True), "gif"),
    ImageFile("an AVIF", picture("AVIF"), info("avif"), "avif"),
    ImageFile("a BMP", picture("BMP"), info("bmp"), "bmp"),
    ImageFile("a TIFF", picture("TIFF"), info("tiff"), "tif"),
]

#: An opaque PNG and a JPEG.
PNG, JPEG = IMAGE_FILES[0].data, IMAGE_FILES[3].data
PNG_BASE64, JPEG_BASE64 = pybase64.b64encode_as_string(PNG), pybase64.b64encode_as_string(JPEG)
