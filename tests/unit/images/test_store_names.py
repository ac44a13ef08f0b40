"""Names of kept pictures, and the words of failure."""

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

KINDS = ["png", "jpeg", "webp", "gif", "avif", "bmp", "tiff", "heic"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_name_is_one_nobody_guesses_and_says_what_the_picture_is(kind: str) -> None:
    info = ImageInfo(f"image/{kind}", 8, 8, alpha=False)
    names = {generate_name(info) for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert is_name(name)
        assert media_type(name) == f"image/{kind}"


@pytest.mark.parametrize("name", ["a.png", "../secret.png", "a" * 32 + ".svg", "a" * 32, ".png", "", "a" * 31 + "/.png", "a" * 32 + ".png\n", "a" * 32 + ".PNG", "." + "a" * 31 + ".png"])  # fmt: skip
def test_nothing_else_is_a_name(name: str) -> None:
    assert not is_name(name)


def test_a_picture_that_never_changes_is_known_by_its_name() -> None:
    async def read(offset: int, size: int) -> bytes:
        return b"picture"[offset : offset + size]

    stored = StoredImage("a.png", 7, 0, read)
    stored.close()
    assert stored.etag == '"a.png"'

    async def read_part() -> bytes:
        return await stored.read(1, 3)

    assert asyncio.run(read_part()) == b"ict"
    assert cache_control(3600.0) == "public, max-age=3600, immutable"


def test_what_went_wrong_is_for_the_log_only() -> None:
    for error, kind, code in ((store_failed("10.0.0.7 is away"), ImageUnavailable, "image_not_kept"), (store_unreachable("10.0.0.7 is away"), ServiceUnavailable, "image_store_unavailable")):  # fmt: skip
        assert isinstance(error, kind)
        assert error.code == code
        assert error.detail == "LIMNER_IMAGE_STORE: 10.0.0.7 is away"
        assert "10.0.0.7" not in str(error.body)
