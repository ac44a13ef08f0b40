"""Append one JSON line per image request to the ledger, a file that several processes may share."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from app.observability.line_writer import STOPPED, LineWriter
from app.observability.logging import log
from app.observability.metrics import LEDGER_ERRORS

_STANDARD_OUTPUT = 1

#: Seconds at the end for the reader of the standard output to read what waits for it.
_FLUSH_SECONDS = 2.0

#: A pipe at the path must not block the server: neither opening it without a reader, nor writing once it is full.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK

#: What goes wrong with a pipe, in words.
_REASONS = {errno.ENXIO: "nobody reads this pipe", errno.EAGAIN: STOPPED}


class Ledger:
    """The ledger file, or standard output when `path` is None.

    A file that was renamed or removed is created again at the next line, so any log rotation works without a signal.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path or Path("/dev/stdout")
        self._output = LineWriter(_STANDARD_OUTPUT, self._fail, self._resume) if path is None else None
        self._descriptor = -1
        #: Device and inode of the open file; another one at `path` means that the file was rotated.
        self._file_id: tuple[int, int] | None = None
        self._last_line_is_cut = False
        self._has_failed = False

    def write(self, entry: Mapping[str, object]) -> None:
        """Append one line with a single system call, so that lines of several processes never mix.

        Never raises, and waits for no reader: a line may be lost, an image that was paid for may not. Each loss is
        counted; the first of several in a row is logged.
        """
        line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        if self._output is not None:
            self._output.write(line)
        else:
            self._append(line)

    def _append(self, line: bytes) -> None:
        try:
            self._open()
            # A full disk can cut a line. The line break in front keeps the next line readable.
            data = b"\n" + line if self._last_line_is_cut else line
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._fail(_REASONS.get(error.errno or 0) or str(error))
            return
        self._last_line_is_cut = written < len(data)
        if self._last_line_is_cut:
            self._fail("a line was cut short: is the disk full?")
        else:
            self._resume()

    def _open(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._file_id:
            self.close()
            # Not readable for other users: the file shows what each client key spends.
            self._descriptor = os.open(self._path, _FLAGS, 0o640)
            opened = os.fstat(self._descriptor)
            self._file_id = opened.st_dev, opened.st_ino

    def _fail(self, reason: str) -> None:
        LEDGER_ERRORS.inc()
        if not self._has_failed:
            log.error("ledger_write_failed", path=str(self._path), reason=reason)
        self._has_failed = True

    def _resume(self, _: int = 0) -> None:
        self._has_failed = False

    def close(self) -> None:
        if self._output is not None:
            self._output.flush_waiting(_FLUSH_SECONDS)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._file_id = None
