"""Pictures on disk: what makes room for what, what is never touched, and what a failure leaves."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import ImageUnavailable, ServiceUnavailable
from app.images.blob import Blob
from app.images.disk import DiskStore, parse_disk_url
from app.images.store import StoreConfig
from tests.support.store_fixtures import DAY, PNG, blob_of, keep, read


@pytest.fixture
def stores() -> Iterator[list[DiskStore]]:
    """Closed when the test ends."""
    opened: list[DiskStore] = []
    yield opened
    for store in opened:
        store.close()


def store_at(stores: list[DiskStore], folder: Path, **more: Any) -> DiskStore:
    stores.append(DiskStore(StoreConfig(f"disk://{folder}", **{"ttl": DAY, **more})))
    return stores[-1]


def keep_aged(store: DiskStore, folder: Path, size: int, age: int) -> str:
    name = keep(store, b"x" * size)
    moment = (folder / name).stat().st_mtime - age
    os.utime(folder / name, (moment, moment))
    return name


def test_the_oldest_make_room(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path, max_bytes=1000)
    names = [keep_aged(store, tmp_path, 300, 100 - number) for number in range(5)]
    assert [read(store, name) is not None for name in names] == [False, False, True, True, True]
    large = keep(store, b"x" * 1000)
    assert [file.name for file in tmp_path.iterdir()] == [large]
    with pytest.raises(ImageUnavailable) as caught:
        keep(store, b"x" * 1001)
    assert "LIMNER_IMAGE_STORE_MAX_BYTES" in str(caught.value.detail)
    assert read(store, large) is not None


def test_a_full_folder_is_not_listed_for_every_picture(
    stores: list[DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(stores, tmp_path, max_bytes=16_000)
    for number in range(160):
        keep_aged(store, tmp_path, 100, 1000 - number)
    listed = []
    scan = os.scandir

    def listen(folder: Path) -> Any:
        listed.append(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", listen)
    for _ in range(20):
        keep(store, b"x" * 100)
    assert len(listed) == 2
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 16_000


def test_what_other_processes_keep_counts_too(stores: list[DiskStore], tmp_path: Path) -> None:
    ours, theirs = (store_at(stores, tmp_path, max_bytes=1100) for _ in range(2))
    old = keep_aged(ours, tmp_path, 500, 100)
    keep(theirs, b"x" * 500)
    keep(ours, b"x" * 500)
    assert asyncio.run(theirs.delete_expired()) == 0
    assert read(ours, old) is None
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 1000


def test_what_is_swept(stores: list[DiskStore], tmp_path: Path) -> None:
    """Half-written files of a crash too; never what is not ours."""
    now = 0.0
    store = store_at(stores, tmp_path, ttl=60, now=lambda: now)
    old, young = keep(store, b"x"), keep(store, b"x")
    for name, moment in ((old, 1000), (young, 1050), (".limner-half", 1000), ("holiday.png", 1000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    (tmp_path / "a folder").mkdir()
    now = 1061
    assert read(store, old) is None
    assert asyncio.run(store.delete_expired()) == 2
    assert read(store, young) == b"x"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([young, "a folder", "holiday.png"])


def test_a_file_that_another_process_removes_meanwhile_is_passed_over(
    stores: list[DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(stores, tmp_path, now=lambda: 1e12)
    gone, name = f"{'a' * 32}.png", keep(store, b"x")
    scan = os.scandir

    class Scan:
        """A listing with one file in it that is there no more."""

        def __init__(self, folder: Path) -> None:
            (folder / gone).touch()
            with scan(folder) as found:
                self.found = list(found)
            (folder / gone).unlink()

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.found)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Scan)
    assert asyncio.run(store.delete_expired()) == 1
    assert not (tmp_path / name).exists()


def test_a_full_disk_leaves_nothing_half_written(
    stores: list[DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = store_at(stores, tmp_path)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ImageUnavailable, match="could not keep it") as caught:
        keep(store, b"x")
    assert caught.value.code == "image_not_kept"
    assert "No space left" in str(caught.value.detail)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_whose_request_is_gone_leaves_nothing_half_written(stores: list[DiskStore], tmp_path: Path) -> None:
    class Gone(Blob):
        def read_at(self, offset: int, size: int) -> bytes:
            raise ValueError("I/O operation on closed file")

    store = store_at(stores, tmp_path)
    blob = Gone()
    blob.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        asyncio.run(store.put(blob, PNG))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_away_is_said(stores: list[DiskStore], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    store = store_at(stores, folder)
    name = keep(store, b"x")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path)
    with pytest.raises(ServiceUnavailable) as caught:
        asyncio.run(store.get(name))
    assert str(folder) in str(caught.value.detail)
    assert str(folder) not in caught.value.message
    (folder / name).unlink()
    assert read(store, name) is None
    folder.rmdir()
    with pytest.raises(ServiceUnavailable):
        asyncio.run(store.delete_expired())
    with pytest.raises(ImageUnavailable):
        keep(store, b"x")


def test_a_picture_that_is_being_read_outlives_its_file(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path)
    name = keep(store, b"picture")

    async def read_late() -> bytes:
        stored = await store.get(name)
        assert stored is not None
        (tmp_path / name).unlink()
        try:
            return await stored.read(0, 100)
        finally:
            stored.close()

    assert asyncio.run(read_late()) == b"picture"


def test_the_blob_is_still_there_for_others(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path)
    with blob_of(b"picture") as blob:
        name = asyncio.run(store.put(blob, PNG))
        assert asyncio.run(store.url_for(name)) is None
        assert asyncio.run(store.get("../images")) is None
        assert blob.read_at(0, 10) == b"picture"


@pytest.mark.parametrize("url", ["disk:", "disk://", "disk://images", "disk:images"])
def test_a_folder_that_depends_on_where_one_stands(url: str) -> None:
    with pytest.raises(ValueError, match="disk:///absolute/path"):
        parse_disk_url(url)
