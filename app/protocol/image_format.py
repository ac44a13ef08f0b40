"""Which image some bytes are: media type, pixel size, alpha; and the data URLs that carry them."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]
#: Width, height (None where they are not found) and whether some pixel may be transparent.
Measure = tuple[int | None, int | None, bool]

#: Headers, segments or boxes looked at before a file counts as one without a size.
_MAX_STEPS = 512
#: Bytes read where a format must be searched.
_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """`magic` is matched against the first 16 bytes."""

    format: str
    magic: re.Pattern[bytes]
    measure: Callable[[ReadAt], Measure]
    is_whole: Callable[[bytes], bool]


def _measure_png(read_at: ReadAt) -> Measure:
    ihdr = read_at(16, 10)
    if len(ihdr) < 10:
        return None, None, False
    width, height, _, color = struct.unpack(">IIBB", ihdr)
    return width, height, color in {4, 6} or _has_trns(read_at)


def _has_trns(read_at: ReadAt) -> bool:
    """tRNS stands before the pixels, so the walk ends at the first IDAT."""
    offset = 33
    for _ in range(_MAX_STEPS):
        chunk = read_at(offset, 8)
        if len(chunk) < 8 or chunk[4:] in {b"IDAT", b"IEND"}:
            return False
        if chunk[4:] == b"tRNS":
            return True
        offset += 12 + int.from_bytes(chunk[:4], "big")
    return False


def _is_whole_png(data: bytes) -> bool:
    return data.rfind(b"IEND\xaeB`\x82") > 0


#: Start-of-frame markers; C4, C8 and CC in that range mean something else.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _measure_jpeg(read_at: ReadAt) -> Measure:
    offset = 2
    for _ in range(_MAX_STEPS):
        segment = read_at(offset, 9)
        if len(segment) < 9 or segment[0] != 0xFF:
            break
        if segment[1] == 0xFF:  # a fill byte
            offset += 1
            continue
        if segment[1] in _SOF:
            height, width = struct.unpack(">HH", segment[5:9])
            return width, height, False
        offset += 2 + int.from_bytes(segment[2:4], "big")
    return None, None, False


def _is_whole_jpeg(data: bytes) -> bool:
    """The last scan must have an end; the end of a thumbnail in the metadata stands before that scan."""
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0


def _measure_webp(read_at: ReadAt) -> Measure:
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


def _is_whole_webp(data: bytes) -> bool:
    """Some encoders leave out the last padding byte that they counted."""
    return len(data) + 1 >= 8 + _le(data[4:8])


def _le(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _measure_gif(read_at: ReadAt) -> Measure:
    head = read_at(0, 13)
    if len(head) < 13:
        return None, None, False
    table = 3 << (head[10] & 7) + 1 if head[10] & 0x80 else 0
    return _le(head[6:8]), _le(head[8:10]), _is_gif_clear(read_at(13 + table, 4096))


def _is_gif_clear(blocks: bytes) -> bool:
    """Looks for the first graphic control extension; `blocks` follow the global colour table."""
    control = blocks.find(b"\x21\xf9\x04")
    return 0 <= control < len(blocks) - 3 and bool(blocks[control + 3] & 1)


def _is_whole_gif(data: bytes) -> bool:
    return data[-64:].rstrip(b"\0\r\n ").endswith(b";")


def _measure_iso(read_at: ReadAt) -> Measure:
    """AVIF and HEIC: the largest item's size counts, since tiles and thumbnails have sizes too."""
    head = read_at(0, _HEAD)
    sizes = [struct.unpack_from(">II", head, at + 8) for at in _places(head, b"ispe") if at + 16 <= len(head)]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(None, None))
    return width, height, b"auxiliary:alpha" in head or b"auxid:1" in head


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def _is_whole_iso(data: bytes) -> bool:
    offset = 0
    for _ in range(_MAX_STEPS):
        size = int.from_bytes(data[offset : offset + 4], "big")
        if size == 1:
            size = int.from_bytes(data[offset + 8 : offset + 16], "big")
        elif size == 0:  # the last box reaches to the end
            return offset + 8 < len(data)
        offset += max(size, 8)
        if offset >= len(data):
            return offset == len(data)
    return False


