"""Results come as the client wants them, inputs as the upstream takes them, and the event loop never waits for it."""

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
    """What nothing is done to."""

    what: str
    data: bytes
    options: dict[str, Any]


SAME = (
    Same("nothing asked", PNG, {}),
    Same("PNG has its format", PNG, {"image_format": "png"}),
    Same("JPEG has its format", JPEG, {"image_format": "jpeg"}),
    Same("WebP has its format", WEBP, {"image_format": "webp"}),
    Same("MPO is JPEG too", MPO, {"image_format": "jpeg"}),
    Same("a format that cannot be written, and none asked", saved(gradient(), "GIF"), {}),
    Same("PNG has no compression", PNG, {"image_format": "png", "compression": 50}),
    Same("100 is the default", JPEG, {"image_format": "jpeg", "compression": 100}),
    Same("just as large", PNG, {"size": (24, 16)}),
    Same("smaller already", PNG, {"size": (512, 512)}),
    Same("shown turned, and as large then", saved(gradient(), "JPEG", exif=exif(6)), {"size": (16, 24)}),
    Same("animated", saved(gradient(), "PNG", **MANY), {"image_format": "png"}),
)


@pytest.mark.parametrize("case", SAME, ids=lambda case: case.what)
def test_the_very_same_blob(case: Same) -> None:
    blob = as_blob(case.data)
    assert transcode(lambda transcoder: transcoder.convert(blob, **case.options)) is blob
    assert as_bytes(blob) == case.data


@dataclass(frozen=True)
class Converted:
    what: str
    data: bytes
    options: dict[str, Any]
    wanted: tuple[str, str, tuple[int, int]]


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
        "compressed as much as can be", WEBP, {"image_format": "webp", "compression": 0}, ("WEBP", "RGB", (24, 16))
    ),
    Converted("scaled down", PNG, {"size": (12, 8)}, ("PNG", "RGB", (12, 8))),
    Converted("scaled to fit, in its shape", PNG, {"size": (12, 12)}, ("PNG", "RGB", (12, 8))),
    Converted("scaled to fit a wide box", PNG, {"size": (100, 2)}, ("PNG", "RGB", (3, 2))),
    Converted("scaled to a point", saved(gradient(size=(64, 2)), "PNG"), {"size": (8, 8)}, ("PNG", "RGB", (8, 1))),
    Converted(
        "a JPEG scaled far down", saved(gradient(size=(64, 64)), "JPEG"), {"size": (4, 4)}, ("JPEG", "RGB", (4, 4))
    ),
    Converted("scaled and converted", PNG, {"size": (12, 12), "image_format": "jpeg"}, ("JPEG", "RGB", (12, 8))),
    Converted("a GIF scaled becomes PNG", saved(gradient("P"), "GIF"), {"size": (12, 8)}, ("PNG", "RGB", (12, 8))),
    Converted("turned and scaled", saved(gradient(), "JPEG", exif=exif(6)), {"size": (8, 8)}, ("JPEG", "RGB", (5, 8))),
)


@pytest.mark.parametrize("case", CONVERTED, ids=lambda case: case.what)
def test_convert(case: Converted) -> None:
    blob = as_blob(case.data)
    made = transcode(lambda transcoder: transcoder.convert(blob, **case.options))
    assert made is not blob
    image = as_image(made)
    assert (image.format, image.mode, image.size) == case.wanted
    assert as_bytes(blob) == case.data


def test_a_turn_that_a_png_tells_behind_its_pixels_comes_before_scaling() -> None:
    data = saved(gradient(), "PNG")
    turned = saved(gradient(), "PNG", exif=exif(6))
    start = turned.index(b"eXIf") - 4
    late = turned[start : turned.index(b"IDAT") - 4]
    data = data[:-12] + late + data[-12:]
    made = transcode(lambda transcoder: transcoder.convert(as_blob(data), size=(12, 12)))
    assert as_image(made).size == (5, 8)


def test_compression_is_quality() -> None:
    blob = as_blob(saved(noise((32, 32)), "PNG"))

    async def sizes(transcoder: Transcoder) -> list[int]:
        levels = (0, 40, 90, 100, None)
        return [(await transcoder.convert(blob, image_format="jpeg", compression=level)).size for level in levels]

    made = transcode(sizes)
    assert made == sorted(made)
    assert made[3] == made[4]


def test_metadata_is_kept() -> None:
    blob = as_blob(saved(gradient(), "JPEG", icc_profile=SRGB, exif=exif(3, software="painter")))
    made = as_image(transcode(lambda transcoder: transcoder.convert(blob, image_format="webp")))
    assert made.info["icc_profile"] == SRGB
    assert dict(made.getexif()) == {0x0112: 1, 0x0131: "painter"}


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"no picture", {}),
        (PNG[:60], {"image_format": "jpeg"}),
        (saved(Image.new("1", (16384, 1)), "PNG"), {"image_format": "webp"}),
    ],
    ids=["not a picture", "cut off", "longer than the format can hold"],
)
def test_a_result_that_cannot_be_converted(data: bytes, options: dict[str, Any]) -> None:
    with pytest.raises(ImageUnavailable) as caught:
        transcode(lambda transcoder: transcoder.convert(as_blob(data), **options))
    assert caught.value.code == "image_unreadable"
    assert caught.value.detail


