"""How many bytes are parsed at a time, so that other requests never wait long for it."""

from dataclasses import dataclass

#: Seconds that parsing may take at a time. What waits for the event loop often needs ten turns of it.
_SECONDS = 0.005

_LEAST, _FIRST, _MOST = 2 * 1024, 16 * 1024, 256 * 1024


@dataclass(slots=True)
class Pace:
    """Learns from each piece how large the next one may be. 256 KiB of base64 take 0.1 ms or, if it is hostile, 500 ms.

    `size`: bytes of the next piece at most.
    """

    size: int = _FIRST

    def note(self, count: int, seconds: float) -> None:
        """Note how long `count` bytes have taken."""
        self.size = max(_LEAST, min(_MOST, int(count * _SECONDS / max(seconds, 1e-6))))
