"""Take large base64 images out of a JSON body while it arrives, and leave small placeholders in their place.

A body with 20 MB of base64 would otherwise be held as bytes, as text, as JSON and as an image at once. Code that looks
for images afterwards finds a placeholder, a valid PNG of 8x8 pixels, exactly where the large image was. Small images
stay, in plain base64 whatever their spelling was. Used for chat replies, for their joined texts, and for requests.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import pybase64

from app.protocol.base64_spelling import (
    BLANKS,
    IMAGE_START,
    LINE,
    LOOKBEHIND,
    PADDING,
    find_piece,
    find_start,
    held_back,
    held_back_piece,
    lines_pattern,
    may_have_start,
    open_end_pattern,
    standard,
)
from app.protocol.image_format import bytes_reader, ends_like_image, is_complete
from app.protocol.json_stream import ByteSource, base64_chunks

#: Smaller images are put back into the body: holding them costs less than a placeholder.
_MIN_IMAGE = 64 * 1024
#: Base64 up to this length is kept as it came, so that what is no image can be put back unchanged.
_MAX_UNCHANGED = 96 * 1024
#: Decoded bytes are written to the sink in portions of at least this size. What is not written is held for each image.
_PORTION = 64 * 1024

#: A line with at least this many letters and no blank is not prose, so base64 continues there. Where the first line is
#: shorter, all lines are.
_MIN_LINE, _MIN_SHORT_LINE = 32, 8
#: Bytes beside a quote that end base64 in Markdown and HTML, or its plain spelling.
_STOPS = (b"\\", b")", b" ", b"\n", b"%")
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
#: Plain base64 that is shorter is not worth a decoding of its own.
_MIN_PLAIN = 1024
#: Decoded bytes that are kept of the start and of the end, to see whether an image ends there.
_EDGE = 16


class ByteSink(ByteSource, Protocol):
    """Bytes that are written once, from front to back, and read afterwards."""

    def write(self, data: bytes) -> None: ...
    def read_at(self, offset: int, size: int) -> bytes: ...


#: What stands in place of a piece of an image: signs that no text has.
_PIECE_MARK = "\ue000piece %d\ue001"
_PIECE = re.compile("\ue000piece ([0-9]{1,4})\ue001".encode())


@dataclass(frozen=True, slots=True)
class Piece:
    """Base64 that is no image by itself, but may be the start of one or continue one.

    Attributes:
        sink: The bytes of the whole groups of four letters, and perhaps more.
        rest: The letters behind these groups.
        min_line: The least letters of its lines. What continues it has the same lines.
    """

    sink: ByteSink
    whole_groups: int
    rest: bytes
    min_line: int

    @property
    def length(self) -> int:
        return self.whole_groups * 4 + len(self.rest)

    def letters(self) -> Iterator[bytes]:
        """Yield the base64 as it came."""
        left = self.whole_groups * 4
        for chunk in base64_chunks(self.sink):
            yield chunk[:left]
            left -= min(left, len(chunk))
        yield self.rest


class InlineImageSpooler:
    """Filter a JSON body or a text: large base64 images go into sinks, the rest passes through.

    Attributes:
        spooled: The sinks, by the data URLs of their placeholders. The supplier of `new_sink` closes them.
        discarded: Number of large base64 runs that were left out because they were not complete images.
    """

    def __init__(
        self,
        new_sink: Callable[[], ByteSink],
        spooled: dict[str, ByteSink] | None = None,
        max_put_back: int = 0,
        pieces: list[Piece] | None = None,
        *,
        keeps_pieces: bool = False,
    ) -> None:
        """Begin to filter. Several spoolers may share `spooled` and `pieces`.

        Args:
            new_sink: Makes what takes an image.
            spooled: The images so far.
            max_put_back: Letters of large base64 without a complete image that are put back: it may be a part of one.
            pieces: Further parts, which are joined where their marks follow each other.
            keeps_pieces: More base64 that is no complete image becomes such a part, also without a beginning.
        """
        self.spooled = {} if spooled is None else spooled
        self._pieces = [] if pieces is None else pieces
        self._keeps_pieces = keeps_pieces
        #: The parts that are not joined yet, by number. A mark of any other number is text of the upstream.
        self._left: dict[int, Piece] = {}
        self._seen = 0
        self.discarded = 0
        self._new_sink = new_sink
        self._may_put_back = max_put_back
        self._run: _Base64Run | None = None
        self._held = b""
        # The start of the body is no middle of a word.
        self._before = b" "

    @property
    def is_in_image(self) -> bool:
        """Whether base64 is arriving."""
        return self._run is not None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body, cut anywhere, and return what is left of them.

        Base64 is held back until its end, so nothing of an unfinished image is ever returned.
        """
        return self._filter(data, is_last=False)

    def end(self) -> bytes:
        """Return what was held back, at the end of the body."""
        if self._run is None and not self._held:
            return b""
        return self._filter(b"", is_last=True)

    def _filter(self, data: bytes, *, is_last: bool) -> bytes:
        data, position, out = self._before + self._held + data, len(self._before), []
        self._before = self._held = b""
        self._left |= {number: self._pieces[number] for number in range(self._seen, len(self._pieces))}
        self._seen = len(self._pieces)
        while True:
            if self._run is None:
                start, is_piece = self._find_start(data, position)
                if start < 0:
                    break
                out.append(data[position:start])
                position, self._run = start, _Base64Run(self._new_sink, self._left, is_piece=is_piece)
            position, has_ended = self._run.feed(data, position, is_last=is_last)
            if not has_ended:
                self._held = data[position:]
                return b"".join(out)
            out.append(self._replace(self._run))
            self._run = None
        cut = len(data) if is_last else len(data) - self._held_back(data, position)
        self._held, self._before = data[cut:], data[max(0, cut - LOOKBEHIND) : cut]
        out.append(data[position:cut])
        return b"".join(out)

    def _find_start(self, data: bytes, position: int) -> tuple[int, bool]:
        """Return where base64 may begin, -1 if nowhere, and whether it begins there as a piece does."""
        start = find_start(data, position)
        if self._keeps_pieces:
            piece = find_piece(data, position, len(data) if start < 0 else start - 1)
            return (start, False) if piece < 0 else (piece, True)
        marks = _PIECE.finditer(data, position) if self._left else ()
        mark = next((mark.start() for mark in marks if int(mark[1]) in self._left), -1)
        return (mark, False) if mark >= 0 and (start < 0 or mark < start) else (start, False)

    def _held_back(self, data: bytes, position: int) -> int:
        return max(held_back(data, position), held_back_piece(data, position) if self._keeps_pieces else 0)

    def _replace(self, run: "_Base64Run") -> bytes:
        run.end()
        if run.unchanged is not None and run.size < _MIN_IMAGE:
            data = run.take()
            # Letters beside whole groups may be the start of more that follows in the next piece of the text.
            is_whole = not run.rest and is_complete(bytes_reader(data), len(data))
            return pybase64.b64encode(data) if is_whole else run.unchanged
        sink = run.flush()
        if not is_complete(sink.read_at, sink.size):
            return self._put_back(Piece(sink, run.whole_groups, run.rest, run.min_line))
        if sink.size < _MIN_IMAGE:
            return b"".join(base64_chunks(sink))
        # Some relays send the same image twice, in a field and in the text. It gets one placeholder.
        url = next((url for url, other in self.spooled.items() if probably_equal(sink, other)), None)
        if url is None:
            url = f"data:image/png;base64,{pybase64.b64encode_as_string(placeholder_png(len(self.spooled)))}"
            self.spooled[url] = sink
        return url.partition(",")[2].encode()

    def _put_back(self, piece: Piece) -> bytes:
        """Return what stands in place of base64 that is no complete image."""
        is_small = piece.sink.size <= _MIN_IMAGE
        # Letters alone do not say how short the lines are that continue them.
        is_known = piece.min_line == _MIN_LINE or not self._keeps_pieces
        if is_small or (is_known and piece.length <= self._may_put_back):
            self._may_put_back -= 0 if is_small else piece.length
            return b"".join(piece.letters())
        if self._keeps_pieces:
            self._pieces.append(piece)
            return (_PIECE_MARK % (len(self._pieces) - 1)).encode()
        self.discarded += 1
        return b""


