"""The bytes of an image in memory, in place of a blob."""

from collections.abc import Iterator


class MemorySink:
    """A `ByteSink` that counts its `writes`. Two of them are never equal, whatever they hold."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.writes = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data
        self.writes += 1

    def read_at(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def chunks(self, size: int) -> Iterator[bytes]:
        for offset in range(0, len(self.data), size):
            yield self.data[offset : offset + size]
