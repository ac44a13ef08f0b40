"""Store images as files in one folder."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from app.images.blob import Blob
from app.images.store import StoreConfig, StoredImage, generate_name, is_name, store_failed, store_unreachable
from app.protocol.image_format import ImageInfo

T = TypeVar("T")

_MAX_BYTES = 10 * 2**30
_CHUNK_SIZE = 2**20

#: Seconds by which the clock of a file server may be ahead of ours.
_MAX_SKEW = 1800.0

#: The prefix of files that are being written. No name of an image begins with it.
_TEMPORARY_PREFIX = ".limner-"


@dataclass(frozen=True, slots=True)
class _FileEntry:
    path: Path
    modified: float
    size: int


class DiskStore:
    """An image store of at most `max_bytes`, in which a new image replaces the oldest ones.

    Files are written under another name and then renamed, so that no reader sees half an image. Several processes may
    share the folder: each counts what it writes, and lists the folder when that has used up the space it last saw, and
    whenever expired images are deleted.
    """

    def __init__(self, config: StoreConfig) -> None:
        """Create the folder if it does not exist.

        Raises:
            OSError: The folder cannot be created.
        """
        self._folder = parse_disk_url(config.url)
        self._ttl = config.ttl
        self._max_bytes = config.max_bytes or _MAX_BYTES
        self._now = config.now
        self._remaining = 0
        self._lock = threading.Lock()
        # Threads of its own: slow DNS queries must not keep images waiting in a shared pool.
        self._threads = ThreadPoolExecutor(2, "store")
        # Names that cannot be guessed protect images only from those who cannot list the folder.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        name = generate_name(info)
        try:
            await self._run(partial(self._write, blob, self._folder / name))
        except OSError as error:
            raise store_failed(str(error)) from None
        return name

    async def url_for(self, name: str) -> str | None:
        return None

    async def get(self, name: str) -> StoredImage | None:
        if not is_name(name):
            return None
        try:
            return await self._run(partial(self._open, name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_unreachable(str(error)) from None

    async def free_bytes(self) -> int | None:
        try:
            return await self._run(partial(free_bytes, self._folder))
        except OSError:
            return None

    async def delete_expired(self) -> int:
        try:
            return await self._run(self._delete_expired)
        except OSError as error:
            raise store_unreachable(str(error)) from None

    def close(self) -> None:
        self._threads.shutdown(wait=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _write(self, blob: Blob, path: Path) -> None:
        self._reserve(blob.size)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY_PREFIX)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in blob.chunks(_CHUNK_SIZE):
                    file.write(chunk)
            Path(temporary).rename(path)
        except BaseException:  # reason: the file is removed, and the exception raised again
            Path(temporary).unlink(missing_ok=True)
            raise

    def _reserve(self, size: int) -> None:
        if size > self._max_bytes:
            raise OSError(f"an image of {size} bytes is more than LIMNER_IMAGE_STORE_MAX_BYTES")
        with self._lock:
            if size > self._remaining:
                self._make_room(size)
            self._remaining -= size

    def _make_room(self, size: int) -> None:
        """Delete the oldest images until `size` bytes fit, and update `_remaining`. The caller holds the lock."""
        images = sorted(self._images(), key=self._place)
        used = sum(entry.size for entry in images)
        # A little more than needed is deleted, so that a full folder is not listed for every image.
        goal = self._max_bytes - max(size, self._max_bytes // 16)
        for entry in images if used + size > self._max_bytes else ():
            if used <= goal:
                break
            entry.path.unlink(missing_ok=True)
            used -= entry.size
        self._remaining = self._max_bytes - used

    def _place(self, entry: _FileEntry) -> tuple[bool, float]:
        """Order images by their age. A time in the future is one from before the clock was set back."""
        return entry.modified <= time.time() + _MAX_SKEW, entry.modified

    def _images(self) -> Iterator[_FileEntry]:
        return (entry for entry in self._entries() if is_name(entry.path.name))

    def _entries(self) -> Iterator[_FileEntry]:
        """Yield images and temporary files. Other files in the folder are never touched."""
        with os.scandir(self._folder) as found:
            for file in found:
                if is_name(file.name) or file.name.startswith(_TEMPORARY_PREFIX):
                    try:
                        status = file.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        # Another process has deleted the file meanwhile.
                        continue
                    yield _FileEntry(Path(file.path), status.st_mtime, status.st_size)

    def _open(self, name: str) -> StoredImage | None:
        descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        status = os.fstat(descriptor)
        if self._is_expired(status.st_mtime):
            os.close(descriptor)
            return None

        async def read(offset: int, size: int) -> bytes:
            return await self._run(partial(os.pread, descriptor, size, offset))

        return StoredImage(name, status.st_size, status.st_mtime, read, partial(os.close, descriptor))

    def _is_expired(self, modified: float) -> bool:
        return modified + self._ttl < self._now()

    def _delete_expired(self) -> int:
        expired = [entry.path for entry in self._entries() if self._is_expired(entry.modified)]
        for path in expired:
            path.unlink(missing_ok=True)
        with self._lock:
            self._make_room(0)
        return len(expired)


def free_bytes(folder: Path) -> int:
    """Return the bytes that an unprivileged process may still write into a folder."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def parse_disk_url(url: str) -> Path:
    """Return the folder of a URL.

    Raises:
        ValueError: The URL does not name an absolute path.
    """
    folder = url.removeprefix("disk://")
    if not folder.startswith("/"):
        raise ValueError("disk:///absolute/path")
    return Path(folder)
