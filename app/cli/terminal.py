"""Show progress on a terminal, and images if the terminal can."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

import pybase64

#: Seconds between two drawings of the progress line.
_REDRAW_INTERVAL = 0.1

#: The protocol in which a terminal shows images, by its name in TERM or TERM_PROGRAM.
TERMINAL_PROTOCOLS = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "ghostty": "kitty",
    "iTerm.app": "iterm2",
    "WezTerm": "iterm2",
}

#: Width of an image on the terminal, in columns.
_IMAGE_COLUMNS = 60

#: The kitty protocol's limit for one chunk of base64.
_KITTY_CHUNK = 4096


class Progress:
    """Show the seconds since the start and a message.

    On a terminal that is one line, drawn again and again. Elsewhere each new message is a line.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._started_at = clock()
        self._is_live = self._stream.isatty()
        self._message = ""

    def update(self, message: str) -> None:
        self._message = message
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
        return f"{self._clock() - self._started_at:6.1f} s  {self._message}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@contextmanager
def live_progress(progress: Progress) -> Iterator[None]:
    """Draw the line again and again, in a thread, until the block ends."""
    done = threading.Event()

    def draw() -> None:
        while not done.wait(_REDRAW_INTERVAL):
            progress.draw()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def show_image(image: bytes, names: Iterable[str], stream: TextIO) -> None:
    """Show the image if `stream` is a terminal that can show it. `names` are what the terminal calls itself."""
    protocol = next((TERMINAL_PROTOCOLS[name] for name in names if name in TERMINAL_PROTOCOLS), None)
    if not stream.isatty():
        return
    if protocol == "iterm2":
        stream.write(f"{iterm2_sequence(image)}\n")
    elif protocol == "kitty" and image.startswith(b"\x89PNG"):
        stream.writelines((*kitty_sequences(image), "\n"))
    stream.flush()


def iterm2_sequence(image: bytes) -> str:
    """Return the image in the protocol of https://iterm2.com/documentation-images.html."""
    data = pybase64.b64encode(image).decode()
    return f"\x1b]1337;File=inline=1;width={_IMAGE_COLUMNS};size={len(image)}:{data}\x07"


def kitty_sequences(image: bytes) -> Iterator[str]:
    """Yield a PNG in chunks, of which only the first has the parameters of the image.

    The protocol, https://sw.kovidgoyal.net/kitty/graphics-protocol/, has no other compressed format.
    """
    data = pybase64.b64encode(image).decode()
    for start in range(0, len(data), _KITTY_CHUNK):
        control = f"a=T,f=100,q=2,c={_IMAGE_COLUMNS}," if start == 0 else ""
        more = int(start + _KITTY_CHUNK < len(data))
        yield f"\x1b_G{control}m={more};{data[start : start + _KITTY_CHUNK]}\x1b\\"
