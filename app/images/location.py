"""Find where an image file says where it was taken, and what to write instead. Nothing is encoded again.

Pure. Reads metadata only, in EXIF and XMP of JPEG, PNG and WebP; pixels are not looked at. A file is only made shorter
where a PNG has compressed metadata, and where a phone has appended a film to a photo: films name a location, too.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from app.protocol.file_parts import ReadAt, jpeg_segments, png_chunks, webp_chunks

Order = Literal["little", "big"]

#: Segments, chunks or directory entries that are read before the search is given up.
_MAX_STEPS = 1024
#: Metadata of a PNG that is larger, once decompressed, is dropped unread: it may name a location, and nobody needs it.
_MAX_METADATA = 4 * 2**20
_COPY = 256 * 1024
#: Bytes of the head of a film that are recognized.
_FILM_HEAD = 12

_EXIF = b"Exif\0\0"
#: How a JPEG with EXIF begins, and the segment that says that others follow the first, as phones make them (MPF).
_NEXT_IMAGE = b"\xff\xd8\xff\xe1"
_MORE_IMAGES = b"MPF\0"
_GPS_DIRECTORY = 0x8825
#: What XMP calls a photo with a film behind it, and how the film begins: an MP4 or QuickTime file.
_HAS_FILM = re.compile(rb":(?:MotionPhoto|MicroVideo)\b")
_FILM = re.compile(rb"\0\0\0[\x08-\x80]ftyp(?!avi[fs]|hei[cxms]|hev[cxms]|mif1|msf1)")

#: Bytes of one value, by TIFF's types.
_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)

#: Elements and attributes of XMP like `exif:GPSLatitude`, with any prefix.
_XMP_ELEMENT = re.compile(rb"<([\w.-]{1,40}:GPS\w{1,40})(?:\s[^<>]*)?(?:/>|>[^<]*</\1\s*>)")
_XMP_ATTRIBUTE = re.compile(rb"""\s[\w.-]{1,40}:GPS\w{1,40}\s*=\s*(?:"[^"<]*"|'[^'<]*')""")


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes of a file that are replaced: `length` bytes at `offset`."""

    offset: int
    length: int
    data: bytes


def location_edits(read_at: ReadAt) -> Sequence[Edit]:
    """Return what has to be replaced in a file, in order; nothing if it names no location."""
    head = read_at(0, 16)
    if head.startswith(b"\xff\xd8"):
        return list(_jpeg_edits(read_at, 2))
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return list(_png_edits(read_at))
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return list(_webp_edits(read_at))
    return []


def edited(read_at: ReadAt, size: int, edits: Sequence[Edit]) -> Iterator[bytes]:
    """Yield a file with its edits, in pieces of 256 KiB at most."""
    position = 0
    for edit in (*edits, Edit(size, 0, b"")):
        while position < edit.offset:
            piece = read_at(position, min(_COPY, edit.offset - position))
            position += len(piece)
            yield piece
        yield edit.data
        position += edit.length


def _jpeg_edits(read_at: ReadAt, offset: int, *, is_first: bool = True) -> Iterator[Edit]:
    has_more, has_film, end = False, False, offset
    for segment in jpeg_segments(read_at, offset, _MAX_STEPS):
        end = segment.offset + segment.length
        if segment.kind == b"\xe1":
            data = read_at(segment.offset, segment.length)
            yield from _changed(segment.offset, data)
            has_film |= _HAS_FILM.search(data) is not None
        has_more |= segment.kind == b"\xe2" and read_at(segment.offset, 4) == _MORE_IMAGES
    film = _film_edit(read_at, end) if has_film and is_first else None
    if has_more and is_first:
        yield from (edit for edit in _later_edits(read_at, end) if film is None or edit.offset < film.offset)
    if film is not None:
        yield film


def _film_edit(read_at: ReadAt, offset: int) -> Edit | None:
    """Return the edit that drops a film behind an image, up to the end of the file."""
    start = None
    while len(piece := read_at(offset, _COPY)) >= _FILM_HEAD:
        match = _FILM.search(piece) if start is None else None
        start = offset + match.start() if match else start
        offset += len(piece) - _FILM_HEAD + 1
    return None if start is None else Edit(start, offset + len(piece) - start, b"")


def _later_edits(read_at: ReadAt, offset: int) -> Iterator[Edit]:
    end = offset
    while len(piece := read_at(offset, _COPY)) >= len(_NEXT_IMAGE):
        for match in re.finditer(re.escape(_NEXT_IMAGE), piece):
            # The small preview within the metadata of an image may begin likewise.
            if offset + match.start() >= end:
                for edit in _jpeg_edits(read_at, offset + match.start() + 2, is_first=False):
                    yield edit
                    end = edit.offset + edit.length
        offset += len(piece) - len(_NEXT_IMAGE) + 1


def _webp_edits(read_at: ReadAt) -> Iterator[Edit]:
    for chunk in webp_chunks(read_at, _MAX_STEPS):
        if chunk.kind in {b"EXIF", b"XMP "}:
            yield from _changed(chunk.offset, read_at(chunk.offset, chunk.length))


def _changed(offset: int, data: bytes) -> Iterator[Edit]:
    clean = without_location(data)
    if clean != data:
        yield Edit(offset, len(data), clean)


def _png_edits(read_at: ReadAt) -> Iterator[Edit]:
    for chunk in png_chunks(read_at, _MAX_STEPS):
        if chunk.kind in {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}:
            data = read_at(chunk.offset, chunk.length)
            clean = without_location(data) if chunk.kind == b"eXIf" else _clean_text(chunk.kind, data)
            if clean is None:
                yield Edit(chunk.offset - 8, 12 + chunk.length, b"")
            elif clean != data:
                checksum = zlib.crc32(chunk.kind + clean).to_bytes(4, "big")
                yield Edit(chunk.offset, chunk.length + 4, clean + checksum)


def _clean_text(kind: bytes, data: bytes) -> bytes | None:
    """Return the text chunk of a PNG without a location, None if the whole chunk has to go."""
    keyword, _, rest = data.partition(b"\0")
    if keyword.startswith(b"Raw profile type "):
        # ImageMagick writes EXIF and XMP as hexadecimal text, compressed or not.
        text = _inflate(rest[1:]) if kind == b"zTXt" else rest
        digits = b"".join((text or b"").split()[2:])
        raw = bytes.fromhex(digits.decode("latin-1")) if re.fullmatch(rb"(?:[0-9a-fA-F]{2})*", digits) else b""
        return data if text is not None and without_location(raw) == raw else None
    if kind == b"iTXt" and rest[:1] == b"\1":
        text = _inflate(rest[2:].split(b"\0", 2)[-1])
        return data if text is not None and without_location(text) == text else None
    return data if kind == b"zTXt" else without_location(data)


def _inflate(data: bytes) -> bytes | None:
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(data, _MAX_METADATA)
    except zlib.error:
        return None
    return text if decompressor.eof else None


def without_location(data: bytes) -> bytes:
    """Return EXIF or XMP of the same length without the location."""
    start = len(_EXIF) if data.startswith(_EXIF) else 0
    if data[start : start + 4] in {b"II*\0", b"MM\0*"}:
        return data[:start] + _without_gps_directory(data[start:])
    blanked = _XMP_ELEMENT.sub(_blank, data)
    return _XMP_ATTRIBUTE.sub(_blank, blanked)


def _blank(match: re.Match[bytes]) -> bytes:
    return b" " * len(match[0])


def _without_gps_directory(tiff: bytes) -> bytes:
    """Return EXIF whose directories have no entry for a location. The bytes of the location become zeros."""
    order: Order = "little" if tiff[:1] == b"I" else "big"
    data = bytearray(tiff)
    directory = _number(data, 4, 4, order)
    for _ in range(8):
        if not directory or directory + 2 > len(data):
            break
        count = _number(data, directory, 2, order)
        end = directory + 2 + 12 * count
        for entry in range(end - 12, directory, -12):
            if _number(data, entry, 2, order) == _GPS_DIRECTORY:
                _erase_directory(data, _number(data, entry + 8, 4, order), order)
                # The entries behind it and the offset of the next directory move up.
                data[entry : end + 4] = data[entry + 12 : end + 4] + bytes(12)
                data[directory : directory + 2] = (count - 1).to_bytes(2, order)
                count, end = count - 1, end - 12
        directory = _number(data, end, 4, order)
    return bytes(data[: len(tiff)]) if data != tiff else tiff


def _erase_directory(data: bytearray, directory: int, order: Order) -> None:
    count = _number(data, directory, 2, order)
    for entry in range(directory + 2, directory + 2 + 12 * min(count, _MAX_STEPS), 12):
        kind = _number(data, entry + 2, 2, order)
        size = (_TYPE_SIZES[kind] if kind < len(_TYPE_SIZES) else 0) * _number(data, entry + 4, 4, order)
        if 4 < size <= len(data):
            _erase(data, _number(data, entry + 8, 4, order), size)
        _erase(data, entry, 12)
    _erase(data, directory, 6)


def _erase(data: bytearray, offset: int, size: int) -> None:
    end = min(offset + size, len(data))
    if offset < end:
        data[offset:end] = bytes(end - offset)


def _number(data: bytes | bytearray, offset: int, size: int, order: Order) -> int:
    return int.from_bytes(data[offset : offset + size], order)
