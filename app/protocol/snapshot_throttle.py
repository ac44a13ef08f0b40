"""Decide when a growing reply is worth a search for images."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: What most images in a stream begin with.
_IMAGE_MARKS = (b"http:", b"https:", b"data:image", b"b64_json", b"image_url")


#: Where an event of a stream ends. Lines within a JSON document are not split: base64 may be broken into lines. The
#: pattern begins with a set of bytes, which is searched four times as fast as an optional byte.
_EVENT_END = re.compile(rb"[\r\n](?:(?<=\r)\n)?+(?:\r?\n|\r)++")
#: Bytes of text that are parsed at a time.
_PIECE = 16 * 1024


def split_events(chunk: bytes, base64_size: Callable[[], int] = lambda: 0) -> Iterator[bytes]:
    """Split a chunk behind its events, since a partial image may be in any of them, and into pieces of bounded size.

    `base64_size` says, after each piece, how large the next one may be while base64 is arriving; 0: none is arriving.
    """
    start = 0
    while start < len(chunk):
        if size := base64_size():
            end = min(start + size, len(chunk))
        else:
            end = _event_end(chunk, start, min(start + _PIECE, len(chunk)))
        yield chunk[start:end]
        start = end


def _event_end(chunk: bytes, start: int, end: int) -> int:
    """Return where the first event ends, `end` if none does."""
    # Line breaks are found first: in 16 KiB of base64, which has none, the pattern alone would take 66 µs.
    breaks = [at for at in (chunk.find(b"\n", start, end), chunk.find(b"\r", start, end)) if at >= 0]
    match = _EVENT_END.search(chunk, min(breaks), end) if breaks else None
    return match.end() if match else end


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
