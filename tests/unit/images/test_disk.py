"""Images are stored on disk, within a limit; other files are not touched, and failures leave nothing behind."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import ImageUnavailable, ServiceUnavailable
from app.images.blob import Blob
from app.images.disk import DiskStore, free_bytes, parse_disk_url
from app.images.store import StoreConfig
from tests.support.store_fixtures import DAY, PNG, blob_of, put, read


@pytest.fixture
def stores() -> Iterator[list[DiskStore]]:
    """Return a list of stores that are closed when the test ends."""
    opened: list[DiskStore] = []
    yield opened
    for store in opened:
        store.close()


def store_at(stores: list[DiskStore], folder: Path, **more: Any) -> DiskStore:
    stores.append(DiskStore(StoreConfig(f"disk://{folder}", **{"ttl": DAY, **more})))
    return stores[-1]


def put_aged(store: DiskStore, folder: Path, size: int, age: int) -> str:
    name = put(store, b"x" * size)
    modified = (folder / name).stat().st_mtime - age
    os.utime(folder / name, (modified, modified))
    return name


def test_only_the_owner_can_list_a_new_folder(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path / "state" / "images")
    name = put(store, b"x")
    assert (tmp_path / "state" / "images").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "images" / name).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_exists_keeps_its_mode(stores: list[DiskStore], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images").chmod(0o750)
    store_at(stores, tmp_path / "images")
    assert (tmp_path / "images").stat().st_mode & 0o777 == 0o750


def test_new_images_replace_the_oldest(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path, max_bytes=1000)
    names = [put_aged(store, tmp_path, 300, 100 - number) for number in range(5)]
    assert [read(store, name) is not None for name in names] == [False, False, True, True, True]
    large = put(store, b"x" * 1000)
    assert [file.name for file in tmp_path.iterdir()] == [large]
    with pytest.raises(ImageUnavailable) as caught:
        put(store, b"x" * 1001)
    assert "LIMNER_IMAGE_STORE_MAX_BYTES" in str(caught.value.detail)
    assert read(store, large) is not None


def test_a_full_folder_is_not_listed_for_every_image(
    stores: list[DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(stores, tmp_path, max_bytes=16_000)
    for number in range(160):
        put_aged(store, tmp_path, 100, 1000 - number)
    listed = []
    scan = os.scandir

    def scan_and_count(folder: Path) -> Any:
        listed.append(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scan_and_count)
    for _ in range(20):
        put(store, b"x" * 100)
    assert len(listed) == 2
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 16_000


def test_images_of_other_processes_count_too(stores: list[DiskStore], tmp_path: Path) -> None:
    store, other = (store_at(stores, tmp_path, max_bytes=1100) for _ in range(2))
    old = put_aged(store, tmp_path, 500, 100)
    put(other, b"x" * 500)
    put(store, b"x" * 500)
    assert asyncio.run(other.delete_expired()) == 0
    assert read(store, old) is None
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 1000


def test_expired_images_and_temporary_files_are_deleted(stores: list[DiskStore], tmp_path: Path) -> None:
    """Temporary files are left by a crash. Other files are never deleted."""
    now = 0.0
    store = store_at(stores, tmp_path, ttl=60, now=lambda: now)
    old, young = put(store, b"x"), put(store, b"x")
    for name, moment in ((old, 1000), (young, 1050), (".limner-half", 1000), ("holiday.png", 1000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    (tmp_path / "a folder").mkdir()
    now = 1061
    assert read(store, old) is None
    assert asyncio.run(store.delete_expired()) == 2
    assert read(store, young) == b"x"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([young, "a folder", "holiday.png"])


def test_a_file_that_another_process_deletes_meanwhile_is_ignored(
    stores: list[DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(stores, tmp_path, now=lambda: 1e12)
    gone, name = f"{'a' * 32}.png", put(store, b"x")
    scan = os.scandir

    class Scan:
        """A listing that includes a file which no longer exists."""

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


def test_a_full_disk_leaves_no_partial_file(
    stores: list[DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = store_at(stores, tmp_path)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ImageUnavailable, match="could not keep it") as caught:
        put(store, b"x")
    assert caught.value.code == "image_not_kept"
    assert "No space left" in str(caught.value.detail)
    assert list(tmp_path.iterdir()) == []


def test_an_image_whose_blob_is_closed_meanwhile_leaves_no_partial_file(
    stores: list[DiskStore], tmp_path: Path
) -> None:
    class ClosedBlob(Blob):
        def read_at(self, offset: int, size: int) -> bytes:
            raise ValueError("I/O operation on closed file")

    store = store_at(stores, tmp_path)
    blob = ClosedBlob()
    blob.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        asyncio.run(store.put(blob, PNG))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_disappears_is_an_error(stores: list[DiskStore], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    store = store_at(stores, folder)
    name = put(store, b"x")
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
        put(store, b"x")


def test_an_open_image_can_be_read_after_its_file_is_deleted(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path)
    name = put(store, b"image")

    async def read_late() -> bytes:
        stored = await store.get(name)
        assert stored is not None
        (tmp_path / name).unlink()
        try:
            return await stored.read(0, 100)
        finally:
            stored.close()

    assert asyncio.run(read_late()) == b"image"


def test_the_blob_remains_readable(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path)
    with blob_of(b"image") as blob:
        name = asyncio.run(store.put(blob, PNG))
        assert asyncio.run(store.url_for(name)) is None
        assert asyncio.run(store.get("../images")) is None
        assert blob.read_at(0, 10) == b"image"


@pytest.mark.parametrize("url", ["disk:", "disk://", "disk://images", "disk:images"])
def test_a_relative_path_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="disk:///absolute/path"):
        parse_disk_url(url)


def test_the_room_in_a_folder_that_is_gone_is_unknown(stores: list[DiskStore], tmp_path: Path) -> None:
    store = store_at(stores, tmp_path / "images")
    (tmp_path / "images").rmdir()
    assert asyncio.run(store.free_bytes()) is None


def test_free_bytes_are_those_of_the_disk(tmp_path: Path) -> None:
    assert 0 < free_bytes(tmp_path) < 2**60
