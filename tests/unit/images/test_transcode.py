"""Results become what clients request and inputs what upstreams accept, without blocking the event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from PIL import Image

from app.errors import ApiError, ImageUnavailable, UserError
from app.images.blob import Blob
from app.images.transcode import PreparedInput, Transcoder
from tests.support.sample_images import SRGB, as_blob, as_bytes, as_image, exif, gradient, noise, png, saved

T = TypeVar("T")

PNG, JPEG, WEBP = (saved(gradient(), name) for name in ("PNG", "JPEG", "WEBP"))
MPO = saved(gradient(), "MPO", save_all=True, append_images=[gradient()])
MANY: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (24, 16))]}
DEEP = png((8, 8), 16, 2, bytes(48))


def transcode(work: Callable[[Transcoder], Coroutine[Any, Any, T]], **options: Any) -> T:
    async def main() -> T:
        transcoder = Transcoder(**options)
        try:
            return await work(transcoder)
        finally:
            transcoder.close()

    return asyncio.run(main())


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
    Same("animated", saved(gradient(), "PNG", **MANY), {"image_format": "png"}),
)


@pytest.mark.parametrize("case", SAME, ids=lambda case: case.name)
def test_a_result_that_needs_no_change_is_the_same_blob(case: Same) -> None:
    blob = as_blob(case.data)
    assert transcode(lambda transcoder: transcoder.convert(blob, **case.options)) is blob
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
    made = transcode(lambda transcoder: transcoder.convert(blob, **case.options))
    assert made is not blob
    image = as_image(made)
    assert (image.format, image.mode, image.size) == case.expected
    assert as_bytes(blob) == case.data


def test_a_png_with_its_orientation_after_its_pixels_is_rotated_before_it_is_scaled() -> None:
    data = saved(gradient(), "PNG")
    rotated = saved(gradient(), "PNG", exif=exif(6))
    start = rotated.index(b"eXIf") - 4
    late = rotated[start : rotated.index(b"IDAT") - 4]
    data = data[:-12] + late + data[-12:]
    made = transcode(lambda transcoder: transcoder.convert(as_blob(data), size=(12, 12)))
    assert as_image(made).size == (5, 8)


def test_compression_is_the_quality() -> None:
    blob = as_blob(saved(noise((32, 32)), "PNG"))

    async def sizes(transcoder: Transcoder) -> list[int]:
        levels = (0, 40, 90, 100, None)
        return [(await transcoder.convert(blob, image_format="jpeg", compression=level)).size for level in levels]

    made = transcode(sizes)
    assert made == sorted(made)
    assert made[3] == made[4]


def test_metadata_is_preserved() -> None:
    blob = as_blob(saved(gradient(), "JPEG", icc_profile=SRGB, exif=exif(3, software="generator")))
    made = as_image(transcode(lambda transcoder: transcoder.convert(blob, image_format="webp")))
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
        transcode(lambda transcoder: transcoder.convert(as_blob(data), **options))
    assert caught.value.code == "image_unreadable"
    assert caught.value.detail


def test_a_decompression_bomb_is_not_decoded() -> None:
    with pytest.raises(ImageUnavailable) as caught:
        transcode(lambda transcoder: transcoder.convert(as_blob(PNG), image_format="jpeg"), max_pixels=383)
    assert caught.value.detail == "DecompressionBombError: 24x16 is more than 383 pixels"


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
    prepared = transcode(lambda transcoder: transcoder.prepare(blob, **case.options))
    assert prepared == PreparedInput(blob, as_image(blob).size, None)
    assert prepared.blob is blob


@dataclass(frozen=True)
class Prepared:
    name: str
    data: bytes
    expected: tuple[str, str, tuple[int, int]]
    shrunk: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


SQUARE = saved(noise((64, 64)), "PNG")
STORED = saved(Image.new("RGB", (64, 64), "red"), "PNG", compress_level=0)

PREPARED = (
    Prepared("rotated", saved(gradient(), "JPEG", exif=exif(6)), ("JPEG", "RGB", (16, 24))),
    Prepared("rotated, PNG", saved(gradient(), "PNG", exif=exif(8)), ("PNG", "RGB", (16, 24))),
    Prepared("mirrored, WebP", saved(gradient(), "WEBP", exif=exif(2)), ("WEBP", "RGB", (24, 16))),
    Prepared("GIF", saved(gradient("P"), "GIF"), ("PNG", "RGB", (24, 16))),
    Prepared("BMP", saved(gradient(), "BMP"), ("PNG", "RGB", (24, 16))),
    Prepared("TIFF", saved(gradient("RGBA"), "TIFF"), ("PNG", "RGBA", (24, 16))),
    Prepared("AVIF", saved(gradient(), "AVIF"), ("PNG", "RGB", (24, 16))),
    Prepared("MPO", MPO, ("JPEG", "RGB", (24, 16))),
    Prepared("CMYK", saved(gradient("CMYK"), "JPEG"), ("JPEG", "RGB", (24, 16))),
    Prepared("16-bit colors", DEEP, ("PNG", "RGB", (8, 8))),
    Prepared("16-bit grayscale", saved(Image.new("I;16", (8, 8), 999), "PNG"), ("PNG", "L", (8, 8))),
    Prepared("animated PNG", saved(gradient(), "PNG", **MANY), ("PNG", "RGB", (24, 16))),
    Prepared("animated WebP", saved(gradient(), "WEBP", **MANY), ("WEBP", "RGB", (24, 16))),
    Prepared("too wide", PNG, ("PNG", "RGB", (12, 8)), "image[0] 24x16->12x8", {"max_edge": 12}),
    Prepared("too wide, JPEG", JPEG, ("JPEG", "RGB", (6, 4)), "image[2] 24x16->6x4", {"max_edge": 6, "index": 2}),
    Prepared(
        "too wide, GIF", saved(gradient("P"), "GIF"), ("PNG", "RGB", (12, 8)), "image[0] 24x16->12x8", {"max_edge": 12}
    ),
    Prepared(
        "rotated and too high",
        saved(gradient(), "JPEG", exif=exif(6)),
        ("JPEG", "RGB", (8, 12)),
        "image[0] 16x24->8x12",
        {"max_edge": 12},
    ),
    Prepared(
        "alpha is preserved",
        saved(gradient("RGBA"), "PNG"),
        ("PNG", "RGBA", (12, 8)),
        "image[0] 24x16->12x8",
        {"max_edge": 12},
    ),
    Prepared("badly compressed", STORED, ("PNG", "RGB", (64, 64)), "image[0] 64x64->64x64", {"max_bytes": 1000}),
    Prepared(
        "a mask gets the size of its image",
        saved(gradient("RGBA"), "PNG"),
        ("PNG", "RGBA", (10, 9)),
        "image[0] 24x16->10x9",
        {"size": (10, 9), "max_edge": 5, "max_bytes": 1},
    ),
)


@pytest.mark.parametrize("case", PREPARED, ids=lambda case: case.name)
def test_an_input_is_prepared(case: Prepared) -> None:
    blob = as_blob(case.data)
    prepared = transcode(lambda transcoder: transcoder.prepare(blob, **case.options))
    image = as_image(prepared.blob)
    assert (image.format, image.mode, image.size) == case.expected
    assert (prepared.size, prepared.shrunk) == (image.size, case.shrunk)
    assert image.getexif().get(0x0112, 1) == 1
    assert not getattr(image, "is_animated", False)
    assert as_bytes(blob) == case.data


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_input_is_made_smaller_until_its_bytes_fit(image_format: str) -> None:
    blob = as_blob(saved(noise((64, 64)), image_format))
    made: list[WatchedBlob] = []
    prepared = transcode(lambda transcoder: transcoder.prepare(blob, max_bytes=700), new_blob=collecting(made))
    assert 300 < prepared.blob.size <= 700
    assert as_image(prepared.blob).size == prepared.size
    assert prepared.shrunk == "image[0] 64x64->{}x{}".format(*prepared.size)
    assert [blob.size for blob in made if not blob.closed.is_set()] == [prepared.blob.size]


def test_an_input_is_never_smaller_than_a_pixel() -> None:
    prepared = transcode(lambda transcoder: transcoder.prepare(as_blob(PNG), max_bytes=1))
    assert prepared.size == (1, 1)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", PNG[:-30], JPEG[:-30], WEBP[:-30]])
def test_a_damaged_input_is_an_error(data: bytes) -> None:
    with pytest.raises(UserError, match="Invalid image file or mode for image 3,") as caught:
        transcode(lambda transcoder: transcoder.prepare(as_blob(data), index=2))
    assert caught.value.code == "invalid_image_file"


# Masks


def test_masks_are_checked_and_applied() -> None:
    mask, image, other = (as_blob(data) for data in (saved(gradient("RGBA"), "PNG"), PNG, JPEG))

    async def check_and_apply(transcoder: Transcoder) -> Blob:
        await transcoder.check_mask(mask, image)
        with pytest.raises(UserError, match="alpha"):
            await transcoder.check_mask(image, image)
        return await transcoder.apply_mask(other, image, mask)

    assert as_image(transcode(check_and_apply)).size == (24, 16)


# The threads


class WatchedBlob(Blob):
    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()
        super().close()


def collecting(made: list[WatchedBlob]) -> Callable[[], Blob]:
    def new_blob() -> Blob:
        made.append(WatchedBlob())
        return made[-1]

    return new_blob


class Gate:
    """Blocks conversions when they begin to write, until `open` is set.

    The test sets it in the event loop, which therefore must not be blocked. `max_running` is the largest number of
    conversions at the same time.
    """

    def __init__(self) -> None:
        self.open = threading.Event()
        self.made: list[WatchedBlob] = []
        self.max_running = 0
        self._running = 0
        self._entered = threading.Semaphore(0)
        self._lock = threading.Lock()

    def new_blob(self) -> Blob:
        blob = WatchedBlob()
        with self._lock:
            self.made.append(blob)
            self._running += 1
            self.max_running = max(self.max_running, self._running)
        self._entered.release()
        assert self.open.wait(30), "the event loop was blocked"
        with self._lock:
            self._running -= 1
        return blob

    async def entered(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self._entered.acquire, timeout=30)


def test_conversions_do_not_block_the_event_loop_and_their_number_is_limited() -> None:
    gate = Gate()

    async def many(transcoder: Transcoder) -> list[Blob]:
        blobs = [as_blob(PNG) for _ in range(6)]
        tasks = [asyncio.create_task(transcoder.convert(blob, image_format="jpeg")) for blob in blobs]
        await gate.entered(2)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        gate.open.set()
        return await asyncio.gather(*tasks)

    made = transcode(many, new_blob=gate.new_blob)
    assert (len(made), gate.max_running) == (6, 2)


def test_a_waiting_conversion_is_cancelled_at_once_and_a_running_one_at_its_end() -> None:
    gate = Gate()

    async def cancel(transcoder: Transcoder) -> None:
        running, waiting = (
            asyncio.create_task(transcoder.convert(as_blob(data), image_format="jpeg")) for data in (PNG, WEBP)
        )
        await gate.entered(1)
        waiting.cancel()
        running.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert not running.done()
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    transcode(cancel, workers=1, new_blob=gate.new_blob)
    assert [blob.closed.is_set() for blob in gate.made] == [True]


def test_the_blob_of_a_conversion_that_is_cancelled_twice_is_closed() -> None:
    gate = Gate()

    async def cancel(transcoder: Transcoder) -> None:
        running = asyncio.create_task(transcoder.convert(as_blob(PNG), image_format="jpeg"))
        await gate.entered(1)
        for _ in range(2):
            running.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({running})
        assert running.cancelled()
        gate.open.set()
        assert await asyncio.to_thread(gate.made[0].closed.wait, 30)

    transcode(cancel, new_blob=gate.new_blob)


def test_an_error_after_cancellation_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    def fail() -> Blob:
        gate.new_blob()
        raise UserError("full")

    async def cancel(transcoder: Transcoder) -> None:
        running = asyncio.create_task(transcoder.convert(as_blob(PNG), image_format="jpeg"))
        await gate.entered(1)
        running.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    transcode(cancel, new_blob=fail)
    assert not caplog.records


def test_an_error_keeps_no_pixels_in_memory() -> None:
    """Its traceback has frames of the caller only, none of the work and none of Pillow."""

    async def fail(transcoder: Transcoder) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await transcoder.convert(as_blob(PNG[:60]), image_format="jpeg")
        return caught.value

    error = transcode(fail)
    frames, entry = [], error.__traceback__
    while entry is not None:
        frames.append(entry.tb_frame.f_code.co_name)
        entry = entry.tb_next
    assert frames == ["fail", "convert", "_run"]
    assert (error.__context__, error.__cause__) == (None, None)


def test_an_unexpected_exception_keeps_its_traceback() -> None:
    def broken() -> Blob:
        raise KeyError

    with pytest.raises(KeyError) as caught:
        transcode(lambda transcoder: transcoder.convert(as_blob(PNG), image_format="jpeg"), new_blob=broken)
    assert caught.traceback[-1].name == "broken"


def test_closing_ends_the_threads() -> None:
    transcoder = Transcoder()
    before = {thread for thread in threading.enumerate() if thread.name.startswith("transcode")}
    asyncio.run(transcoder.convert(as_blob(PNG), image_format="jpeg"))
    transcoder.close()
    assert {thread for thread in threading.enumerate() if thread.name.startswith("transcode")} <= before
