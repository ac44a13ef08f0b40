"""Pictures of every mode and format come out right, with what belongs to them, and damaged ones as damage."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms
from PIL.PngImagePlugin import iTXt

from app.errors import ApiError, ImageUnavailable, UserError
from app.images import codec
from app.images import codec as exif_data
from app.images.blob import Blob
from app.images.codec import (
    DECODE_ERRORS,
    BlobReader,
    BlobWriter,
    DecodedImage,
    decode,
    encode,
    raising,
    unreadable_input,
    unreadable_result,
)
from tests.support.sample_images import (
    GREY,
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


def encoded(picture: DecodedImage, format: str, quality: int = 100) -> Blob:  # noqa: A002
    return encode(picture, format, quality, Blob)


def distance(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel."""
    assert (one.mode, one.size) == (other.mode, other.size)
    extrema = cast(Any, ImageChops.difference(one, other).getextrema())
    return int(max(high for _, high in (extrema if isinstance(extrema[0], tuple) else (extrema,))))


# What a file's pixels become


@dataclass(frozen=True)
class Decoded:
    what: str
    data: bytes
    pixels: Image.Image
    within: int = 0


def pixel(mode: str, *values: int | tuple[int, ...]) -> Image.Image:
    """One row."""
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
    Decoded("greys", saved(gradient("L"), "PNG"), gradient("L")),
    Decoded("greys with alpha", saved(gradient("LA"), "PNG"), gradient("LA")),
    Decoded("black and white", saved(gradient("1"), "PNG"), gradient("1").convert("L")),
    Decoded("a palette", saved(PALETTE, "PNG"), PALETTE.convert("RGB")),
    Decoded(
        "a palette with alpha",
        png((2, 1), 8, 3, b"\0\1", chunk(b"PLTE", b"\1\2\3\4\5\6") + chunk(b"tRNS", b"\x80")),
        pixel("RGBA", (1, 2, 3, 128), (4, 5, 6, 255)),
    ),
    Decoded(
        "greys with a transparent one",
        png((2, 1), 8, 0, b"\7\x08", chunk(b"tRNS", b"\0\7")),
        pixel("LA", (7, 0), (8, 255)),
    ),
    Decoded(
        "a transparent colour",
        png((2, 1), 8, 2, b"\1\2\3\4\5\6", chunk(b"tRNS", b"\0\1\0\2\0\3")),
        pixel("RGBA", (1, 2, 3, 0), (4, 5, 6, 255)),
    ),
    Decoded("16-bit greys", png((4, 1), 16, 0, WIDE), pixel("L", 0, 0, 0x80, 0xFF)),
    Decoded(
        "16-bit greys with a transparent one",
        png((4, 1), 16, 0, WIDE, chunk(b"tRNS", b"\x80\xff")),
        pixel("LA", (0, 255), (0, 255), (0x80, 0), (0xFF, 255)),
    ),
    Decoded(
        "16-bit colours",
        png((1, 1), 16, 2, struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)),
        pixel("RGB", (0x12, 0x56, 0x9A)),
    ),
    Decoded(
        "a transparent 16-bit colour",
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
        "16-bit greys with alpha", png((1, 1), 16, 4, b"\x12\x34\x56\x78"), pixel("RGBA", (0x12, 0x12, 0x12, 0x56))
    ),
    Decoded("16-bit RGBA", png((1, 1), 16, 6, bytes(range(1, 9))), pixel("RGBA", (1, 3, 5, 7))),
    Decoded("16-bit greys of a TIFF", saved(Image.new("I;16B", (1, 1), 0x80FF), "TIFF"), pixel("L", 0x80)),
    Decoded(
        "the first frame of an animated PNG",
        saved(gradient("RGBA"), "PNG", save_all=True, append_images=[Image.new("RGBA", (24, 16))]),
        gradient("RGBA"),
    ),
    Decoded("JPEG", saved(gradient(), "JPEG", quality=95), gradient(), within=12),
    Decoded("progressive JPEG", saved(gradient(), "JPEG", quality=95, progressive=True), gradient(), within=12),
    Decoded("grey JPEG", saved(gradient("L"), "JPEG", quality=95), gradient("L"), within=12),
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
    Decoded(
        "TIFF of light and colour", saved(Image.new("YCbCr", (1, 1), (0, 128, 128)), "TIFF"), pixel("RGB", (0, 0, 0))
    ),
)


