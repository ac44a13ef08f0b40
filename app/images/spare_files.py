"""Keep the unnamed files of blobs that were closed, for the next blobs to overwrite.

To create a file, to find pages for its bytes and to free both costs as much as to copy the bytes: of a request with
2 MiB a tenth.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from app.observability.metrics import SPOOL_BYTES

#: Bytes of all spare files of a process, and their number: some images, as many as come and go at the same time.
MAX_SPARE_BYTES = 64 * 2**20
MAX_SPARE_FILES = 64


class SpareFile(NamedTuple):
    descriptor: int
    size: int

    def open(self) -> IO[bytes]:
        """Return the file, to be written from its start. What it holds is still there."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return open(self.descriptor, "r+b", buffering=0)


@dataclass(slots=True)
class SpareFiles:
    """The spare files of all blobs of one folder, of at most `limit` bytes. `size`: their bytes, which may be used."""

    limit: int = 0
    size: int = 0
    _files: list[SpareFile] = field(default_factory=list)

    def take(self, *, empty: bool = False) -> SpareFile | None:
        """Return a file, if there is one. The caller owns it. `empty`: one without bytes, which would be cut off."""
        if not self._files or (empty and self._files[0].size):
            return None
        spare = self._files.pop(0 if empty else -1)
        self._count(-spare.size)
        return spare

    def keep(self, file: IO[bytes], size: int) -> None:
        """Keep a file that has `size` bytes, if there is room for it. `file` itself is not needed any more."""
        if self.size + size > self.limit or len(self._files) >= MAX_SPARE_FILES:
            return
        # A descriptor of its own: what still refers to `file` can neither read nor write it once it is closed.
        with suppress(OSError):
            # Empty ones come first.
            self._files.insert(len(self._files) if size else 0, SpareFile(os.dup(file.fileno()), size))
            self._count(size)

    def close(self) -> bool:
        """Give up all spare files, with their room on the disk. Return whether there was any."""
        had_some = bool(self._files)
        while (spare := self.take()) is not None:
            os.close(spare.descriptor)
        return had_some

    def _count(self, size: int) -> None:
        self.size += size
        SPOOL_BYTES.inc(size)
