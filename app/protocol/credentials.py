"""Find signed provenance (C2PA manifests) in image files, without checking its signature."""

from collections.abc import Callable
from itertools import takewhile

from app.protocol.file_parts import ReadAt, jpeg_segments, png_chunks, webp_chunks
from app.protocol.image_format import find_format, tiff_number, tiff_order

#: Chunks, segments or boxes that are read at most. Encoders of PNG write chunks of 8 KiB.
_MAX_STEPS = 16_384

#: Bytes at the start of a GIF that are searched, and those of a segment of a JPEG.
_HEAD, _SEGMENT = 64 * 1024, 60

#: The type of the box in AVIF and HEIC, and the tag in TIFF.
_BOX_TYPE = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_TIFF_TAG = 0xCD41


def has_credentials(read_at: ReadAt) -> bool:
    """Return whether an image file holds a C2PA manifest, valid or not."""
    image_format = find_format(read_at)
    return image_format in _FINDERS and _FINDERS[image_format](read_at)


def _in_png(read_at: ReadAt) -> bool:
    chunks = takewhile(lambda chunk: chunk.kind != b"IEND", png_chunks(read_at, _MAX_STEPS))
    return any(chunk.kind == b"caBX" for chunk in chunks)


def _in_jpeg(read_at: ReadAt) -> bool:
    """Look for an APP11 segment with a JUMBF box. JPEG XT uses the same segment for boxes of other types."""
    segments = (segment for segment in jpeg_segments(read_at, 2, _MAX_STEPS) if segment.kind == b"\xeb")
    heads = (read_at(segment.offset, min(_SEGMENT, segment.length)) for segment in segments)
    return any(b"jumb" in head or b"c2pa" in head for head in heads)


def _in_webp(read_at: ReadAt) -> bool:
    return any(chunk.kind == b"C2PA" for chunk in webp_chunks(read_at, _MAX_STEPS))


def _in_gif(read_at: ReadAt) -> bool:
    return b"\x21\xff\x0bC2PA_GIF" in read_at(0, _HEAD)


def _in_iso(read_at: ReadAt) -> bool:
    offset = 0
    for _ in range(_MAX_STEPS):
        box = read_at(offset, 32)
        length, header = int.from_bytes(box[:4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(box[8:16], "big"), 16
        if box[4:8] == b"uuid" and box[header : header + 16] == _BOX_TYPE:
            return True
        if length < header:  # The last box, or the end of the file.
            return False
        offset += length
    return False


def _in_tiff(read_at: ReadAt) -> bool:
    order = tiff_order(read_at)
    directory = tiff_number(read_at(4, 4), order)
    entries = min(512, tiff_number(read_at(directory, 2), order))
    return any(tiff_number(read_at(directory + 2 + 12 * entry, 2), order) == _TIFF_TAG for entry in range(entries))


_FINDERS: dict[str, Callable[[ReadAt], bool]] = {
    "png": _in_png,
    "jpeg": _in_jpeg,
    "webp": _in_webp,
    "gif": _in_gif,
    "avif": _in_iso,
    "heic": _in_iso,
    "tiff": _in_tiff,
}
