"""Convert a reply's body to UTF-8 while it arrives, from whatever encoding it is in, and set images apart.

The bytes decide, not the header: many upstreams write a charset that they do not use. Only bytes that are not UTF-8 are
read in the charset that is declared.
"""

import codecs
import re
from collections.abc import Callable
from typing import Protocol

from app.protocol.byte_sink import ByteSink
from app.protocol.image_body import ImageBody
from app.protocol.image_format import bytes_reader, find_format
from app.protocol.json_text import charset_name, wide_encoding

#: Bytes that tell an image from a text.
_HEAD_SIZE = 16
_NON_ASCII = re.compile(rb"[\x80-\xff]")
#: Bytes that are hardly UTF-8 by chance.
_ENOUGH = 1024
#: How images begin whose first bytes are letters: GIF, WebP, BMP and TIFF.
_LETTERS = (b"GI", b"RI", b"BM", b"II", b"MM")


class Converter(Protocol):
    """Takes the bytes of a text and returns them in UTF-8; the last call has `final`."""

    def convert(self, data: bytes, *, final: bool = False) -> bytes: ...


class ReplyBytes:
    """The bytes of a body, of which the first ones tell what it is.

    Attributes:
        image: Takes the bytes of a body that is no text but an image.
    """

    def __init__(self, charset: str, new_sink: Callable[[], ByteSink] | None) -> None:
        """`charset`: as the upstream declares it, see `charset_of`. `new_sink` makes what takes an image."""
        self.image: ImageBody | None = None
        self._charset, self._new_sink = charset, new_sink
        self._head: bytes | None = b""
        self._converter: Converter | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what has come of a text, in UTF-8; nothing of an image, and nothing until it is known what comes."""
        if self._head is not None:
            return self._open(self._head + data, is_all=False)
        return self._read(data)

    def end(self) -> bytes:
        """Return the rest of a text, since nothing follows."""
        data = self._open(self._head, is_all=True) if self._head else b""
        return data if self._converter is None else data + self._converter.convert(b"", final=True)

    def _open(self, head: bytes, *, is_all: bool) -> bytes:
        if not is_plain_text(head) or self._charset:
            if len(head) < _HEAD_SIZE and not is_all:
                self._head = head
                return b""
            if is_image(head):
                self.image = ImageBody(self._new_sink)
            else:
                self._converter = _find_converter(head, self._charset)
        self._head = None
        return self._read(head)

    def _read(self, data: bytes) -> bytes:
        if self.image is not None:
            self.image.feed(data)
            return b""
        return data if self._converter is None else self._converter.convert(data)


def charset_of(content_type: str) -> str:
    """Return the charset that a content type declares; an empty text for UTF-8, which is read anyway."""
    value = content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    return "" if value in {"utf-8", "utf8", "us-ascii"} else value


def in_utf8(body: bytes, charset: str = "") -> bytes:
    """Return a whole text in UTF-8. `charset`: as its sender declares it, see `charset_of`."""
    reader = ReplyBytes(charset, None)
    return reader.feed(body) + reader.end()


def is_plain_text(head: bytes) -> bool:
    """Return whether a body surely begins as a text in UTF-8 or in another superset of ASCII."""
    start = head[:4]
    return len(start) == 4 and start.isascii() and b"\0" not in start and start[:2] not in _LETTERS


def is_image(head: bytes) -> bool:
    """Return whether the first 16 bytes of a body are those of an image."""
    return find_format(bytes_reader(head)) is not None


def _find_converter(head: bytes, charset: str) -> Converter | None:
    """Return what converts a text, None if it is UTF-8 for all that is known."""
    name = charset_name(charset)
    is_wide = name.startswith(("utf-16", "utf-32")) and not is_plain_text(head)
    wide = wide_encoding(head) or (name if is_wide else None)
    if wide is not None:
        return _Decoding(wide)
    return None if name == "ascii" or name.startswith("utf-") else _Fallback(name)


class _Decoding:
    """A text in one encoding."""

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def convert(self, data: bytes, *, final: bool = False) -> bytes:
        return self._decoder.decode(data, final).encode("utf-8", "replace")


class _Fallback:
    """A text in UTF-8 if its first letters beyond ASCII are, and else in the charset that is declared."""

    def __init__(self, charset: str) -> None:
        self._charset = charset
        self._decoding: _Decoding | None = None
        self._held: bytes | None = b""

    def convert(self, data: bytes, *, final: bool = False) -> bytes:
        if self._held is None:
            return data if self._decoding is None else self._decoding.convert(data, final=final)
        data = self._held + data
        other = _NON_ASCII.search(data)
        if other is None:
            return data
        held = data[other.start() :]
        is_open = _is_open(held)
        if is_open is None or (is_open and final):
            self._decoding = _Decoding(self._charset)
            held = self._decoding.convert(held, final=final)
        elif len(held) < _ENOUGH and not final:
            self._held = held
            return data[: other.start()]
        self._held = None
        return data[: other.start()] + held


def _is_open(data: bytes) -> bool | None:
    """Return whether a text in UTF-8 ends within a letter, None for bytes that are not UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return True if error.reason == "unexpected end of data" else None
    return False
