"""How many bytes are parsed at a time, so that other requests never wait long for it, and where a stream is cut."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Seconds that parsing may take at a time. What waits for the event loop often needs ten turns of it.
_SECONDS = 0.005

#: Plain base64 in pieces of 64 KiB costs a tenth more than in pieces of 128 KiB, which cost as much as larger ones.
_LEAST, _FIRST, _MOST = 2 * 1024, 16 * 1024, 128 * 1024


@dataclass(slots=True)
class Pace:
    """Learn from each piece how large the next one may be, at most twice as large as before.

    128 KiB of base64 take 0.05 ms or, if it is hostile, 200 ms.

    `size`: bytes of the next piece at most.
    """

    size: int = _FIRST

    def note(self, count: int, seconds: float) -> None:
        """Note how long `count` bytes have taken."""
        self.size = max(_LEAST, min(_MOST, 2 * self.size, int(count * _SECONDS / max(seconds, 1e-6))))


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
