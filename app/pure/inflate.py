"""A compressed body, unpacked in pieces of bounded size."""

import zlib
from collections.abc import Iterator

from app.errors import UpstreamBroken

#: Bytes that are unpacked at a time: a bomb is noticed by whoever counts them, after at most one piece too many.
PIECE = 64 * 1024

#: Tells gzip and zlib apart by itself.
_EITHER = zlib.MAX_WBITS | 32


class Unpacker:
    """Raises UpstreamBroken for an encoding that was not asked for and for what is not in that encoding."""

    def __init__(self, content_encoding: str) -> None:
        """`identity` was asked for; gzip and deflate are understood since some send them all the same."""
        encoding = content_encoding.strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise UpstreamBroken("The upstream compressed its reply in a way that nobody asked for.")
        self._packed = encoding not in {"", "identity"}
        self._inflater = zlib.decompressobj(_EITHER)

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._packed:
            yield data
            return
        while data and not self._inflater.eof:
            yield self._inflate(data)
            data = self._inflater.unconsumed_tail

    def end(self) -> None:
        """Raises UpstreamBroken where the body stops too early."""
        if self._packed and not self._inflater.eof:
            raise UpstreamBroken("The upstream's compressed reply is cut off.")

    def _inflate(self, data: bytes) -> bytes:
        try:
            return self._inflater.decompress(data, PIECE)
        except zlib.error as error:
            raise UpstreamBroken("The upstream's compressed reply is damaged.", detail=str(error)) from None
