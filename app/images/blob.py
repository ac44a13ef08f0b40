"""Hold the bytes of images: in memory while there is room, otherwise in unnamed temporary files, as large ones are.

An unnamed file disappears with the process, so that a crash leaves nothing behind.
"""

import errno
import os
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from app.errors import SpoolFull
from app.images.spare_files import SpareFiles
from app.observability.metrics import SPOOL_BYTES, SPOOL_MEMORY

#: Bytes that one blob may hold in memory. A larger one costs as much CPU time there as in a file: a request with 2 MiB,
#: 3.27 and 3.37 ms for a download, 5.32 and 5.05 ms for an upload.
MAX_IN_MEMORY = 256 * 1024

#: Bytes that all blobs of a process may hold in memory, unless the operator sets another limit.
DEFAULT_MEMORY = 64 * 2**20

#: Bytes beyond that limit, for images that were paid for and for which the disk has no room: a few of the largest.
RESCUE_MEMORY = 128 * 2**20

#: Bytes of each blob that are held even if it is in a file: they tell what it is, and are looked at seven times.
_HEAD = 64

#: Bytes that are read at a time for a checksum.
_READ = 256 * 1024

#: A full disk, a used up quota, and no descriptor left for this process or for the machine.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}


@dataclass(slots=True)
class SpoolMemory:
    """What blobs share, those of one process: the bytes that they may hold in memory, and the files of closed ones."""

    limit: int = DEFAULT_MEMORY
    used: int = 0
    spare_files: SpareFiles = field(default_factory=SpareFiles)

    def take(self, size: int, *, is_rescue: bool = False) -> bool:
        """Count `size` more bytes, if there is room for them. Return whether there is; for a rescue there is more."""
        if self.used + size > self.limit + RESCUE_MEMORY * is_rescue:
            return False
        self.used += size
        SPOOL_MEMORY.inc(size)
        return True

    def give_back(self, size: int) -> None:
        self.used -= size
        SPOOL_MEMORY.dec(size)


