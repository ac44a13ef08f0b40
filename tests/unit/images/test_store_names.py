"""The names of stored images, and the errors of stores."""

import asyncio

import pytest

from app.errors import ImageUnavailable, ServiceUnavailable
from app.images.store import (
    StoredImage,
    cache_control,
    generate_name,
    is_name,
    media_type,
    store_failed,
    store_unreachable,
)
from app.protocol.image_format import ImageInfo

FORMATS = ["png", "jpeg", "webp", "gif", "avif", "bmp", "tiff", "heic"]


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_name_cannot_be_guessed_and_gives_the_media_type(image_format: str) -> None:
    info = ImageInfo(f"image/{image_format}", 8, 8, alpha=False)
    names = {generate_name(info) for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert is_name(name)
        assert media_type(name) == f"image/{image_format}"


@pytest.mark.parametrize("name", ["a.png", "../secret.png", "a" * 32 + ".svg", "a" * 32, ".png", "", "a" * 31 + "/.png", "a" * 32 + ".png\n", "a" * 32 + ".PNG", "." + "a" * 31 + ".png"])  # fmt: skip
def test_other_texts_are_no_names(name: str) -> None:
    assert not is_name(name)


def test_the_etag_is_the_name_since_an_image_never_changes() -> None:
    async def read(offset: int, size: int) -> bytes:
        return b"image"[offset : offset + size]

    stored = StoredImage("a.png", 5, 0, read)
    stored.close()
    assert stored.etag == '"a.png"'

    async def read_part() -> bytes:
        return await stored.read(1, 3)

    assert asyncio.run(read_part()) == b"mag"
    assert cache_control(3600.0) == "public, max-age=3600, immutable"


def test_the_reason_of_an_error_is_only_for_the_log() -> None:
    for error, kind, code in ((store_failed("10.0.0.7 is away"), ImageUnavailable, "image_not_kept"), (store_unreachable("10.0.0.7 is away"), ServiceUnavailable, "image_store_unavailable")):  # fmt: skip
        assert isinstance(error, kind)
        assert error.code == code
        assert error.detail == "LIMNER_IMAGE_STORE: 10.0.0.7 is away"
        assert "10.0.0.7" not in str(error.body)
