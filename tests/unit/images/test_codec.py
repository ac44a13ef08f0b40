"""Images of every mode and format are decoded and encoded with their metadata; damaged ones raise an error."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms
from PIL.PngImagePlugin import iTXt

from app.errors import ApiError, ImageUnavailable, UserError
from app.images import codec
from app.images.blob import Blob
from app.images.codec import (
    DECODE_ERRORS,
    DecodedImage,
    SinkWriter,
    SourceReader,
    TooComplexError,
    decode,
    encode,
    raising,
    unreadable_input,
    unreadable_result,
)
from tests.support.decoders import restore_pillow_afterwards
from tests.support.image_bombs import jpeg_with_scans, tiff_with_tile
from tests.support.sample_images import (
    GRAY,
    SRGB,
    as_blob,
    as_bytes,
    as_image,
    chunk,
    exif,
    gradient,
    noise,
    png,
    saved,
)

LIMIT = 1 << 16


def decoded(data: bytes, ratio: float = 1.0) -> DecodedImage:
    return decode(codec.open_image(as_blob(data), LIMIT), ratio)


def encoded(image: DecodedImage, image_format: str, quality: int = 100) -> Blob:
    return encode(image, image_format, quality, Blob)


def distance(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference of any channel of any pixel."""
    assert (one.mode, one.size) == (other.mode, other.size)
    extrema = cast(Any, ImageChops.difference(one, other).getextrema())
    return int(max(high for _, high in (extrema if isinstance(extrema[0], tuple) else (extrema,))))


# Decoding


@dataclass(frozen=True)
class Decoded:
    name: str
    data: bytes
    pixels: Image.Image
    within: int = 0


def pixel(mode: str, *values: int | tuple[int, ...]) -> Image.Image:
    """Return an image with one row of these pixels."""
    image = Image.new(mode, (len(values), 1))
    image.putdata(cast(Any, values))
    return image


def inks(values: tuple[int, ...]) -> Image.Image:
    return Image.new("CMYK", (16, 16), values)


RED_INK = (0, 255, 255, 0)
WIDE = struct.pack(">4H", 0x0000, 0x00FF, 0x80FF, 0xFFFF)
PALETTE = gradient().quantize(8)

