"""Image work off the event loop: results as the client wants them, input pictures as the upstream takes them."""

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

_SIZE = "Invalid mask image format - mask size does not match image size"
_ALPHA = "Invalid mask image format - mask image missing alpha channel"
_FORMAT = "Invalid mask image format - mask image must be a PNG"


def check_mask(mask: Blob, image: Blob, max_pixels: int) -> None:
    """Reads both headers only. Raises UserError in the official words."""
    with raising(_bad_mask(_FORMAT)):
        opened = open_image(mask, max_pixels)
    if opened.format != "PNG":
        raise _bad_mask(_FORMAT)
    if not opened.has_transparency_data:
        raise _bad_mask(_ALPHA)
    with raising(unreadable_input(0)):
        size = upright_size(open_image(image, max_pixels))
    if upright_size(opened) != size:
        raise _bad_mask(_SIZE)


def apply_mask(result: Blob, original: Blob, mask: Blob, max_pixels: int, new_blob: Callable[[], Blob]) -> Blob:
    """A PNG of the original's size: `mask` alpha 255 shows the original, 0 the result, and a value a between them
    (a * original + (255 - a) * result) / 255 in each channel, alpha too, rounded to the nearest integer.

    A result of another size is scaled first. The original's colour profile stays, since the upstream was shown its
    numbers and answered in numbers. What is 16 bits or CMYK in the original is its 8 bits of RGB here.
    """
    with raising(unreadable_input(0)):
        kept = decode(open_image(original, max_pixels))
    keep = _alpha(mask, max_pixels)
    if keep.size != kept.pixels.size:
        raise _bad_mask(_SIZE)
    with raising(unreadable_result()):
        painted = decode(open_image(result, max_pixels)).scaled(keep.size)
        mode = "RGBA" if any(picture.pixels.mode.endswith("A") for picture in (kept, painted)) else "RGB"
        pixels = painted.pixels.convert(mode)
        pixels.paste(kept.pixels.convert(mode), mask=keep)
        return encode(replace(painted, pixels=pixels, profile=kept.profile), "png", 100, new_blob)


def _alpha(mask: Blob, max_pixels: int) -> Image.Image:
    with raising(_bad_mask(_FORMAT)):
        pixels = decode(open_image(mask, max_pixels)).pixels
    if not pixels.mode.endswith("A"):
        raise _bad_mask(_ALPHA)
    return pixels.getchannel("A")


def _bad_mask(message: str) -> UserError:
    return UserError(message, param="mask", code="invalid_mask_image_format")


class InputLimits(NamedTuple):
    """The limits of input images, over which they are made smaller; None means no limit. `max_edge` is in pixels."""

    max_bytes: int | None
    max_edge: int | None


#: Upstreams drop input pictures that are larger.
MAX_INPUT_BYTES = 20 * 1024 * 1024
MAX_INPUT_EDGE = 4096

#: Of re-encoded inputs: no eye sees a difference, and the files stay near the size of a phone's.
_INPUT_QUALITY = 92

#: The Images API's name of what Pillow calls it; what is not here can be read but not asked for.
_FORMAT_NAMES = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}

#: How a whole file ends. Opening a WebP already sees that it is whole.
_FILE_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "WEBP": b""}

_Size = tuple[int, int]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """An input picture as it may be sent: `blob` is the client's own, or a new one that the caller closes.

    `shrunk` says what was made smaller, in ASCII for a header; None where no limit was hit. `size` is upright.
    """

    blob: Blob
    size: _Size
    shrunk: str | None = None


