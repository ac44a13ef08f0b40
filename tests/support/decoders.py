"""The processes of a decoder pool, and what they use. Only on Linux."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import PngImagePlugin

from app.images.decoder_pool import DecoderPool


def template_of(pool: DecoderPool) -> int:
    """Return the process id of the template."""
    assert pool._template is not None
    return pool._template._process.pid


def decoders_of(template: int) -> set[int]:
    """Return the process ids of the decoders that live."""
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _parent(entry) == template}


def is_alive(pid: int) -> bool:
    return _status(str(pid)).get("State", "X").strip()[0] not in "XZ"


def _parent(pid: str) -> int:
    return int(_status(pid).get("PPid", "0"))


def _status(pid: str) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in text.splitlines())


class Peak:
    """The largest resident memory of one decoder, and by how much this process grew, in MiB."""

    decoder = 0.0
    server = 0.0


@contextmanager
def measured_memory(pool: DecoderPool) -> Iterator[Peak]:
    """Measure the memory that is used meanwhile. A decoder is looked at every millisecond, since it may be replaced."""
    peak, finished = Peak(), threading.Event()
    template = template_of(pool)

    def watch() -> None:
        while not finished.wait(0.001):
            for pid in decoders_of(template):
                peak.decoder = max(peak.decoder, _mebibytes(str(pid), "VmHWM"))

    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _mebibytes("self", "VmRSS")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        finished.set()
        watcher.join()
        peak.server = _mebibytes("self", "VmHWM") - before


def _mebibytes(pid: str, field: str) -> float:
    return int(_status(pid).get(field, "0 kB").split()[0]) / 1024


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does, which gets the processor meanwhile."""
    nothing = threading.Event()
    async with asyncio.timeout(50):
        while not condition():
            await asyncio.to_thread(nothing.wait, 0.005)


def restore_pillow_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a decoder changes in Pillow for its process last no longer than the test."""
    for name in ("PngStream", "MAX_TEXT_MEMORY", "MAX_TEXT_CHUNK"):
        monkeypatch.setattr(PngImagePlugin, name, getattr(PngImagePlugin, name))
