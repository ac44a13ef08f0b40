"""All rows of FORMATS: each is needed, and each handles files that are unusual but valid, or cut off."""

import struct
from dataclasses import dataclass

import pytest

from app.protocol.image_format import FORMATS, FormatSpec, ImageInfo, bytes_reader, is_complete, is_cut_off, sniff
from tests.support.image_files import IMAGE_FILES, JPEG, PNG

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"
META = b"\0\0\0\x20meta\0\0\0\0" + b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", 21, 13)


def tiff_of_strips(*ends: int) -> bytes:
    """Return a TIFF of 21x13 pixels with strips of ten bytes behind 110 bytes of directory, each `end` further on."""
    entries = (
        struct.pack("<HHIHH", 256, 3, 1, 21, 0),
        struct.pack("<HHIHH", 257, 3, 1, 13, 0),
        struct.pack("<HHII", 273, 4, len(ends), 80),
        struct.pack("<HHIHH", 279, 3, len(ends), 10, 10),
        struct.pack("<HHII", 282, 5, 1, 100),
    )
    directory = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries)
    offsets = struct.pack(f"<{len(ends)}I", *(100 + end for end in ends))
    return (directory.ljust(80, b"\0") + offsets).ljust(160, b"\0")


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    info: ImageInfo
    complete: bool


def info(format_: str, width: int | None = None, height: int | None = None, *, alpha: bool = False) -> ImageInfo:
    return ImageInfo(f"image/{format_}", width, height, alpha)


def bmp(header: bytes) -> bytes:
    return b"BM" + struct.pack("<IHHI", 14 + len(header), 0, 0, 26) + header


CASES_OF_ODD_FILES = [
    Case("a PNG of eight bytes", b"\x89PNG\r\n\x1a\n", info("png"), False),
    Case("a PNG that ends in its first chunk", PNG[:40], info("png", 21, 13), False),
    Case(
        "a PNG of chunks without pixels",
        PNG[:33] + b"\0\0\0\0tEXt\0\0\0\0" * 600,
        info("png", 21, 13),
        False,
    ),
    Case("a JPEG with fill bytes", b"\xff\xd8\xff\xff\xff" + JPEG[3:], info("jpeg", 21, 13), True),
    Case("a JPEG of markers only", b"\xff\xd8" + b"\xff\xe0\0\2" * 600, info("jpeg"), False),
    Case("a JPEG whose segments end in zeros", b"\xff\xd8\xff\xe0\0\2" + b"\0" * 20, info("jpeg"), False),
    Case("a WebP without a size", b"RIFF\x40\0\0\0WEBPVP8 ", info("webp"), False),
    Case(
        "an extended WebP with alpha",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\x14\0\0\x0c\0\0",
        info("webp", 21, 13, alpha=True),
        True,
    ),
    Case("a GIF without a size", b"GIF89a\x15\0", info("gif"), False),
    Case("a GIF without a color table", b"GIF89a\x15\0\x0d\0\0\0\0;", info("gif", 21, 13), True),
    Case("a HEIC", HEIC + META, info("heic", 21, 13), True),
    Case("a HEIC without a size", HEIC, info("heic"), True),
    Case("a HEIC whose last box is open", HEIC + b"\0\0\0\0mdatxx", info("heic"), True),
    Case("a HEIC with a long box", HEIC + b"\0\0\0\1mdat" + struct.pack(">Q", 20) + b"xxxx", info("heic"), True),
    Case("a HEIC that is cut off", HEIC + META[:20], info("heic"), False),
    Case("a HEIC of tiny boxes", HEIC + b"\0\0\0\x08free" * 600, info("heic"), False),
    Case("a BMP of OS/2", bmp(struct.pack("<IHHHH", 12, 21, 13, 1, 24) + b"1234"), info("bmp", 21, 13), True),
    Case(
        "a BMP from top to bottom",
        bmp(struct.pack("<IiiHH", 40, 21, -13, 1, 32)),
        info("bmp", 21, 13, alpha=True),
        True,
    ),
    Case("a BMP without a size", bmp(b"\x28\0\0\0"), info("bmp"), False),
    Case("a TIFF of eight bytes", b"II*\0\x08\0\0\0", info("tiff"), False),
    Case("a TIFF whose directory is not there", b"II*\0\xff\0\0\0", info("tiff"), False),
    Case("a TIFF with two strips", tiff_of_strips(40, 50), info("tiff", 21, 13), True),
    Case("a TIFF whose last strip is cut off", tiff_of_strips(40, 500), info("tiff", 21, 13), False),
    Case("a TIFF whose directory is cut off", tiff_of_strips(40, 50)[:40], info("tiff", 21, 13), False),
    Case("a GIF that is cut off behind a semicolon", b"GIF89a\x15\0\x0d\0\0\0\0,;", info("gif", 21, 13), False),
    Case("a TIFF of four bytes", b"MM\0*", info("tiff"), False),
    Case(
        "a TIFF in the other byte order, with alpha",
        b"MM\0*\0\0\0\x08\0\4"
        + struct.pack(">HHIHH", 256, 3, 1, 21, 0)
        + struct.pack(">HHII", 257, 4, 1, 13)
        + struct.pack(">HHII", 270, 2, 4, 0)
        + struct.pack(">HHIHH", 338, 3, 1, 2, 0),
        info("tiff", 21, 13, alpha=True),
        True,
    ),
]


