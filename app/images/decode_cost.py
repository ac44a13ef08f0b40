"""Estimate from its header what decoding and converting an image takes, so that a limit can be set before.

The estimates are generous for honest files, whose figures were measured; a file that lies about itself hits the limit.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL.ImageFile import ImageFile

from app.protocol.image_format import ImageInfo

_MIB = 2**20

#: Bytes for each pixel that a decoder of this format holds beside the pixels, and whether it reads the file whole. Of a
#: PNG Pillow keeps private chunks, like those of provenance and of editors, and these may be most of the file.
#: Measured: JPEG 6 with three colors and 8 with four (progressive), WebP 12, AVIF 6 with 8 bits (twice that with more).
_DECODER = {"PNG": 1, "JPEG": 8, "MPO": 8, "WEBP": 13, "AVIF": 14, "GIF": 2, "TIFF": 9, "BMP": 1}
_READ_WHOLE = frozenset({"PNG", "WEBP", "AVIF", "TIFF"})
_OPENED_WHOLE = frozenset({"webp", "avif"})

#: What a WebP needs before its header is read: two images of its size.
_WEBP_HEADER = 9

#: Bytes for each pixel that an encoder holds beside the pixels, and those that WebP adds for alpha.
#: Measured with noise, which takes most: WebP 33, with alpha 39; a photo at quality 100 takes 20.
_ENCODER, _WEBP_ALPHA = {"png": 1, "jpeg": 5, "webp": 34}, 6

#: Bytes of a pixel in modes that do not have 4.
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}

#: Modes with 16 bits need more while they become 8: the numbers with 32 bits, and two channels of 8.
_SIXTEEN_BITS = 11

#: For buffers, text and color profiles, and seconds for a slow machine.
_FIXED_BYTES, _FIXED_SECONDS = 24 * _MIB, 4.0

#: 24 MiB of text may stand before the pixels of a PNG, and a chunk that is left out may be as large as the file.
_HEADER_BYTES = 96 * _MIB

#: Measured: decoding 1 to 7 ns, turning 2, scaling 10, WebP 50; the rest is for slower machines.
_SECONDS_PER_PIXEL = 250e-9


@dataclass(frozen=True, slots=True)
class Cost:
    """What some work needs at most: bytes of memory at once, and seconds of CPU time."""

    memory: int
    seconds: float


class NotGranted(Exception):
    """The work needs more memory than it was granted. `memory` is how much."""

    def __init__(self, memory: int) -> None:
        super().__init__(memory)
        self.memory = memory


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a conversion may use.

    Attributes:
        max_pixels: Of one image.
        granted: Bytes of memory; None means any amount.
        enforce: Makes the process end, or raise `MemoryError`, if it uses more than this.
    """

    max_pixels: int
    granted: int | None = None
    enforce: Callable[[Cost], object] = id

    def admit(self, cost: Cost) -> None:
        """Enforce the cost from now on.

        Raises:
            NotGranted: It is more than what was granted.
        """
        if self.granted is not None and cost.memory > self.granted:
            raise NotGranted(cost.memory)
        self.enforce(cost)


def header_cost(info: ImageInfo | None, file_size: int) -> Cost:
    """Return what it takes to read the header, by what the first bytes of the file say."""
    pixels = (info.width or 0) * (info.height or 0) if info is not None and info.format == "webp" else 0
    whole = 2 * file_size if info is not None and info.format in _OPENED_WHOLE else 0
    return Cost(pixels * _WEBP_HEADER + whole + _HEADER_BYTES, _FIXED_SECONDS)


def decode_cost(image: ImageFile, file_size: int) -> Cost:
    """Return what it takes to decode an opened image, and to make it upright and plain."""
    pixels = image.width * image.height
    stored, plain = _STORED.get(image.mode, 4), _plain_bytes(image)
    converting = stored + (_SIXTEEN_BITS if image.mode.startswith("I;16") else plain)
    per_pixel = max(stored + _DECODER[image.format or ""], 2 * stored, converting)
    whole = file_size if image.format in _READ_WHOLE else 0
    return Cost(pixels * per_pixel + 2 * whole + _FIXED_BYTES, _FIXED_SECONDS + pixels * _SECONDS_PER_PIXEL)


def conversion_cost(
    image: ImageFile, file_size: int, target: tuple[int, int], image_format: str, *, padded: bool = False
) -> Cost:
    """Return what it takes to decode an opened image, and to encode it in another size and format.

    `padded`: it may also be laid on another image, with alpha.
    """
    decoding = decode_cost(image, file_size)
    plain = 4 if padded else _plain_bytes(image)
    source, scaled = image.width * image.height, target[0] * target[1]
    # Scaling goes through an image of the new width and the old height. Which is which before it is upright?
    between = max(target) * max(image.size)
    scaling = plain * (source + between + scaled)
    if image.has_transparency_data:  # Colors are multiplied by alpha before, and divided after.
        scaling += plain * (source + scaled)
    if padded:
        scaling += 2 * plain * scaled
    encoder = _ENCODER[image_format] + _WEBP_ALPHA * (image_format == "webp" and image.has_transparency_data)
    encoding = plain * source + (plain + encoder) * scaled
    memory = max(scaling, encoding) + _FIXED_BYTES
    return Cost(max(decoding.memory, memory), decoding.seconds + scaled * _SECONDS_PER_PIXEL)


def masking_cost(original: ImageFile, mask: ImageFile, result: ImageFile, sizes: tuple[int, int, int]) -> Cost:
    """Return what it takes to restore the original where the mask says so. `sizes` are those of the three files."""
    images = tuple(zip((original, mask, result), sizes, strict=True))
    costs = [decode_cost(image, size) for image, size in images]
    opened = sum(_WEBP_HEADER * image.width * image.height for image, _ in images if image.format == "WEBP")
    # Held at once: original, alpha and result, one of the two in another mode, and what scaling goes through.
    pixels = original.width * original.height
    held = 13 * pixels + 4 * max(original.size) * max(result.size)
    mask_held, original_held = pixels, 5 * pixels
    memory = max(costs[1].memory, mask_held + costs[0].memory, original_held + costs[2].memory, held + _FIXED_BYTES)
    return Cost(opened + memory, sum(cost.seconds for cost in costs) + pixels * _SECONDS_PER_PIXEL)


def _plain_bytes(image: ImageFile) -> int:
    is_gray = image.mode in {"1", "L"} or image.mode.startswith("I;16")
    return 1 if is_gray and not image.has_transparency_data else 4