DECODED = (
    Decoded("RGB", saved(gradient("RGB"), "PNG"), gradient("RGB")),
    Decoded("RGBA", saved(gradient("RGBA"), "PNG"), gradient("RGBA")),
    Decoded("grayscale", saved(gradient("L"), "PNG"), gradient("L")),
    Decoded("grayscale with alpha", saved(gradient("LA"), "PNG"), gradient("LA")),
    Decoded("black and white", saved(gradient("1"), "PNG"), gradient("1").convert("L")),
    Decoded("a palette", saved(PALETTE, "PNG"), PALETTE.convert("RGB")),
    Decoded(
        "a palette with alpha",
        png((2, 1), 8, 3, b"\0\1", chunk(b"PLTE", b"\1\2\3\4\5\6") + chunk(b"tRNS", b"\x80")),
        pixel("RGBA", (1, 2, 3, 128), (4, 5, 6, 255)),
    ),
    Decoded(
        "grayscale with a transparent value",
        png((2, 1), 8, 0, b"\7\x08", chunk(b"tRNS", b"\0\7")),
        pixel("LA", (7, 0), (8, 255)),
    ),
    Decoded(
        "a transparent color",
        png((2, 1), 8, 2, b"\1\2\3\4\5\6", chunk(b"tRNS", b"\0\1\0\2\0\3")),
        pixel("RGBA", (1, 2, 3, 0), (4, 5, 6, 255)),
    ),
    Decoded("16-bit grayscale", png((4, 1), 16, 0, WIDE), pixel("L", 0, 0, 0x80, 0xFF)),
    Decoded(
        "16-bit grayscale with a transparent value",
        png((4, 1), 16, 0, WIDE, chunk(b"tRNS", b"\x80\xff")),
        pixel("LA", (0, 255), (0, 255), (0x80, 0), (0xFF, 255)),
    ),
    Decoded(
        "16-bit colors",
        png((1, 1), 16, 2, struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)),
        pixel("RGB", (0x12, 0x56, 0x9A)),
    ),
    Decoded(
        "a transparent 16-bit color",
        png(
            (2, 1),
            16,
            2,
            struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0),
            chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)),
        ),
        pixel("RGBA", (0x12, 0x56, 0x9A, 0), (0, 0, 0, 255)),
    ),
    Decoded(
        "16-bit grayscale with alpha", png((1, 1), 16, 4, b"\x12\x34\x56\x78"), pixel("RGBA", (0x12, 0x12, 0x12, 0x56))
    ),
    Decoded("16-bit RGBA", png((1, 1), 16, 6, bytes(range(1, 9))), pixel("RGBA", (1, 3, 5, 7))),
    Decoded("16-bit grayscale of a TIFF", saved(Image.new("I;16B", (1, 1), 0x80FF), "TIFF"), pixel("L", 0x80)),
    Decoded(
        "the first frame of an animated PNG",
        saved(gradient("RGBA"), "PNG", save_all=True, append_images=[Image.new("RGBA", (24, 16))]),
        gradient("RGBA"),
    ),
    Decoded("JPEG", saved(gradient(), "JPEG", quality=95), gradient(), within=12),
    Decoded("progressive JPEG", saved(gradient(), "JPEG", quality=95, progressive=True), gradient(), within=12),
    Decoded("grayscale JPEG", saved(gradient("L"), "JPEG", quality=95), gradient("L"), within=12),
    Decoded("CMYK JPEG", saved(inks(RED_INK), "JPEG", quality=95), Image.new("RGB", (16, 16), (255, 0, 0)), within=2),
    Decoded(
        "CMYK JPEG with a profile that is for RGB",
        saved(inks(RED_INK), "JPEG", quality=95, icc_profile=SRGB),
        Image.new("RGB", (16, 16), (255, 0, 0)),
        within=2,
    ),
    Decoded(
        "a phone's MPO",
        saved(gradient(), "MPO", save_all=True, append_images=[Image.new("RGB", (24, 16))], quality=95),
        gradient(),
        within=12,
    ),
    Decoded("lossless WebP", saved(gradient("RGBA"), "WEBP", lossless=True, exact=True), gradient("RGBA")),
    Decoded("lossy WebP", saved(gradient(), "WEBP", quality=100), gradient(), within=24),
    Decoded(
        "animated WebP",
        saved(gradient(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (24, 16))]),
        gradient(),
    ),
    Decoded(
        "animated GIF",
        saved(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", (24, 16))]),
        PALETTE.convert("RGB"),
    ),
    Decoded("AVIF", saved(gradient(), "AVIF", quality=100), gradient(), within=16),
    Decoded("BMP", saved(gradient(), "BMP"), gradient()),
    Decoded("TIFF", saved(gradient(), "TIFF"), gradient()),
    Decoded("compressed TIFF", saved(gradient(), "TIFF", compression="tiff_lzw"), gradient()),
    Decoded(
        "TIFF of several pages",
        saved(gradient(), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
        gradient(),
    ),
    Decoded("CMYK TIFF", saved(inks(RED_INK), "TIFF"), Image.new("RGB", (16, 16), (255, 0, 0))),
    Decoded("TIFF in YCbCr", saved(Image.new("YCbCr", (1, 1), (0, 128, 128)), "TIFF"), pixel("RGB", (0, 0, 0))),
)


@pytest.mark.parametrize("case", DECODED, ids=lambda case: case.name)
def test_files_are_decoded_to_their_pixels(case: Decoded) -> None:
    assert distance(decoded(case.data).pixels, case.pixels) <= case.within


def test_every_format_that_is_opened_is_among_the_cases() -> None:
    for image_format in codec.READABLE_FORMATS:
        others = [name for name in codec.READABLE_FORMATS if name != image_format]
        assert any(not opens(case.data, others) for case in DECODED), image_format


def opens(data: bytes, formats: list[str]) -> bool:
    try:
        Image.open(io.BytesIO(data), formats=formats)
    except OSError:
        return False
    return True


def test_the_profile_of_a_cmyk_image_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little CMS includes no CMYK profile, so this test observes how it is called."""
    profiles: list[bytes] = []

    def transform(image: Image.Image, profile: io.BytesIO, _to: object, outputMode: str) -> Image.Image:  # noqa: N803
        profiles.append(profile.read())
        return Image.new(outputMode, image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", transform)
    image = decoded(saved(inks(RED_INK), "JPEG", icc_profile=b"inks"))
    assert (image.pixels.getpixel((0, 0)), profiles) == ((1, 2, 3), [b"inks"])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(image_format: str, orientation: int) -> None:
    """In an upright image, the corner of the first row and the first column is red."""
    undo = {value: key for key, value in {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.items()}[orientation]
    upright = Image.new("RGB", (32, 16), "blue")
    upright.paste("red", (0, 0, 16, 8))
    rotated = upright.transpose(codec._TRANSPOSITIONS[undo]) if undo in codec._TRANSPOSITIONS else upright
    data = saved(rotated, image_format, exif=exif(orientation))
    opened = codec.open_image(as_blob(data), LIMIT)
    assert codec.upright_size(opened) == (32, 16)
    image = decode(opened)
    assert image.pixels.size == (32, 16)
    corners = [cast(tuple[int, ...], image.pixels.getpixel(at)) for at in ((2, 2), (29, 2), (2, 13), (29, 13))]
    assert [corner[0] > 128 for corner in corners] == [True, False, False, False]
    assert codec.reset_orientation(image.exif)[1] == 1


def test_a_jpeg_that_will_be_made_smaller_is_decoded_at_a_fraction_of_its_size() -> None:
    data = saved(gradient(size=(160, 80)), "JPEG")
    sizes = {ratio: decoded(data, ratio).pixels.size for ratio in (1.0, 0.5, 0.25, 0.1, 0.001)}
    assert sizes == {1.0: (160, 80), 0.5: (160, 80), 0.25: (80, 40), 0.1: (40, 20), 0.001: (20, 10)}
    assert decoded(saved(gradient(size=(160, 80)), "PNG"), 0.1).pixels.size == (160, 80)


def test_scaling_keeps_the_profile() -> None:
    image = DecodedImage(gradient(), profile=b"kept")
    assert image.scaled((24, 16)) is image
    assert (image.scaled((12, 8)).pixels.size, image.scaled((12, 8)).profile) == ((12, 8), b"kept")


MISTYPED_TEXT = b"".join(chunk(b"zTXt", key.encode() + b"\0\0" + zlib.compress(b"text")) for key in codec._INFO_TYPES)
MISTYPED = png((1, 1), 8, 2, b"\1\2\3", MISTYPED_TEXT)


def test_png_text_cannot_replace_entries_of_pillow() -> None:
    image = decoded(MISTYPED)
    assert (image.profile, image.exif, image.xmp, image.text) == (b"", b"", b"", {})
    assert image.pixels.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("key", codec._INFO_TYPES)
def test_every_type_of_entry_is_needed(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(codec._INFO_TYPES, key)
    try:
        image = decoded(MISTYPED)
    except DECODE_ERRORS:
        return
    assert not all(isinstance(value, bytes) for value in (image.profile, image.xmp))


# Damaged files


@dataclass(frozen=True)
class Damaged:
    name: str
    data: bytes


DEEP = saved(noise((64, 64)), "PNG")

DAMAGED = (
    Damaged("nothing", b""),
    Damaged("text", b"<html>404</html>" * 9),
    Damaged("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    Damaged("PostScript, which Pillow would pass to a program", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    Damaged("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)),
    Damaged("an icon", saved(gradient(size=(16, 16)), "ICO")),
    Damaged("only a signature", b"\x89PNG\r\n\x1a\n"),
    Damaged("the start of another format", b"\xff\xd8\xff" + DEEP[3:]),
    Damaged("a PNG cut off", DEEP[: len(DEEP) // 2]),
    Damaged("a JPEG cut off", (data := saved(noise((64, 64)), "JPEG"))[: len(data) // 2]),
    Damaged("a WebP cut off", (data := saved(noise((64, 64)), "WEBP"))[: len(data) // 2]),
    Damaged("a GIF cut off", (data := saved(PALETTE.resize((64, 64)), "GIF"))[: len(data) // 2]),
    Damaged("an AVIF cut off", (data := saved(noise((64, 64)), "AVIF"))[: len(data) // 2]),
    Damaged("a TIFF cut off", (data := saved(noise((64, 64)), "TIFF"))[: len(data) // 2]),
    Damaged("a BMP cut off", (data := saved(noise((64, 64)), "BMP"))[: len(data) // 2]),
    Damaged("a PNG bomb", saved(Image.new("1", (1 << 9, 1 << 8)), "PNG")),
    Damaged("a PNG bomb that Pillow warns about", png((9500, 9500), 1, 0, b"")),
    Damaged("a PNG bomb that Pillow refuses", png((1 << 16, 1 << 16), 1, 0, b"")),
    Damaged("a palette PNG without a palette", png((1, 1), 8, 3, b"\0")),
    Damaged(
        "a JPEG with too many scans",
        (data := saved(gradient("L"), "JPEG", progressive=True))[:-2]
        + data[data.rindex(b"\xff\xda") : -2] * 100
        + data[-2:],
    ),
    Damaged("a TIFF with a tile that is much larger than the image", tiff_with_tile(64, 2049)),
    Damaged("a TIFF of 32-bit numbers", saved(Image.new("I", (1, 1), 9), "TIFF")),
    Damaged("a TIFF of floating-point numbers", saved(Image.new("F", (1, 1), 0.5), "TIFF")),
)


@pytest.mark.parametrize("case", DAMAGED, ids=lambda case: case.name)
def test_a_damaged_file_raises_a_decode_error(case: Damaged) -> None:
    with pytest.raises(DECODE_ERRORS):
        decoded(case.data)


def test_a_jpeg_with_as_many_scans_as_permitted_is_decoded() -> None:
    data = saved(gradient("L"), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    more = codec.MAX_SCANS - data.count(b"\xff\xda")
    assert decoded(data[:-2] + scan * more + data[-2:]).pixels.size == (24, 16)


def test_a_large_jpeg_may_have_fewer_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_SCANNED_PIXELS", 20 * 64 * 64)
    assert decoded(jpeg_with_scans(64, 20)).pixels.size == (64, 64)
    with pytest.raises(TooComplexError, match="a JPEG of 64x64 pixels in 21 scans"):
        decoded(jpeg_with_scans(64, 21))


@pytest.mark.parametrize("tile", [64, 256, 2048])
def test_a_tile_may_be_larger_than_the_image(tile: int) -> None:
    assert decoded(tiff_with_tile(64, tile)).pixels.size == (64, 64)


def test_an_image_with_as_many_pixels_as_permitted_is_opened() -> None:
    blob = as_blob(saved(Image.new("1", (8, 8)), "PNG"))
    assert codec.open_image(blob, 64).size == (8, 8)
    with pytest.raises(TooComplexError, match="8x8 is more than 63 pixels"):
        codec.open_image(blob, 63)


@settings(max_examples=100)
@given(st.sampled_from(DECODED), st.data())
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_mutated_file_is_an_image_or_raises_a_decode_error(case: Decoded, data: st.DataObject) -> None:
    """Only `DECODE_ERRORS` are raised, and what is decoded can be encoded."""
    file = bytearray(case.data)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(file)))
        file[start : start + data.draw(st.sampled_from((0, 1, 2, 4, 1000)))] = data.draw(st.binary(max_size=4))
    try:
        image = decoded(bytes(file))
        encoded(image, data.draw(st.sampled_from(("png", "jpeg", "webp"))), 50)
    except DECODE_ERRORS:
        return
    assert image.pixels.mode in {"L", "LA", "RGB", "RGBA"}


# Encoding


@dataclass(frozen=True)
class Encoded:
    name: str
    image: DecodedImage
    image_format: str
    pixels: Image.Image
    within: int = 0
    info: dict[str, Any] = field(default_factory=dict)


CLEAR_RED = Image.new("RGBA", (16, 16), (255, 0, 0, 128))
XMP = b"<x:xmpmeta/>"
TEXT = {"Description": "Häuser", "Software": "paint", "other": "日本"}

ENCODED = (
    Encoded("RGB to PNG", DecodedImage(gradient()), "png", gradient()),
    Encoded("RGBA to PNG", DecodedImage(gradient("RGBA")), "png", gradient("RGBA")),
    Encoded("grayscale to PNG", DecodedImage(gradient("L")), "png", gradient("L")),
    Encoded("grayscale with alpha to PNG", DecodedImage(gradient("LA")), "png", gradient("LA")),
    Encoded("RGB to JPEG", DecodedImage(gradient()), "jpeg", gradient(), within=4),
    Encoded("grayscale to JPEG", DecodedImage(gradient("L")), "jpeg", gradient("L"), within=2),
    Encoded(
        "in JPEG, alpha is laid on white",
        DecodedImage(CLEAR_RED),
        "jpeg",
        Image.new("RGB", (16, 16), (255, 127, 127)),
        within=2,
    ),
    Encoded(
        "in JPEG, grayscale with alpha is laid on white",
        DecodedImage(Image.new("LA", (16, 16), (0, 0))),
        "jpeg",
        Image.new("L", (16, 16), 255),
    ),
    Encoded("RGBA to WebP", DecodedImage(CLEAR_RED), "webp", CLEAR_RED, within=4),
    Encoded(
        "grayscale to WebP",
        DecodedImage(Image.new("L", (16, 16), 99)),
        "webp",
        Image.new("RGB", (16, 16), (99, 99, 99)),
        within=2,
    ),
    Encoded("a profile in PNG", DecodedImage(gradient(), SRGB), "png", gradient(), info={"icc_profile": SRGB}),
    Encoded("a profile in JPEG", DecodedImage(gradient(), SRGB), "jpeg", gradient(), 4, info={"icc_profile": SRGB}),
    Encoded("a profile in WebP", DecodedImage(CLEAR_RED, SRGB), "webp", CLEAR_RED, 4, info={"icc_profile": SRGB}),
    Encoded(
        "a profile for grayscale", DecodedImage(gradient("L"), GRAY), "png", gradient("L"), info={"icc_profile": GRAY}
    ),
    Encoded(
        "a profile for grayscale on colors",
        DecodedImage(gradient(), GRAY),
        "png",
        gradient(),
        info={"icc_profile": None},
    ),
    Encoded(
        "a profile for colors on grayscale",
        DecodedImage(gradient("L"), SRGB),
        "jpeg",
        gradient("L"),
        2,
        info={"icc_profile": None},
    ),
    Encoded(
        "a profile for grayscale in WebP",
        DecodedImage(Image.new("L", (16, 16), 99), GRAY),
        "webp",
        Image.new("RGB", (16, 16), (99, 99, 99)),
        2,
        info={"icc_profile": None},
    ),
    Encoded("EXIF in PNG", DecodedImage(gradient(), exif=exif(1)), "png", gradient(), info={"exif": exif(1)}),
    Encoded("EXIF in JPEG", DecodedImage(gradient(), exif=exif(1)), "jpeg", gradient(), 4, info={"exif": exif(1)}),
    Encoded(
        "EXIF in WebP",
        DecodedImage(CLEAR_RED, exif=exif(1)),
        "webp",
        CLEAR_RED,
        4,
        info={"exif": exif(1).removeprefix(b"Exif\0\0")},
    ),
    Encoded("XMP in PNG", DecodedImage(gradient(), xmp=XMP), "png", gradient(), info={"xmp": XMP}),
    Encoded(
        "XMP in PNG, once",
        DecodedImage(gradient(), xmp=XMP, text={"XML:com.adobe.xmp": iTXt("<other/>")}),
        "png",
        gradient(),
        info={"xmp": b"<other/>"},
    ),
    Encoded("XMP in JPEG", DecodedImage(gradient(), xmp=XMP), "jpeg", gradient(), 4, info={"xmp": XMP}),
    Encoded("XMP in WebP", DecodedImage(CLEAR_RED, xmp=XMP), "webp", CLEAR_RED, 4, info={"xmp": XMP}),
    Encoded("text in PNG", DecodedImage(gradient(), text=TEXT), "png", gradient(), info=dict(TEXT)),
    Encoded(
        "EXIF that no JPEG can hold",
        DecodedImage(gradient(), exif=bytes(65534)),
        "jpeg",
        gradient(),
        4,
        info={"exif": None},
    ),
    Encoded(
        "XMP that no JPEG can hold",
        DecodedImage(gradient(), xmp=b" " * 65505),
        "jpeg",
        gradient(),
        4,
        info={"xmp": None},
    ),
    Encoded(
        "XMP that a JPEG can just hold",
        DecodedImage(gradient(), xmp=b"_" * 65504),
        "jpeg",
        gradient(),
        4,
        info={"xmp": b"_" * 65504},
    ),
    Encoded(
        "a profile that no JPEG can hold",
        DecodedImage(gradient(), profile=SRGB.ljust(255 * 65519 + 1)),
        "jpeg",
        gradient(),
        4,
        info={"icc_profile": None},
    ),
)


@pytest.mark.parametrize("case", ENCODED, ids=lambda case: case.name)
def test_images_are_encoded_with_their_metadata(case: Encoded) -> None:
    image = as_image(encoded(case.image, case.image_format))
    assert image.format == case.image_format.upper()
    assert distance(image, case.pixels) <= case.within
    assert {key: image.info.get(key) for key in case.info} == case.info


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_text_becomes_exif_in_formats_without_text(image_format: str) -> None:
    text = dict.fromkeys(codec.EXIF_TAG_OF_TEXT, "Häuser")
    tags = as_image(encoded(DecodedImage(gradient(), text=text | {"other": "lost"}), image_format)).getexif()
    assert {tag: str(value).encode("latin-1").decode() for tag, value in tags.items()} == dict.fromkeys(
        codec.EXIF_TAG_OF_TEXT.values(), "Häuser"
    )
    assert {ExifTags.TAGS[tag] for tag in tags} == {"ImageDescription", "Software", "Artist", "Copyright"}


def test_text_does_not_replace_existing_exif() -> None:
    image = DecodedImage(gradient(), exif=exif(1), text={"Software": "paint"})
    assert as_image(encoded(image, "jpeg")).info["exif"] == exif(1)


@dataclass(frozen=True)
class Metadata:
    name: str
    data: bytes
    image: DecodedImage


TEXT_PNG = saved(gradient(), "PNG")[:-12] + chunk(b"tEXt", b"late\0text") + chunk(b"IEND", b"")


@pytest.fixture
def as_in_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change Pillow as decoders do, for one test."""
    restore_pillow_afterwards(monkeypatch)
    codec.read_any_metadata()


def png_with(*chunks: bytes) -> bytes:
    """Return a PNG with these chunks before its pixels, and a text behind them."""
    return TEXT_PNG[:33] + b"".join(chunks) + TEXT_PNG[33:]


def squeezed(keyword: str, size: int) -> bytes:
    return chunk(b"zTXt", keyword.encode() + b"\0\0" + zlib.compress(b"x" * size))


LATE = DecodedImage(gradient(), text={"late": "text"})
LONGEST, ALL_TEXT = 8 << 20, 16 << 20

#: Upstreams write their prompts and whole workflows into files.
LONG_METADATA = (
    Metadata("a long text", png_with(squeezed("k", LONGEST)), replace(LATE, text={"k": "x" * LONGEST, "late": "text"})),
    Metadata("no text that grows without end", png_with(squeezed("k", LONGEST + 1)), LATE),
    Metadata(
        "no text of other scripts that grows without end",
        png_with(chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(LONGEST + 1)))),
        LATE,
    ),
    Metadata(
        "no profile that grows without end",
        png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(LONGEST + 1)))),
        LATE,
    ),
    Metadata("no text in another compression", png_with(chunk(b"zTXt", b"k\0\1text")), LATE),
    Metadata("no profile without an end of its name", png_with(chunk(b"iCCP", b"p")), LATE),
)


