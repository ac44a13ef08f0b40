"""Decide when a growing reply is worth a search for images."""

from dataclasses import dataclass

#: What most images in a stream begin with.
_IMAGE_MARKS = (b"http:", b"https:", b"data:image", b"b64_json", b"image_url")

#: Searches after what looks like an image may read this many bytes in all, plus this many times the reply.
_FREE, _SEARCHES = 256 * 1024, 8


@dataclass(slots=True)
class SnapshotThrottle:
    """Limit how often a growing reply is searched for images.

    A search costs the length of the whole reply. It is done after something that looks like an image, but only as long
    as all these searches together cost less than `_SEARCHES` times the reply, and otherwise each time the reply has
    grown by an eighth. All searches of a reply together therefore stay linear in its length.
    """

    received: int = 0
    searched: int = 0
    spent: int = 0
    has_mark: bool = False

    def should_snapshot(self, chunk: bytes, size: int, *, grown: bool) -> bool:
        """Count one chunk and return whether to search now.

        Args:
            chunk: The chunk.
            size: What the reply holds now.
            grown: The chunk added content to the reply.
        """
        self.received += len(chunk)
        self.has_mark = self.has_mark or any(mark in chunk for mark in _IMAGE_MARKS)
        if not grown:
            return False
        if self.has_mark and self.spent <= _FREE + _SEARCHES * size:
            self.spent += size
        elif self.received * 8 < self.searched * 9:
            return False
        self.has_mark, self.searched = False, self.received
        return True
