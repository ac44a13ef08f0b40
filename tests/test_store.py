"""One suite for all stores: a store that is listed in STORES is tested by being listed."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from app.blobs import Blob
from app.errors import ImageUnavailable
from app.pure.media import ImageInfo
from app.store import STORES, DiskStore, open_store

PNG = ImageInfo("image/png", 8, 8, alpha=False)
JPEG = ImageInfo("image/jpeg", 8, 8, alpha=False)
DAY = 86_400.0


def blob_of(data: bytes) -> Blob:
    blob = Blob()
    blob.write(data)
    return blob


@pytest.fixture(params=sorted(STORES))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"disk": f"disk://{tmp_path}/state/images"}[request.param]


def test_a_kept_picture_is_found_under_a_name_nobody_guesses(url: str) -> None:
    store = open_store(url, DAY)
    with blob_of(b"one" * 1_000_000) as one, blob_of(b"two") as two:
        names = [asyncio.run(store.keep(*kept)) for kept in ((one, PNG), (one, PNG), (two, JPEG))]
    assert len(set(names)) == 3
    assert [name.rpartition(".")[2] for name in names] == ["png", "png", "jpg"]
    assert min(len(name) for name in names) >= 36
    paths = [store.find(name) for name in names]
    assert [path.read_bytes() for path in paths if path] == [b"one" * 1_000_000, b"one" * 1_000_000, b"two"]
    store.close()


@pytest.mark.parametrize("name", ["a.png", "../secret.png", "a" * 32 + ".png", "a" * 32 + ".svg", "a" * 32, ".png", ""])
def test_no_other_name_is_ever_looked_up(url: str, name: str, tmp_path: Path) -> None:
    store = open_store(url, DAY)
    (tmp_path / "state" / "secret.png").write_bytes(b"secret")
    (tmp_path / "state" / "images" / ("a" * 32 + ".svg")).write_bytes(b"secret")
    assert store.find(name) is None
    store.close()


def test_a_picture_is_gone_after_its_time(tmp_path: Path) -> None:
    now = 0.0
    store = DiskStore(tmp_path, ttl=60, now=lambda: now)
    with blob_of(b"x") as blob:
        old, young = (asyncio.run(store.keep(blob, PNG)) for _ in range(2))
    os.utime(tmp_path / old, (1000, 1000))
    os.utime(tmp_path / young, (1050, 1050))
    (tmp_path / "a folder").mkdir()
    now = 1061
    assert store.find(old) is None
    assert asyncio.run(store.sweep()) == 1
    assert store.find(young) == tmp_path / young
    assert not (tmp_path / old).exists()
    store.close()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = DiskStore(tmp_path, DAY)
    monkeypatch.setattr(Path, "rename", fail)
    with blob_of(b"x") as blob, pytest.raises(ImageUnavailable, match="could not keep it") as caught:
        asyncio.run(store.keep(blob, PNG))
    assert caught.value.code == "image_not_kept"
    assert "No space left" in str(caught.value.detail)
    assert list(tmp_path.iterdir()) == []
    store.close()