def _measure_bmp(read_at: ReadAt) -> Measure:
    head = read_at(14, 16)
    if len(head) < 16:
        return None, None, False
    if _le(head[:4]) == 12:  # the format of OS/2
        return _le(head[4:6]), _le(head[6:8]), False
    width, height, _, bits = struct.unpack("<iiHH", head[4:16])
    return abs(width), abs(height), bits == 32


def _is_whole_bmp(data: bytes) -> bool:
    return len(data) > 26 and len(data) >= _le(data[2:6])


def _measure_tiff(read_at: ReadAt) -> Measure:
    """Of the first page; ExtraSamples (338) tells of alpha."""
    order = "<" if read_at(0, 1) == b"I" else ">"
    tags = dict(_tiff_tags(read_at, order))
    return tags.get(256), tags.get(257), bool(tags.get(338))


def _tiff_tags(read_at: ReadAt, order: str) -> Iterator[tuple[int, int]]:
    """Values of type SHORT (3) and LONG (4) that stand in the entry itself."""
    head = read_at(0, 8)
    if len(head) < 8:
        return
    (directory,) = struct.unpack_from(order + "I", head, 4)
    entries = read_at(directory + 2, 12 * min(_MAX_STEPS, _tiff_count(read_at(directory, 2), order)))
    for at in range(0, len(entries) - 11, 12):
        tag, kind = struct.unpack_from(order + "HH", entries, at)
        if kind in {3, 4}:
            yield tag, struct.unpack_from(order + ("H" if kind == 3 else "I"), entries, at + 8)[0]


def _tiff_count(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "<" else "big")


def _is_whole_tiff(data: bytes) -> bool:
    """Directory and pixels stand in any order: only that the directory is there can be told cheaply."""
    return _measure_tiff(lambda offset, size: data[offset : offset + size])[0] is not None


def _magic(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


HEADS = (
    Head("png", _magic(rb"\x89PNG\r\n\x1a\n"), _measure_png, _is_whole_png),
    Head("jpeg", _magic(rb"\xff\xd8\xff"), _measure_jpeg, _is_whole_jpeg),
    Head("webp", _magic(rb"RIFF.{4}WEBP"), _measure_webp, _is_whole_webp),
    Head("gif", _magic(rb"GIF8[79]a"), _measure_gif, _is_whole_gif),
    Head("avif", _magic(rb".{4}ftypavi[fs]"), _measure_iso, _is_whole_iso),
    Head("heic", _magic(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"), _measure_iso, _is_whole_iso),
    # Two letters are no magic: reserved fields that are zero and a header size that exists belong to it.
    Head("bmp", _magic(rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0"), _measure_bmp, _is_whole_bmp),
    Head("tiff", _magic(rb"II\*\0|MM\0\*"), _measure_tiff, _is_whole_tiff),
)

#: Extensions where they differ from the format's own name.
_EXTENSIONS = {"jpeg": "jpg", "tiff": "tif"}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """`width` and `height` are None where the format is known but its size is not; `alpha`: some pixel may be clear."""

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


def measure(read_at: ReadAt) -> ImageInfo | None:
    """`read_at(offset, size)` gives fewer bytes at the end. Reads a few KiB, whatever the file's size."""
    head = _head(read_at)
    if head is None:
        return None
    width, height, alpha = head.measure(read_at)
    return ImageInfo(f"image/{head.format}", width, height, alpha)


def sniff(data: bytes) -> ImageInfo | None:
    """Works on the first bytes of a file too, though sizes that stand further back are then None."""
    return measure(_reader(data))


def is_whole(data: bytes) -> bool:
    """Whether an image's end is there: a reply that was cut off still begins like a picture."""
    head = _head(_reader(data))
    return head is not None and head.is_whole(data)


def _head(read_at: ReadAt) -> Head | None:
    start = read_at(0, 16)
    return next((head for head in HEADS if head.magic.match(start)), None)


def _reader(data: bytes) -> ReadAt:
    return lambda offset, size: data[offset : offset + size]
