"""Standard streams of a program: those of a terminal, and a pipe."""

import io


class Terminal(io.StringIO):
    """What a program has written to a terminal."""

    def isatty(self) -> bool:
        return True


class Pipe(io.TextIOWrapper):
    """What another program has written, and then the end."""

    def __init__(self, written: bytes) -> None:
        super().__init__(io.BytesIO(written))


class Keyboard(Pipe):
    """What somebody types at a terminal, and then the end."""

    def isatty(self) -> bool:
        return True
