"""The chunks and segments of image files are found, within a limit, and damage ends the walk."""

from collections.abc import Callable, Iterator

import pytest

from app.protocol.file_parts import FilePart, jpeg_segments, png_chunks, webp_chunks
from app.protocol.image_format import bytes_reader

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\2tEXtabCCCC" + b"\0\0\0\0IENDCCCC"
WEBP = b"RIFF\0\0\0\0WEBP" + b"EXIF\3\0\0\0abc\0" + b"VP8 \2\0\0\0ab"
JPEG = b"\xff\xd8" + b"\xff\xe1\0\4ab" + b"\xff\xff\xe2\0\3c" + b"\xff\xe3\0\0" + b"\xff\xda\0\4ab"


def segments(data: bytes, limit: int = 9) -> list[FilePart]:
    return list(jpeg_segments(bytes_reader(data), 2, limit))


@pytest.mark.parametrize(
    ("walk", "data", "parts"),
    [
        (png_chunks, PNG, [FilePart(b"tEXt", 16, 2), FilePart(b"IEND", 30, 0)]),
        (webp_chunks, WEBP, [FilePart(b"EXIF", 20, 3), FilePart(b"VP8 ", 32, 2)]),
    ],
)
def test_chunks_are_found(walk: Callable[..., Iterator[FilePart]], data: bytes, parts: list[FilePart]) -> None:
    assert list(walk(bytes_reader(data), 9)) == parts
    assert list(walk(bytes_reader(data), 1)) == parts[:1]
    assert list(walk(bytes_reader(data[: parts[1].offset - 1]), 9)) == parts[:1]


def test_segments_are_found_up_to_the_first_scan() -> None:
    found = [FilePart(b"\xe1", 6, 2), FilePart(b"\xe2", 13, 1), FilePart(b"\xe3", 18, 0)]
    assert segments(JPEG) == found
    assert segments(JPEG, 3) == found[:2]


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xff\xd9\0\0", b"ab\0\4", b"\xff\xe1\0"])
def test_what_is_no_segment_ends_the_walk(end: bytes) -> None:
    assert segments(JPEG[:8] + end) == [FilePart(b"\xe1", 6, 2)]
