"""Images are converted in decoder processes, within limits, and the errors say what to do."""

import asyncio
import gc
import os
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from PIL import Image

from app.errors import ApiError, ImageUnavailable, ServiceUnavailable, SpoolFull, UserError
from app.images import decoder_pool
from app.images.blob import Blob
from app.images.decoder_pool import DecoderPool
from app.images.input_limits import InputLimits
from app.images.transcode import PreparedInput, Transcoder
from tests.support.decoders import decoders_of, measured_memory, template_of, until
from tests.support.image_bombs import jpeg_with_scans, rotated_palette_png, tiff_with_tile, transparent_palette_png
from tests.support.sample_images import as_blob, as_bytes, as_image, chunk, gradient, saved

T = TypeVar("T")

PNG, JPEG = (saved(gradient(), name) for name in ("PNG", "JPEG"))
MASK = saved(gradient("RGBA"), "PNG")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def shared() -> Iterator[Transcoder]:
    transcoder = Transcoder(decoders=2)
    yield transcoder
    transcoder.close()


@pytest.fixture
def own() -> Iterator[Transcoder]:
    """Return a transcoder whose processes may be harmed."""
    transcoder = Transcoder(decoders=2)
    transcoder.start()
    yield transcoder
    transcoder.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


# Conversions


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("texts", "size"), [(1, 60 << 20), (20, 3 << 20)], ids=["one endless text", "many long texts"])
def test_a_result_is_converted_whatever_text_is_in_it(
    texts: int, size: int, image_format: str, shared: Transcoder
) -> None:
    written = [chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(size))) for number in range(texts)]
    blob = as_blob(PNG[:33] + b"".join(written) + PNG[33:])
    with blob, run(shared.convert(blob, image_format=image_format, size=(12, 12))) as made:
        assert as_image(made).size == (12, 8)


def test_a_result_is_converted(shared: Transcoder) -> None:
    blob = as_blob(PNG)
    made = run(shared.convert(blob, image_format="jpeg", size=(12, 12)))
    assert (as_image(made).format, as_image(made).size) == ("JPEG", (12, 8))
    assert as_bytes(blob) == PNG


def test_a_result_that_needs_no_change_is_the_same_blob(shared: Transcoder) -> None:
    blob = as_blob(PNG)
    assert run(shared.convert(blob, image_format="png")) is blob


def test_an_input_that_upstreams_accept_is_the_same_blob(shared: Transcoder) -> None:
    blob = as_blob(PNG)
    prepared = run(shared.prepare(blob))
    assert prepared == PreparedInput(blob, (24, 16))
    assert prepared.blob is blob


def test_an_input_is_made_smaller(shared: Transcoder) -> None:
    prepared = run(shared.prepare(as_blob(PNG), index=1, limits=InputLimits(None, 12)))
    assert (as_image(prepared.blob).size, prepared.size, prepared.shrunk) == ((12, 8), (12, 8), "image[1] 24x16->12x8")


def test_a_mask_gets_the_exact_size_of_its_image(shared: Transcoder) -> None:
    assert run(shared.prepare(as_blob(MASK), size=(10, 9), limits=InputLimits(1, 5))).size == (10, 9)


def test_masks_are_checked_and_applied(shared: Transcoder) -> None:
    mask, image, other = (as_blob(data) for data in (MASK, PNG, JPEG))

    async def check_and_apply() -> Blob:
        await shared.check_mask(mask, image)
        with pytest.raises(UserError, match="alpha"):
            await shared.check_mask(image, image)
        return await shared.apply_mask(other, image, mask)

    assert as_image(run(check_and_apply())).size == (24, 16)


@pytest.mark.parametrize("edge", [64, 1024], ids=["held in memory", "in files"])
def test_large_and_small_files_are_handed_over(shared: Transcoder, edge: int) -> None:
    noise = Image.effect_noise((edge, edge), 80)
    with as_blob(saved(noise, "PNG")) as blob, run(shared.convert(blob, image_format="webp", compression=100)) as made:
        assert as_image(made).size == (edge, edge)
        assert [file.file_descriptor is None for file in (blob, made)] == [edge == 64] * 2


