"""A JSON document with holes that are filled with base64 while it is being sent; its length is known beforehand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import pybase64

#: Bytes encoded at a time: a multiple of 3 (base64 pads only at the end) that stays in the processor's cache.
CHUNK = 3 * 64 * 1024

#: Stands for a hole in the serialised document. No UTF-8 text contains this byte, so no prompt can imitate it.
_MARK = b"\xff"


class ByteSource(Protocol):
    """Bytes that can be read again and again, by several readers at once."""

    @property
    def size(self) -> int: ...

    def chunks(self, size: int) -> Iterator[bytes]:
        """All the bytes in order, each piece `size` long but the last."""
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
    """One serialised document: `length` bytes in all, made piece by piece as often as wanted."""

    def __init__(self, document: Any) -> None:
        holes: list[Base64String] = []

        def mark(value: object) -> orjson.Fragment:
            if not isinstance(value, Base64String):
                raise TypeError(f"{type(value).__name__} is not JSON")
            holes.append(value)
            return orjson.Fragment(_MARK)

        texts = orjson.dumps(document, mark, orjson.OPT_PASSTHROUGH_DATACLASS).split(_MARK)
        # Copied: orjson leaves what it has written in a block of 4 KiB, and a question is kept for minutes.
        self._texts = [bytes(memoryview(text)) for text in texts]
        self._holes = holes
        # Two quotes around each hole.
        self.length = sum(map(len, self._texts)) + sum(hole.length + 2 for hole in holes)

    def chunks(self) -> Iterator[bytes]:
        yield self._texts[0]
        for hole, text in zip(self._holes, self._texts[1:], strict=True):
            yield b'"' + hole.prefix.encode("ascii")
            yield from base64_chunks(hole.source)
            yield b'"' + text


def base64_chunks(source: ByteSource) -> Iterator[bytes]:
    return map(pybase64.b64encode, source.chunks(CHUNK))
