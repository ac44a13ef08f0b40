"""Convert images off the event loop.

Results become what the client requested, input images what upstreams accept, and masks restore what an edit must not
change.
"""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

from PIL import Image
from PIL.ImageFile import ImageFile

from app.errors import ApiError, UserError
from app.images.blob import Blob
from app.images.codec import (
    MAX_PIXELS,
    DecodedImage,
    decode,
    encode,
    open_image,
    orientation,
    raising,
    unreadable_input,
    unreadable_result,
    upright_size,
)
from app.protocol.image_format import is_complete

_Size = tuple[int, int]
_T = TypeVar("_T")

#: The default limits of input images, in bytes and in pixels of an edge. Upstreams reject larger ones.
MAX_INPUT_BYTES = 20 * 1024 * 1024
MAX_INPUT_EDGE = 4096

#: The names that Pillow and the Images API have for the formats that can be written.
_FORMAT_NAMES = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}


class InputLimits(NamedTuple):
    """The limits above which input images are made smaller. None means no limit. `max_edge` is in pixels."""

    max_bytes: int | None
    max_edge: int | None

    def target_size(self, size: _Size) -> _Size:
        return _fit(size, None if self.max_edge is None else (self.max_edge, self.max_edge))

    def permits(self, blob: Blob) -> bool:
        return self.max_bytes is None or blob.size <= self.max_bytes


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """An input image that upstreams accept.

    Attributes:
        blob: The client's own, or a new one that the caller closes.
        size: The upright size in pixels.
        shrunk: What was made smaller, in ASCII for a header. None if the image was within the limits.
    """

    blob: Blob
    size: _Size
    shrunk: str | None = None


class Transcoder:
    """Converts images in `workers` threads. That many are held decoded at once; the others wait as blobs.

    When a call is cancelled while its image waits, it ends at once. When the image is being converted, it ends after
    the conversion, since the blobs must not be closed before.
    """

    def __init__(self, workers: int = 2, max_pixels: int = MAX_PIXELS, new_blob: Callable[[], Blob] = Blob) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="transcode")
        self._max_pixels = max_pixels
        self._new_blob = new_blob

    async def convert(
        self,
        blob: Blob,
        *,
        image_format: str | None = None,
        compression: int | None = None,
        size: _Size | None = None,
    ) -> Blob:
        """Convert a result. Returns the same blob if nothing has to change.

        Of an animation, the first frame is used.

        Args:
            blob: The result.
            image_format: png, jpeg or webp. None keeps the format, or chooses png if the format cannot be written.
            compression: The API's output_compression, 0 to 100, which is the quality of jpeg and webp. 100 is its
                default, so it is no reason to encode an image again that has the right format.
            size: The image is scaled down to fit into it.

        Raises:
            ImageUnavailable: The result cannot be read.
        """
        options = _ConvertOptions(image_format, compression, size)
        return await self._run(partial(_convert, blob, options, self._max_pixels))

    async def prepare(
        self,
        blob: Blob,
        *,
        index: int = 0,
        max_bytes: int | None = MAX_INPUT_BYTES,
        max_edge: int | None = MAX_INPUT_EDGE,
        size: _Size | None = None,
    ) -> PreparedInput:
        """Make an input image upright, within the limits, and a PNG, JPEG or WebP with 8 bits per channel.

        If the image already has one of these formats, the format is kept.

        Args:
            blob: The input image.
            index: Its position among the input images, from 0, for error messages.
            max_bytes: The limit of the file, if any.
            max_edge: The limit of width and height in pixels, if any.
            size: The exact size, for a mask, which must match its image. The limits do not apply then.

        Raises:
            UserError: The image cannot be read.
        """
        limits = InputLimits(max_bytes, max_edge) if size is None else InputLimits(None, None)
        return await self._run(
            partial(_prepare, blob, limits, index=index, exact_size=size, max_pixels=self._max_pixels)
        )

    async def check_mask(self, mask: Blob, image: Blob) -> None:
        """Run `check_mask` in a thread."""
        await self._run(lambda _: check_mask(mask, image, self._max_pixels))

    async def apply_mask(self, result: Blob, original: Blob, mask: Blob) -> Blob:
        """Run `apply_mask` in a thread. The caller closes the returned blob."""
        return await self._run(partial(apply_mask, result, original, mask, self._max_pixels))

    def close(self) -> None:
        """Wait for conversions that run, and cancel those that wait."""
        self._pool.shutdown(cancel_futures=True)

    async def _run(self, work: Callable[[Callable[[], Blob]], _T]) -> _T:
        blobs: list[Blob] = []

        def new_blob() -> Blob:
            blobs.append(self._new_blob())
            return blobs[-1]

        future = self._pool.submit(work, new_blob)
        done = asyncio.wrap_future(future)
        try:
            await asyncio.wait({done})
        except asyncio.CancelledError:
            if not future.cancel():
                done.add_done_callback(partial(_close_blobs, blobs))
                await asyncio.wait({done})
            raise
        error = done.exception()
        if isinstance(error, ApiError):
            error.__context__ = None  # The frames of Pillow and of the work would keep the pixels in memory.
            raise error.with_traceback(None)
        return done.result()