def may_hold_base64(data: bytes) -> bool:
    """Return whether a spooler may find anything in a body that has come as a whole."""
    # The start of the body is no middle of a word.
    has_start = may_have_start(data) and find_start(b" " + data, 1) >= 0
    return has_start or find_piece(data, 0, len(data)) >= 0


class _Base64Run:
    """Base64 that is being decoded into a sink while it arrives.

    Attributes:
        size: Bytes decoded so far.
        unchanged: The base64 as it came, None once it is too long.
        rest: Letters at the end that are too few for a whole group.
        whole_groups: Number of groups of four letters in front of them.
        min_line: The least letters of a line behind another one.
    """

    def __init__(self, new_sink: Callable[[], ByteSink], pieces: dict[int, Piece], *, is_piece: bool) -> None:
        """`pieces`: what marks stand for, each once. `is_piece`: the padding belongs to no group of this run."""
        self.size = self.whole_groups = 0
        self.unchanged: bytes | None = b""
        self.rest = b""
        self._new_sink = new_sink
        self._pieces, self._is_piece = pieces, is_piece
        self._sink: ByteSink | None = None
        self._head = self._tail = b""
        self._portion: list[bytes] = []
        self._portion_size = 0
        self._letters = 0
        self.min_line = _MIN_LINE

    def feed(self, data: bytes, position: int, *, is_last: bool) -> tuple[int, bool]:
        """Decode the base64 in `data` at `position`.

        Returns:
            The position up to which everything is decoded, and whether the base64 ends there. What is left of `data`
            must be given once more, together with what follows, if it does not.
        """
        position = self._take_plain(data, position)
        while True:
            end = _end_of(lines_pattern(self.min_line), data, position)
            self._take(data[position:end])
            position = end
            if (after := self._take_piece(data, position)) > position:
                position = after
                continue
            if not is_last and open_end_pattern(self.min_line).match(data, position):
                return position, False
            end, has_ended = self._judge(data, position)
            self._take(data[position:end])
            position = end
            if has_ended:
                return position, True

    def _take_piece(self, data: bytes, position: int) -> int:
        """Decode the piece whose mark is at `position`, perhaps behind blanks, and return its end."""
        mark = self._piece_mark(data, _end_of(BLANKS, data, position))
        if mark is None:
            return position
        piece = self._pieces[int(mark[1])]
        if self._letters and IMAGE_START.match(next(piece.letters())):
            return position
        del self._pieces[int(mark[1])]
        self.unchanged = None
        self.min_line = min(self.min_line, piece.min_line)
        with suppress(ValueError):
            for letters in piece.letters():
                self._decode(letters)
        # Padding within is the end of something else.
        self.rest = self.rest.rstrip(b"=")
        return mark.end()

    def _piece_mark(self, data: bytes, position: int) -> re.Match[bytes] | None:
        mark = _PIECE.match(data, position) if self._pieces else None
        return mark if mark and int(mark[1]) in self._pieces else None

    def _take_plain(self, data: bytes, position: int) -> int:
        """Decode base64 in plain spelling: ten times as fast as in any other."""
        if data[position : position + _MIN_PLAIN].translate(None, _LETTERS):
            return position
        quote = data.find(b'"', position)
        ends = [len(data) if quote < 0 else quote]
        for _ in range(2):
            plain = data[position : min(ends)].rstrip(b"=")
            if len(plain) < _MIN_PLAIN:
                break
            # The last letters of an incomplete group are not validated by the decoder.
            if not plain[-3:].strip(_LETTERS):
                with suppress(ValueError):
                    self._decode(plain)
                    self._keep(plain)
                    return position + len(plain)
            ends += [stop for stop in (data.find(stop, position, ends[0]) for stop in _STOPS) if stop >= 0]
        return position

    def _take(self, spelled: bytes) -> None:
        if spelled:
            self._decode(standard(spelled))
            self._keep(spelled)

    def _judge(self, data: bytes, position: int) -> tuple[int, bool]:
        """Return the end of what belongs to the base64 behind its last line, and whether it ends there."""
        if padding := PADDING.match(data, position):
            return (position if self._is_piece else padding.end()), True
        blanks = BLANKS.match(data, position)
        end = position if blanks is None else _end_of(LINE, data, blanks.end())
        if blanks is None or end == blanks.end():
            return position, True
        # A line in front of a piece was cut, however short it is.
        is_cut = self._piece_mark(data, end) is not None
        if is_cut or not self._letters:
            return (end if is_cut else blanks.end()), False
        line = standard(data[blanks.end() : end])
        if self._letters < _MIN_LINE == self.min_line:
            self.min_line = max(_MIN_SHORT_LINE, self._letters)
            return position, False
        if self._ends_image():
            return position, True
        if len(line) >= self.min_line:
            return blanks.end(), False
        if padding := PADDING.match(data, end):
            return (end if self._is_piece else padding.end()), True
        is_last_line = self._ends_image(line) or (blanks[0] != b" " and (self._letters + len(line)) % 4 == 0)
        return end if is_last_line else position, True

    def _ends_image(self, more: bytes = b"") -> bool:
        """Check whether an image ends here, or behind `more` base64."""
        rest = (self.rest + more).rstrip(b"=")
        end = pybase64.b64decode(rest[: len(rest) - (len(rest) % 4 == 1)] + b"=" * (-len(rest) % 4))
        return ends_like_image(self._head or end, self._tail + end, self.size + len(end))

    def _decode(self, base64: bytes) -> None:
        """Decode base64 in the standard alphabet. Raises `ValueError` for anything else, and has taken nothing then."""
        whole = self.rest + base64
        decodable = len(whole) - len(whole) % 4
        data = pybase64.b64decode(whole[:decodable], validate=True)
        self.rest = whole[decodable:]
        self.whole_groups += decodable // 4
        self._letters += len(base64)
        self._add(data)

    def _add(self, data: bytes) -> None:
        self.size += len(data)
        if len(self._head) < _EDGE:
            self._head += data[: _EDGE - len(self._head)]
        self._tail = (self._tail + data)[-_EDGE:] if len(data) < _EDGE else data[-_EDGE:]
        self._portion.append(data)
        self._portion_size += len(data)
        if self._portion_size >= _PORTION:
            self.flush()

    def _keep(self, spelled: bytes) -> None:
        if self.unchanged is not None:
            self.unchanged = self.unchanged + spelled if len(self.unchanged) + len(spelled) <= _MAX_UNCHANGED else None

    def end(self) -> None:
        """Decode the last letters."""
        letters = self.rest.rstrip(b"=")
        with suppress(ValueError):
            self._add(pybase64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True))

    def take(self) -> bytes:
        """Return the bytes that are not in the sink yet."""
        data = b"".join(self._portion)
        self._portion.clear()
        self._portion_size = 0
        return data

    def flush(self) -> ByteSink:
        """Write everything to the sink and return it."""
        if self._sink is None:
            self._sink = self._new_sink()
        self._sink.write(self.take())
        return self._sink


def _end_of(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    match = pattern.match(data, position)
    return match.end() if match else position


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
