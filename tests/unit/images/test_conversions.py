"""Results become what clients request and inputs what upstreams accept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from app.errors import ImageUnavailable, UserError
from app.images.blob import Blob
from app.images.codec import TooComplexError
from app.images.conversions import InputOptions, Prepared, ResultOptions, convert, prepare
from app.images.decode_cost import Cost, DecodeLimits, NotGranted
from app.images.input_limits import InputLimits
from app.protocol.size_fit import SizeMode
from tests.support.sample_images import SRGB, as_blob, as_bytes, as_image, exif, gradient, noise, png, saved

LIMITS = DecodeLimits(1 << 16)

PNG, JPEG, WEBP = (saved(gradient(), name) for name in ("PNG", "JPEG", "WEBP"))
MPO = saved(gradient(), "MPO", save_all=True, append_images=[gradient()])
MANY: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (24, 16))]}
DEEP = png((8, 8), 16, 2, bytes(48))


def converted(blob: Blob, limits: DecodeLimits = LIMITS, **options: Any) -> Blob | None:
    return convert(blob, ResultOptions(**options), limits, Blob)


def prepared(
    blob: Blob,
    *,
    index: int = 0,
    max_bytes: int | None = 1 << 20,
    max_edge: int | None = 4096,
    size: tuple[int, int] | None = None,
    new_sink: Callable[[], Blob] = Blob,
    limits: DecodeLimits = LIMITS,
) -> Prepared[Blob]:
    within = InputLimits(max_bytes, max_edge) if size is None else InputLimits(None, None)
    return prepare(blob, InputOptions(index, within, size), limits, new_sink)


# Results


@dataclass(frozen=True)
class Same:
    """A result that is not changed."""

    name: str
    data: bytes
    options: dict[str, Any]


SAME = (
    Same("no options", PNG, {}),
    Same("PNG has its format", PNG, {"image_format": "png"}),
    Same("JPEG has its format", JPEG, {"image_format": "jpeg"}),
    Same("WebP has its format", WEBP, {"image_format": "webp"}),
    Same("MPO is JPEG too", MPO, {"image_format": "jpeg"}),
    Same("a format that cannot be written, and no option", saved(gradient(), "GIF"), {}),
    Same("PNG has no compression", PNG, {"image_format": "png", "compression": 50}),
    Same("100 is the default", JPEG, {"image_format": "jpeg", "compression": 100}),
    Same("just as large", PNG, {"size": (24, 16)}),
    Same("smaller already", PNG, {"size": (512, 512)}),
    Same("just as large after rotation", saved(gradient(), "JPEG", exif=exif(6)), {"size": (16, 24)}),
    Same("exactly as large", PNG, {"size": (24, 16), "mode": SizeMode.COVER}),
    Same(
        "exactly as large upside down",
        saved(gradient(), "JPEG", exif=exif(3)),
        {"size": (24, 16), "mode": SizeMode.CONTAIN},
    ),
    Same("animated", saved(gradient(), "PNG", **MANY), {"image_format": "png"}),
)


@pytest.mark.parametrize("case", SAME, ids=lambda case: case.name)
def test_a_result_that_needs_no_change_is_the_same_blob(case: Same) -> None:
    blob = as_blob(case.data)
    assert converted(blob, **case.options) is None
    assert as_bytes(blob) == case.data


@dataclass(frozen=True)
class Converted:
    name: str
    data: bytes
    options: dict[str, Any]
    expected: tuple[str, str, tuple[int, int]]


CONVERTED = (
    Converted("PNG to JPEG", PNG, {"image_format": "jpeg"}, ("JPEG", "RGB", (24, 16))),
    Converted("PNG to WebP", PNG, {"image_format": "webp"}, ("WEBP", "RGB", (24, 16))),
    Converted("JPEG to PNG", JPEG, {"image_format": "png"}, ("PNG", "RGB", (24, 16))),
    Converted("WebP to JPEG", WEBP, {"image_format": "jpeg"}, ("JPEG", "RGB", (24, 16))),
    Converted("GIF to PNG", saved(gradient("P"), "GIF"), {"image_format": "png"}, ("PNG", "RGB", (24, 16))),
    Converted("MPO to PNG", MPO, {"image_format": "png"}, ("PNG", "RGB", (24, 16))),
    Converted("alpha to JPEG", saved(gradient("RGBA"), "PNG"), {"image_format": "jpeg"}, ("JPEG", "RGB", (24, 16))),
    Converted("alpha to WebP", saved(gradient("RGBA"), "PNG"), {"image_format": "webp"}, ("WEBP", "RGBA", (24, 16))),
    Converted("compressed", JPEG, {"compression": 50}, ("JPEG", "RGB", (24, 16))),
    Converted(
        "compressed as much as possible", WEBP, {"image_format": "webp", "compression": 0}, ("WEBP", "RGB", (24, 16))
    ),
    Converted("scaled down", PNG, {"size": (12, 8)}, ("PNG", "RGB", (12, 8))),
    Converted("scaled to fit, in its shape", PNG, {"size": (12, 12)}, ("PNG", "RGB", (12, 8))),
    Converted("scaled to fit a wide box", PNG, {"size": (100, 2)}, ("PNG", "RGB", (3, 2))),
    Converted(
        "scaled to a height of one pixel",
        saved(gradient(size=(64, 2)), "PNG"),
        {"size": (8, 8)},
        ("PNG", "RGB", (8, 1)),
    ),
    Converted(
        "a JPEG scaled far down", saved(gradient(size=(64, 64)), "JPEG"), {"size": (4, 4)}, ("JPEG", "RGB", (4, 4))
    ),
    Converted("scaled and converted", PNG, {"size": (12, 12), "image_format": "jpeg"}, ("JPEG", "RGB", (12, 8))),
    Converted("a GIF scaled becomes PNG", saved(gradient("P"), "GIF"), {"size": (12, 8)}, ("PNG", "RGB", (12, 8))),
    Converted("rotated and scaled", saved(gradient(), "JPEG", exif=exif(6)), {"size": (8, 8)}, ("JPEG", "RGB", (5, 8))),
)


@pytest.mark.parametrize("case", CONVERTED, ids=lambda case: case.name)
def test_a_result_is_converted(case: Converted) -> None:
    blob = as_blob(case.data)
    made = converted(blob, **case.options)
    assert made is not None
    image = as_image(made)
    assert (image.format, image.mode, image.size) == case.expected
    assert as_bytes(blob) == case.data


def test_a_png_with_its_orientation_after_its_pixels_is_rotated_before_it_is_scaled() -> None:
    data = saved(gradient(), "PNG")
    rotated = saved(gradient(), "PNG", exif=exif(6))
    start = rotated.index(b"eXIf") - 4
    late = rotated[start : rotated.index(b"IDAT") - 4]
    data = data[:-12] + late + data[-12:]
    made = converted(as_blob(data), size=(12, 12))
    assert made is not None
    assert as_image(made).size == (5, 8)


@dataclass(frozen=True)
class Exact:
    """A result that gets exactly 12x12 pixels, or another size; `corner` and `middle` are its colors there."""

    name: str
    data: bytes
    options: dict[str, Any]
    expected: tuple[str, str, tuple[int, int]]
    corner: tuple[int, ...] | int
    middle: tuple[int, ...] | int


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
#: Red, with a blue square of 16 pixels in the middle, 32 wide and 16 high.
BANNER = Image.new("RGB", (32, 16), RED)
BANNER.paste(BLUE, (8, 0, 24, 16))
FLAG = saved(BANNER, "PNG")
#: The same, twice as wide, with a square of 40 pixels.
WIDER = Image.new("RGB", (64, 16), RED)
WIDER.paste(BLUE, (12, 0, 52, 16))
WIDE = saved(WIDER, "PNG")
CLEAR = saved(Image.merge("RGBA", (*BANNER.split(), Image.new("L", BANNER.size, 255))), "PNG")
GRAY = saved(Image.new("L", (32, 16), 7), "PNG")
COVER, CONTAIN = {"mode": SizeMode.COVER}, {"mode": SizeMode.CONTAIN}
EXACT = (
    Exact("cropped around the middle without scaling", FLAG, {"size": (16, 16), **COVER}, ("PNG", "RGB", (16, 16)), BLUE, BLUE),
    Exact("cropped by as much as the ratio needs", FLAG, {"size": (24, 16), **COVER}, ("PNG", "RGB", (24, 16)), RED, BLUE),
    Exact("scaled and cropped", WIDE, {"size": (8, 8), **COVER}, ("PNG", "RGB", (8, 8)), BLUE, BLUE),
    Exact("enlarged", FLAG, {"size": (200, 100), **COVER}, ("PNG", "RGB", (200, 100)), RED, BLUE),
    Exact("in another format", WIDE, {"size": (64, 64), "image_format": "webp", "compression": 100, **COVER}, ("WEBP", "RGB", (64, 64)), BLUE, BLUE),
    Exact("padded with white", FLAG, {"size": (32, 32), **CONTAIN}, ("PNG", "RGB", (32, 32)), WHITE, BLUE),
    Exact("scaled and padded at the sides", FLAG, {"size": (32, 8), **CONTAIN}, ("PNG", "RGB", (32, 8)), WHITE, BLUE),
    Exact("as transparent as the image", CLEAR, {"size": (32, 32), **CONTAIN}, ("PNG", "RGBA", (32, 32)), (*WHITE, 0), (*BLUE, 255)),
    Exact("transparent as requested", FLAG, {"size": (32, 32), "transparent": True, **CONTAIN}, ("PNG", "RGBA", (32, 32)), (*WHITE, 0), (*BLUE, 255)),
    Exact("gray is padded with white", GRAY, {"size": (32, 32), **CONTAIN}, ("PNG", "L", (32, 32)), 255, 7),
    Exact("gray with transparent padding", GRAY, {"size": (32, 32), "transparent": True, **CONTAIN}, ("PNG", "LA", (32, 32)), (255, 0), (7, 255)),
    Exact("JPEG has no transparency", CLEAR, {"size": (32, 32), "image_format": "jpeg", **CONTAIN}, ("JPEG", "RGB", (32, 32)), WHITE, BLUE),
    Exact("contained in its own ratio", FLAG, {"size": (16, 8), **CONTAIN}, ("PNG", "RGB", (16, 8)), RED, BLUE),
    Exact("the upright image, although the file has the size", saved(BANNER, "PNG", exif=exif(6)), {"size": (32, 16), **COVER}, ("PNG", "RGB", (32, 16)), BLUE, BLUE),
    Exact("a file that has the size once it is upright", saved(BANNER, "PNG", exif=exif(6)), {"size": (16, 32), **COVER}, ("PNG", "RGB", (16, 32)), RED, BLUE),
)  # fmt: skip


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_a_result_gets_an_exact_size(case: Exact) -> None:
    made = converted(as_blob(case.data), **case.options)
    assert made is not None
    image = as_image(made)
    assert (image.format, image.mode, image.size) == case.expected
    for pixel, expected in ((0, 0), case.corner), ((image.width // 2, image.height // 2), case.middle):
        found = image.getpixel(pixel)
        found = found if isinstance(found, tuple) else (int(found or 0),)
        bands = expected if isinstance(expected, tuple) else (expected,)
        assert len(found) == len(bands)
        assert all(abs(one - other) <= 6 for one, other in zip(found, bands, strict=True)), (found, bands)


def test_compression_is_the_quality() -> None:
    blob = as_blob(saved(noise((32, 32)), "PNG"))
    results = [converted(blob, image_format="jpeg", compression=level) for level in (0, 40, 90, 100, None)]
    made = [result.size for result in results if result is not None]
    assert made == sorted(made)
    assert made[3] == made[4]


def test_metadata_is_preserved() -> None:
    blob = as_blob(saved(gradient(), "JPEG", icc_profile=SRGB, exif=exif(3, software="generator")))
    result = converted(blob, image_format="webp")
    assert result is not None
    made = as_image(result)
    assert made.info["icc_profile"] == SRGB
    assert dict(made.getexif()) == {0x0112: 1, 0x0131: "generator"}


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"no image", {}),
        (PNG[:60], {"image_format": "jpeg"}),
        (saved(Image.new("1", (16384, 1)), "PNG"), {"image_format": "webp"}),
    ],
    ids=["not an image", "truncated", "wider than the format permits"],
)
def test_a_result_that_cannot_be_converted_is_an_error(data: bytes, options: dict[str, Any]) -> None:
    with pytest.raises(ImageUnavailable) as caught:
        converted(as_blob(data), **options)
    assert caught.value.code == "image_unreadable"
    assert caught.value.detail


def test_a_decompression_bomb_is_not_decoded() -> None:
    with pytest.raises(TooComplexError, match="24x16 is more than 383 pixels"):
        converted(as_blob(PNG), DecodeLimits(383), image_format="jpeg")


# Inputs


@dataclass(frozen=True)
class Untouched:
    name: str
    data: bytes
    options: dict[str, Any] = field(default_factory=dict)


UNTOUCHED = (
    Untouched("PNG", PNG),
    Untouched("JPEG", JPEG),
    Untouched("WebP", WEBP),
    Untouched("RGBA", saved(gradient("RGBA"), "PNG")),
    Untouched("grayscale", saved(gradient("L"), "JPEG")),
    Untouched("grayscale with alpha", saved(gradient("LA"), "PNG")),
    Untouched("black and white", saved(gradient("1"), "PNG")),
    Untouched("a palette", saved(gradient().quantize(9), "PNG")),
    Untouched("upright by EXIF", saved(gradient(), "JPEG", exif=exif(1))),
    Untouched("as large as permitted", PNG, {"max_edge": 24, "max_bytes": len(PNG)}),
    Untouched("no limits", PNG, {"max_edge": None, "max_bytes": None}),
    Untouched("a mask of the right size", PNG, {"size": (24, 16), "max_bytes": 1, "max_edge": 1}),
    Untouched("a video after a phone's JPEG", JPEG + bytes(100)),
    Untouched("other data after a PNG", PNG + bytes(100)),
    Untouched("a PNG without its end but with all pixels", PNG[:-12]),
)


@pytest.mark.parametrize("case", UNTOUCHED, ids=lambda case: case.name)
def test_an_input_that_upstreams_accept_is_not_changed(case: Untouched) -> None:
    blob = as_blob(case.data)
    assert prepared(blob, **case.options) == Prepared(None, as_image(blob).size, None)


@dataclass(frozen=True)
class PreparedCase:
    name: str
    data: bytes
    expected: tuple[str, str, tuple[int, int]]
    shrunk: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


SQUARE = saved(noise((64, 64)), "PNG")
STORED = saved(Image.new("RGB", (64, 64), "red"), "PNG", compress_level=0)

PREPARED = (
    PreparedCase("rotated", saved(gradient(), "JPEG", exif=exif(6)), ("JPEG", "RGB", (16, 24))),
    PreparedCase("rotated, PNG", saved(gradient(), "PNG", exif=exif(8)), ("PNG", "RGB", (16, 24))),
    PreparedCase("mirrored, WebP", saved(gradient(), "WEBP", exif=exif(2)), ("WEBP", "RGB", (24, 16))),
    PreparedCase("GIF", saved(gradient("P"), "GIF"), ("PNG", "RGB", (24, 16))),
    PreparedCase("BMP", saved(gradient(), "BMP"), ("PNG", "RGB", (24, 16))),
    PreparedCase("TIFF", saved(gradient("RGBA"), "TIFF"), ("PNG", "RGBA", (24, 16))),
    PreparedCase("AVIF", saved(gradient(), "AVIF"), ("PNG", "RGB", (24, 16))),
    PreparedCase("MPO", MPO, ("JPEG", "RGB", (24, 16))),
    PreparedCase("CMYK", saved(gradient("CMYK"), "JPEG"), ("JPEG", "RGB", (24, 16))),
    PreparedCase("16-bit colors", DEEP, ("PNG", "RGB", (8, 8))),
    PreparedCase("16-bit grayscale", saved(Image.new("I;16", (8, 8), 999), "PNG"), ("PNG", "L", (8, 8))),
    PreparedCase("animated PNG", saved(gradient(), "PNG", **MANY), ("PNG", "RGB", (24, 16))),
    PreparedCase("animated WebP", saved(gradient(), "WEBP", **MANY), ("WEBP", "RGB", (24, 16))),
    PreparedCase("too wide", PNG, ("PNG", "RGB", (12, 8)), "image[0] 24x16->12x8", {"max_edge": 12}),
    PreparedCase("too wide, JPEG", JPEG, ("JPEG", "RGB", (6, 4)), "image[2] 24x16->6x4", {"max_edge": 6, "index": 2}),
    PreparedCase(
        "too wide, GIF", saved(gradient("P"), "GIF"), ("PNG", "RGB", (12, 8)), "image[0] 24x16->12x8", {"max_edge": 12}
    ),
    PreparedCase(
        "rotated and too high",
        saved(gradient(), "JPEG", exif=exif(6)),
        ("JPEG", "RGB", (8, 12)),
        "image[0] 16x24->8x12",
        {"max_edge": 12},
    ),
    PreparedCase(
        "alpha is preserved",
        saved(gradient("RGBA"), "PNG"),
        ("PNG", "RGBA", (12, 8)),
        "image[0] 24x16->12x8",
        {"max_edge": 12},
    ),
    PreparedCase(
        "too many bytes, opaque", STORED, ("JPEG", "RGB", (64, 64)), "image[0] 64x64->64x64", {"max_bytes": 3000}
    ),
    PreparedCase(
        "too many bytes, with alpha that is nowhere transparent",
        saved(Image.new("RGBA", (64, 64), "red"), "PNG", compress_level=0),
        ("JPEG", "RGB", (64, 64)),
        "image[0] 64x64->64x64",
        {"max_bytes": 3000},
    ),
    PreparedCase(
        "too many bytes, transparent",
        saved(Image.new("RGBA", (64, 64), (9, 9, 9, 9)), "PNG", compress_level=0),
        ("PNG", "RGBA", (64, 64)),
        "image[0] 64x64->64x64",
        {"max_bytes": 3000},
    ),
    PreparedCase(
        "a mask gets the size of its image",
        saved(gradient("RGBA"), "PNG"),
        ("PNG", "RGBA", (10, 9)),
        "image[0] 24x16->10x9",
        {"size": (10, 9), "max_edge": 5, "max_bytes": 1},
    ),
)


@pytest.mark.parametrize("case", PREPARED, ids=lambda case: case.name)
def test_an_input_is_prepared(case: PreparedCase) -> None:
    blob = as_blob(case.data)
    made = prepared(blob, **case.options)
    assert made.sink is not None
    image = as_image(made.sink)
    assert (image.format, image.mode, image.size) == case.expected
    assert (made.size, made.shrunk) == (image.size, case.shrunk)
    assert image.getexif().get(0x0112, 1) == 1
    assert not getattr(image, "is_animated", False)
    assert as_bytes(blob) == case.data


class WatchedBlob(Blob):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True
        super().close()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_input_is_made_smaller_until_its_bytes_fit(image_format: str) -> None:
    blob = as_blob(saved(noise((64, 64)), image_format))
    attempts: list[WatchedBlob] = []

    def new_sink() -> Blob:
        attempts.append(WatchedBlob())
        return attempts[-1]

    made = prepared(blob, max_bytes=700, new_sink=new_sink)
    assert made.sink is not None
    assert 300 < made.sink.size <= 700
    assert as_image(made.sink).size == made.size
    assert made.shrunk == "image[0] 64x64->{}x{}".format(*made.size)
    assert [attempt.size for attempt in attempts if not attempt.is_closed] == [made.sink.size]


def test_an_input_is_never_smaller_than_a_pixel() -> None:
    assert prepared(as_blob(PNG), max_bytes=1).size == (1, 1)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", PNG[:-30], JPEG[:-30], WEBP[:-30]])
def test_a_damaged_input_is_an_error(data: bytes) -> None:
    with pytest.raises(UserError, match="Invalid image file or mode for image 3,") as caught:
        prepared(as_blob(data), index=2)
    assert caught.value.code == "invalid_image_file"


# Limits


def test_what_needs_more_memory_than_was_granted_is_not_begun() -> None:
    limits = DecodeLimits(1 << 16, granted=1)
    needed = []
    for work in (
        lambda: converted(as_blob(PNG), limits, image_format="jpeg"),
        lambda: prepared(as_blob(PNG), limits=limits),
    ):
        with pytest.raises(NotGranted) as caught:
            work()
        needed.append(caught.value.memory)
    assert min(needed) > 1 << 20


def test_the_cost_is_enforced_before_the_header_is_read_and_before_the_pixels_are() -> None:
    enforced: list[Cost] = []
    converted(as_blob(PNG), DecodeLimits(1 << 16, None, enforced.append), image_format="jpeg")
    header, conversion = enforced
    assert header.seconds < conversion.seconds
