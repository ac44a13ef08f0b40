"""Pieces of an image: base64 that an upstream has cut into several strings.

Each string by itself is no image, and only the whole text shows which of them belong together. So a piece waits in a
sink, and a short mark stands in its place. When the texts are joined and filtered once more, the decoder of a run
takes in the pieces whose marks follow each other.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.protocol.byte_sink import ByteSink
from app.protocol.json_stream import base64_chunks

#: What stands in place of a piece: its number between two signs that no text has.
_MARK = "\ue000piece %d\ue001"
PIECE_MARK = re.compile("\ue000piece ([0-9]{1,4})\ue001".encode())


@dataclass(frozen=True, slots=True)
class Piece:
    """Base64 that is no image by itself, but may be the start of one or continue one.

    Attributes:
        sink: The bytes of the whole groups of four letters, and perhaps more.
        rest: The letters behind these groups.
        min_line: The least letters of its lines. What continues it has the same lines.
    """

    sink: ByteSink
    whole_groups: int
    rest: bytes
    min_line: int

    @property
    def length(self) -> int:
        return self.whole_groups * 4 + len(self.rest)

    def letters(self) -> Iterator[bytes]:
        """Yield the base64 as it came."""
        left = self.whole_groups * 4
        for chunk in base64_chunks(self.sink):
            yield chunk[:left]
            left -= min(left, len(chunk))
        yield self.rest


def mark_of_piece(number: int) -> bytes:
    """Return what stands in place of a piece."""
    return (_MARK % number).encode()