def _close_blobs(blobs: list[Blob], done: asyncio.Future[_T]) -> None:
    done.exception()  # Retrieved, because asyncio logs an error that never is.
    for blob in blobs:
        blob.close()


# Results


@dataclass(frozen=True, slots=True)
class _ConvertOptions:
    image_format: str | None
    compression: int | None
    size: _Size | None


def _convert(blob: Blob, options: _ConvertOptions, max_pixels: int, new_blob: Callable[[], Blob]) -> Blob:
    with raising(unreadable_result()):
        opened = open_image(blob, max_pixels)
        own_format = _FORMAT_NAMES.get(opened.format or "")
        image_format = options.image_format or own_format or "png"
        size = upright_size(opened)
        target = _fit(size, options.size)
        is_compressed = options.compression not in {None, 100} and image_format != "png"
        if target == size and options.image_format in {None, own_format} and not is_compressed:
            return blob
        image = decode(opened, _scale_ratio(size, target))
        image = image.scaled(_fit(image.pixels.size, target))
        return encode(image, image_format, 100 if options.compression is None else options.compression, new_blob)


# Input images

#: Of inputs that are encoded again: the difference is invisible, and the files stay near the size of a phone's.
_INPUT_QUALITY = 92


def _prepare(
    blob: Blob,
    limits: InputLimits,
    new_blob: Callable[[], Blob],
    *,
    index: int,
    exact_size: _Size | None,
    max_pixels: int,
) -> PreparedInput:
    with raising(unreadable_input(index)):
        opened = open_image(blob, max_pixels)
        original_size = upright_size(opened)
        target = exact_size or limits.target_size(original_size)
        if target == original_size and limits.permits(blob) and _can_be_sent(opened, blob):
            if not is_complete(blob.read_at, blob.size):
                opened.load()  # Only decoding tells whether pixels are missing.
            return PreparedInput(blob, original_size)
        image = decode(opened, _scale_ratio(original_size, target))
        image_format = _FORMAT_NAMES.get(opened.format or "", "png")
        prepared, size = _encode_within(image, target, image_format, limits, new_blob)
    if size == original_size and limits.permits(blob):
        return PreparedInput(prepared, size)
    width, height = original_size
    return PreparedInput(prepared, size, f"image[{index}] {width}x{height}->{size[0]}x{size[1]}")


def _can_be_sent(image: ImageFile, blob: Blob) -> bool:
    """Whether upstreams accept the file as it is, except for its size."""
    return (
        image.format in {"PNG", "JPEG", "WEBP"}
        and image.mode in {"1", "L", "LA", "P", "RGB", "RGBA"}
        # Pillow shows the 16 bits per channel of a PNG as 8.
        and not (image.format == "PNG" and blob.read_at(24, 1) == b"\x10")
        and not getattr(image, "is_animated", False)
        and orientation(image) == 1
    )


