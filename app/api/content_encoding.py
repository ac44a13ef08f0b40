"""Turn a request body into plain UTF-8: decompress it in chunks of bounded size, and rewrite UTF-16 and UTF-32."""

import asyncio
import codecs
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from app.errors import InvalidRequest, RequestTooLarge
from app.protocol.json_text import wide_encoding

#: Bytes that are decompressed at a time. Between two chunks the event loop serves others.
MAX_CHUNK = 64 * 1024

#: How a body begins that is not compressed, whatever its `content-encoding` says: JSON, or the boundary of a form.
_PLAIN_STARTS = (b"{", b"[", b'"', b"--", codecs.BOM_UTF8)

_PLAIN_NAMES = {"", "identity", "none", "utf-8", "utf8"}


class Decompressor(Protocol):
    """One compressed stream, as PEP 784 and the standard library's bz2 and lzma have it. Damage is a `zlib.error`."""

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
        from app.api.zstd_body import ZstdDecompressor  # noqa: PLC0415  # reason: its library takes 0.5 MiB

        return ZstdDecompressor()
    name = encoding.strip().lower()
    if name in _PLAIN_NAMES or not head or head.lstrip().startswith(_PLAIN_STARTS) or wide_encoding(head):
        return None
    if name == "deflate":
        # RFC 9110 means zlib's format, whose first two bytes are a multiple of 31; some clients send raw deflate.
        has_header = head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0
        return _ZlibDecompressor(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    message = "Unsupported content-encoding. Use 'gzip', 'deflate', 'zstd' or none, and let the body be what it says."
    raise InvalidRequest(message, code="invalid_value")


class PeekableBody:
    """A body whose first bytes can be looked at before it is read. Empty chunks are left out."""

    def __init__(self, chunks: AsyncIterator[bytes], head: bytes = b"") -> None:
        """`head`: the first chunk, if it was read already."""
        self._chunks = chunks
        self._head = head

    async def peek(self, size: int) -> bytes:
        """Return the first bytes of what is left: at least `size`, unless there are fewer."""
        while len(self._head) < size and (chunk := await anext(self._chunks, None)) is not None:
            self._head += chunk
        return self._head

    def __aiter__(self) -> "PeekableBody":
        return self

    async def __anext__(self) -> bytes:
        chunk, self._head = self._head, b""
        while not chunk:
            chunk = await anext(self._chunks)
        return chunk


async def decompress_body(body: PeekableBody, encoding: str, max_bytes: int) -> PeekableBody:
    """Return the body without its compression. `encoding`: the value of `content-encoding`.

    Raises, also while the body is read:
        InvalidRequest: The compression is not supported, or the compressed data is damaged.
        RequestTooLarge: The decompressed body has more than `max_bytes`.
    """
    decompressor = find_decompressor(await body.peek(4), encoding)
    return body if decompressor is None else PeekableBody(_decompressed(body, decompressor, max_bytes))


async def _decompressed(body: PeekableBody, decompressor: Decompressor, max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for data in body:
        for chunk in _decompress(decompressor, data):
            size += len(chunk)
            if size > max_bytes:
                raise RequestTooLarge(f"Maximum content size limit ({max_bytes}) exceeded, decompressed.")
            yield chunk
            await asyncio.sleep(0)
        # Not held while more is waited for.
        del data, chunk
    if not decompressor.eof:
        raise _damaged("it ends too early")


def _decompress(decompressor: Decompressor, data: bytes) -> Iterator[bytes]:
    try:
        yield decompressor.decompress(data, MAX_CHUNK)
        while not decompressor.eof and not decompressor.needs_input:
            yield decompressor.decompress(b"", MAX_CHUNK)
    except EOFError:
        raise _damaged("something follows its end") from None
    except zlib.error:
        raise _damaged("it cannot be decompressed") from None
    if decompressor.unused_data:
        raise _damaged("something follows its end")


def _damaged(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The compressed body of the request is damaged: {reason}.")


async def rewrite_as_utf8(body: PeekableBody) -> PeekableBody:
    """Return a JSON document in UTF-8 where its first bytes say UTF-16 or UTF-32, else as it is."""
    encoding = wide_encoding(await body.peek(4))
    return PeekableBody(_rewritten(body, encoding)) if encoding else body


async def _rewritten(body: PeekableBody, encoding: str) -> AsyncIterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    async for data in body:
        yield decoder.decode(data).encode()
        # Not held while more is waited for.
        del data
