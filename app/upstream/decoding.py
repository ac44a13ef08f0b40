"""Decompress a reply's body (gzip, deflate) in chunks of bounded size."""

import zlib
from collections.abc import Iterator

from app.errors import UpstreamInvalidReply

#: Bytes that are decompressed at a time. A caller that counts them notices a decompression bomb one chunk late at most.
MAX_CHUNK = 64 * 1024

_UNCOMPRESSED = {"", "identity"}
_COMPRESSED = {"gzip", "x-gzip", "deflate"}
#: zlib detects whether the data has a gzip or a zlib header.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class ContentDecoder:
    """Decode the body of one reply.

    `identity` is all that requests accept, but some upstreams compress nevertheless.
    """

    def __init__(self, content_encoding: str) -> None:
        """Choose the decoder by the value of the `content-encoding` header.

        Raises:
            UpstreamInvalidReply: The encoding is unknown.
        """
        encoding = content_encoding.strip().lower()
        if encoding not in _UNCOMPRESSED | _COMPRESSED:
            raise UpstreamInvalidReply("The upstream compressed its reply in a way that nobody asked for.")
        # A decompressor holds seven KiB as long as the reply lasts, and nearly all replies are not compressed.
        self._decompressor = None if encoding in _UNCOMPRESSED else zlib.decompressobj(_GZIP_OR_ZLIB)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded data in chunks of at most `MAX_CHUNK` bytes, or the data itself if it is not compressed.

        What follows the end of the compressed data is ignored.

        Raises:
            UpstreamInvalidReply: The data is not in the encoding that the reply declared.
        """
        decompressor = self._decompressor
        if decompressor is None:
            yield data
            return
        while data and not decompressor.eof:
            try:
                yield decompressor.decompress(data, MAX_CHUNK)
            except zlib.error as error:
                raise UpstreamInvalidReply("The upstream's compressed reply is damaged.", detail=str(error)) from None
            data = decompressor.unconsumed_tail

    def finish(self) -> None:
        """Check that the body is complete.

        Raises:
            UpstreamInvalidReply: The compressed data ends too early.
        """
        if self._decompressor is not None and not self._decompressor.eof:
            raise UpstreamInvalidReply("The upstream's compressed reply is cut off.")