def _encode_within(
    image: DecodedImage, size: _Size, image_format: str, limits: InputLimits, new_blob: Callable[[], Blob]
) -> tuple[Blob, _Size]:
    """Encode the image at `size`, or as much smaller as its bytes require. Each attempt is at least 5 % smaller."""
    while True:
        blob = encode(image.scaled(size), image_format, _INPUT_QUALITY, new_blob)
        if limits.permits(blob) or size == (1, 1):
            return blob, size
        ratio = 0.95 * min(1.0, math.sqrt((limits.max_bytes or 1) / blob.size))
        blob.close()
        size = max(1, math.floor(size[0] * ratio)), max(1, math.floor(size[1] * ratio))


# Masks

_SIZE = "Invalid mask image format - mask size does not match image size"
_ALPHA = "Invalid mask image format - mask image missing alpha channel"
_FORMAT = "Invalid mask image format - mask image must be a PNG"


def check_mask(mask: Blob, image: Blob, max_pixels: int) -> None:
    """Check that a mask is a PNG with alpha and has the size of its image. Reads both headers only.

    Raises:
        UserError: The mask cannot be used. The message is OpenAI's.
    """
    with raising(_invalid_mask(_FORMAT)):
        opened = open_image(mask, max_pixels)
    if opened.format != "PNG":
        raise _invalid_mask(_FORMAT)
    if not opened.has_transparency_data:
        raise _invalid_mask(_ALPHA)
    with raising(unreadable_input(0)):
        size = upright_size(open_image(image, max_pixels))
    if upright_size(opened) != size:
        raise _invalid_mask(_SIZE)


def apply_mask(result: Blob, original: Blob, mask: Blob, max_pixels: int, new_blob: Callable[[], Blob]) -> Blob:
    """Restore the parts of the original that the mask protects. Returns a PNG of the original's size.

    For a mask alpha of `a`, each channel (alpha included) is (a * original + (255 - a) * result) / 255, rounded to the
    nearest integer: 255 shows the original, 0 the result. A result of another size is scaled first.

    The output has the color profile of the original, because the upstream received the original's numbers and returned
    numbers of the same meaning. If the original has 16 bits per channel or CMYK, its 8-bit RGB is used.

    Raises:
        UserError: The mask or the original cannot be used.
        ImageUnavailable: The result cannot be read.
    """
    with raising(unreadable_input(0)):
        kept = decode(open_image(original, max_pixels))
    alpha = _read_alpha(mask, max_pixels)
    if alpha.size != kept.pixels.size:
        raise _invalid_mask(_SIZE)
    with raising(unreadable_result()):
        generated = decode(open_image(result, max_pixels)).scaled(alpha.size)
        mode = "RGBA" if any(image.pixels.mode.endswith("A") for image in (kept, generated)) else "RGB"
        pixels = generated.pixels.convert(mode)
        pixels.paste(kept.pixels.convert(mode), mask=alpha)
        return encode(replace(generated, pixels=pixels, profile=kept.profile), "png", 100, new_blob)


def _read_alpha(mask: Blob, max_pixels: int) -> Image.Image:
    with raising(_invalid_mask(_FORMAT)):
        pixels = decode(open_image(mask, max_pixels)).pixels
    if not pixels.mode.endswith("A"):
        raise _invalid_mask(_ALPHA)
    return pixels.getchannel("A")


def _invalid_mask(message: str) -> UserError:
    return UserError(message, param="mask", code="invalid_mask_image_format")


# Sizes


def _scale_ratio(size: _Size, target: _Size) -> float:
    return max(target[0] / size[0], target[1] / size[1])


def _fit(size: _Size, box: _Size | None) -> _Size:
    """Return the largest size of the same shape that fits into `box` and is not larger than `size`."""
    if box is None:
        return size
    ratio = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
