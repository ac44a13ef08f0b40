"""Recognize image files by their bytes: format, pixel size, transparency, and whether the file is complete."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.protocol.file_parts import ReadAt, jpeg_segments

#: Width and height (None if not found), and whether some pixel may be transparent.
Measurement = tuple[int | None, int | None, bool]

#: Chunks, segments, boxes or tags that are read before the search for a size is given up.
_MAX_STEPS = 512
#: Bytes at the start of an AVIF or HEIC that are searched for sizes.
_HEAD = 64 * 1024
#: Bytes at the end of a file that are searched first for the end of a PNG or JPEG, and of each further piece.
_TAIL = 64 * 1024

#: What files of a format end with.
_ENDS = {"png": b"IEND\xaeB`\x82", "jpeg": b"\xff\xd9", "gif": b"\0;"}


@dataclass(frozen=True, slots=True)
class FormatSpec:
    """One image format: how to recognize, measure and check it. `magic` is matched against the first 16 bytes."""

    format: str
    magic: re.Pattern[bytes]
    measure: Callable[[ReadAt], Measurement]
    is_complete: Callable[[ReadAt, int], bool]


def _measure_png(read_at: ReadAt) -> Measurement:
    ihdr = read_at(16, 10)
    if len(ihdr) < 10:
        return None, None, False
    width, height, _, color = struct.unpack(">IIBB", ihdr)
    return width, height, color in {4, 6} or _has_trns(read_at)


def _has_trns(read_at: ReadAt) -> bool:
    # A tRNS chunk must precede the pixels, so the search ends at the first IDAT.
    offset = 33
    for _ in range(_MAX_STEPS):
        chunk = read_at(offset, 8)
        if len(chunk) < 8 or chunk[4:] in {b"IDAT", b"IEND"}:
            return False
        if chunk[4:] == b"tRNS":
            return True
        offset += 12 + int.from_bytes(chunk[:4], "big")
    return False


def _is_complete_png(read_at: ReadAt, size: int) -> bool:
    end = _ENDS["png"]
    # Nothing follows most of them, and the last 64 KiB need not be read.
    is_at_end = read_at(max(0, size - len(end)), len(end)) == end
    return is_at_end or end in _last_bytes(read_at, size) or _contains(read_at, 33, end)


#: Start-of-frame markers; C4, C8 and CC in the same range have other meanings.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _measure_jpeg(read_at: ReadAt) -> Measurement:
    for segment in jpeg_segments(read_at, 2, _MAX_STEPS):
        size = read_at(segment.offset + 1, 4) if segment.kind[0] in _SOF else b""
        if len(size) == 4:
            height, width = struct.unpack(">HH", size)
            return width, height, False
    return None, None, False


def _is_complete_jpeg(read_at: ReadAt, size: int) -> bool:
    # An end-of-image marker must follow the last scan; that of an embedded thumbnail precedes the image's own scan.
    tail = _last_bytes(read_at, size)
    scan = tail.rfind(b"\xff\xda")
    if tail.rfind(b"\xff\xd9") > scan and (scan > 0 or size > len(tail)):
        return True
    # Phones append a film to a photo. Within a scan no other marker looks like the end.
    first = 2
    for segment in jpeg_segments(read_at, 2, _MAX_STEPS):
        first = segment.offset + segment.length
    return read_at(first, 16).lstrip(b"\xff").startswith(b"\xda") and _contains(read_at, first, b"\xff\xd9")


def _measure_webp(read_at: ReadAt) -> Measurement:
    head = read_at(0, 30)
    if len(head) < 30:
        return None, None, False
    match head[12:16]:
        case b"VP8X":
            return 1 + _le(head[24:27]), 1 + _le(head[27:30]), bool(head[20] & 0x10)
        case b"VP8L":
            bits = _le(head[21:25])
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)
        case _:
            return _le(head[26:28]) & 0x3FFF, _le(head[28:30]) & 0x3FFF, False


def _is_complete_webp(read_at: ReadAt, size: int) -> bool:
    # Some encoders count a last padding byte that they do not write.
    return size + 1 >= 8 + _le(read_at(4, 4))


def _last_bytes(read_at: ReadAt, size: int) -> bytes:
    return read_at(max(0, size - _TAIL), _TAIL)


def _contains(read_at: ReadAt, offset: int, mark: bytes) -> bool:
    """Return whether a mark stands anywhere behind an offset. The whole file is read for it, in pieces."""
    overlap = b""
    while piece := read_at(offset, _TAIL):
        if mark in overlap + piece:
            return True
        overlap = piece[1 - len(mark) :]
        offset += len(piece)
    return False


def _le(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _measure_gif(read_at: ReadAt) -> Measurement:
    head = read_at(0, 13)
    if len(head) < 13:
        return None, None, False
    table = 3 << (head[10] & 7) + 1 if head[10] & 0x80 else 0
    return _le(head[6:8]), _le(head[8:10]), _has_transparent_color(read_at(13 + table, 4096))


def _has_transparent_color(blocks: bytes) -> bool:
    """Read the first graphic control extension in the `blocks` behind the global color table of a GIF."""
    control = blocks.find(b"\x21\xf9\x04")
    return 0 <= control < len(blocks) - 3 and bool(blocks[control + 3] & 1)


def _is_complete_gif(read_at: ReadAt, size: int) -> bool:
    # The blocks of an image and of an extension end with a zero, so this is in front of the last byte.
    return read_at(max(0, size - 64), 64).rstrip(b"\0\r\n ").endswith(b"\0;")


def _measure_iso(read_at: ReadAt) -> Measurement:
    """Measure an AVIF or HEIC by its largest item, since tiles and thumbnails have sizes too."""
    head = read_at(0, _HEAD)
    sizes = [struct.unpack_from(">II", head, at + 8) for at in _offsets(head, b"ispe") if at + 16 <= len(head)]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(None, None))
    return width, height, b"auxiliary:alpha" in head or b"auxid:1" in head


def _offsets(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def _is_complete_iso(read_at: ReadAt, size: int) -> bool:
    offset = 0
    for _ in range(_MAX_STEPS):
        box = read_at(offset, 16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:], "big")
        elif length == 0:  # The last box extends to the end of the file.
            return offset + 8 < size
        offset += max(length, 8)
        if offset >= size:
            return offset == size
    return False


def _measure_bmp(read_at: ReadAt) -> Measurement:
    head = read_at(14, 16)
    if len(head) < 16:
        return None, None, False
    if _le(head[:4]) == 12:  # The older header of OS/2.
        return _le(head[4:6]), _le(head[6:8]), False
    width, height, _, bits = struct.unpack("<iiHH", head[4:16])
    return abs(width), abs(height), bits == 32


def _is_complete_bmp(read_at: ReadAt, size: int) -> bool:
    return size > 26 and size >= _le(read_at(2, 4))


def _measure_tiff(read_at: ReadAt) -> Measurement:
    """Measure the first page. The tag ExtraSamples (338) stands for an alpha channel."""
    order = tiff_order(read_at)
    tags = dict(_tiff_tags(read_at, order))
    return tags.get(256), tags.get(257), bool(tags.get(338))


def _tiff_tags(read_at: ReadAt, order: str) -> Iterator[tuple[int, int]]:
    """Yield tags and values of type SHORT (3) and LONG (4), whose values are stored in the entry itself."""
    entries, _ = _tiff_entries(read_at, order)
    for at in range(0, len(entries) - 11, 12):
        tag, value_type = struct.unpack_from(order + "HH", entries, at)
        if value_type in {3, 4}:
            yield tag, struct.unpack_from(order + ("H" if value_type == 3 else "I"), entries, at + 8)[0]


def _tiff_entries(read_at: ReadAt, order: str) -> tuple[bytes, bool]:
    """Return the entries of the first directory, and whether they are all there."""
    head = read_at(0, 8)
    if len(head) < 8:
        return b"", False
    (directory,) = struct.unpack_from(order + "I", head, 4)
    size = 12 * min(_MAX_STEPS, tiff_number(read_at(directory, 2), order))
    entries = read_at(directory + 2, size)
    return entries, len(entries) == size


def tiff_order(read_at: ReadAt) -> str:
    """Return the order of bytes in a TIFF, as `struct` writes it."""
    return "<" if read_at(0, 1) == b"I" else ">"


def tiff_number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "<" else "big")


#: Tags of the offsets and of the lengths of strips, and of tiles.
_TIFF_PIXELS = ((273, 279), (324, 325))


def _is_complete_tiff(read_at: ReadAt, size: int) -> bool:
    """Check for the directory and for the last strip or tile: directory and pixels stand in any order."""
    order = tiff_order(read_at)
    entries, is_whole = _tiff_entries(read_at, order)
    last = dict(_last_values(read_at, order, entries))
    ends = [last[offset] + last[length] for offset, length in _TIFF_PIXELS if offset in last and length in last]
    return is_whole and _measure_tiff(read_at)[0] is not None and all(end <= size for end in ends)


def _last_values(read_at: ReadAt, order: str, entries: bytes) -> Iterator[tuple[int, int]]:
    """Yield tags and the last of their values of type SHORT and LONG. Four bytes of them are stored in the entry."""
    for at in range(0, len(entries) - 11, 12):
        tag, value_type, count, start = struct.unpack_from(order + "HHII", entries, at)
        width = {3: 2, 4: 4}.get(value_type, 0)
        if width and count * width <= 4:
            yield tag, tiff_number(entries[at + 8 :][: count * width][-width:], order)
        elif width:
            yield tag, tiff_number(read_at(start + (count - 1) * width, width), order)


def _magic(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


FORMATS = (
    FormatSpec("png", _magic(rb"\x89PNG\r\n\x1a\n"), _measure_png, _is_complete_png),
    FormatSpec("jpeg", _magic(rb"\xff\xd8\xff"), _measure_jpeg, _is_complete_jpeg),
    FormatSpec("webp", _magic(rb"RIFF.{4}WEBP"), _measure_webp, _is_complete_webp),
    FormatSpec("gif", _magic(rb"GIF8[79]a"), _measure_gif, _is_complete_gif),
    FormatSpec("avif", _magic(rb".{4}ftypavi[fs]"), _measure_iso, _is_complete_iso),
    FormatSpec("heic", _magic(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"), _measure_iso, _is_complete_iso),
    # Two letters are too weak a signature, so the reserved fields must be zero and the header size a known one.
    FormatSpec("bmp", _magic(rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0"), _measure_bmp, _is_complete_bmp),
    FormatSpec("tiff", _magic(rb"II\*\0|MM\0\*"), _measure_tiff, _is_complete_tiff),
)

#: File extensions that differ from the name of the format.
_EXTENSIONS = {"jpeg": "jpg", "tiff": "tif"}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the first bytes of an image file say about it.

    Attributes:
        width: In pixels; None, like `height`, if the size was not found.
        alpha: Whether some pixel may be transparent.
    """

    media_type: str
    width: int | None
    height: int | None
    alpha: bool

    @property
    def size(self) -> str | None:
        return f"{self.width}x{self.height}" if self.width and self.height else None

    @property
    def format(self) -> str:
        return self.media_type.removeprefix("image/")

    @property
    def extension(self) -> str:
        return _EXTENSIONS.get(self.format, self.format)


