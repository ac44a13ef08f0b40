"""Decide when a growing reply is worth a search for images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: What most images in a stream begin with.
_IMAGE_MARK = re.compile(rb"https?:|data:image|b64_json|image_url")


def split_lines(chunk: bytes) -> Sequence[bytes]:
    """Split a chunk into lines, because it may hold several events, and a partial image may be in any of them."""
    return chunk.splitlines(keepends=True) if b"\n" in chunk else (chunk,)


@dataclass(slots=True)
class SnapshotThrottle:
    """Limit how often a growing reply is searched for images.

    A search costs the length of the whole reply. It is done after something that looks like an image, but only a
    limited number of times, and otherwise each time the reply has grown by an eighth. All searches of a reply together
    therefore stay linear in its length.
    """

    received: int = 0
    searched: int = 0
    marks_left: int = 64
    has_mark: bool = False

    def should_snapshot(self, chunk: bytes, *, grown: bool) -> bool:
        """Count one chunk and return whether to search now. `grown`: the chunk added content to the reply."""
        self.received += len(chunk)
        self.has_mark = self.has_mark or _IMAGE_MARK.search(chunk) is not None
        if not grown:
            return False
        if self.has_mark and self.marks_left:
            self.marks_left -= 1
        elif self.received * 8 < self.searched * 9:
            return False
        self.has_mark, self.searched = False, self.received
        return True
