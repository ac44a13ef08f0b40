"""Take large base64 images out of a JSON body while it arrives, and leave small placeholders in their place.

A body with 20 MB of base64 would otherwise be held as bytes, as text, as JSON and as an image at once. Code that looks
for images afterwards finds a placeholder, a valid PNG of 8x8 pixels, exactly where the large image was. Used for chat
replies and for requests.
"""

import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import pybase64

from app.protocol.image_format import is_complete
from app.protocol.json_stream import ByteSource, base64_chunks

#: A body is searched in chunks of this size, so that every image worth spooling extends beyond one.
_CHUNK = 16 * 1024
#: A string of at least this many bytes that extends to the end of a chunk may be an image: nothing else is so long.
_MIN_RUN = 512
#: Smaller images are put back into the body: holding them costs less than a placeholder.
_MIN_IMAGE = 64 * 1024
#: Decoded bytes are written to the sink in portions of this size.
_PORTION = 256 * 1024

#: How the base64 of an image begins if no `base64,` announces it: PNG, JPEG, WebP, GIF.
_MAGIC = (b"iVBORw0KGgo", b"/9j/", b"UklGR", b"R0lGOD")
_MARK = b"base64,"

#: Bytes that end base64 in JSON, Markdown and HTML. Any other end shows when decoding fails.
_STOPS = (b'"', b"\\", b")", b" ")
_RUN = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


class ByteSink(ByteSource, Protocol):
    """Bytes that are written once, from front to back, and read afterwards."""

    def write(self, data: bytes) -> None: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


class InlineImageSpooler:
    """Filter a JSON body: large base64 images go into sinks, the rest passes through.

    Attributes:
        spooled: The sinks, by the data URLs of their placeholders. The supplier of `new_sink` closes them.
        discarded: Number of large base64 runs that were left out because they were not complete images.
    """

    def __init__(self, new_sink: Callable[[], ByteSink]) -> None:
        self.spooled: dict[str, ByteSink] = {}
        self.discarded = 0
        self._new_sink = new_sink
        self._run: _Base64Run | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body, cut anywhere, and return what is left of them.

        A run of base64 is held back until its end, so nothing of an unfinished run is ever returned.
        """
        return b"".join(self._feed(data[start : start + _CHUNK]) for start in range(0, len(data), _CHUNK))

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
                end = self._run.add(data)
                if end == len(data):
                    break
                out.append(self._replace(self._run))
                data = data[end:]
                self._run = None
        return b"".join(out)

    def _replace(self, run: "_Base64Run") -> bytes:
        sink = run.end()
        if sink.size < _MIN_IMAGE:
            return b"".join(base64_chunks(sink))
        if not is_complete(sink.read_at, sink.size):
            self.discarded += 1
            return b""
        # Some relays send the same image twice, in a field and in the text. It gets one placeholder.
        url = next((url for url, other in self.spooled.items() if probably_equal(sink, other)), None)
        if url is None:
            url = f"data:image/png;base64,{pybase64.b64encode_as_string(placeholder_png(len(self.spooled)))}"
            self.spooled[url] = sink
        return url.partition(",")[2].encode()


class _Base64Run:
    """Base64 that is being decoded into a sink while it arrives."""

    def __init__(self, sink: ByteSink) -> None:
        self._sink = sink
        self._carry = b""
        self._portion: list[bytes] = []
        self._portion_size = 0

    def add(self, data: bytes) -> int:
        """Decode the base64 at the start of `data` and return its length: all of `data` if the run may continue."""
        stops = [stop for stop in map(data.find, _STOPS) if stop >= 0]
        end = min(stops, default=len(data))
        try:
            self._decode(data[:end])
        except ValueError:
            match = _RUN.match(data)
            end = match.end() if match else 0
            # The invalid bytes may also be those carried over from the previous chunk.
            with suppress(ValueError):
                self._decode(data[:end].rstrip(b"="))
        return end

    def _decode(self, base64: bytes) -> None:
        base64 = self._carry + base64
        decodable = len(base64) - len(base64) % 4
        data = pybase64.b64decode(base64[:decodable], validate=True)
        self._carry = base64[decodable:]
        self._portion.append(data)
        self._portion_size += len(data)
        if self._portion_size >= _PORTION:
            self._flush()

    def _flush(self) -> None:
        self._sink.write(b"".join(self._portion))
        self._portion.clear()
        self._portion_size = 0

    def end(self) -> ByteSink:
        rest = self._carry.rstrip(b"=")
        with suppress(ValueError):
            self._portion.append(pybase64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True))
        self._flush()
        return self._sink


def _start_of_run(data: bytes) -> int:
    """Return where a run begins that extends to the end of `data`, or the length of `data` if there is none."""
    tail = data.rfind(b'"') + 1
    if len(data) - tail < _MIN_RUN:
        return len(data)
    mark = data.rfind(_MARK, tail)
    if mark >= 0:
        return mark + len(_MARK)
    return tail if tail and data.startswith(_MAGIC, tail) else len(data)


class Readable(Protocol):
    """Bytes of a known size that can be read at any offset."""

    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


def probably_equal(one: Readable, other: Readable) -> bool:
    """Compare two images by size and three samples of 1 KiB: compressed pixels that differ do so everywhere."""
    offsets = (0, one.size // 2, max(0, one.size - 1024))
    return one.size == other.size and all(one.read_at(at, 1024) == other.read_at(at, 1024) for at in offsets)


def placeholder_png(number: int) -> bytes:
    """Return a PNG of 8x8 gray pixels, a different file for each number."""
    pixels = zlib.compress(b"\x00" * 9 * 8)
    chunks = ((b"IHDR", b"\0\0\0\x08\0\0\0\x08\x08\0\0\0\0"), (b"tEXt", b"Placeholder\0%d" % number), (b"IDAT", pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
