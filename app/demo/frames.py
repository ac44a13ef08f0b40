"""Hangs the pictures that came with a question into the sky of the painted one, the mask as an outline."""

import io
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from app.demo.lettering import find_font

#: Larger input pictures are not decoded: what they would need in memory is none of a demo's business.
MAX_PIXELS = 64_000_000

_PAPER = (250, 248, 243)
_OUTLINE = (235, 64, 82)


class NotAPicture(ValueError):
    """Bytes that no decoder takes, or more pixels than MAX_PIXELS."""


def check_picture(data: bytes) -> None:
    """Raises NotAPicture. Decodes the whole of it: a cut file shows only there."""
    _open(data, (64, 64)).close()


def hang_pictures(image: Image.Image, pictures: Sequence[bytes | str]) -> None:
    """As many as have room beside each other. A last one with transparent parts is the mask of the first."""
    if not pictures:
        return
    edge = max(4, int(min(image.height * 0.34, image.width * 0.34, image.width * 0.77 / len(pictures))))
    gap = max(2, edge // 10)
    left, top = int(min(image.size) * 0.06), int(min(image.size) * 0.06)
    thumbnails = [_thumbnail(picture, edge) for picture in pictures]
    if len(thumbnails) > 1 and _has_holes(thumbnails[-1]):
        _outline_holes(thumbnails[0], thumbnails[-1])
    for thumbnail in thumbnails:
        with thumbnail:
            _hang(image, thumbnail, (left, top))
            left += thumbnail.width + gap


def _thumbnail(picture: bytes | str, edge: int) -> Image.Image:
    if isinstance(picture, bytes):
        return _open(picture, (edge, edge))
    card = Image.new("RGBA", (edge, edge), (226, 229, 234, 255))
    pen = ImageDraw.Draw(card)
    size = max(9.0, edge / 14)
    text = "\n".join(picture[start : start + 22] for start in range(0, min(len(picture), 132), 22))
    pen.multiline_text((edge * 0.08, edge * 0.1), text, fill=(70, 76, 86), font=find_font(size, latin=True))
    return card


def _open(data: bytes, box: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise NotAPicture("too many pixels")
            image.draft("RGB", box)
            upright = ImageOps.exif_transpose(image)
            with upright, upright.convert("RGBA") as pixels:
                scale = min(box[0] / pixels.width, box[1] / pixels.height)
                size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
                return pixels.resize(size, Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NotAPicture(str(error)) from None


def _has_holes(image: Image.Image) -> bool:
    with image.getchannel("A") as alpha:
        low, _ = alpha.getextrema()
        return isinstance(low, int | float) and low < 128


def _outline_holes(image: Image.Image, mask: Image.Image) -> None:
    """A hole is what may be painted anew."""
    with (
        mask.getchannel("A") as alpha,
        alpha.resize(image.size) as fitted,
        fitted.point([255] * 128 + [0] * 128) as holes,
        holes.filter(ImageFilter.MaxFilter(7)) as grown,
        ImageChops.subtract(grown, holes) as outline,
    ):
        image.paste(_OUTLINE, (0, 0), outline)


def _hang(image: Image.Image, thumbnail: Image.Image, at: tuple[int, int]) -> None:
    border = max(3, min(image.size) // 110)
    left, top = at
    right, bottom = left + thumbnail.width, top + thumbnail.height
    pen = ImageDraw.Draw(image, "RGBA")
    frame = (left - border, top - border, right + border, bottom + border)
    pen.rectangle(tuple(edge + border // 2 + 1 for edge in frame), fill=(0, 0, 0, 70))
    pen.rectangle(frame, fill=_PAPER)
    image.paste(thumbnail, at, thumbnail)
