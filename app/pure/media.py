"""Which image some bytes are: media type, pixel size, alpha; and the data URLs that carry them."""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import pybase64

from app.pure.image_heads import HEADS, Head, ReadAt

#: Extensions where they differ from the format's own name.
_EXTENSIONS = {"jpeg": "jpg", "tiff": "tif"}

#: What lenient base64 may hold beside its alphabet: line breaks, blanks, and marks nobody sees.
_BLANKS = re.compile(r"[\s\u200b-\u200d\u2060\ufeff\u00ad]+")
_URL_SAFE = str.maketrans("-_", "+/")

#: A data URL's media type and parameters are short; without this bound a text without commas is searched to its end.
_LONGEST_HEAD = 512


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


def decode_data_url(url: str) -> bytes:
    """Any media type; base64 with line breaks, the URL-safe alphabet, %-escapes or without padding is understood.

    Raises ValueError for everything else.
    """
    comma = url.find(",", 0, _LONGEST_HEAD)
    if comma < 0 or url[:5].lower() != "data:":
        raise ValueError("not a data URL")
    if not url[:comma].rstrip().lower().endswith(";base64"):
        return unquote_to_bytes(url[comma + 1 :])
    return decode_base64(url[comma + 1 :])


def decode_base64(text: str) -> bytes:
    """Raises ValueError where something else than base64 in one of its spellings is in the text."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return _decode_lenient(text)


def _decode_lenient(text: str) -> bytes:
    if "%" in text:
        text = unquote_to_bytes(text).decode("ascii")
    text = _BLANKS.sub("", text).translate(_URL_SAFE).rstrip("=")
    return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def image_data_url(data: bytes) -> str:
    """In the one spelling: the type that the bytes have, padded base64 on one line. `data` is an image."""
    head = _head(_reader(data))
    if head is None:
        raise ValueError("not an image")
    return f"data:image/{head.format};base64,{pybase64.b64encode_as_string(data)}"
