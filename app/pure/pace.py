"""When a growing reply is worth another look."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: What a picture looks like in a stream, most often.
_HINT = re.compile(rb"https?:|data:image|b64_json|image_url")


def by_line(piece: bytes) -> Sequence[bytes]:
    """Several events may arrive at once: each is worth a look of its own, or a picture on the way is never seen."""
    return piece.splitlines(keepends=True) if b"\n" in piece else (piece,)


@dataclass(slots=True)
class Pace:
    """Looking costs the length of the whole reply, so it is done where something like a picture came, a bounded number
    of times, and else each time the reply has grown by an eighth: all looks together stay linear.
    """

    came: int = 0
    seen: int = 0
    hints: int = 64
    hinted: bool = False

    def is_due(self, piece: bytes, *, grown: bool) -> bool:
        self.came += len(piece)
        self.hinted = self.hinted or _HINT.search(piece) is not None
        if not grown:
            return False
        if self.hinted and self.hints:
            self.hints -= 1
        elif self.came * 8 < self.seen * 9:
            return False
        self.hinted, self.seen = False, self.came
        return True