class Transcoder:
    """At most `workers` pictures are held decoded at once, the others wait for their turn as blobs.

    Cancelling takes a waiting picture out of the queue at once; for one under way it waits for the end of the work,
    since its blobs may not be closed beneath it.
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
        """A result in `format` (png, jpeg, webp; None: its own, png where that cannot be written), scaled down to fit
        into `size`. The same blob where nothing needs doing.

        `compression` is the API's output_compression, 0 to 100, the quality of jpeg and webp. 100 is its default and
        no reason to encode again what already has the format. Of an animation the first frame is taken. Raises
        ImageUnavailable.
        """
        return await self._run(
            partial(_convert, blob, _ConvertOptions(image_format, compression, size), self._max_pixels)
        )

    async def prepare(
        self,
        blob: Blob,
        *,
        index: int = 0,
        max_bytes: int | None = MAX_INPUT_BYTES,
        max_edge: int | None = MAX_INPUT_EDGE,
        size: _Size | None = None,
    ) -> PreparedInput:
        """An input picture upright, in PNG, JPEG or WebP of 8 bits a channel, and within the limits.

        Its format stays where it is one of these. `index` is its place among the inputs, from 0. `size` is for a mask,
        which goes where its picture goes: exactly this size, and no limit. Raises UserError.
        """
        limits = _InputLimits(max_bytes, max_edge, size)
        return await self._run(partial(_prepare, blob, index, limits, self._max_pixels))

    async def check_mask(self, mask: Blob, image: Blob) -> None:
        await self._run(lambda _: check_mask(mask, image, self._max_pixels))

    async def apply_mask(self, result: Blob, original: Blob, mask: Blob) -> Blob:
        return await self._run(partial(apply_mask, result, original, mask, self._max_pixels))

    def close(self) -> None:
        """Waits for what is under way; what waits is cancelled."""
        self._pool.shutdown(cancel_futures=True)

    async def _run(self, work: Callable[[Callable[[], Blob]], _T]) -> _T:
        made: list[Blob] = []

        def new_blob() -> Blob:
            made.append(self._new_blob())
            return made[-1]

        future = self._pool.submit(work, new_blob)
        done = asyncio.wrap_future(future)
        try:
            await asyncio.wait({done})
        except asyncio.CancelledError:
            if not future.cancel():
                done.add_done_callback(partial(_close_blobs, made))
                await asyncio.wait({done})
            raise
        error = done.exception()
        if isinstance(error, ApiError):
            error.__context__ = None  # the frames of Pillow and of the work hold the pixels
            raise error.with_traceback(None)
        return done.result()


@dataclass(frozen=True, slots=True)
class _ConvertOptions:
    format: str | None
    compression: int | None
    size: _Size | None


@dataclass(frozen=True, slots=True)
class _InputLimits:
    max_bytes: int | None
    max_edge: int | None
    size: _Size | None

    def target_size(self, size: _Size) -> _Size:
        if self.size is not None:
            return self.size
        return _fit(size, None if self.max_edge is None else (self.max_edge, self.max_edge))

    def permits(self, blob: Blob) -> bool:
        return self.size is not None or self.max_bytes is None or blob.size <= self.max_bytes


def _close_blobs(made: list[Blob], done: asyncio.Future[_T]) -> None:
    done.exception()  # retrieved, or asyncio complains that nobody did
    for blob in made:
        blob.close()


def _convert(blob: Blob, wish: _ConvertOptions, max_pixels: int, new_blob: Callable[[], Blob]) -> Blob:
    with raising(unreadable_result()):
        image = open_image(blob, max_pixels)
        own = _FORMAT_NAMES.get(image.format or "")
        goal = wish.format or own or "png"
        seen = upright_size(image)
        target = _fit(seen, wish.size)
        squeezed = wish.compression not in {None, 100} and goal != "png"
        if target == seen and wish.format in {None, own} and not squeezed:
            return blob
        picture = decode(image, _scale_ratio(seen, target))
        picture = picture.scaled(_fit(picture.pixels.size, target))
        return encode(picture, goal, 100 if wish.compression is None else wish.compression, new_blob)


def _prepare(
    blob: Blob, index: int, limits: _InputLimits, max_pixels: int, new_blob: Callable[[], Blob]
) -> PreparedInput:
    with raising(unreadable_input(index)):
        image = open_image(blob, max_pixels)
        seen = upright_size(image)
        target = limits.target_size(seen)
        if target == seen and limits.permits(blob) and _needs_no_conversion(image, blob):
            if _FILE_ENDS[image.format or ""] not in blob.read_at(max(0, blob.size - 64), 64):
                image.load()  # cut off, or something behind the end: only decoding tells
            return PreparedInput(blob, seen)
        picture = decode(image, _scale_ratio(seen, target))
        made, size = _encode_within(picture, target, _FORMAT_NAMES.get(image.format or "", "png"), limits, new_blob)
    if size == seen and limits.permits(blob):
        return PreparedInput(made, size)
    return PreparedInput(made, size, f"image[{index}] {seen[0]}x{seen[1]}->{size[0]}x{size[1]}")


def _needs_no_conversion(image: ImageFile, blob: Blob) -> bool:
    return (
        image.format in _FILE_ENDS
        and image.mode in {"1", "L", "LA", "P", "RGB", "RGBA"}
        and not (image.format == "PNG" and blob.read_at(24, 1) == b"\x10")  # Pillow shows its 16 bits as 8
        and not getattr(image, "is_animated", False)
        and orientation(image) == 1
    )


def _encode_within(
    picture: DecodedImage,
    size: _Size,
    image_format: str,
    limits: _InputLimits,
    new_blob: Callable[[], Blob],
) -> tuple[Blob, _Size]:
    """As large as the bytes allow, and never larger than `size`: smaller by 5 % or more each time."""
    while True:
        made = encode(picture.scaled(size), image_format, _INPUT_QUALITY, new_blob)
        if limits.permits(made) or size == (1, 1):
            return made, size
        ratio = 0.95 * min(1.0, math.sqrt((limits.max_bytes or 1) / made.size))
        made.close()
        size = max(1, math.floor(size[0] * ratio)), max(1, math.floor(size[1] * ratio))


def _scale_ratio(size: _Size, target: _Size) -> float:
    return max(target[0] / size[0], target[1] / size[1])


def _fit(size: _Size, box: _Size | None) -> _Size:
    """The largest size of the same shape inside `box`, never larger than `size`."""
    if box is None:
        return size
    ratio = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
