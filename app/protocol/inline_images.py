"""Large pictures are lifted out of a reply while it is being read, and small pictures stand in for them.

A reply with 20 MB of base64 in it would otherwise be held as bytes, as text, as JSON and as a picture at once. Whatever
looks for images afterwards finds the stand-in, a valid PNG of 8x8 pixels, exactly where the large picture stood.
"""

import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import pybase64

from app.protocol.image_format import is_complete
from app.protocol.json_stream import ByteSource, base64_chunks

#: The body is looked at in pieces of this size, so that every picture worth lifting reaches beyond one.
_PIECE = 16 * 1024
#: A string of at least this many bytes goes on where a piece of the body ends: nothing but pictures is so long.
_LONG = 512
#: What turns out to be smaller is put back: holding it costs less than a stand-in.
_SMALL = 64 * 1024
#: Decoded bytes go into the sink in portions of this size.
_PORTION = 256 * 1024

#: How base64 of pictures begins where no `base64,` announces it: PNG, JPEG, WebP, GIF.
_MAGIC = (b"iVBORw0KGgo", b"/9j/", b"UklGR", b"R0lGOD")
_MARK = b"base64,"

#: What ends base64 in JSON, Markdown and HTML; anything else is found when decoding fails.
_STOPS = (b'"', b"\\", b")", b" ")
_RUN = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


class ByteSink(ByteSource, Protocol):
    """Bytes that are written once, from front to back, and read afterwards."""

    def write(self, data: bytes) -> None: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


class InlineImageSpooler:
    """`lifted`: the sinks by the data URLs that stand in for them; `dropped`: large ones that were no whole picture."""

    def __init__(self, new_sink: Callable[[], ByteSink]) -> None:
        self.spooled: dict[str, ByteSink] = {}
        self.discarded = 0
        self._new_sink = new_sink
        self._run: _Base64Run | None = None

    def feed(self, data: bytes) -> bytes:
        """The body goes through here in any cut; what comes out is small. Nothing comes out of a run without an end."""
        return b"".join(self._feed(data[start : start + _PIECE]) for start in range(0, len(data), _PIECE))

    def _feed(self, data: bytes) -> bytes:
        out = []
        while data:
            if self._run is None:
                start = _start_of_run(data)
                out.append(data[:start])
                data = data[start:]
                if data:
                    self._run = _Base64Run(self._new_sink())
            else:
                end = self._run.take(data)
                if end == len(data):
                    break
                out.append(self._replace(self._run))
                data = data[end:]
                self._run = None
        return b"".join(out)

    def _replace(self, run: "_Base64Run") -> bytes:
        sink = run.end()
        if sink.size < _SMALL:
            return b"".join(base64_chunks(sink))
        if not is_complete(sink.read_at, sink.size):
            self.discarded += 1
            return b""
        # Some relays tell the same picture twice, in a field and in the text: it is one picture.
        twin = next((url for url, other in self.spooled.items() if probably_equal(sink, other)), None)
        if twin is None:
            twin = f"data:image/png;base64,{pybase64.b64encode_as_string(placeholder_png(len(self.spooled)))}"
            self.spooled[twin] = sink
        return twin.partition(",")[2].encode()


class _Base64Run:
    """Base64 under way into a sink."""

    def __init__(self, sink: ByteSink) -> None:
        self._sink = sink
        self._carry = b""
        self._portion: list[bytes] = []
        self._held = 0

    def take(self, data: bytes) -> int:
        """How many bytes of `data` belong to the run; all of them where it may go on."""
        places = [place for place in map(data.find, _STOPS) if place >= 0]
        end = min(places, default=len(data))
        try:
            self._decode(data[:end])
        except ValueError:
            match = _RUN.match(data)
            end = match.end() if match else 0
            # What the last piece ended with may be what is wrong.
            with suppress(ValueError):
                self._decode(data[:end].rstrip(b"="))
        return end

    def _decode(self, base64: bytes) -> None:
        base64 = self._carry + base64
        whole = len(base64) - len(base64) % 4
        data = pybase64.b64decode(base64[:whole], validate=True)
        self._carry = base64[whole:]
        self._portion.append(data)
        self._held += len(data)
        if self._held >= _PORTION:
            self._flush()

    def _flush(self) -> None:
        self._sink.write(b"".join(self._portion))
        self._portion.clear()
        self._held = 0

    def end(self) -> ByteSink:
        rest = self._carry.rstrip(b"=")
        with suppress(ValueError):
            self._portion.append(pybase64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True))
        self._flush()
        return self._sink


def _start_of_run(data: bytes) -> int:
    """Where a run begins that reaches to the end of the piece; behind the end where there is none."""
    tail = data.rfind(b'"') + 1
    if len(data) - tail < _LONG:
        return len(data)
    mark = data.rfind(_MARK, tail)
    if mark >= 0:
        return mark + len(_MARK)
    return tail if tail and data.startswith(_MAGIC, tail) else len(data)


class Readable(Protocol):
    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


def probably_equal(one: Readable, other: Readable) -> bool:
    """Whether two pictures are one: compressed pixels that differ do so everywhere, so three places tell."""
    places = (0, one.size // 2, max(0, one.size - 1024))
    return one.size == other.size and all(one.read_at(at, 1024) == other.read_at(at, 1024) for at in places)


def placeholder_png(number: int) -> bytes:
    """A PNG of 8x8 grey pixels, a different file for each number."""
    pixels = zlib.compress(b"\x00" * 9 * 8)
    chunks = ((b"IHDR", b"\0\0\0\x08\0\0\0\x08\x08\0\0\0\0"), (b"tEXt", b"Stand-in\0%d" % number), (b"IDAT", pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