def test_a_bomb_is_not_decoded() -> None:
    with pytest.raises(ImageUnavailable) as caught:
        transcode(lambda transcoder: transcoder.convert(as_blob(PNG), image_format="jpeg"), max_pixels=383)
    assert caught.value.detail == "DecompressionBombError: 24x16 is more than 383 pixels"


# Inputs


@dataclass(frozen=True)
class Untouched:
    what: str
    data: bytes
    options: dict[str, Any] = field(default_factory=dict)


UNTOUCHED = (
    Untouched("PNG", PNG),
    Untouched("JPEG", JPEG),
    Untouched("WebP", WEBP),
    Untouched("RGBA", saved(gradient("RGBA"), "PNG")),
    Untouched("greys", saved(gradient("L"), "JPEG")),
    Untouched("greys with alpha", saved(gradient("LA"), "PNG")),
    Untouched("black and white", saved(gradient("1"), "PNG")),
    Untouched("a palette", saved(gradient().quantize(9), "PNG")),
    Untouched("upright by EXIF", saved(gradient(), "JPEG", exif=exif(1))),
    Untouched("as large as may be", PNG, {"max_edge": 24, "max_bytes": len(PNG)}),
    Untouched("no limits", PNG, {"max_edge": None, "max_bytes": None}),
    Untouched("a mask of the right size", PNG, {"size": (24, 16), "max_bytes": 1, "max_edge": 1}),
    Untouched("a film behind a phone's JPEG", JPEG + bytes(100)),
    Untouched("something behind a PNG", PNG + bytes(100)),
    Untouched("a PNG that lacks its end but no pixel", PNG[:-12]),
)


@pytest.mark.parametrize("case", UNTOUCHED, ids=lambda case: case.what)
def test_what_can_go_as_it_is_does(case: Untouched) -> None:
    blob = as_blob(case.data)
    prepared = transcode(lambda transcoder: transcoder.prepare(blob, **case.options))
    assert prepared == PreparedInput(blob, as_image(blob).size, None)
    assert prepared.blob is blob


@dataclass(frozen=True)
class Made:
    what: str
    data: bytes
    wanted: tuple[str, str, tuple[int, int]]
    shrunk: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


SQUARE = saved(noise((64, 64)), "PNG")
STORED = saved(Image.new("RGB", (64, 64), "red"), "PNG", compress_level=0)

MADE = (
    Made("turned", saved(gradient(), "JPEG", exif=exif(6)), ("JPEG", "RGB", (16, 24))),
    Made("turned, PNG", saved(gradient(), "PNG", exif=exif(8)), ("PNG", "RGB", (16, 24))),
    Made("mirrored, WebP", saved(gradient(), "WEBP", exif=exif(2)), ("WEBP", "RGB", (24, 16))),
    Made("GIF", saved(gradient("P"), "GIF"), ("PNG", "RGB", (24, 16))),
    Made("BMP", saved(gradient(), "BMP"), ("PNG", "RGB", (24, 16))),
    Made("TIFF", saved(gradient("RGBA"), "TIFF"), ("PNG", "RGBA", (24, 16))),
    Made("AVIF", saved(gradient(), "AVIF"), ("PNG", "RGB", (24, 16))),
    Made("MPO", MPO, ("JPEG", "RGB", (24, 16))),
    Made("CMYK", saved(gradient("CMYK"), "JPEG"), ("JPEG", "RGB", (24, 16))),
    Made("16-bit colours", DEEP, ("PNG", "RGB", (8, 8))),
    Made("16-bit greys", saved(Image.new("I;16", (8, 8), 999), "PNG"), ("PNG", "L", (8, 8))),
    Made("animated PNG", saved(gradient(), "PNG", **MANY), ("PNG", "RGB", (24, 16))),
    Made("animated WebP", saved(gradient(), "WEBP", **MANY), ("WEBP", "RGB", (24, 16))),
    Made("too wide", PNG, ("PNG", "RGB", (12, 8)), "image[0] 24x16->12x8", {"max_edge": 12}),
    Made("too wide, JPEG", JPEG, ("JPEG", "RGB", (6, 4)), "image[2] 24x16->6x4", {"max_edge": 6, "index": 2}),
    Made(
        "too wide, GIF", saved(gradient("P"), "GIF"), ("PNG", "RGB", (12, 8)), "image[0] 24x16->12x8", {"max_edge": 12}
    ),
    Made(
        "turned and too high",
        saved(gradient(), "JPEG", exif=exif(6)),
        ("JPEG", "RGB", (8, 12)),
        "image[0] 16x24->8x12",
        {"max_edge": 12},
    ),
    Made(
        "alpha stays",
        saved(gradient("RGBA"), "PNG"),
        ("PNG", "RGBA", (12, 8)),
        "image[0] 24x16->12x8",
        {"max_edge": 12},
    ),
    Made("badly packed", STORED, ("PNG", "RGB", (64, 64)), "image[0] 64x64->64x64", {"max_bytes": 1000}),
    Made(
        "a mask goes where its picture goes",
        saved(gradient("RGBA"), "PNG"),
        ("PNG", "RGBA", (10, 9)),
        "image[0] 24x16->10x9",
        {"size": (10, 9), "max_edge": 5, "max_bytes": 1},
    ),
)


