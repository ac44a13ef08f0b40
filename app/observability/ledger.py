"""The file that tells of each question in one line of JSON, written so that several processes may share it."""

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from app.observability.logging import log
from app.observability.metrics import LEDGER_ERRORS

_STANDARD_OUTPUT = 1


class Ledger:
    """`path` None: standard output. A file that has been renamed or removed is begun anew, so any rotation will do."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = _STANDARD_OUTPUT if path is None else -1
        self._inode: tuple[int, int] | None = None
        self._is_cut = False
        self._has_failed = False

    def write(self, entry: Mapping[str, object]) -> None:
        """One call of write(2) at the end of the file: lines of several writers stay whole. It never raises.

        A line is lost rather than a picture, which has been paid for: the log tells so once, a counter each time.
        """
        line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        try:
            self._open()
            # What a full disk has cut short must not spoil this line too.
            data = b"\n" + line if self._is_cut else line
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._fail(str(error))
            return
        self._is_cut = written < len(data)
        if self._is_cut:
            self._fail("a line was cut short: is the disk full?")
        else:
            self._has_failed = False

    def _open(self) -> None:
        if self._path is None:
            return
        try:
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != self._inode:
            self.close()
            # What is spent on pictures, and by whom, is for the operator's eyes.
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            now = os.fstat(self._descriptor)
            self._inode = now.st_dev, now.st_ino

    def _fail(self, reason: str) -> None:
        LEDGER_ERRORS.inc()
        if not self._has_failed:
            log.error("ledger_write_failed", path=str(self._path), reason=reason)
        self._has_failed = True

    def close(self) -> None:
        if self._path is not None and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._inode = None
