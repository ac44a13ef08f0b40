"""Hold the bytes of images: small ones in memory, large ones in an unnamed temporary file.

An unnamed file disappears with the process, so that a crash leaves nothing behind.
"""

import errno
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from app.errors import SpoolFull
from app.observability.metrics import SPOOL_BYTES

#: Bytes that one blob may hold in memory. Most input images of a chat are smaller, a photo is larger.
MAX_IN_MEMORY = 256 * 1024

#: A full disk, a used up quota, and no descriptor left for this process or for the machine.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}


class Blob:
    """Bytes that are appended, and can be read by several readers at once.

    Attributes:
        size: Bytes written so far.
        checksum: The CRC-32 of these bytes.
    """

    def __init__(self, directory: Path | None = None, in_memory: int = MAX_IN_MEMORY) -> None:
        """`directory`: where the file is created, by default the system's; `in_memory`: bytes to hold before that."""
        self.size = 0
        self.checksum = 0
        self._directory = directory
        self._in_memory = in_memory
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises:
            SpoolFull: The disk or its quota is full, or no descriptor is free for the file.
        """
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        if self._file is None and self.size <= self._in_memory:
            self._memory += data
            return
        if self._file is not None:
            SPOOL_BYTES.inc(len(data))
        with _refusing_without_room():
            _write_all(self._open_file(), data)

    def _open_file(self) -> int:
        """Return the descriptor of the file, which is created with the bytes held in memory first."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  closed by `close`
            SPOOL_BYTES.inc(self.size)
            _write_all(self._file.fileno(), self._memory)
            self._memory = bytearray()
        return self._file.fileno()

    @property
    def file_descriptor(self) -> int | None:
        """The descriptor of the file, None while the bytes are held in memory. Its position belongs to `write`."""
        return None if self._file is None else self._file.fileno()

    def lend_file(self) -> int:
        """Return the descriptor of a file, in which another process may write the bytes of this empty blob.

        Raises:
            SpoolFull: The disk or its quota is full, or no descriptor is free for the file.
        """
        with _refusing_without_room():
            return self._open_file()

    def take_back(self, size: int, checksum: int) -> None:
        """Take over what another process has written into the file that was lent. Few bytes move into memory."""
        self.size, self.checksum = size, checksum
        SPOOL_BYTES.inc(size)
        if self._file is not None and size <= self._in_memory:
            memory = bytearray(self.read_at(0, size))
            self.close()
            self._memory, self._file = memory, None

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer only at the end."""
        if self._file is None:
            return bytes(memoryview(self._memory)[offset : offset + size])
        return os.pread(self._file.fileno(), size, offset)

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield all bytes in chunks of `size`. Each chunk is read when it is requested."""
        for offset in range(0, self.size, size):
            yield self.read_at(offset, size)

    def close(self) -> None:
        """Release the bytes. May be called again; afterwards nothing may be read."""
        self._memory = bytearray()
        if self._file is not None and not self._file.closed:
            self._file.close()
            SPOOL_BYTES.dec(self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def _refusing_without_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise SpoolFull(detail=f"LIMNER_SPOOL_DIR: {error.strerror}") from None


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    # write(2) may write less than it was given, particularly on a disk that is nearly full.
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Spool:
    """Owns the blobs of one request and closes them together."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._blobs: list[Blob] = []

    @property
    def size(self) -> int:
        """The bytes of all blobs."""
        return sum(blob.size for blob in self._blobs)

    def new_blob(self) -> Blob:
        return self.add(Blob(self._directory))

    def add(self, blob: Blob) -> Blob:
        """Take ownership of `blob` and return it."""
        self._blobs.append(blob)
        return blob

    def absorb(self, other: "Spool") -> None:
        """Take ownership of the blobs of another spool, which is empty afterwards."""
        self._blobs += other._blobs
        other._blobs = []

    def close(self) -> None:
        while self._blobs:
            self._blobs.pop().close()