@pytest.mark.usefixtures("as_in_a_decoder")
@pytest.mark.parametrize("case", LONG_METADATA, ids=lambda case: case.name)
def test_metadata_that_is_too_long_or_damaged_costs_no_image(case: Metadata) -> None:
    image, expected = decoded(case.data), case.image
    assert (image.profile, image.text) == (expected.profile, expected.text)
    assert distance(image.pixels, gradient()) == 0


@pytest.mark.usefixtures("as_in_a_decoder")
def test_all_texts_of_an_image_together_are_bounded() -> None:
    text = decoded(png_with(*(squeezed(f"k{number}", LONGEST - 100) for number in range(9)))).text
    assert set(text) == {"k0", "k1", "late"}
    assert sum(map(len, text.values())) <= ALL_TEXT


METADATA = (
    Metadata(
        "profile, EXIF, XMP of a JPEG",
        saved(gradient(), "JPEG", icc_profile=SRGB, exif=exif(1), xmp=XMP),
        DecodedImage(gradient(), SRGB, exif(1), XMP),
    ),
    Metadata(
        "of a WebP, whose EXIF has no header",
        saved(gradient(), "WEBP", icc_profile=SRGB, exif=exif(1), xmp=XMP),
        DecodedImage(gradient(), SRGB, exif(1), XMP),
    ),
    Metadata(
        "of an AVIF",
        saved(gradient(), "AVIF", icc_profile=SRGB, exif=exif(6), xmp=XMP),
        DecodedImage(gradient(), SRGB, exif(1), XMP),
    ),
    Metadata(
        "of a PNG", saved(gradient(), "PNG", icc_profile=SRGB, exif=exif(1)), DecodedImage(gradient(), SRGB, exif(1))
    ),
    Metadata("text behind the pixels", TEXT_PNG, DecodedImage(gradient(), text={"late": "text"})),
    Metadata("no text of a TIFF", saved(gradient(), "TIFF", compression="tiff_lzw"), DecodedImage(gradient())),
    Metadata(
        "no EXIF if it cannot be read", saved(gradient(), "JPEG", exif=b"Exif\0\0unreadable"), DecodedImage(gradient())
    ),
)


