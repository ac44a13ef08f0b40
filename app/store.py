"""Image stores: where a picture is kept that needs a URL of this server."""

import asyncio
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from app.blobs import Blob
from app.errors import ImageUnavailable
from app.pure.media import ImageInfo

#: 192 random bits and what the picture is: nobody guesses a name, and nothing else is ever looked up.
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpg|webp|gif|avif|bmp|tiff|heic)")

_COPIED_AT_ONCE = 1024 * 1024


class Store(Protocol):
    async def keep(self, blob: Blob, info: ImageInfo) -> str:
        """The name under which the picture can be found from now on, and until its time is over."""
        ...

    def find(self, name: str) -> Path | None: ...

    async def sweep(self) -> int:
        """Remove what is older than its time; how many pictures that were."""
        ...

    def close(self) -> None: ...


class DiskStore:
    """Files below `folder`, written aside and then renamed, so that a reader never sees half a picture.

    `now` gives seconds since the epoch, the time in which file systems count.
    """

    def __init__(self, folder: Path, ttl: float, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._ttl = ttl
        self._now = now
        # Its own threads: the default executor is shared with name look-ups.
        self._threads = ThreadPoolExecutor(2, "store")
        folder.mkdir(parents=True, exist_ok=True)

    async def keep(self, blob: Blob, info: ImageInfo) -> str:
        name = f"{secrets.token_urlsafe(24)}.{info.extension}"
        await asyncio.get_running_loop().run_in_executor(self._threads, self._write, blob, self._folder / name)
        return name

    def _write(self, blob: Blob, path: Path) -> None:
        descriptor, aside = tempfile.mkstemp(dir=self._folder, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in blob.chunks(_COPIED_AT_ONCE):
                    file.write(piece)
            Path(aside).rename(path)
        except OSError as error:
            Path(aside).unlink(missing_ok=True)
            message = "The image was painted, but this server could not keep it."
            raise ImageUnavailable(message, code="image_not_kept", detail=f"LIMNER_IMAGE_STORE: {error}") from None

    def find(self, name: str) -> Path | None:
        """None where there is no such picture, or its time is over."""
        path = self._folder / name
        if not _NAME.fullmatch(name) or not path.is_file() or self._is_over(path):
            return None
        return path

    def _is_over(self, path: Path) -> bool:
        return path.stat().st_mtime + self._ttl < self._now()

    async def sweep(self) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._sweep)

    def _sweep(self) -> int:
        over = [path for path in self._folder.iterdir() if path.is_file() and self._is_over(path)]
        for path in over:
            path.unlink(missing_ok=True)
        return len(over)

    def close(self) -> None:
        self._threads.shutdown(wait=True)


def open_disk(url: str, ttl: float) -> DiskStore:
    return DiskStore(Path(url.removeprefix("disk://")), ttl)


#: A store is chosen by the scheme of its URL.
STORES: dict[str, Callable[[str, float], Store]] = {"disk": open_disk}


def open_store(url: str, ttl: float) -> Store:
    return STORES[url.partition(":")[0]](url, ttl)