@pytest.mark.parametrize("case", DECODED, ids=lambda case: case.what)
def test_pixels(case: Decoded) -> None:
    assert distance(decoded(case.data).pixels, case.pixels) <= case.within


def test_every_format_that_is_opened_is_among_the_cases() -> None:
    for format_ in codec.READABLE_FORMATS:
        others = [name for name in codec.READABLE_FORMATS if name != format_]
        assert any(not opens(case.data, others) for case in DECODED), format_


def opens(data: bytes, formats: list[str]) -> bool:
    try:
        Image.open(io.BytesIO(data), formats=formats)
    except OSError:
        return False
    return True


def test_a_cmyk_profile_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little CMS brings no CMYK profile that a test could use, so this looks at what it is asked."""
    asked: list[bytes] = []

    def transform(image: Image.Image, profile: io.BytesIO, _to: object, outputMode: str) -> Image.Image:  # noqa: N803
        asked.append(profile.read())
        return Image.new(outputMode, image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", transform)
    picture = decoded(saved(inks(RED_INK), "JPEG", icc_profile=b"inks"))
    assert (picture.pixels.getpixel((0, 0)), asked) == ((1, 2, 3), [b"inks"])


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_upright(format_: str, turn: int) -> None:
    """Red is where the first row and the first column of an upright picture meet."""
    undo = {value: key for key, value in {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.items()}[turn]
    upright = Image.new("RGB", (32, 16), "blue")
    upright.paste("red", (0, 0, 16, 8))
    lying = upright.transpose(codec._TRANSPOSITIONS[undo]) if undo in codec._TRANSPOSITIONS else upright
    data = saved(lying, format_, exif=exif(turn))
    image = codec.open_image(as_blob(data), LIMIT)
    assert codec.upright_size(image) == (32, 16)
    picture = decode(image)
    assert picture.pixels.size == (32, 16)
    corners = [cast(tuple[int, ...], picture.pixels.getpixel(at)) for at in ((2, 2), (29, 2), (2, 13), (29, 13))]
    assert [corner[0] > 128 for corner in corners] == [True, False, False, False]
    assert exif_data.reset_orientation(picture.exif)[1] == 1


def test_a_jpeg_to_be_made_smaller_is_decoded_at_a_fraction() -> None:
    data = saved(gradient(size=(160, 80)), "JPEG")
    sizes = {ratio: decoded(data, ratio).pixels.size for ratio in (1.0, 0.5, 0.25, 0.1, 0.001)}
    assert sizes == {1.0: (160, 80), 0.5: (160, 80), 0.25: (80, 40), 0.1: (40, 20), 0.001: (20, 10)}
    assert decoded(saved(gradient(size=(160, 80)), "PNG"), 0.1).pixels.size == (160, 80)


def test_scaled() -> None:
    picture = DecodedImage(gradient(), profile=b"kept")
    assert picture.scaled((24, 16)) is picture
    assert (picture.scaled((12, 8)).pixels.size, picture.scaled((12, 8)).profile) == ((12, 8), b"kept")


IMPOSTORS = b"".join(chunk(b"zTXt", key.encode() + b"\0\0" + zlib.compress(b"pretended")) for key in codec._INFO_TYPES)
PRETENDER = png((1, 1), 8, 2, b"\1\2\3", IMPOSTORS)


def test_text_that_pretends_to_be_pillows_own_entries() -> None:
    picture = decoded(PRETENDER)
    assert (picture.profile, picture.exif, picture.xmp, picture.text) == (b"", b"", b"", {})
    assert picture.pixels.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("key", codec._INFO_TYPES)
def test_every_entry_needs_its_type(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(codec._INFO_TYPES, key)
    try:
        picture = decoded(PRETENDER)
    except DECODE_ERRORS:
        return
    assert not all(isinstance(said, bytes) for said in (picture.profile, picture.xmp))


# Damage


@dataclass(frozen=True)
class Damaged:
    what: str
    data: bytes


DEEP = saved(noise((64, 64)), "PNG")

DAMAGED = (
    Damaged("nothing", b""),
    Damaged("text", b"<html>404</html>" * 9),
    Damaged("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    Damaged("PostScript, which Pillow would hand to a program", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    Damaged("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)),
    Damaged("an icon", saved(gradient(size=(16, 16)), "ICO")),
    Damaged("a signature alone", b"\x89PNG\r\n\x1a\n"),
    Damaged("the start of another format", b"\xff\xd8\xff" + DEEP[3:]),
    Damaged("a PNG cut off", DEEP[: len(DEEP) // 2]),
    Damaged("a JPEG cut off", (data := saved(noise((64, 64)), "JPEG"))[: len(data) // 2]),
    Damaged("a WebP cut off", (data := saved(noise((64, 64)), "WEBP"))[: len(data) // 2]),
    Damaged("a GIF cut off", (data := saved(PALETTE.resize((64, 64)), "GIF"))[: len(data) // 2]),
    Damaged("an AVIF cut off", (data := saved(noise((64, 64)), "AVIF"))[: len(data) // 2]),
    Damaged("a TIFF cut off", (data := saved(noise((64, 64)), "TIFF"))[: len(data) // 2]),
    Damaged("a BMP cut off", (data := saved(noise((64, 64)), "BMP"))[: len(data) // 2]),
    Damaged("a PNG bomb", saved(Image.new("1", (1 << 9, 1 << 8)), "PNG")),
    Damaged("a PNG bomb that Pillow warns of", png((9500, 9500), 1, 0, b"")),
    Damaged("a PNG bomb that Pillow refuses", png((1 << 16, 1 << 16), 1, 0, b"")),
    Damaged(
        "a PNG whose compressed text grows without end",
        saved(gradient(), "PNG")[:33]
        + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 21)))
        + saved(gradient(), "PNG")[33:],
    ),
    Damaged("a palette PNG without a palette", png((1, 1), 8, 3, b"\0")),
    Damaged(
        "a JPEG of endless scans",
        (data := saved(gradient("L"), "JPEG", progressive=True))[:-2]
        + data[data.rindex(b"\xff\xda") : -2] * 100
        + data[-2:],
    ),
    Damaged("a TIFF of 32-bit numbers", saved(Image.new("I", (1, 1), 9), "TIFF")),
    Damaged("a TIFF of fractions", saved(Image.new("F", (1, 1), 0.5), "TIFF")),
)


@pytest.mark.parametrize("case", DAMAGED, ids=lambda case: case.what)
def test_damage(case: Damaged) -> None:
    with pytest.raises(DECODE_ERRORS):
        decoded(case.data)


def test_as_many_scans_as_honest_files_have_are_read() -> None:
    data = saved(gradient("L"), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    more = codec.MAX_SCANS - data.count(b"\xff\xda")
    assert decoded(data[:-2] + scan * more + data[-2:]).pixels.size == (24, 16)


def test_as_many_pixels_as_the_limit_are_read() -> None:
    blob = as_blob(saved(Image.new("1", (8, 8)), "PNG"))
    assert codec.open_image(blob, 64).size == (8, 8)
    with pytest.raises(Image.DecompressionBombError, match="8x8 is more than 63 pixels"):
        codec.open_image(blob, 63)


@settings(max_examples=100)
@given(st.sampled_from(DECODED), st.data())
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_mutated_file_is_a_picture_or_damage(case: Decoded, data: st.DataObject) -> None:
    """Whatever is changed, cut or repeated: nothing but DAMAGE comes out, and a picture can be written."""
    file = bytearray(case.data)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(file)))
        file[start : start + data.draw(st.sampled_from((0, 1, 2, 4, 1000)))] = data.draw(st.binary(max_size=4))
    try:
        picture = decoded(bytes(file))
        encoded(picture, data.draw(st.sampled_from(("png", "jpeg", "webp"))), 50)
    except DECODE_ERRORS:
        return
    assert picture.pixels.mode in {"L", "LA", "RGB", "RGBA"}


# What is written


@dataclass(frozen=True)
class Encoded:
    what: str
    picture: DecodedImage
    format: str
    pixels: Image.Image
    within: int = 0
    info: dict[str, Any] = field(default_factory=dict)


CLEAR_RED = Image.new("RGBA", (16, 16), (255, 0, 0, 128))
XMP = b"<x:xmpmeta/>"
TEXT = {"Description": "Häuser", "Software": "paint", "other": "日本"}

ENCODED = (
    Encoded("RGB to PNG", DecodedImage(gradient()), "png", gradient()),
    Encoded("RGBA to PNG", DecodedImage(gradient("RGBA")), "png", gradient("RGBA")),
    Encoded("greys to PNG", DecodedImage(gradient("L")), "png", gradient("L")),
    Encoded("greys with alpha to PNG", DecodedImage(gradient("LA")), "png", gradient("LA")),
    Encoded("RGB to JPEG", DecodedImage(gradient()), "jpeg", gradient(), within=4),
    Encoded("greys to JPEG", DecodedImage(gradient("L")), "jpeg", gradient("L"), within=2),
    Encoded(
        "alpha lies on white in a JPEG",
        DecodedImage(CLEAR_RED),
        "jpeg",
        Image.new("RGB", (16, 16), (255, 127, 127)),
        within=2,
    ),
    Encoded(
        "greys with alpha too", DecodedImage(Image.new("LA", (16, 16), (0, 0))), "jpeg", Image.new("L", (16, 16), 255)
    ),
    Encoded("RGBA to WebP", DecodedImage(CLEAR_RED), "webp", CLEAR_RED, within=4),
    Encoded(
        "greys to WebP",
        DecodedImage(Image.new("L", (16, 16), 99)),
        "webp",
        Image.new("RGB", (16, 16), (99, 99, 99)),
        within=2,
    ),
    Encoded("a profile in PNG", DecodedImage(gradient(), SRGB), "png", gradient(), info={"icc_profile": SRGB}),
    Encoded("a profile in JPEG", DecodedImage(gradient(), SRGB), "jpeg", gradient(), 4, info={"icc_profile": SRGB}),
    Encoded("a profile in WebP", DecodedImage(CLEAR_RED, SRGB), "webp", CLEAR_RED, 4, info={"icc_profile": SRGB}),
    Encoded("a profile for greys", DecodedImage(gradient("L"), GREY), "png", gradient("L"), info={"icc_profile": GREY}),
    Encoded(
        "a profile for greys on colours", DecodedImage(gradient(), GREY), "png", gradient(), info={"icc_profile": None}
    ),
    Encoded(
        "a profile for colours on greys",
        DecodedImage(gradient("L"), SRGB),
        "jpeg",
        gradient("L"),
        2,
        info={"icc_profile": None},
    ),
    Encoded(
        "a profile for greys in WebP",
        DecodedImage(Image.new("L", (16, 16), 99), GREY),
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


@pytest.mark.parametrize("case", ENCODED, ids=lambda case: case.what)
def test_written(case: Encoded) -> None:
    image = as_image(encoded(case.picture, case.format))
    assert image.format == case.format.upper()
    assert distance(image, case.pixels) <= case.within
    assert {key: image.info.get(key) for key in case.info} == case.info


@pytest.mark.parametrize("format_", ["jpeg", "webp"])
def test_text_becomes_exif_elsewhere(format_: str) -> None:
    said = dict.fromkeys(codec.EXIF_TAG_OF_TEXT, "Häuser")
    tags = as_image(encoded(DecodedImage(gradient(), text=said | {"other": "lost"}), format_)).getexif()
    assert {tag: str(value).encode("latin-1").decode() for tag, value in tags.items()} == dict.fromkeys(
        codec.EXIF_TAG_OF_TEXT.values(), "Häuser"
    )
    assert {ExifTags.TAGS[tag] for tag in tags} == {"ImageDescription", "Software", "Artist", "Copyright"}


def test_text_gives_way_to_exif_of_its_own() -> None:
    picture = DecodedImage(gradient(), exif=exif(1), text={"Software": "paint"})
    assert as_image(encoded(picture, "jpeg")).info["exif"] == exif(1)


@dataclass(frozen=True)
class Kept:
    what: str
    data: bytes
    picture: DecodedImage


TEXT_PNG = saved(gradient(), "PNG")[:-12] + chunk(b"tEXt", b"late\0text") + chunk(b"IEND", b"")

KEPT = (
    Kept(
        "profile, EXIF, XMP of a JPEG",
        saved(gradient(), "JPEG", icc_profile=SRGB, exif=exif(1), xmp=XMP),
        DecodedImage(gradient(), SRGB, exif(1), XMP),
    ),
    Kept(
        "of a WebP, whose EXIF has no mark",
        saved(gradient(), "WEBP", icc_profile=SRGB, exif=exif(1), xmp=XMP),
        DecodedImage(gradient(), SRGB, exif(1), XMP),
    ),
    Kept(
        "of an AVIF",
        saved(gradient(), "AVIF", icc_profile=SRGB, exif=exif(6), xmp=XMP),
        DecodedImage(gradient(), SRGB, exif(1), XMP),
    ),
    Kept("of a PNG", saved(gradient(), "PNG", icc_profile=SRGB, exif=exif(1)), DecodedImage(gradient(), SRGB, exif(1))),
    Kept("text behind the pixels", TEXT_PNG, DecodedImage(gradient(), text={"late": "text"})),
    Kept("no text of a TIFF", saved(gradient(), "TIFF", compression="tiff_lzw"), DecodedImage(gradient())),
    Kept(
        "no EXIF that nobody can read", saved(gradient(), "JPEG", exif=b"Exif\0\0unreadable"), DecodedImage(gradient())
    ),
)


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.what)
def test_what_belongs_to_a_picture(case: Kept) -> None:
    picture, wanted = decoded(case.data), case.picture
    assert (picture.profile, picture.exif, picture.xmp, picture.text) == (
        wanted.profile,
        wanted.exif,
        wanted.xmp,
        wanted.text,
    )


def test_png_text_survives_with_its_script() -> None:
    once = encoded(DecodedImage(gradient(), text=TEXT), "png")
    assert decoded(as_bytes(once)).text == TEXT


def test_quality_is_the_apis() -> None:
    """Pillow takes 0 as it is, and not for its default of 75."""
    picture = DecodedImage(noise((32, 32)))
    for format_ in ("jpeg", "webp"):
        sizes = [encoded(picture, format_, quality).size for quality in (0, 20, 75, 100)]
        assert sizes == sorted(set(sizes))


def test_colours_at_full_resolution_from_90_on() -> None:
    red_line = Image.new("RGB", (16, 16), "white")
    red_line.paste("red", (7, 0, 8, 16))
    off = [distance(as_image(encoded(DecodedImage(red_line), "jpeg", quality)), red_line) for quality in (89, 90)]
    assert off[0] > 100 > off[1]


def test_what_was_written_is_closed_where_writing_fails() -> None:
    made: list[Blob] = []

    class Full(Blob):
        closed = False

        def write(self, data: bytes | memoryview) -> None:
            raise UserError("full")

        def close(self) -> None:
            self.closed = True

    def new_blob() -> Blob:
        made.append(Full())
        return made[-1]

    with pytest.raises(UserError, match="full"):
        encode(DecodedImage(gradient()), "png", 100, new_blob)
    assert [cast(Full, blob).closed for blob in made] == [True]


# Errors, and blobs as files


@pytest.mark.parametrize("cause", DECODE_ERRORS)
def test_damage_is_blamed(cause: type[BaseException]) -> None:
    with pytest.raises(ImageUnavailable) as caught, raising(unreadable_result()):
        raise cause("inside")
    assert caught.value.detail == f"{cause.__name__}: inside"
    assert (caught.value.status, caught.value.code) == (500, "image_unreadable")


def test_nothing_else_is_blamed() -> None:
    with pytest.raises(KeyError), raising(unreadable_result()):
        raise KeyError
    with raising(unreadable_result()):
        pass


def test_a_bad_input_has_the_official_words() -> None:
    error: ApiError = unreadable_input(1)
    assert error.body["error"] == {
        "message": "Invalid image file or mode for image 2, please check your image file.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "invalid_image_file",
    }


@dataclass(frozen=True)
class Read:
    what: str
    act: Callable[[io.RawIOBase], object]
    wanted: object


READS = (
    Read("all", lambda file: file.read(), b"0123456789"),
    Read("some", lambda file: (file.read(3), file.read(3)), (b"012", b"345")),
    Read("more than there is", lambda file: file.read(1 << 62), b"0123456789"),
    Read("from a place", lambda file: (file.seek(4), file.read(2), file.tell()), (4, b"45", 6)),
    Read("from where it is", lambda file: (file.read(2), file.seek(2, 1), file.read(1)), (b"01", 4, b"4")),
    Read("from the end", lambda file: (file.seek(-2, 2), file.read()), (8, b"89")),
    Read("behind the end", lambda file: (file.seek(1 << 70), file.read(), file.read(1)), (1 << 70, b"", b"")),
)


@pytest.mark.parametrize("in_memory", [0, 100], ids=["file", "memory"])
@pytest.mark.parametrize("case", READS, ids=lambda case: case.what)
def test_a_blob_read_as_a_file(case: Read, in_memory: int) -> None:
    with Blob(in_memory=in_memory) as blob:
        blob.write(b"0123456789")
        assert case.act(BlobReader(blob)) == case.wanted


def test_no_place_before_the_start() -> None:
    with pytest.raises(ValueError, match="before the start"):
        BlobReader(as_blob(b"0123")).seek(-5, 2)


def test_a_blob_written_as_a_file() -> None:
    blob = Blob()
    assert BlobWriter(blob).write(memoryview(b"0123")) == 4
    assert as_bytes(blob) == b"0123"
