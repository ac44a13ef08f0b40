"""Decompress a reply's body (gzip, deflate) in chunks of bounded size.

The bytes decide, not the header `content-encoding`: some relays decompress a reply and keep the header, or write names
of character sets into it. The reply was paid for all the same.
"""

import codecs
import re
import zlib
from collections.abc import Iterator

from app.errors import UpstreamInvalidReply
from app.protocol.reply_encoding import is_image

#: Bytes that are decompressed at a time. A caller that counts them notices a decompression bomb one chunk late at most.
MAX_CHUNK = 64 * 1024

#: Bytes that are looked at before a body is decoded.
_HEAD_SIZE = 16
#: How many layers of compression are removed.
_MAX_LAYERS = 3

#: Compressed bytes that may bring nothing, and how many more there may be for each byte that they do bring. Real data
#: is hardly longer than what it holds, but an endless row of empty parts keeps a core busy.
_MAX_BARREN, _FOR_EACH_BYTE = 2**20, 16
#: What each part of gzip counts beside its bytes: it takes as long as so many of them.
_PART_SIZE = 256

_GZIP = b"\x1f\x8b"
_GZIP_HEADER, _NO_HEADER = zlib.MAX_WBITS | 16, -zlib.MAX_WBITS
#: Encodings that are not read, and what may be shown of any other.
_UNKNOWN = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_NAME = re.compile(r"[a-z0-9._-]{1,20}")
#: Control characters that no text contains. Compressed data has some among its first bytes.
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


class ContentDecoder:
    """Decode the body of one reply.

    `identity` is all that requests accept, but some upstreams compress nevertheless.
    """

    def __init__(self, content_encoding: str, layers: int = _MAX_LAYERS) -> None:
        """`content_encoding`: the header, which tells only what the bytes leave open. Its last word is outermost."""
        self._inner_encodings, _, encoding = content_encoding.rpartition(",")
        self._encoding = encoding.strip().lower()
        self._layers = layers
        self._head: bytes | None = b""
        self._inflater: _Inflater | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded data in chunks of at most `MAX_CHUNK` bytes, or the data itself if it is not compressed.

        What follows the end of the compressed data is ignored.

        Raises:
            UpstreamInvalidReply: The data is damaged, or compressed in an unknown way.
        """
        if self._head is not None:
            self._head += data
            if len(self._head) >= _HEAD_SIZE:
                yield from self._open()
        elif self._inflater is None:
            yield data
        else:
            yield from self._inflater.feed(data)

    def finish(self) -> Iterator[bytes]:
        """Yield what is left at the end of the body.

        Raises:
            UpstreamInvalidReply: The compressed data ends too early, or as for `feed`.
        """
        if self._head is not None:
            yield from self._open()
        if self._inflater is not None:
            yield from self._inflater.finish()

    def _open(self) -> Iterator[bytes]:
        """Choose the way of decoding by the first bytes, and decode them."""
        head, self._head = self._head or b"", None
        window_bits = _window_bits(head, self._encoding)
        if window_bits is None or not self._layers:
            yield head
            return
        # Made only where it is needed: a decompressor holds seven KiB as long as the reply lasts.
        self._inflater = _Inflater(window_bits, ContentDecoder(self._inner_encodings, self._layers - 1))
        yield from self._inflater.feed(head)


def is_plain(body: bytes, content_encoding: str) -> bool:
    """Return whether a body that has come as a whole is not compressed. Raises as `ContentDecoder.feed` does."""
    return _window_bits(body, content_encoding.rpartition(",")[2].strip().lower()) is None


def _window_bits(head: bytes, encoding: str) -> int | None:
    """Return zlib's parameter for data that begins with `head`, None if the data is not compressed.

    Raises:
        UpstreamInvalidReply: The data is compressed in an unknown way.
    """
    if head.startswith(_GZIP):
        return _GZIP_HEADER
    # In this order: `head` may be all of a reply of several MiB.
    if encoding in {"", "identity"} or (_NOT_TEXT.search(head) is None and not _is_unknown(head, encoding)):
        return None
    if is_image(head):
        return None
    if "deflate" in encoding:
        # Either with zlib's header, as the standard says, or without, as some servers do.
        has_header = len(head) > 1 and head[0] & 15 == 8 and int.from_bytes(head[:2]) % 31 == 0
        return zlib.MAX_WBITS if has_header else _NO_HEADER
    if "gzip" in encoding:
        raise UpstreamInvalidReply("The upstream's compressed reply is damaged.", detail=f"not gzip: {head!r}")
    name = f"with '{encoding}'" if _NAME.fullmatch(encoding) else "in an unknown way"
    message = f"The upstream compressed its reply {name}, which this server neither asked for nor reads."
    raise UpstreamInvalidReply(message, detail=f"content-encoding: {encoding}")


def _is_unknown(head: bytes, encoding: str) -> bool:
    """Return whether bytes without control characters are compressed all the same: a text would be UTF-8."""
    if encoding not in _UNKNOWN:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head[:_HEAD_SIZE])
    except UnicodeDecodeError:
        return True
    return False


class _Inflater:
    """Decompress gzip or deflate, and whatever is compressed inside."""

    def __init__(self, window_bits: int, inner: ContentDecoder) -> None:
        self._window_bits = window_bits
        self._decompressor = zlib.decompressobj(window_bits)
        self._inner = inner
        self._rest = b""
        self._barren_left = _MAX_BARREN

    def feed(self, data: bytes) -> Iterator[bytes]:
        data = self._rest + data
        self._rest = b""
        while data:
            if self._decompressor.eof:
                # gzip may consist of several parts, one after the other.
                if not data.startswith(_GZIP):
                    self._rest = data if data == _GZIP[:1] else b""
                    return
                self._decompressor = zlib.decompressobj(self._window_bits)
                self._barren_left -= _PART_SIZE
            size = len(data)
            try:
                inflated = self._decompressor.decompress(data, MAX_CHUNK)
            except zlib.error as error:
                raise UpstreamInvalidReply("The upstream's compressed reply is damaged.", detail=str(error)) from None
            data = self._decompressor.unused_data if self._decompressor.eof else self._decompressor.unconsumed_tail
            self._check_yield(size - len(data), len(inflated))
            yield from self._inner.feed(inflated)

    def _check_yield(self, taken: int, brought: int) -> None:
        self._barren_left = min(_MAX_BARREN, self._barren_left + brought * _FOR_EACH_BYTE - taken)
        if self._barren_left < 0:
            raise UpstreamInvalidReply("The upstream's compressed reply has no end.", detail="and nothing in it")

    def finish(self) -> Iterator[bytes]:
        if not self._decompressor.eof:
            raise UpstreamInvalidReply("The upstream's compressed reply is cut off.")
        yield from self._inner.finish()