@pytest.mark.parametrize("case", MADE, ids=lambda case: case.what)
def test_prepare(case: Made) -> None:
    blob = as_blob(case.data)
    prepared = transcode(lambda transcoder: transcoder.prepare(blob, **case.options))
    image = as_image(prepared.blob)
    assert (image.format, image.mode, image.size) == case.wanted
    assert (prepared.size, prepared.shrunk) == (image.size, case.shrunk)
    assert image.getexif().get(0x0112, 1) == 1
    assert not getattr(image, "is_animated", False)
    assert as_bytes(blob) == case.data


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_steps_down_until_the_bytes_fit(format_: str) -> None:
    blob = as_blob(saved(noise((64, 64)), format_))
    made: list[Watched] = []
    prepared = transcode(lambda transcoder: transcoder.prepare(blob, max_bytes=700), new_blob=collecting(made))
    assert 300 < prepared.blob.size <= 700
    assert as_image(prepared.blob).size == prepared.size
    assert prepared.shrunk == "image[0] 64x64->{}x{}".format(*prepared.size)
    assert [blob.size for blob in made if not blob.closed.is_set()] == [prepared.blob.size]


def test_nothing_is_smaller_than_a_pixel() -> None:
    prepared = transcode(lambda transcoder: transcoder.prepare(as_blob(PNG), max_bytes=1))
    assert prepared.size == (1, 1)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", PNG[:-30], JPEG[:-30], WEBP[:-30]])
def test_an_input_that_is_damaged(data: bytes) -> None:
    with pytest.raises(UserError, match="Invalid image file or mode for image 3,") as caught:
        transcode(lambda transcoder: transcoder.prepare(as_blob(data), index=2))
    assert caught.value.code == "invalid_image_file"


# Masks


def test_masks() -> None:
    mask, image, other = (as_blob(data) for data in (saved(gradient("RGBA"), "PNG"), PNG, JPEG))

    async def check_and_restore(transcoder: Transcoder) -> Blob:
        await transcoder.check_mask(mask, image)
        with pytest.raises(UserError, match="alpha"):
            await transcoder.check_mask(image, image)
        return await transcoder.apply_mask(other, image, mask)

    assert as_image(transcode(check_and_restore)).size == (24, 16)


# The pool


class Watched(Blob):
    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()
        super().close()


def collecting(made: list[Watched]) -> Callable[[], Blob]:
    def new_blob() -> Blob:
        made.append(Watched())
        return made[-1]

    return new_blob


class Gate:
    """Holds the work up where it starts to write, until it is opened: from the loop, which has to be free for that."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.made: list[Watched] = []
        self.most = 0
        self._inside = 0
        self._entered = threading.Semaphore(0)
        self._lock = threading.Lock()

    def new_blob(self) -> Blob:
        blob = Watched()
        with self._lock:
            self.made.append(blob)
            self._inside += 1
            self.most = max(self.most, self._inside)
        self._entered.release()
        assert self.open.wait(30), "the event loop was blocked"
        with self._lock:
            self._inside -= 1
        return blob

    async def entered(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self._entered.acquire, timeout=30)


def test_the_loop_runs_on_and_no_more_than_the_workers_work() -> None:
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
    assert (len(made), gate.most) == (6, 2)


def test_a_waiting_picture_is_cancelled_at_once_and_one_under_way_at_its_end() -> None:
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


def test_cancelled_twice_what_is_under_way_is_still_closed() -> None:
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


def test_an_error_after_cancelling_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
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


def test_an_error_holds_no_pixels() -> None:
    """Its frames are those of the caller: none of the work's, nor of Pillow's."""

    async def fail(transcoder: Transcoder) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await transcoder.convert(as_blob(PNG[:60]), image_format="jpeg")
        return caught.value

    error = transcode(fail)
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(at.tb_frame.f_code.co_name)
        at = at.tb_next
    assert frames == ["fail", "convert", "_run"]
    assert (error.__context__, error.__cause__) == (None, None)


def test_a_bug_keeps_its_frames() -> None:
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