@pytest.mark.parametrize("case", METADATA, ids=lambda case: case.name)
def test_metadata_is_decoded(case: Metadata) -> None:
    image, expected = decoded(case.data), case.image
    assert (image.profile, image.exif, image.xmp, image.text) == (
        expected.profile,
        expected.exif,
        expected.xmp,
        expected.text,
    )


def test_png_text_of_any_script_is_preserved() -> None:
    blob = encoded(DecodedImage(gradient(), text=TEXT), "png")
    assert decoded(as_bytes(blob)).text == TEXT


def test_quality_0_is_the_lowest_quality() -> None:
    """Pillow does not replace 0 by its default of 75."""
    image = DecodedImage(noise((32, 32)))
    for image_format in ("jpeg", "webp"):
        sizes = [encoded(image, image_format, quality).size for quality in (0, 20, 75, 100)]
        assert sizes == sorted(set(sizes))


def test_colors_have_full_resolution_from_quality_90() -> None:
    red_line = Image.new("RGB", (16, 16), "white")
    red_line.paste("red", (7, 0, 8, 16))
    distances = [distance(as_image(encoded(DecodedImage(red_line), "jpeg", quality)), red_line) for quality in (89, 90)]
    assert distances[0] > 100 > distances[1]


def test_the_new_blob_is_closed_when_writing_fails() -> None:
    made: list[Blob] = []

    class FullBlob(Blob):
        closed = False

        def write(self, data: bytes | memoryview) -> None:
            raise UserError("full")

        def close(self) -> None:
            self.closed = True

    def new_blob() -> Blob:
        made.append(FullBlob())
        return made[-1]

    with pytest.raises(UserError, match="full"):
        encode(DecodedImage(gradient()), "png", 100, new_blob)
    assert [cast(FullBlob, blob).closed for blob in made] == [True]


