"""Decompress a download, judged by its first bytes.

Nobody asks for compression, but some hosts compress images nevertheless, keep compressed files without saying so, or
put the label on files that are not compressed.
"""

import zlib
from collections.abc import Iterable, Iterator

from app.protocol.image_format import sniff

#: With fewer first bytes, the format of a file cannot be recognized.
MAGIC_SIZE = 16
#: Bytes that are decompressed at a time. A caller that counts them notices a decompression bomb one chunk late at most.
MAX_CHUNK = 256 * 1024

_GZIP = b"\x1f\x8b"
#: Labels of compressions that are not read: no browser gets them without asking.
_UNKNOWN = frozenset({"br", "zstd", "compress", "x-compress"})
#: zlib detects whether the data has a gzip or a zlib header.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class UnknownCompressionError(ValueError):
    """The body is compressed in a way that cannot be read."""


class DamagedCompressionError(ValueError):
    """The compressed body is damaged or cut off."""


class ImageDecoder:
    """Decode the body of one download, fed in chunks of any size."""

    def __init__(self, content_encoding: str) -> None:
        """`content_encoding`: the value of the header, empty if there is none."""
        self._labels = set(content_encoding.lower().replace(" ", "").split(","))
        self._head: bytes | None = b""
        self._decompressor: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Return decoded bytes, in pieces: of compressed data at most `MAX_CHUNK` at a time, decoded when it is taken.

        Raises, also when a piece is taken:
            UnknownCompressionError: The body is compressed, but not by gzip or deflate.
            DamagedCompressionError: The compressed data is damaged.
        """
        if self._head is not None:
            self._head += data
            if len(self._head) < MAGIC_SIZE:
                return ()
            data = self._choose(self._head)
        return self._decode(data)

    def end(self) -> Iterator[bytes]:
        """Yield what is left at the end of the body.

        Raises:
            DamagedCompressionError: The compressed data is cut off.
        """
        if self._head:
            yield from self._decode(self._choose(self._head))
        if self._decompressor is not None and not self._decompressor.eof:
            raise DamagedCompressionError("cut off")

    def _choose(self, head: bytes) -> bytes:
        """Choose the decompressor by the first bytes, and return these."""
        self._head = None
        if sniff(head) is not None:
            return head
        if not self._labels.isdisjoint(_UNKNOWN):
            raise UnknownCompressionError("unknown compression")
        if head.startswith(_GZIP):
            self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
        elif "deflate" in self._labels:
            # Some hosts leave out the header of zlib, whose first byte is 0x78 for every common window.
            self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB if head[:1] == b"\x78" else -zlib.MAX_WBITS)
        return head

    def _decode(self, data: bytes) -> Iterable[bytes]:
        # Most images are not compressed: a generator for each piece would cost more than the rest of its way.
        return (data,) if self._decompressor is None else _decompress(self._decompressor, data)


def _decompress(decompressor: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    while data and not decompressor.eof:
        try:
            yield decompressor.decompress(data, MAX_CHUNK)
        except zlib.error as error:
            raise DamagedCompressionError(str(error)) from None
        data = decompressor.unconsumed_tail