class Blob:
    """Bytes that are appended, and can be read by several readers at once.

    `size`: bytes written so far.
    """

    def __init__(
        self,
        directory: Path | None = None,
        in_memory: int = MAX_IN_MEMORY,
        memory: SpoolMemory | None = None,
        *,
        with_checksum: bool = False,
        is_paid: bool = False,
    ) -> None:
        """Create an empty blob.

        Args:
            directory: Where the file is created, by default the system's folder.
            in_memory: Bytes to hold before that, at most.
            memory: What all blobs together may hold, with their spare files, which are in the same folder; None means
                that this one shares it with no other.
            with_checksum: Compute the checksum while bytes are written, since it will be needed. It takes as long as
                all the rest of writing.
            is_paid: Hold the bytes in memory where the disk does not take them, since to get them again costs money.
        """
        self.size = 0
        self._head = b""
        self._directory = directory
        self._in_memory = in_memory
        self._budget = SpoolMemory() if memory is None else memory
        self._checksum = 0 if with_checksum else None
        self._pieces: list[bytes] = []
        #: Where each piece ends.
        self._ends: list[int] = []
        self._file: IO[bytes] | None = None
        #: Where the bytes end that an earlier blob has left in the file.
        self._left_over = 0
        #: How many other processes may still use the file, even when this blob is closed.
        self._loans = 0
        self._is_paid, self._is_rescued = is_paid, False

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises:
            SpoolFull: The disk or its quota is full, or no descriptor is free for the file.
        """
        if not self.size:
            self._head = bytes(data[:_HEAD])
        self.size += len(data)
        if self._checksum is not None:
            self._checksum = zlib.crc32(data, self._checksum)
        if self._file is None and self._is_held(self.size) and self._budget.take(len(data), is_rescue=self._is_rescued):
            self._keep(data)
            return
        if self._file is not None:
            SPOOL_BYTES.inc(len(data))
        try:
            self._write_to_file(data)
        except (SpoolFull, OSError):
            # Whatever the disk has: the folder may be gone, or its file system read-only since an error.
            if not self._rescue(data):
                raise

    def _is_held(self, size: int) -> bool:
        """Return whether `size` bytes belong into memory."""
        return self._is_rescued or size <= self._in_memory

    def _write_to_file(self, data: bytes | memoryview) -> None:
        file = self._open_file()
        try:
            self._write_all(file.fileno(), data)
        except OSError as error:
            # What follows is not of this blob.
            file.truncate()
            self._left_over = 0
            raise _refusal(error) from None

    def _rescue(self, data: bytes | memoryview) -> bool:
        """Move the bytes into memory, with `data`, which the disk has not taken. Return whether that was possible."""
        written = self.size - len(data) if self._file is not None else 0
        if not self._is_paid or not self._budget.take(written + len(data), is_rescue=True):
            return False
        self._is_rescued = True
        if self._file is not None:
            self._keep(os.pread(self._file.fileno(), written, 0))
            self._file.close()
            self._file = None
            SPOOL_BYTES.dec(self.size)
        self._keep(data)
        return True

    def _keep(self, data: bytes | memoryview) -> None:
        """Hold bytes in memory that the budget has room for: as they came, which copies nothing."""
        if data:
            # A view would keep all of its buffer.
            self._pieces.append(bytes(data))
            self._ends.append(len(data) + (self._ends[-1] if self._ends else 0))

    def _open_file(self) -> IO[bytes]:
        """Return the file, which is created with the bytes held in memory first.

        Raises:
            SpoolFull: There is no room for it. The bytes are still in memory.
        """
        if self._file is None:
            try:
                with ExitStack() as on_error:
                    file, left_over = self._new_file()
                    on_error.enter_context(file)
                    for piece in self._pieces:
                        self._write_all(file.fileno(), piece)
                    on_error.pop_all()
            except OSError as error:
                raise _refusal(error) from None
            self._file, self._left_over = file, left_over
            SPOOL_BYTES.inc(self.size)
            self._drop_pieces()
        return self._file

    def _new_file(self) -> tuple[IO[bytes], int]:
        """Return a file to write, and where the bytes end that it still has."""
        # What is lent without bytes often gets none.
        spare = self._budget.spare_files.take(empty=not self.size)
        if spare is None:
            return tempfile.TemporaryFile(dir=self._directory, buffering=0), 0
        return spare.open(), spare.size

    def _write_all(self, descriptor: int, data: bytes | memoryview) -> None:
        """Write bytes, also in the room of the spare files."""
        # write(2) may write less than it was given, particularly on a disk that is nearly full.
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except OSError as error:
                if error.errno not in _NO_ROOM or not self._budget.spare_files.close():
                    raise

    def _drop_pieces(self) -> None:
        if self._ends:
            self._budget.give_back(self._ends[-1])
        self._pieces, self._ends = [], []

    @property
    def checksum(self) -> int:
        """The CRC-32 of all bytes, for which they are read again unless it was asked for from the start."""
        if self._checksum is not None:
            return self._checksum
        checksum = 0
        for chunk in self.chunks(_READ):
            checksum = zlib.crc32(chunk, checksum)
        return checksum

    @property
    def file_descriptor(self) -> int | None:
        """The descriptor of the file, None while the bytes are held in memory. Its position belongs to `write`."""
        return None if self._file is None else self._file.fileno()

    def lend_file(self) -> int:
        """Return the descriptor of a file with the bytes: for another process to read, or to write if there are none.

        `end_loan` says that it does not use the file any more.

        Raises:
            SpoolFull: The disk or its quota is full, or no descriptor is free for the file.
        """
        descriptor = self._whole_file(self._open_file())
        self._loans += 1
        return descriptor

    def end_loan(self) -> None:
        """Note that a process to which the file was lent has closed it."""
        self._loans -= 1

    def take_back(self, size: int) -> None:
        """Take over what another process has written into the file that was lent. Few bytes move into memory."""
        self.size, self._checksum = size, None
        SPOOL_BYTES.inc(size)
        if self._file is not None and size <= self._in_memory and self._budget.take(size):
            data = self.read_at(0, size)
            self._close_file()
            self._file = None
            self._keep(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer only at the end."""
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        if self._file is not None:
            return os.pread(self._whole_file(self._file), size, offset)
        if len(self._pieces) == 1:
            return self._pieces[0][offset : offset + size]
        return b"".join(self._slices(offset, offset + size))

    def _whole_file(self, file: IO[bytes]) -> int:
        """Return the descriptor of the file, which has the bytes of this blob and no others from here on."""
        if self._left_over > self.size:
            os.ftruncate(file.fileno(), self.size)
        self._left_over = 0
        return file.fileno()

    def _slices(self, start: int, end: int) -> Iterator[memoryview]:
        for index in range(bisect_right(self._ends, start), len(self._ends)):
            piece = self._pieces[index]
            piece_start = self._ends[index] - len(piece)
            if piece_start >= end:
                return
            yield memoryview(piece)[max(0, start - piece_start) : end - piece_start]

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield all bytes in chunks of `size`. Each chunk is read when it is requested."""
        for offset in range(0, self.size, size):
            yield self.read_at(offset, size)

    def close(self) -> None:
        """Release the bytes. May be called again; afterwards nothing may be read."""
        self._head = b""
        self._drop_pieces()
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None and not self._file.closed:
            if not self._loans:
                self._budget.spare_files.keep(self._file, max(self.size, self._left_over))
            self._file.close()
            SPOOL_BYTES.dec(self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _refusal(error: OSError) -> Exception:
    """Return what to raise for an error of the disk."""
    if error.errno not in _NO_ROOM:
        return error
    return SpoolFull(detail=f"LIMNER_SPOOL_DIR: {error.strerror}")


class Spool:
    """Own the blobs of one request and close them together."""

    def __init__(self, directory: Path | None = None, memory: SpoolMemory | None = None) -> None:
        """`directory` and `memory`: see `Blob`."""
        self._directory = directory
        self._memory = SpoolMemory() if memory is None else memory
        self._blobs: list[Blob] = []

    @property
    def size(self) -> int:
        """The bytes of all blobs."""
        return sum([blob.size for blob in self._blobs])

    def new_blob(self, *, with_checksum: bool = False, is_paid: bool = False) -> Blob:
        return self.add(Blob(self._directory, memory=self._memory, with_checksum=with_checksum, is_paid=is_paid))

    def add(self, blob: Blob) -> Blob:
        """Take ownership of `blob` and return it."""
        self._blobs.append(blob)
        return blob

    def absorb(self, other: "Spool") -> None:
        """Take ownership of the blobs of another spool, which is empty afterwards."""
        self._blobs += other._blobs
        other._blobs = []

    def close_all_but(self, needed: Collection[object]) -> None:
        """Close the blobs that are not needed any more."""
        ids = {id(blob) for blob in needed}
        blobs, self._blobs = self._blobs, [blob for blob in self._blobs if id(blob) in ids]
        for blob in blobs:
            if id(blob) not in ids:
                blob.close()

    def close(self) -> None:
        while self._blobs:
            self._blobs.pop().close()
