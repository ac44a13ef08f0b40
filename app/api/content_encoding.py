"""Turn a request body into plain UTF-8: decompress it in chunks of bounded size, and rewrite UTF-16 and UTF-32."""

import asyncio
import codecs
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from app.errors import InvalidRequest, RequestTooLarge
from app.protocol.json_text import wide_encoding

if sys.version_info >= (3, 14):  # pragma: no cover  the locks are for older versions
    from compression import zstd
else:
    from backports import zstd

#: Bytes that are decompressed at a time. Between two chunks the event loop serves others.
MAX_CHUNK = 64 * 1024

#: 8 MiB, what a sender may demand of a receiver (RFC 9659). The library's own limit is 128 MiB.
_MAX_WINDOW_LOG = 23

#: How a body begins that is not compressed, whatever its `content-encoding` says: JSON, or the boundary of a form.
_PLAIN_STARTS = (b"{", b"[", b'"', b"--", codecs.BOM_UTF8)

_PLAIN_NAMES = {"", "identity", "none", "utf-8", "utf8"}


class Decompressor(Protocol):
    """One compressed stream, as PEP 784 and the standard library's bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZlibDecompressor:
    """Keep the input that zlib has not consumed, which zlib itself gives back. `wbits`: see `zlib.decompressobj`."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def find_decompressor(head: bytes, encoding: str) -> Decompressor | None:
    """Choose by the first bytes of a body, since proxies decompress a body and leave its label; None if it is plain.

    Only raw deflate has no bytes of its own: there the label decides.

    Raises:
        InvalidRequest: The body is compressed in a way that is not supported.
    """
    if head.startswith(b"\x1f\x8b"):
        return _ZlibDecompressor(zlib.MAX_WBITS | 16)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})
    name = encoding.strip().lower()
    if name in _PLAIN_NAMES or not head or head.lstrip().startswith(_PLAIN_STARTS) or wide_encoding(head):
        return None
    if name == "deflate":
        # RFC 9110 means zlib's format, whose first two bytes are a multiple of 31; some clients send raw deflate.
        has_header = head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0
        return _ZlibDecompressor(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    message = "Unsupported content-encoding. Use 'gzip', 'deflate', 'zstd' or none, and let the body be what it says."
    raise InvalidRequest(message, code="invalid_value")


async def decompress_body(body: AsyncIterator[bytes], encoding: str, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body without its compression. `encoding`: the value of `content-encoding`.

    Raises:
        InvalidRequest: The compression is not supported, or the compressed data is damaged.
        RequestTooLarge: The decompressed body has more than `max_bytes`.
    """
    decompressor: Decompressor | None = None
    is_begun = False
    size = 0
    async for data in with_head(body, 4):
        if not is_begun:
            is_begun, decompressor = True, find_decompressor(data, encoding)
        if decompressor is None:
            yield data
            continue
        for chunk in _decompress(decompressor, data):
            size += len(chunk)
            if size > max_bytes:
                raise RequestTooLarge(f"Maximum content size limit ({max_bytes}) exceeded, decompressed.")
            yield chunk
            await asyncio.sleep(0)
    if decompressor is not None and not decompressor.eof:
        raise _damaged("it ends too early")


def _decompress(decompressor: Decompressor, data: bytes) -> Iterator[bytes]:
    try:
        yield decompressor.decompress(data, MAX_CHUNK)
        while not decompressor.eof and not decompressor.needs_input:
            yield decompressor.decompress(b"", MAX_CHUNK)
    except EOFError:
        raise _damaged("something follows its end") from None
    except (zlib.error, zstd.ZstdError):
        raise _damaged("it cannot be decompressed") from None
    if decompressor.unused_data:
        raise _damaged("something follows its end")


def _damaged(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The compressed body of the request is damaged: {reason}.")


async def rewrite_as_utf8(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a JSON document in UTF-8 where its first bytes say UTF-16 or UTF-32, else as it comes."""
    decoder: codecs.IncrementalDecoder | None = None
    is_begun = False
    async for data in with_head(body, 4):
        if not is_begun:
            is_begun, encoding = True, wide_encoding(data)
            decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
        yield data if decoder is None else decoder.decode(data).encode()


async def with_head(body: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield the body with a first chunk of at least `size` bytes, unless all of it is shorter, and no empty chunks."""
    head = b""
    async for chunk in body:
        head += chunk
        if len(head) < size or not chunk:
            continue
        yield head
        head, size = b"", 0
    if head:
        yield head
