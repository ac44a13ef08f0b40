"""A mask is a PNG with alpha of the size of its image, and restores the original pixel by pixel."""

import io
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from app.errors import ApiError, ImageUnavailable, UserError
from app.images.blob import Blob
from app.images.conversions import apply_mask, check_exact_mask, check_mask
from app.images.decode_cost import Cost, DecodeLimits, masking_cost
from tests.support.sample_images import GRAY, SRGB, as_blob, as_image, chunk, exif, gradient, png, saved

LIMIT = DecodeLimits(1 << 16)
SIZE = "mask size does not match image size"
FORMAT = "mask image must be a PNG"
ALPHA = "mask image missing alpha channel"
MASK = saved(gradient("RGBA"), "PNG")
IMAGE = saved(gradient(), "PNG")


@dataclass(frozen=True)
class Case:
    name: str
    mask: bytes
    image: bytes
    problem: str | None


CASES = (
    Case("colors and alpha", MASK, IMAGE, None),
    Case("grayscale and alpha", saved(gradient("LA"), "PNG"), IMAGE, None),
    Case("a palette with alpha", saved(gradient().quantize(4), "PNG", transparency=1), IMAGE, None),
    Case("an image in another format", MASK, saved(gradient(), "JPEG"), None),
    Case(
        "an image that has the mask's size after rotation",
        MASK,
        saved(gradient(size=(16, 24)), "JPEG", exif=exif(6)),
        None,
    ),
    Case("an image that has the mask's size before rotation", MASK, saved(gradient(), "JPEG", exif=exif(6)), SIZE),
    Case("another width", saved(gradient("RGBA", (25, 16)), "PNG"), IMAGE, SIZE),
    Case("another height", saved(gradient("RGBA", (24, 15)), "PNG"), IMAGE, SIZE),
    Case("no alpha", IMAGE, IMAGE, ALPHA),
    Case("not a PNG, although with alpha", saved(gradient("RGBA"), "WEBP"), IMAGE, FORMAT),
    Case("not an image", b"a mask", IMAGE, FORMAT),
    Case("a palette PNG without a palette", png((24, 16), 8, 3, bytes(24)), IMAGE, FORMAT),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mask_is_checked(case: Case) -> None:
    if case.problem is None:
        check_mask(as_blob(case.mask), as_blob(case.image), LIMIT)
        return
    with pytest.raises(UserError) as caught:
        check_mask(as_blob(case.mask), as_blob(case.image), LIMIT)
    assert caught.value.body["error"] == {
        "message": f"Invalid mask image format - {case.problem}",
        "type": "image_generation_user_error",
        "param": "mask",
        "code": "invalid_mask_image_format",
    }


def test_a_damaged_image_is_blamed_on_the_image() -> None:
    with pytest.raises(UserError, match="for image 1,"):
        check_mask(as_blob(MASK), as_blob(IMAGE[:20]), LIMIT)


def damaged(data: bytes) -> bytes:
    """Return a PNG whose header is whole and whose pixels are not."""
    start = data.index(b"IDAT") + 4
    return data[:start] + bytes(len(data) - start - 12) + data[-12:]


def test_an_exact_mask_is_decoded_with_its_image() -> None:
    check_exact_mask(as_blob(MASK), as_blob(IMAGE), LIMIT)


DAMAGED_PIXELS = [
    ("the pixels of the mask", damaged(MASK), IMAGE, "mask image must be a PNG"),
    ("the pixels of the image", MASK, damaged(IMAGE), "for image 1,"),
]


@pytest.mark.parametrize(("name", "mask", "image", "message"), DAMAGED_PIXELS, ids=[row[0] for row in DAMAGED_PIXELS])
def test_damaged_pixels_are_found_by_the_check_of_an_exact_mask(
    name: str, mask: bytes, image: bytes, message: str
) -> None:
    check_mask(as_blob(mask), as_blob(image), LIMIT)
    with pytest.raises(UserError, match=message):
        check_exact_mask(as_blob(mask), as_blob(image), LIMIT)


def test_an_exact_mask_is_checked_within_the_cost_of_its_application() -> None:
    costs: list[Cost] = []
    check_exact_mask(as_blob(MASK), as_blob(IMAGE), DecodeLimits(1 << 16, enforce=costs.append))
    (opened_mask, opened) = (Image.open(io.BytesIO(data)) for data in (MASK, IMAGE))
    sizes = len(IMAGE), len(MASK), len(IMAGE)
    assert costs[-1] == masking_cost(opened, opened_mask, opened, sizes)


def mask(alpha: Image.Image) -> bytes:
    return saved(Image.merge("LA", (alpha, alpha)), "PNG")


def apply(result: bytes, original: bytes, mask: bytes) -> Image.Image:
    blob = apply_mask(as_blob(result), as_blob(original), as_blob(mask), LIMIT, Blob)
    image = as_image(blob)
    assert image.format == "PNG"
    return image


def in_mode(data: bytes, mode: str) -> Image.Image:
    return as_image(as_blob(data)).convert(mode)


@dataclass(frozen=True)
class Original:
    name: str
    original: bytes
    result: bytes
    mode: str


OTHER = gradient().transpose(Image.Transpose.ROTATE_180)
OTHER_PNG = saved(OTHER, "PNG")
DEEP = png((24, 16), 16, 2, bytes(range(144)))
ORIGINALS = (
    Original("RGB", IMAGE, OTHER_PNG, "RGB"),
    Original("RGBA", MASK, OTHER_PNG, "RGBA"),
    Original("grayscale", saved(gradient("L"), "PNG"), OTHER_PNG, "RGB"),
    Original("grayscale with alpha", saved(gradient("LA"), "PNG"), OTHER_PNG, "RGBA"),
    Original("black and white", saved(gradient("1"), "PNG"), OTHER_PNG, "RGB"),
    Original("a palette", saved(gradient().quantize(9), "PNG"), OTHER_PNG, "RGB"),
    Original("a palette with alpha", saved(gradient().quantize(9), "PNG", transparency=2), OTHER_PNG, "RGBA"),
    Original("16 bits a channel", DEEP, OTHER_PNG, "RGB"),
    Original("JPEG", saved(gradient(), "JPEG"), OTHER_PNG, "RGB"),
    Original("CMYK", saved(gradient("CMYK"), "JPEG"), OTHER_PNG, "RGB"),
    Original("WebP", saved(gradient("RGBA"), "WEBP"), OTHER_PNG, "RGBA"),
    Original("a result with alpha", IMAGE, saved(OTHER.convert("RGBA"), "PNG"), "RGBA"),
    Original("a grayscale result", IMAGE, saved(OTHER.convert("L"), "PNG"), "RGB"),
    Original("a JPEG result", IMAGE, saved(OTHER, "JPEG"), "RGB"),
    Original("a WebP result", IMAGE, saved(OTHER, "WEBP"), "RGB"),
)


@pytest.mark.parametrize("case", ORIGINALS, ids=lambda case: case.name)
def test_the_protected_area_is_the_original(case: Original) -> None:
    """Compare every pixel: the mask protects the left half."""
    alpha = Image.new("L", (24, 16), 0)
    alpha.paste(255, (0, 0, 12, 16))
    made = apply(case.result, case.original, mask(alpha))
    assert (made.mode, made.size) == (case.mode, (24, 16))
    halves = ((0, 0, 12, 16), case.original), ((12, 0, 24, 16), case.result)
    for box, source in halves:
        expected = in_mode(source, case.mode).crop(box)
        assert made.crop(box).tobytes() == expected.tobytes()


def test_soft_edges_are_exact() -> None:
    """Test every alpha with every value: the result is the nearest integer to the weighted mean, which is never halfway."""
    across = Image.linear_gradient("L").rotate(90)
    down = Image.linear_gradient("L")
    for kept, generated in ((across, Image.new("L", (256, 256), 0)), (Image.new("L", (256, 256), 201), across)):
        result, original = (saved(image.convert("RGB"), "PNG") for image in (generated, kept))
        made = apply(result, original, mask(down))
        rows = zip(*(image.tobytes() for image in (kept, generated, down)), strict=True)
        expected = bytes((2 * (a * k + (255 - a) * p) + 255) // 510 for k, p, a in rows)
        assert made.getchannel("R").tobytes() == expected
        assert ImageChops.difference(made.getchannel("R"), made.getchannel("B")).getbbox() is None


@given(*(st.binary(min_size=16, max_size=16) for _ in range(2)), st.binary(min_size=4, max_size=4))
def test_every_channel_is_blended_and_alpha_too(kept: bytes, generated: bytes, alpha: bytes) -> None:
    result, original = (saved(Image.frombytes("RGBA", (4, 1), data), "PNG") for data in (generated, kept))
    made = apply(result, original, mask(Image.frombytes("L", (4, 1), alpha))).tobytes()
    weights = [weight for weight in alpha for _ in range(4)]
    assert made == bytes(
        (2 * (a * k + (255 - a) * p) + 255) // 510 for k, p, a in zip(kept, generated, weights, strict=True)
    )


def test_a_result_of_another_size_is_scaled_to_that_of_the_original() -> None:
    alpha = Image.new("L", (24, 16), 0)
    alpha.paste(255, (0, 0, 12, 16))
    large = saved(Image.new("RGB", (48, 40), "red"), "PNG")
    made = apply(large, IMAGE, mask(alpha))
    assert made.crop((0, 0, 12, 16)).tobytes() == gradient().crop((0, 0, 12, 16)).tobytes()
    assert made.crop((12, 0, 24, 16)).getcolors() == [(12 * 16, (255, 0, 0))]


def test_a_rotated_original_is_restored_upright() -> None:
    original = saved(gradient(size=(16, 24)), "PNG", exif=exif(6))
    made = apply(OTHER_PNG, original, mask(Image.new("L", (24, 16), 255)))
    assert made.tobytes() == gradient(size=(16, 24)).transpose(Image.Transpose.ROTATE_270).tobytes()


@dataclass(frozen=True)
class Profile:
    name: str
    original: bytes
    result: bytes
    profile: bytes | None


PROFILES = (
    Profile("the original's", saved(gradient(), "PNG", icc_profile=SRGB), OTHER_PNG, SRGB),
    Profile("not the result's", IMAGE, saved(OTHER, "PNG", icc_profile=SRGB), None),
    Profile("not one for grayscale", saved(gradient("L"), "PNG", icc_profile=GRAY), OTHER_PNG, None),
)


@pytest.mark.parametrize("case", PROFILES, ids=lambda case: case.name)
def test_only_a_matching_profile_of_the_original_is_used(case: Profile) -> None:
    assert apply(case.result, case.original, MASK).info.get("icc_profile") == case.profile


def test_the_text_of_the_result_is_preserved() -> None:
    result = OTHER_PNG[:33] + chunk(b"tEXt", b"Software\0generator") + OTHER_PNG[33:]
    assert apply(result, IMAGE, MASK).info["Software"] == "generator"


@dataclass(frozen=True)
class Damaged:
    name: str
    result: bytes
    original: bytes
    mask: bytes
    error: type[ApiError]
    message: str


DAMAGED = (
    Damaged("the result", OTHER_PNG[:60], IMAGE, MASK, ImageUnavailable, "cannot be read"),
    Damaged("the original", OTHER_PNG, IMAGE[:60], MASK, UserError, "for image 1,"),
    Damaged("the mask", OTHER_PNG, IMAGE, MASK[:60], UserError, FORMAT),
    Damaged("the mask's alpha", OTHER_PNG, IMAGE, IMAGE, UserError, ALPHA),
    Damaged("the mask's size", OTHER_PNG, saved(gradient(size=(9, 9)), "PNG"), MASK, UserError, SIZE),
)


@pytest.mark.parametrize("case", DAMAGED, ids=lambda case: case.name)
def test_the_error_names_the_damaged_file(case: Damaged) -> None:
    with pytest.raises(case.error, match=case.message) as caught:
        apply(case.result, case.original, case.mask)
    assert type(caught.value) is case.error
    assert cast(UserError, caught.value).param == ("mask" if case.name.startswith("the mask") else None)
