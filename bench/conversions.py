"""Measure conversions in decoder processes beside the same calls of Pillow in a process of its own.

CPU time is that of all processes that take part. Memory is the peak of one decoder, less what it holds before.
With `--vips PYTHON`, an interpreter that has pyvips makes the same files too.
"""

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from app.images.blob import Blob
from app.images.transcode import Transcoder
from app.protocol.size_fit import SizeMode
from bench.table import write_table

_MIB = 2**20
_TICKS = os.sysconf("SC_CLK_TCK")

#: What a client gets that does not say how strongly an image is compressed.
_QUALITY = 100


@dataclass(frozen=True, slots=True)
class Conversion:
    """A PNG becomes another file. `size`: cropped and scaled to it."""

    name: str
    source: tuple[int, int]
    target: str
    size: tuple[int, int] | None = None


CONVERSIONS = [
    Conversion(f"PNG to {name}, {width}x{height}", (width, height), target, size)
    for width, height in ((1024, 1024), (3840, 2160))
    for name, target, size in (
        ("WebP", "webp", None),
        ("JPEG", "jpeg", None),
        ("PNG, half as large", "png", (width // 2, height // 2)),
    )
]

#: The same in one process without limits. Arguments: source, target, format, quality, width, height, images.
_BARE = {
    "pillow": """
import resource, sys
from PIL import Image
source, target, kind, quality, width, height, count = sys.argv[1:]
options = {"png": {"compress_level": 3}, "jpeg": {"quality": int(quality), "subsampling": "4:4:4"},
           "webp": {"quality": int(quality), "method": 4}}[kind]
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
held, idle = peak(), resource.getrusage(resource.RUSAGE_SELF)
for _ in range(int(count)):
    image = Image.open(source)
    image.load()
    if int(width):
        image = image.resize((int(width), int(height)), Image.Resampling.LANCZOS)
    image.save(target, kind, **options)
used = resource.getrusage(resource.RUSAGE_SELF)
print((used.ru_utime + used.ru_stime - idle.ru_utime - idle.ru_stime) / int(count), peak() - held)
""",
    "vips": """
import resource, sys
import pyvips
source, target, kind, quality, width, height, count = sys.argv[1:]
options = {"png": {"compression": 3}, "jpeg": {"Q": int(quality), "subsample_mode": "off"},
           "webp": {"Q": int(quality), "effort": 4}}[kind]
pyvips.cache_set_max(0)
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
held, idle = peak(), resource.getrusage(resource.RUSAGE_SELF)
for _ in range(int(count)):
    image = pyvips.Image.new_from_file(source, access="sequential")
    if int(width):
        image = image.resize(int(width) / image.width, kernel="lanczos3")
    image.write_to_file(target + "." + kind, **options)
used = resource.getrusage(resource.RUSAGE_SELF)
print((used.ru_utime + used.ru_stime - idle.ru_utime - idle.ru_stime) / int(count), peak() - held)
""",
}


def draw(size: tuple[int, int], path: Path) -> None:
    """Write an image with as much detail as a photo."""
    width, height = size
    coarse = [Image.effect_noise((width // 4, height // 4), 60).resize(size, Image.Resampling.BICUBIC) for _ in "RGB"]
    Image.merge("RGB", coarse).save(path, "PNG", compress_level=3)


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def decoders() -> list[int]:
    """Return the ids of the decoders, which the template has forked."""
    return [decoder for template in children(os.getpid()) for decoder in children(template)]


def cpu_seconds() -> float:
    """Return the CPU time of this process, of the template and of the decoders, so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ticks = 0
    for pid in (*children(os.getpid()), *decoders()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return own.ru_utime + own.ru_stime + ticks / _TICKS


def peak_memory() -> int:
    """Return the largest peak of resident memory among the decoders, in bytes."""
    lines = [Path(f"/proc/{pid}/status").read_text() for pid in decoders()]
    return max(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in lines)


async def measure_limner(
    conversion: Conversion, data: bytes, small: bytes, at_once: int, count: int
) -> tuple[float, float, int]:
    """Return CPU seconds and elapsed seconds for each image, and the bytes of memory of one decoder."""
    transcoder = Transcoder(decoders=2)
    transcoder.start()
    mode = SizeMode.NATIVE if conversion.size is None else SizeMode.COVER
    with Blob() as blob:
        blob.write(data)

        async def convert() -> None:
            made = await transcoder.convert(
                blob, image_format=conversion.target, compression=_QUALITY, size=conversion.size, mode=mode
            )
            made.close() if made is not blob else None

        warming = Blob()
        warming.write(small)
        await asyncio.gather(*(transcoder.convert(warming, image_format="jpeg") for _ in range(2)))
        idle = peak_memory()
        cpu, started = cpu_seconds(), time.perf_counter()
        for _ in range(count):
            await asyncio.gather(*(convert() for _ in range(at_once)))
        used, elapsed = cpu_seconds() - cpu, time.perf_counter() - started
        memory = peak_memory() - idle
    transcoder.close()
    return used / count / at_once, elapsed / count / at_once, memory


def measure_bare(name: str, python: str, conversion: Conversion, path: Path, count: int) -> tuple[float, int]:
    """Return CPU seconds for each image, and bytes of memory."""
    width, height = conversion.size or (0, 0)
    numbers = (str(number) for number in (_QUALITY, width, height, count))
    arguments = [str(path), str(path.with_name("made")), conversion.target, *numbers]
    done = subprocess.run([python, "-c", _BARE[name], *arguments], check=True, capture_output=True, text=True)
    seconds, kib = done.stdout.split()
    return float(seconds), int(kib) * 1024


def measure(conversion: Conversion, folder: Path, vips: str | None, rounds: int, at_once: int) -> list[str]:
    """Return a row of the table: medians of the times, maxima of the memory."""
    path = folder / f"{conversion.source[0]}.png"
    if not path.exists():
        draw(conversion.source, path)
    small = path.with_name("small.png").read_bytes()
    count = 6 if conversion.source[0] < 2000 else 2
    limner, bare, other = [], [], []
    for _ in range(rounds):
        limner.append(
            asyncio.run(measure_limner(conversion, path.read_bytes(), small, at_once, max(1, count // at_once)))
        )
        bare.append(measure_bare("pillow", sys.executable, conversion, path, count))
        if vips:
            other.append(measure_bare("vips", vips, conversion, path, count))
    cpu, pillow = statistics.median(row[0] for row in limner), statistics.median(row[0] for row in bare)
    elapsed = statistics.median(row[1] for row in limner)
    row = [conversion.name, str(at_once), f"{cpu * 1000:.0f}", f"{cpu / pillow:.2f}", f"{elapsed * 1000:.0f}"]
    row += [f"{max(row[2] for row in limner) / _MIB:.0f}", f"{max(row[1] for row in bare) / _MIB:.0f}"]
    if vips:
        seconds = statistics.median(row[0] for row in other)
        row += [f"{seconds / pillow:.2f}", f"{max(row[1] for row in other) / _MIB:.0f}"]
    return row


def main() -> None:
    """Measure all conversions and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vips", help="an interpreter with pyvips")
    parser.add_argument("--only", default="", help="a word in the name of a conversion")
    options = parser.parse_args()
    head = ["conversion", "at once", "CPU ms", "× Pillow", "ms", "MiB", "Pillow's MiB"]
    head += ["libvips × Pillow", "libvips' MiB"] if options.vips else []
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw((64, 64), folder / "small.png")
        rows = [
            measure(each, folder, options.vips, options.rounds, at_once)
            for each in CONVERSIONS
            for at_once in (1, 8)
            if options.only in each.name
        ]
    write_table(head, rows, print)


if __name__ == "__main__":
    main()
