"""The estimates are known before an image is decoded."""

import io
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image
from PIL.ImageFile import ImageFile

from app.images.decode_cost import (
    Cost,
    DecodeLimits,
    NotGranted,
    conversion_cost,
    decode_cost,
    header_cost,
    masking_cost,
)
from app.protocol.image_format import sniff
from tests.support.sample_images import gradient, saved

MIB = 2**20
SIZE = (1024, 1024)


def opened(mode: str, image_format: str, **options: Any) -> tuple[ImageFile, int]:
    data = saved(Image.new(mode, SIZE), image_format, **options)
    return Image.open(io.BytesIO(data)), len(data)


@dataclass(frozen=True)
class Decoding:
    """How many bytes for each pixel are expected beyond the fixed part."""

    name: str
    mode: str
    image_format: str
    per_pixel: int


DECODING = (
    Decoding("a palette becomes colors", "P", "PNG", 5),
    Decoding("gray stays gray", "L", "PNG", 2),
    Decoding("colors are turned", "RGB", "PNG", 8),
    Decoding("16 bits become 8", "I;16", "PNG", 13),
    Decoding("progressive JPEG holds all coefficients", "RGB", "JPEG", 12),
    Decoding("WebP holds three copies", "RGB", "WEBP", 17),
    Decoding("AVIF", "RGB", "AVIF", 18),
)


@pytest.mark.parametrize("case", DECODING, ids=lambda case: case.name)
def test_the_memory_for_decoding_depends_on_mode_and_format(case: Decoding) -> None:
    image, size = opened(case.mode, case.image_format)
    whole = 2 * size if case.image_format in {"PNG", "WEBP", "AVIF"} else 0
    assert decode_cost(image, size).memory == 24 * MIB + case.per_pixel * MIB + whole


def test_the_memory_for_a_conversion_counts_what_is_scaled_and_encoded() -> None:
    opaque, size = opened("RGB", "PNG")
    transparent, _ = opened("RGBA", "PNG")
    half = (512, 512)

    def memory(image: ImageFile, target: tuple[int, int], image_format: str) -> float:
        return (conversion_cost(image, size, target, image_format).memory - 24 * MIB) / MIB

    # Decoding takes more than this conversion: 8 bytes a pixel, and twice the small file.
    assert 8 < memory(opaque, half, "png") < 8.01
    assert memory(opaque, SIZE, "webp") == 42
    assert memory(transparent, SIZE, "webp") == 48
    assert memory(transparent, half, "png") == 12
    assert conversion_cost(opaque, size, half, "png", padded=True).memory == 33 * MIB


def test_the_time_depends_on_the_pixels() -> None:
    image, size = opened("RGB", "PNG")
    decoding, conversion = decode_cost(image, size).seconds, conversion_cost(image, size, SIZE, "png").seconds
    assert 4 < decoding < conversion < 5


def test_a_webp_needs_memory_before_its_header_is_read() -> None:
    webp, png = (saved(gradient(size=SIZE), name) for name in ("WEBP", "PNG"))
    assert header_cost(sniff(webp), len(webp)).memory == 96 * MIB + 9 * MIB + 2 * len(webp)
    assert header_cost(sniff(png), len(png)).memory == 96 * MIB
    assert header_cost(sniff(b"RIFF\0\0\0\0WEBP"), 12).memory == 96 * MIB + 24
    assert header_cost(None, 12).memory == 96 * MIB


def test_masking_holds_three_images() -> None:
    png, size = opened("RGBA", "PNG")
    webp, _ = opened("RGB", "WEBP")
    assert masking_cost(png, png, png, (size, size, size)).memory == (24 + 13 + 4) * MIB
    assert masking_cost(png, png, webp, (size, size, 0)).memory == (9 + 24 + 5 + 17) * MIB


def test_a_cost_is_enforced_only_if_it_was_granted() -> None:
    enforced: list[Cost] = []
    limits = DecodeLimits(1, 10, enforced.append)
    limits.admit(Cost(10, 1))
    with pytest.raises(NotGranted) as caught:
        limits.admit(Cost(11, 1))
    assert (enforced, caught.value.memory) == ([Cost(10, 1)], 11)
    DecodeLimits(1).admit(Cost(1 << 60, 1))
