"""Pictures as files of one folder: the store that needs nothing else."""

import asyncio
import os
import tempfile
import threading
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

#: How files begin that are being written; no name of a picture does.
_TEMPORARY_PREFIX = ".limner-"


@dataclass(frozen=True, slots=True)
class _FileEntry:
    path: Path
    modified: float
    size: int


class DiskStore:
    """Files below `folder`, written aside and then renamed, so that a reader never sees half a picture.

    They have at most `max_bytes`, the oldest go first. Several processes may share the folder: each counts what it
    writes and looks anew when that has used up the room it last saw, and at each sweep.
    """

    def __init__(self, config: StoreConfig) -> None:
        """Raises OSError where the folder cannot be made."""
        self._folder = parse_disk_url(config.url)
        self._ttl = config.ttl
        self._max_bytes = config.max_bytes or _MAX_BYTES
        self._now = config.now
        self._remaining = 0
        self._lock = threading.Lock()
        # Its own threads: the default executor is shared with name look-ups.
        self._threads = ThreadPoolExecutor(2, "store")
        self._folder.mkdir(parents=True, exist_ok=True)

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
        descriptor, aside = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY_PREFIX)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in blob.chunks(_CHUNK_SIZE):
                    file.write(piece)
            Path(aside).rename(path)
        except BaseException:  # reason: tidied up, and raised again
            Path(aside).unlink(missing_ok=True)
            raise

    def _reserve(self, size: int) -> None:
        """Raises OSError for a picture that would not fit into the empty folder."""
        if size > self._max_bytes:
            raise OSError(f"a picture of {size} bytes is more than LIMNER_IMAGE_STORE_MAX_BYTES")
        with self._lock:
            if size > self._remaining:
                self._make_room(size)
            self._remaining -= size

    def _make_room(self, size: int) -> None:
        """A little more than is needed, so that a full folder is not listed for every picture."""
        entries = sorted(self._images(), key=lambda entry: entry.modified)
        taken = sum(entry.size for entry in entries)
        goal = self._max_bytes - max(size, self._max_bytes // 16)
        for entry in entries if taken + size > self._max_bytes else ():
            if taken <= goal:
                break
            entry.path.unlink(missing_ok=True)
            taken -= entry.size
        self._remaining = self._max_bytes - taken

    def _images(self) -> Iterator[_FileEntry]:
        return (entry for entry in self._entries() if is_name(entry.path.name))

    def _entries(self) -> Iterator[_FileEntry]:
        """Ours only: whatever else lies in the folder is never touched."""
        with os.scandir(self._folder) as found:
            for file in found:
                if is_name(file.name) or file.name.startswith(_TEMPORARY_PREFIX):
                    try:
                        status = file.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        # Another process was faster.
                        continue
                    yield _FileEntry(Path(file.path), status.st_mtime, status.st_size)

    def _open(self, name: str) -> StoredImage | None:
        """Raises FileNotFoundError."""
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
        over = [entry.path for entry in self._entries() if self._is_expired(entry.modified)]
        for path in over:
            path.unlink(missing_ok=True)
        with self._lock:
            self._make_room(0)
        return len(over)


def parse_disk_url(url: str) -> Path:
    """Raises ValueError."""
    folder = url.removeprefix("disk://")
    if not folder.startswith("/"):
        raise ValueError("disk:///absolute/path")
    return Path(folder)
