"""Standard streams of a program that runs at a terminal."""

import io


class Terminal(io.StringIO):
    """What a program has written to a terminal."""

    def isatty(self) -> bool:
        return True


class Keyboard(io.TextIOWrapper):
    """What somebody types at a terminal, and then the end."""

    def __init__(self, typed: bytes) -> None:
        super().__init__(io.BytesIO(typed))

    def isatty(self) -> bool:
        return True
