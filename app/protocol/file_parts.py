"""Walk through the chunks and segments of which image files consist."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: `read_at(offset, size)` returns `size` bytes, fewer only at the end of the file.
ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class FilePart:
    """A chunk of a PNG or WebP, or a segment of a JPEG: its type, and where its contents are."""

    kind: bytes
    offset: int
    length: int


def png_chunks(read_at: ReadAt, limit: int) -> Iterator[FilePart]:
    """Yield at most `limit` chunks of a PNG."""
    return _chunks(read_at, 8, limit, _read_png_head)


def webp_chunks(read_at: ReadAt, limit: int) -> Iterator[FilePart]:
    """Yield at most `limit` chunks of a WebP."""
    return _chunks(read_at, 12, limit, _read_webp_head)


def _read_png_head(head: bytes) -> tuple[bytes, int, int]:
    """Return the type of a chunk, the length of its contents, and that of what follows them: a checksum."""
    return head[4:], int.from_bytes(head[:4], "big"), 4


def _read_webp_head(head: bytes) -> tuple[bytes, int, int]:
    """Return the same as `_read_png_head`; a byte follows an odd length, so that chunks begin at even places."""
    length = int.from_bytes(head[4:], "little")
    return head[:4], length, length % 2


def _chunks(
    read_at: ReadAt, offset: int, limit: int, read_head: Callable[[bytes], tuple[bytes, int, int]]
) -> Iterator[FilePart]:
    for _ in range(limit):
        head = read_at(offset, 8)
        if len(head) < 8:
            return
        kind, length, after = read_head(head)
        yield FilePart(kind, offset + 8, length)
        offset += 8 + length + after


def jpeg_segments(read_at: ReadAt, offset: int, limit: int) -> Iterator[FilePart]:
    """Yield at most `limit` segments of a JPEG, from `offset` to its first scan. Their type is their marker."""
    for _ in range(limit):
        head = read_at(offset, 4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in {0xD9, 0xDA}:
            return
        if head[1] == 0xFF:  # A fill byte.
            offset += 1
            continue
        length = int.from_bytes(head[2:], "big")
        yield FilePart(head[1:2], offset + 4, max(0, length - 2))
        offset += 2 + length
