"""Bytes on their way: small ones in memory, large ones in an unnamed temporary file that no crash leaves behind."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from app.errors import SpoolFull
from app.observability.metrics import SPOOL_BYTES

#: What one blob may hold in memory. Most uploads of a chat are smaller, a photo is larger.
MAX_IN_MEMORY = 256 * 1024


class Blob:
    """Written once from front to back, then read as often as wanted, by several readers at once."""

    def __init__(self, directory: Path | None = None, in_memory: int = MAX_IN_MEMORY) -> None:
        self.size = 0
        self._directory = directory
        self._in_memory = in_memory
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Raises SpoolFull where the disk is full."""
        self.size += len(data)
        if self._file is None and self.size <= self._in_memory:
            self._memory += data
            return
        if self._file is not None:
            SPOOL_BYTES.inc(len(data))
        try:
            _write_all(self._spill(), data)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise SpoolFull("The server has no room left for this image.", detail="LIMNER_SPOOL_DIR is full") from None

    def _spill(self) -> int:
        """The file's descriptor; what was in memory goes first."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  it outlives this call
            SPOOL_BYTES.inc(self.size)
            _write_all(self._file.fileno(), self._memory)
            self._memory = bytearray()
        return self._file.fileno()

    def read_at(self, offset: int, size: int) -> bytes:
        if self._file is None:
            return bytes(memoryview(self._memory)[offset : offset + size])
        return os.pread(self._file.fileno(), size, offset)

    def chunks(self, size: int) -> Iterator[bytes]:
        for offset in range(0, self.size, size):
            yield self.read_at(offset, size)

    def close(self) -> None:
        self._memory = bytearray()
        if self._file is not None and not self._file.closed:
            self._file.close()
            SPOOL_BYTES.dec(self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """write(2) may take less than it was given, most of all on a disk that is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Spool:
    """The blobs of one request, gone together."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._blobs: list[Blob] = []

    def new_blob(self) -> Blob:
        return self.add(Blob(self._directory))

    def add(self, blob: Blob) -> Blob:
        self._blobs.append(blob)
        return blob

    def absorb(self, other: "Spool") -> None:
        self._blobs += other._blobs
        other._blobs = []

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self._blobs)

    def close(self) -> None:
        while self._blobs:
            self._blobs.pop().close()