# Errors, and blobs as files


@pytest.mark.parametrize("cause", DECODE_ERRORS)
def test_a_decode_error_is_replaced(cause: type[BaseException]) -> None:
    with pytest.raises(ImageUnavailable) as caught, raising(unreadable_result()):
        raise cause("inside")
    assert caught.value.detail == f"{cause.__name__}: inside"
    assert (caught.value.status, caught.value.code) == (500, "image_unreadable")


def test_another_exception_is_not_replaced() -> None:
    with pytest.raises(KeyError), raising(unreadable_result()):
        raise KeyError
    with raising(unreadable_result()):
        pass


def test_a_damaged_input_has_the_message_of_openai() -> None:
    error: ApiError = unreadable_input(1)
    assert error.body["error"] == {
        "message": "Invalid image file or mode for image 2, please check your image file.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "invalid_image_file",
    }


@dataclass(frozen=True)
class FileCase:
    name: str
    use: Callable[[io.RawIOBase], object]
    expected: object


FILE_CASES = (
    FileCase("all", lambda file: file.read(), b"0123456789"),
    FileCase("some", lambda file: (file.read(3), file.read(3)), (b"012", b"345")),
    FileCase("more than there is", lambda file: file.read(1 << 62), b"0123456789"),
    FileCase("from a position", lambda file: (file.seek(4), file.read(2), file.tell()), (4, b"45", 6)),
    FileCase("from the current position", lambda file: (file.read(2), file.seek(2, 1), file.read(1)), (b"01", 4, b"4")),
    FileCase("from the end", lambda file: (file.seek(-2, 2), file.read()), (8, b"89")),
    FileCase("behind the end", lambda file: (file.seek(1 << 70), file.read(), file.read(1)), (1 << 70, b"", b"")),
)


@pytest.mark.parametrize("in_memory", [0, 100], ids=["file", "memory"])
@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.name)
def test_a_blob_is_read_as_a_file(case: FileCase, in_memory: int) -> None:
    with Blob(in_memory=in_memory) as blob:
        blob.write(b"0123456789")
        assert case.use(SourceReader(blob)) == case.expected


def test_a_position_before_the_start_is_an_error() -> None:
    with pytest.raises(ValueError, match="before the start"):
        SourceReader(as_blob(b"0123")).seek(-5, 2)


def test_a_blob_is_written_as_a_file() -> None:
    blob = Blob()
    assert SinkWriter(blob).write(memoryview(b"0123")) == 4
    assert as_bytes(blob) == b"0123"
