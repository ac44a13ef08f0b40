"""How many bytes are parsed at a time, so that other requests never wait long for it."""

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