def test_no_amount_of_detail_is_too_much_for_webp(shared: Transcoder) -> None:
    # The encoder needs ten times as much memory for noise as for a plain image.
    data = saved(Image.merge("RGB", [Image.effect_noise((1920, 1440), 200) for _ in "RGB"]), "PNG", compress_level=0)
    with as_blob(data) as blob, run(shared.convert(blob, image_format="webp", compression=100)) as made:
        assert as_image(made).size == (1920, 1440)


# Errors


def test_a_damaged_result_is_an_error_of_the_server(shared: Transcoder) -> None:
    with pytest.raises(ImageUnavailable) as caught:
        run(shared.convert(as_blob(PNG[:60]), image_format="jpeg"))
    assert (caught.value.code, caught.value.detail) == ("image_unreadable", "OSError: image file is truncated")


def test_a_damaged_input_is_an_error_of_the_client(shared: Transcoder) -> None:
    with pytest.raises(UserError, match="Invalid image file or mode for image 3,") as caught:
        run(shared.prepare(as_blob(PNG[:-30]), index=2))
    assert (caught.value.status, caught.value.code) == (400, "invalid_image_file")


def test_a_full_disk_has_its_own_error(shared: Transcoder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def reply(*_: object) -> dict[str, Any]:
        fields = {"message": "full", "param": None, "code": "spool_full", "detail": "the disk"}
        return {"error": "SpoolFull", "fields": fields}

    monkeypatch.setattr(DecoderPool, "run", reply)
    with pytest.raises(SpoolFull, match="full"):
        run(shared.convert(as_blob(PNG), image_format="jpeg"))


@dataclass(frozen=True)
class Call:
    """Something that uses the decoders, and the error if they cannot do it."""

    name: str
    work: Callable[[Transcoder, Blob], Coroutine[Any, Any, object]]
    error: type[ApiError]
    code: str
    param: str | None = None


CALLS = (
    Call("a result", lambda t, blob: t.convert(blob, image_format="jpeg"), ImageUnavailable, "image_unreadable"),
    Call("an input", lambda t, blob: t.prepare(blob), UserError, "invalid_image_file"),
    Call("a mask", lambda t, blob: t.check_mask(blob, blob), UserError, "invalid_mask_image_format", "mask"),
    Call("a masked result", lambda t, blob: t.apply_mask(blob, blob, blob), ImageUnavailable, "image_unreadable"),
)


@LINUX
@pytest.mark.parametrize("case", CALLS, ids=lambda case: case.name)
def test_the_error_names_the_image_of_which_a_decoder_died(own: Transcoder, case: Call) -> None:
    async def scenario() -> None:
        await own.prepare(as_blob(PNG))
        decoders = decoders_of(template_of(own._pool))
        for pid in decoders:
            os.kill(pid, signal.SIGSTOP)
        call = asyncio.create_task(case.work(own, as_blob(PNG)))
        await asyncio.sleep(0)
        for pid in decoders:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(case.error, match="takes more memory or time to") as caught:
            await call
        assert (caught.value.code, caught.value.param) == (case.code, case.param)
        assert caught.value.detail == "the process has ended"

    run(scenario())


@pytest.mark.parametrize("case", CALLS, ids=lambda case: case.name)
def test_the_error_is_the_servers_where_no_process_can_be_started(case: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "_BOOTSTRAP", "raise SystemExit(1)")
    transcoder = Transcoder()
    try:
        with pytest.raises(ApiError, match="cannot start a process") as caught:
            run(case.work(transcoder, as_blob(PNG)))
    finally:
        transcoder.close()
    is_paid = case.error is ImageUnavailable
    assert type(caught.value) is (ImageUnavailable if is_paid else ServiceUnavailable)


def test_an_image_that_needs_more_memory_than_there_is_is_refused() -> None:
    transcoder = Transcoder(memory=2**30 // 4, decoders=2)
    blob = as_blob(rotated_palette_png(8192))
    try:
        with pytest.raises(UserError, match="Image 1 takes more memory") as caught:
            run(transcoder.prepare(blob))
        assert caught.value.detail is not None
        assert caught.value.detail.endswith("bytes are more than LIMNER_IMAGE_MEMORY permits")
        with pytest.raises(ImageUnavailable):
            run(transcoder.convert(blob, image_format="jpeg"))
    finally:
        transcoder.close()


def test_an_error_keeps_no_other_error_alive(shared: Transcoder) -> None:
    async def fail() -> ApiError:
        with pytest.raises(ApiError) as caught:
            await shared.convert(as_blob(PNG[:60]), image_format="jpeg")
        return caught.value

    error = run(fail())
    assert (error.__context__, error.__cause__) == (None, None)
    assert not [entry for entry in traceback.extract_tb(error.__traceback__) if "PIL" in entry.filename]


# Bombs


@dataclass(frozen=True)
class Bomb:
    """A small file that would need much. Without `refused` it is an honest image, which is accepted."""

    name: str
    data: Callable[[], bytes]
    refused: str | None
    max_mebibytes: int


BOMBS = (
    Bomb("a TIFF with one huge tile", lambda: tiff_with_tile(1024, 46_320), "with a tile of 46320x46320", 64),
    Bomb("a TIFF with a tile of its own size", lambda: tiff_with_tile(1024, 1024), None, 64),
    Bomb("a rotated PNG with a palette", lambda: rotated_palette_png(8192), None, 600),
    Bomb("a JPEG of many scans", lambda: jpeg_with_scans(8192, 98), "in 98 scans", 64),
)


@LINUX
@pytest.mark.parametrize("case", BOMBS, ids=lambda case: case.name)
def test_a_bomb_needs_little_memory(own: Transcoder, case: Bomb) -> None:
    data = case.data()
    assert len(data) < 3_000_000
    gc.collect()
    with measured_memory(own._pool) as peak, as_blob(data) as blob:
        if case.refused is None:
            run(own.prepare(blob)).blob.close()
        else:
            with pytest.raises(UserError, match="Image 1 takes more memory or time to decode") as caught:
                run(own.prepare(blob))
            assert caught.value.status == 400
            assert caught.value.detail is not None
            assert case.refused in caught.value.detail
    assert peak.decoder < case.max_mebibytes
    assert peak.server < 64


@LINUX
def test_two_exact_masks_of_the_largest_size_are_applied_one_after_the_other(own: Transcoder) -> None:
    image, mask = as_blob(rotated_palette_png(8192)), as_blob(transparent_palette_png(8192))
    made: list[Blob] = []

    async def apply() -> None:
        made.append(await own.apply_mask(as_blob(PNG), image, mask))
        assert own.budget.running <= 1

    async def scenario() -> None:
        await asyncio.gather(apply(), apply())

    with measured_memory(own._pool) as peak:
        run(scenario())
    for blob in (image, mask, *made):
        blob.close()
    assert len(made) == 2
    assert peak.decoder < 900
    assert peak.server < 64


# Fairness


@LINUX
def test_eight_heavy_edits_do_not_delay_the_result_of_another_caller(own: Transcoder) -> None:
    heavy = as_blob(rotated_palette_png(8192))

    async def scenario() -> None:
        edits = [asyncio.create_task(own.prepare(heavy, caller="a", limits=InputLimits(None, 100))) for _ in range(8)]
        await until(lambda: own.budget.running == 1)
        result = await own.convert(as_blob(PNG), caller="b", image_format="jpeg")
        assert as_image(result).format == "JPEG"
        assert sum(edit.done() for edit in edits) < 8
        for edit in edits:
            edit.cancel()
        await asyncio.wait(edits)
        assert (own.budget.running, own.budget.in_use) == (0, 0)

    run(scenario())
    heavy.close()


def test_a_call_that_is_cancelled_ends_at_once_and_closes_its_output() -> None:
    made: list[Blob] = []

    class WatchedBlob(Blob):
        is_closed = False

        def close(self) -> None:
            self.is_closed = True
            super().close()

    def new_blob() -> Blob:
        made.append(WatchedBlob())
        return made[-1]

    async def scenario() -> None:
        call = asyncio.create_task(transcoder.convert(as_blob(PNG), image_format="jpeg"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    transcoder = Transcoder(new_blob=new_blob)
    run(scenario())
    transcoder.close()
    assert [getattr(blob, "is_closed", False) for blob in made] == [True]