def read_info(read_at: ReadAt) -> ImageInfo | None:
    """Describe an image file, or return None if its format is unknown. Reads 64 KiB at most, whatever its size."""
    spec = _find_format(read_at)
    if spec is None:
        return None
    width, height, alpha = spec.measure(read_at)
    return ImageInfo(f"image/{spec.format}", width, height, alpha)


def sniff(data: bytes) -> ImageInfo | None:
    """Describe an image as `read_info` does. The first bytes of a file suffice, but its size may then be missing."""
    return read_info(bytes_reader(data))


def find_format(read_at: ReadAt) -> str | None:
    """Return the format of an image file, None if it is unknown. Reads 16 bytes."""
    spec = _find_format(read_at)
    return None if spec is None else spec.format


def is_cut_off(read_at: ReadAt, size: int) -> bool:
    """Check whether a file of `size` bytes is an image whose end is missing. Reads as `is_complete` does."""
    spec = _find_format(read_at)
    return spec is not None and not spec.is_complete(read_at, size)


def is_complete(read_at: ReadAt, size: int) -> bool:
    """Check whether a file of `size` bytes is an image that is not cut off. A truncated image still begins like one.

    Reads about 64 KiB, and all of a PNG or JPEG whose last 64 KiB do not show its end: other data may follow. Of a TIFF
    the directory and the end of the first page's pixels are checked.
    """
    spec = _find_format(read_at)
    return spec is not None and spec.is_complete(read_at, size)


def ends_like_image(head: bytes, tail: bytes, size: int) -> bool:
    """Check whether an image of `size` bytes ends exactly here, by its first and last 16 bytes.

    False for formats whose end shows no sign, such as AVIF.
    """
    spec = _find_format(bytes_reader(head))
    if spec is None:
        return False
    if spec.format == "webp":
        return size - 8 - _le(head[4:8]) in {-1, 0}
    return spec.format in _ENDS and tail.endswith(_ENDS[spec.format])


def _find_format(read_at: ReadAt) -> FormatSpec | None:
    start = read_at(0, 16)
    return next((spec for spec in FORMATS if spec.magic.match(start)), None)


def bytes_reader(data: bytes) -> ReadAt:
    """Return a `read_at` function over bytes in memory."""
    return lambda offset, size: data[offset : offset + size]
