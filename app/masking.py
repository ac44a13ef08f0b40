"""Masks: checked against the picture they lie on, and the area outside of them put back after an edit."""

from collections.abc import Callable
from dataclasses import replace

from PIL import Image

from app.blobs import Blob
from app.codec import Blame, bad_input, bad_result, decode, encode, open_picture, upright_size
from app.errors import UserError

_SIZE = "Invalid mask image format - mask size does not match image size"
_ALPHA = "Invalid mask image format - mask image missing alpha channel"
_FORMAT = "Invalid mask image format - mask image must be a PNG"


def check_mask(mask: Blob, image: Blob, max_pixels: int) -> None:
    """Reads both headers only. Raises UserError in the official words."""
    with Blame(_bad_mask(_FORMAT)):
        opened = open_picture(mask, max_pixels)
    if opened.format != "PNG":
        raise _bad_mask(_FORMAT)
    if not opened.has_transparency_data:
        raise _bad_mask(_ALPHA)
    with Blame(bad_input(0)):
        size = upright_size(open_picture(image, max_pixels))
    if upright_size(opened) != size:
        raise _bad_mask(_SIZE)


def restore(result: Blob, original: Blob, mask: Blob, max_pixels: int, new_blob: Callable[[], Blob]) -> Blob:
    """A PNG of the original's size: `mask` alpha 255 shows the original, 0 the result, and a value a between them
    (a * original + (255 - a) * result) / 255 in each channel, alpha too, rounded to the nearest integer.

    A result of another size is scaled first. The original's colour profile stays, since the upstream was shown its
    numbers and answered in numbers. What is 16 bits or CMYK in the original is its 8 bits of RGB here.
    """
    with Blame(bad_input(0)):
        kept = decode(open_picture(original, max_pixels))
    keep = _alpha(mask, max_pixels)
    if keep.size != kept.pixels.size:
        raise _bad_mask(_SIZE)
    with Blame(bad_result()):
        painted = decode(open_picture(result, max_pixels)).scaled(keep.size)
        mode = "RGBA" if any(picture.pixels.mode.endswith("A") for picture in (kept, painted)) else "RGB"
        pixels = painted.pixels.convert(mode)
        pixels.paste(kept.pixels.convert(mode), mask=keep)
        return encode(replace(painted, pixels=pixels, profile=kept.profile), "png", 100, new_blob)


def _alpha(mask: Blob, max_pixels: int) -> Image.Image:
    with Blame(_bad_mask(_FORMAT)):
        pixels = decode(open_picture(mask, max_pixels)).pixels
    if not pixels.mode.endswith("A"):
        raise _bad_mask(_ALPHA)
    return pixels.getchannel("A")


def _bad_mask(message: str) -> UserError:
    return UserError(message, param="mask", code="invalid_mask_image_format")
