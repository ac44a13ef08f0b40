"""Look at the files of blobs, and fill their disk."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from app.images.blob import Blob


def write(blob: Blob, *chunks: bytes) -> Blob:
    for chunk in chunks:
        blob.write(chunk)
    return blob


def watch_files(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Return a list that gets the folder of every temporary file created from now on."""
    opened: list[Path | None] = []
    real = tempfile.TemporaryFile

    def create(**options: Any) -> IO[bytes]:
        opened.append(options["dir"])
        file: IO[bytes] = real(**options)
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", create)
    return opened


def full_disk(number: int, after: int) -> Callable[[int, bytes], int]:
    """Return a replacement of `os.write` that accepts `after` bytes and then fails with the error `number`."""
    real = os.write
    left = after

    def write(descriptor: int, data: bytes) -> int:
        nonlocal left
        if left == 0:
            raise OSError(number, os.strerror(number))
        written = real(descriptor, bytes(data)[:left])
        left -= written
        return written

    return write
