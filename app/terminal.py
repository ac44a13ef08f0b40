"""What a person at a terminal sees while a picture is painted, and the picture, where the terminal can show one."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

import pybase64

#: By what a terminal calls itself in TERM or TERM_PROGRAM: the protocol in which it shows pictures.
PROTOCOLS = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "ghostty": "kitty",
    "iTerm.app": "iterm2",
    "WezTerm": "iterm2",
}

#: Width of a picture, in columns.
_COLUMNS = 60

#: The kitty protocol's limit for one piece of base64.
_PIECE = 4096


class Progress:
    """Seconds and what is being done: one line drawn over and over on a terminal, a line for each news elsewhere."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._began = clock()
        self._is_live = self._stream.isatty()
        self._news = ""

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def tell(self, news: str) -> None:
        self._news = news
        if self._is_live:
            self.draw()
        else:
            self._write(f"{self._line}\n")

    def draw(self) -> None:
        if self._is_live:
            self._write(f"\r\x1b[K{self._line}")

    def clear(self) -> None:
        if self._is_live:
            self._write("\r\x1b[K")

    @property
    def _line(self) -> str:
        return f"{self.seconds:6.1f} s  {self._news}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def show(picture: bytes, names: Iterable[str], stream: TextIO) -> None:
    """`names`: what the terminal calls itself. Nothing where it cannot show the picture."""
    protocol = next((PROTOCOLS[name] for name in names if name in PROTOCOLS), None)
    if not stream.isatty():
        return
    if protocol == "iterm2":
        stream.write(f"{in_iterm2(picture)}\n")
    elif protocol == "kitty" and picture.startswith(b"\x89PNG"):
        stream.writelines((*in_kitty(picture), "\n"))
    stream.flush()


def in_iterm2(picture: bytes) -> str:
    """https://iterm2.com/documentation-images.html"""
    data = pybase64.b64encode(picture).decode()
    return f"\x1b]1337;File=inline=1;width={_COLUMNS};size={len(picture)}:{data}\x07"


def in_kitty(picture: bytes) -> Iterator[str]:
    """https://sw.kovidgoyal.net/kitty/graphics-protocol/ shows PNG only; only the first piece tells what comes."""
    data = pybase64.b64encode(picture).decode()
    for start in range(0, len(data), _PIECE):
        control = f"a=T,f=100,q=2,c={_COLUMNS}," if start == 0 else ""
        more = int(start + _PIECE < len(data))
        yield f"\x1b_G{control}m={more};{data[start : start + _PIECE]}\x1b\\"
