"""Convert results, prepare input images and apply masks: what the decoder's processes do with files.

Results become what the client requested, input images what upstreams accept, and masks restore what an edit must not
change.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from PIL import Image
from PIL.ImageFile import ImageFile

from app.errors import UserError
from app.images.codec import (
    DecodedImage,
    Sink,
    Source,
    decode,
    encode,
    open_image,
    orientation,
    raising,
    unreadable_input,
    unreadable_result,
    upright_size,
)
from app.images.decode_cost import DecodeLimits, conversion_cost, decode_cost, header_cost, masking_cost
from app.images.input_limits import InputLimits, fit
from app.images.provenance import GENERATED, PARTLY_GENERATED, marked
from app.protocol.credentials import has_credentials
from app.protocol.image_format import is_complete, read_info
from app.protocol.size_fit import SizeMode, plan_fit

_Size = tuple[int, int]
_S = TypeVar("_S", bound=Sink)

#: The names that Pillow and the Images API have for the formats that can be written.
_FORMAT_NAMES = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}


def _open(source: Source, limits: DecodeLimits) -> ImageFile:
    limits.admit(header_cost(read_info(source.read_at), source.size))
    return open_image(source, limits.max_pixels)


# Results


class ResultOptions(NamedTuple):
    """What a result should become; None keeps it.

    Attributes:
        size: A box into which the image is scaled down, or with another `mode` than `native` its exact size.
        transparent: Whether padding is transparent in an opaque image, as it is in others.
    """

    image_format: str | None = None
    compression: int | None = None
    size: _Size | None = None
    mode: SizeMode = SizeMode.NATIVE
    transparent: bool = False

    @property
    def exact_size(self) -> _Size | None:
        return None if self.mode is SizeMode.NATIVE else self.size


def convert(source: Source, options: ResultOptions, limits: DecodeLimits, new_sink: Callable[[], _S]) -> _S | None:
    """Convert a result. Returns None if nothing has to change. Of an animation, the first frame is used.

    Raises:
        ImageUnavailable: The result cannot be read.
    """
    with raising(unreadable_result()):
        opened = _open(source, limits)
        own_format = _FORMAT_NAMES.get(opened.format or "")
        image_format = options.image_format or own_format or "png"
        size = upright_size(opened)
        target = options.exact_size or fit(size, options.size)
        is_compressed = options.compression not in {None, 100} and image_format != "png"
        # Many programs show the size of the file, whatever its orientation.
        has_size = target == size and options.exact_size in {None, opened.size}
        if has_size and options.image_format in {None, own_format} and not is_compressed:
            return None
        limits.admit(conversion_cost(opened, source.size, target, image_format, padded=options.exact_size is not None))
        image = decode(opened, _scale_ratio(size, target))
        image = _fitted(image, options) if options.exact_size else image.scaled(fit(image.pixels.size, target))
        if has_credentials(source.read_at):
            image = marked(image, GENERATED, image_format)
        return encode(image, image_format, 100 if options.compression is None else options.compression, new_sink)


def _fitted(image: DecodedImage, options: ResultOptions) -> DecodedImage:
    """Return the image with exactly the size of the options."""
    size = options.size or image.pixels.size
    plan = plan_fit(image.pixels.size, size, options.mode)
    if plan.scale == 1:
        pixels = image.pixels.crop((int(plan.box[0]), int(plan.box[1]), int(plan.box[2]), int(plan.box[3])))
    else:
        pixels = image.pixels.resize(plan.scaled, Image.Resampling.LANCZOS, plan.box)
    return replace(image, pixels=_padded(pixels, size, plan.offset, transparent=options.transparent))


def _padded(pixels: Image.Image, size: _Size, offset: _Size, *, transparent: bool) -> Image.Image:
    """Return the pixels in the middle of a white or transparent image."""
    if pixels.size == size:
        return pixels
    if transparent and not pixels.mode.endswith("A"):
        pixels = pixels.convert(f"{pixels.mode}A")
    bands = len(pixels.getbands())
    white = (255,) * bands if not pixels.mode.endswith("A") else (*(255,) * (bands - 1), 0)
    canvas = Image.new(pixels.mode, size, white if bands > 1 else 255)
    canvas.paste(pixels, offset)
    return canvas


# Input images

#: Of inputs that are encoded again: the difference is invisible, and the files stay near the size of a phone's.
_INPUT_QUALITY = 92


class InputOptions(NamedTuple):
    """How an input image is prepared.

    Attributes:
        position: Among the input images, from 0, for messages.
        limits: Within which it is made smaller.
        exact_size: For a mask, which must match its image; there are no limits then.
    """

    position: int
    limits: InputLimits
    exact_size: _Size | None = None


@dataclass(frozen=True, slots=True)
class Prepared(Generic[_S]):
    """An input image that upstreams accept.

    Attributes:
        sink: What has been written; None if the file is accepted as it is.
        size: The upright size in pixels.
        shrunk: What was made smaller, in ASCII for a header. None if the image was within the limits.
    """

    sink: _S | None
    size: _Size
    shrunk: str | None = None


def prepare(source: Source, options: InputOptions, limits: DecodeLimits, new_sink: Callable[[], _S]) -> Prepared[_S]:
    """Make an input image upright, within its limits, and a PNG, JPEG or WebP with 8 bits per channel.

    If the image already has one of these formats, the format is kept, unless it is an opaque file with too many bytes.

    Raises:
        UserError: The image cannot be read.
    """
    within = options.limits
    with raising(unreadable_input(options.position)):
        opened = _open(source, limits)
        original_size = upright_size(opened)
        target = options.exact_size or within.target_size(original_size)
        if target == original_size and within.permits(source) and _can_be_sent(opened, source):
            if not is_complete(source.read_at, source.size):
                limits.admit(decode_cost(opened, source.size))
                opened.load()  # Only decoding tells whether pixels are missing.
            return Prepared(None, original_size)
        image_format = _FORMAT_NAMES.get(opened.format or "", "png")
        limits.admit(conversion_cost(opened, source.size, target, image_format))
        image = decode(opened, _scale_ratio(original_size, target))
        if not within.permits(source) and _is_opaque(image):
            image_format = "jpeg"  # 16 megapixels of a photo take a third of a second, as PNG seconds.
        sink, size = _encode_within(image, target, image_format, within, new_sink)
    if size == original_size and within.permits(source):
        return Prepared(sink, size)
    width, height = original_size
    return Prepared(sink, size, f"image[{options.position}] {width}x{height}->{size[0]}x{size[1]}")


def _is_opaque(image: DecodedImage) -> bool:
    return not image.pixels.mode.endswith("A") or image.pixels.getchannel("A").getextrema() == (255, 255)


def _can_be_sent(image: ImageFile, source: Source) -> bool:
    """Return whether upstreams accept the file as it is, except for its size."""
    return (
        image.format in {"PNG", "JPEG", "WEBP"}
        and image.mode in {"1", "L", "LA", "P", "RGB", "RGBA"}
        # Pillow shows the 16 bits per channel of a PNG as 8.
        and not (image.format == "PNG" and source.read_at(24, 1) == b"\x10")
        and not getattr(image, "is_animated", False)
        and orientation(image) == 1
    )


def _encode_within(
    image: DecodedImage, size: _Size, image_format: str, limits: InputLimits, new_sink: Callable[[], _S]
) -> tuple[_S, _Size]:
    """Encode the image at `size`, or as much smaller as its bytes require. Each attempt is at least 5 % smaller."""
    while True:
        sink = encode(image.scaled(size), image_format, _INPUT_QUALITY, new_sink)
        if limits.permits(sink) or size == (1, 1):
            return sink, size
        ratio = 0.95 * min(1.0, math.sqrt((limits.max_bytes or 1) / sink.size))
        sink.close()
        size = max(1, math.floor(size[0] * ratio)), max(1, math.floor(size[1] * ratio))


# Masks

_SIZE = "Invalid mask image format - mask size does not match image size"
_ALPHA = "Invalid mask image format - mask image missing alpha channel"
_FORMAT = "Invalid mask image format - mask image must be a PNG"


def check_mask(mask: Source, image: Source, limits: DecodeLimits) -> None:
    """Check that a mask is a PNG with alpha and has the size of its image. Reads both headers only.

    Raises:
        UserError: The mask cannot be used. The message is OpenAI's.
    """
    with raising(_invalid_mask(_FORMAT)):
        opened = _open(mask, limits)
    if opened.format != "PNG":
        raise _invalid_mask(_FORMAT)
    if not opened.has_transparency_data:
        raise _invalid_mask(_ALPHA)
    with raising(unreadable_input(0)):
        size = upright_size(_open(image, limits))
    if upright_size(opened) != size:
        raise _invalid_mask(_SIZE)


def check_exact_mask(mask: Source, image: Source, limits: DecodeLimits) -> None:
    """Check what `apply_mask` will need, before a result is paid for: both files can be decoded, within the limits.

    The result is taken to be as large as the image.

    Raises:
        UserError: The mask or the image cannot be used.
    """
    check_mask(mask, image, limits)
    with raising(_invalid_mask(_FORMAT)):
        opened_mask = _open(mask, limits)
    with raising(unreadable_input(0)):
        opened = _open(image, limits)
    limits.admit(masking_cost(opened, opened_mask, opened, (image.size, mask.size, image.size)))
    _decode_alpha(opened_mask)
    with raising(unreadable_input(0)):
        decode(opened)


def apply_mask(result: Source, original: Source, mask: Source, limits: DecodeLimits, new_sink: Callable[[], _S]) -> _S:
    """Restore the parts of the original that the mask protects. Writes a PNG of the original's size.

    For a mask alpha of `a`, each channel (alpha included) is (a * original + (255 - a) * result) / 255, rounded to the
    nearest integer: 255 shows the original, 0 the result. A result of another size is scaled first.

    The output has the color profile of the original, because the upstream received the original's numbers and returned
    numbers of the same meaning. If the original has 16 bits per channel or CMYK, its 8-bit RGB is used.

    Raises:
        UserError: The mask or the original cannot be used.
        ImageUnavailable: The result cannot be read.
    """
    with raising(unreadable_input(0)):
        opened_original = _open(original, limits)
    with raising(_invalid_mask(_FORMAT)):
        opened_mask = _open(mask, limits)
    with raising(unreadable_result()):
        opened_result = _open(result, limits)
    sizes = original.size, mask.size, result.size
    limits.admit(masking_cost(opened_original, opened_mask, opened_result, sizes))
    alpha = _decode_alpha(opened_mask)
    with raising(unreadable_input(0)):
        kept = decode(opened_original)
    if alpha.size != kept.pixels.size:
        raise _invalid_mask(_SIZE)
    with raising(unreadable_result()):
        generated = decode(opened_result).scaled(alpha.size)
        mode = "RGBA" if any(image.pixels.mode.endswith("A") for image in (kept, generated)) else "RGB"
        pixels = _in_mode(generated.pixels, mode)
        pixels.paste(_in_mode(kept.pixels, mode), mask=alpha)
        masked = replace(generated, pixels=pixels, profile=kept.profile)
        if has_credentials(result.read_at):
            masked = marked(masked, PARTLY_GENERATED, "png")
        return encode(masked, "png", 100, new_sink)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _decode_alpha(opened: ImageFile) -> Image.Image:
    with raising(_invalid_mask(_FORMAT)):
        pixels = decode(opened).pixels
    if not pixels.mode.endswith("A"):
        raise _invalid_mask(_ALPHA)
    return pixels.getchannel("A")


def _invalid_mask(message: str) -> UserError:
    return UserError(message, param="mask", code="invalid_mask_image_format")


# Sizes


def _scale_ratio(size: _Size, target: _Size) -> float:
    return max(target[0] / size[0], target[1] / size[1])
