"""A compressed body, unpacked in pieces of bounded size."""

import zlib
from collections.abc import Iterator

from app.errors import UpstreamInvalidReply

#: Bytes that are unpacked at a time: a bomb is noticed by whoever counts them, after at most one piece too many.
MAX_CHUNK = 64 * 1024

#: Tells gzip and zlib apart by itself.
_EITHER = zlib.MAX_WBITS | 32


class ContentDecoder:
    """Raises UpstreamBroken for an encoding that was not asked for and for what is not in that encoding."""

    def __init__(self, content_encoding: str) -> None:
        """`identity` was asked for; gzip and deflate are understood since some send them all the same."""
        encoding = content_encoding.strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise UpstreamInvalidReply("The upstream compressed its reply in a way that nobody asked for.")
        # It takes seven KiB for as long as the reply takes, and nearly all replies come as they are.
        self._inflater = None if encoding in {"", "identity"} else zlib.decompressobj(_EITHER)

    def feed(self, data: bytes) -> Iterator[bytes]:
        inflater = self._inflater
        if inflater is None:
            yield data
            return
        while data and not inflater.eof:
            try:
                yield inflater.decompress(data, MAX_CHUNK)
            except zlib.error as error:
                raise UpstreamInvalidReply("The upstream's compressed reply is damaged.", detail=str(error)) from None
            data = inflater.unconsumed_tail

    def finish(self) -> None:
        """Raises UpstreamBroken where the body stops too early."""
        if self._inflater is not None and not self._inflater.eof:
            raise UpstreamInvalidReply("The upstream's compressed reply is cut off.")
