"""Write JSON documents that contain large base64 strings, encoded while the document is being sent.

The length of the whole document is known beforehand, for the header `Content-Length`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import pybase64

#: Bytes encoded at a time: a multiple of 3 (base64 pads only at the end) that stays in the processor's cache.
CHUNK = 3 * 64 * 1024

#: Stands for a `Base64String` in the serialized document. UTF-8 text cannot contain this byte, so no prompt can
#: imitate it.
_MARK = b"\xff"


class ByteSource(Protocol):
    """Bytes that can be read any number of times, by several readers at once."""

    @property
    def size(self) -> int: ...

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield all bytes in order, in chunks of `size` bytes; the last one may be shorter."""
        ...


@dataclass(frozen=True, slots=True)
class Base64String:
    """A JSON string: `prefix`, then the base64 of `source`. `prefix` is plain ASCII without quotes or backslashes."""

    source: ByteSource
    prefix: str = ""

    @property
    def length(self) -> int:
        return len(self.prefix) + 4 * ((self.source.size + 2) // 3)


class StreamingJson:
    """One JSON document that may hold `Base64String`s. `length` is its size in bytes."""

    def __init__(self, document: Any) -> None:
        strings: list[Base64String] = []

        def mark(value: object) -> orjson.Fragment:
            if not isinstance(value, Base64String):
                raise TypeError(f"{type(value).__name__} is not JSON")
            strings.append(value)
            return orjson.Fragment(_MARK)

        texts = orjson.dumps(document, mark, orjson.OPT_PASSTHROUGH_DATACLASS).split(_MARK)
        # Copied: what orjson has written stays in a block of 4 KiB, and a request is held for minutes.
        self._texts = [bytes(memoryview(text)) for text in texts]
        self._strings = strings
        # Each string has two quotes around it.
        self.length = sum(map(len, self._texts)) + sum(string.length + 2 for string in strings)

    def chunks(self) -> Iterator[bytes]:
        """Yield the document in chunks. Can be called any number of times."""
        yield self._texts[0]
        for string, text in zip(self._strings, self._texts[1:], strict=True):
            yield b'"' + string.prefix.encode("ascii")
            yield from base64_chunks(string.source)
            yield b'"' + text


def base64_chunks(source: ByteSource) -> Iterator[bytes]:
    """Yield the base64 of all bytes of `source` in chunks."""
    return map(pybase64.b64encode, source.chunks(CHUNK))