@pytest.mark.parametrize("case", CASES_OF_ODD_FILES, ids=lambda case: case.name)
def test_an_unusual_file_is_described_as_far_as_possible(case: Case) -> None:
    assert sniff(case.data) == case.info
    assert is_complete(bytes_reader(case.data), len(case.data)) is case.complete
    is_image = sniff(case.data) is not None
    assert is_cut_off(bytes_reader(case.data), len(case.data)) is (is_image and not case.complete)


PADDING = bytes(100_000)


@pytest.mark.parametrize(
    ("data", "complete"),
    [
        (JPEG[:-2] + PADDING + b"\xff\xd9", True),
        (JPEG[:-2] + PADDING, False),
        (JPEG + bytes(60_000), True),
        (JPEG + PADDING, True),
        (JPEG[:-1] + PADDING + b"\xff\xd9" + b"\xff\xda" + PADDING, True),
        (JPEG[:2] + PADDING + b"\xff\xd9" + PADDING, False),
        (PNG + bytes(60_000), True),
        (PNG + PADDING, True),
        (PNG[:-12] + bytes(64_711) + PNG[-12:] + PADDING, True),
        (PNG[:-12] + PADDING, False),
    ],
    ids=[
        "a large JPEG",
        "a large JPEG without its end",
        "a JPEG with a little behind its end",
        "a JPEG with much behind its end",
        "a JPEG with a film behind its end that has the mark of a scan",
        "a JPEG without pixels",
        "a PNG with a little behind its end",
        "a PNG with much behind its end",
        "a PNG whose end is cut by two pieces",
        "a large PNG without its end",
    ],
)
def test_the_end_is_found_wherever_it_is(data: bytes, complete: bool) -> None:
    assert is_complete(bytes_reader(data), len(data)) is complete


def test_of_most_png_files_only_the_ends_are_read() -> None:
    data = PNG[:-12] + PADDING + PNG[-12:]
    sizes: list[int] = []

    def read_at(offset: int, size: int) -> bytes:
        sizes.append(size)
        return data[offset : offset + size]

    assert is_complete(read_at, len(data))
    assert sum(sizes) < 32


@pytest.mark.parametrize("spec", FORMATS, ids=lambda spec: spec.format)
def test_every_row_is_needed(spec: FormatSpec) -> None:
    files = [case.data for case in IMAGE_FILES] + [HEIC]
    needing = [data for data in files if [other for other in FORMATS if other.magic.match(data[:16])] == [spec]]
    assert needing
