r"""Decode one run of base64 while it arrives, and find where it ends.

A run is base64 from its beginning to its end, over all its lines. Anything but a letter of base64, its escape, and the
gap between two lines ends it. A gap is a line break, its escape, or the blank that a line break has become, so words
may follow it as well as another line. What follows is judged by its length:

- as many letters as a line has (`min_line`): the run goes on, since no text has such words;
- fewer: they are the last line if they complete the image, are padded, or complete a group of four letters behind a
  line break; otherwise the run has ended in front of the gap.
"""

import re
from collections.abc import Callable
from contextlib import suppress

import pybase64

from app.protocol.base64_spelling import GAP, IMAGE_START, LINE, PADDING, lines_pattern, open_end_pattern, standard
from app.protocol.byte_sink import ByteSink
from app.protocol.image_format import ends_like_image
from app.protocol.image_pieces import PIECE_MARK, Piece

#: Base64 up to this length is kept as it came, so that what is no image can be put back unchanged.
_MAX_UNCHANGED = 96 * 1024
#: Decoded bytes are written to the sink in portions of at least this size. What is not written is held for each image.
_PORTION = 64 * 1024
#: The least letters of a line that is not the last one. Where the first line is shorter, all lines are.
MIN_LINE, _MIN_SHORT_LINE = 32, 8
#: Bytes in front of the quote that end base64 in Markdown and HTML, or its plain spelling.
_STOPS = (b"\\", b")", b" ", b"\n", b"%")
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
#: Plain base64 that is shorter is not worth a decoding of its own.
_MIN_PLAIN = 1024
#: Decoded bytes that are kept of the start and of the end, to see whether an image ends there.
_EDGE = 16


class Base64Decoder:
    """Decoder of one run into a sink.

    Attributes:
        size: Bytes decoded so far.
        unchanged: The base64 as it came, None once it is too long.
        whole_groups: Number of groups of four letters that are decoded.
        rest: The letters behind these groups.
        min_line: The least letters of a line behind another one.
    """

    def __init__(self, new_sink: Callable[[], ByteSink], pieces: dict[int, Piece], *, is_piece: bool) -> None:
        """Begin a run.

        Args:
            new_sink: Makes what takes the bytes, once there are enough for a portion.
            pieces: What marks stand for. The decoder removes those that it takes in.
            is_piece: The run has begun in the middle of an image, so its padding belongs to something else.
        """
        self.size = self.whole_groups = 0
        self.unchanged: bytes | None = b""
        self.rest = b""
        self.min_line = MIN_LINE
        self._new_sink = new_sink
        self._pieces, self._is_piece = pieces, is_piece
        self._sink: ByteSink | None = None
        self._head = self._tail = b""
        self._portion: list[bytes] = []
        self._portion_size = 0
        self._letters = 0

    def feed(self, data: bytes, position: int, *, is_last: bool) -> tuple[int, bool]:
        """Decode the run in `data` from a position on. `is_last`: nothing comes behind `data`.

        Returns:
            How far `data` is decoded, and whether the run ends there. If it does not, what is left of `data` must be
            given once more, in front of the next chunk: only that shows what it is.
        """
        position = self._decode_plain(data, position)
        while True:
            end = _end_of(lines_pattern(self.min_line), data, position)
            self._decode_spelled(data[position:end])
            position = end
            if (after := self._decode_piece(data, position)) > position:
                position = after
                continue
            if not is_last and open_end_pattern(self.min_line).match(data, position):
                return position, False
            end, has_ended = self._judge_gap(data, position)
            self._decode_spelled(data[position:end])
            position = end
            if has_ended:
                return position, True

    def end(self) -> None:
        """Decode the letters that are no whole group: the run has ended."""
        letters = self.rest.rstrip(b"=")
        with suppress(ValueError):
            self._write(pybase64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True))

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

    def _decode_plain(self, data: bytes, position: int) -> int:
        """Decode base64 in plain spelling, ten times as fast as in any other, and return its end.

        It ends at a quote, or else at the first of `_STOPS`. Where it is anything but plain, nothing is decoded.
        """
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

    def _decode_spelled(self, spelled: bytes) -> None:
        if spelled:
            self._decode(standard(spelled))
            self._keep(spelled)

    def _decode_piece(self, data: bytes, position: int) -> int:
        """Decode the piece whose mark is at a position, or behind a gap there, and return the end of the mark.

        The position itself is returned if there is no mark, or if the piece begins an image of its own.
        """
        mark = self._mark_at(data, _end_of(GAP, data, position))
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

    def _mark_at(self, data: bytes, position: int) -> re.Match[bytes] | None:
        mark = PIECE_MARK.match(data, position) if self._pieces else None
        return mark if mark and int(mark[1]) in self._pieces else None

    def _judge_gap(self, data: bytes, position: int) -> tuple[int, bool]:
        """Return how far the run goes at the end of a line, and whether it ends there: see the top of the file."""
        if padding := PADDING.match(data, position):
            return self._end_behind(padding, position), True
        gap = GAP.match(data, position)
        end = position if gap is None else _end_of(LINE, data, gap.end())
        if gap is None or end == gap.end():
            return position, True
        # A line in front of a piece was cut, however short it is.
        is_cut = self._mark_at(data, end) is not None
        if is_cut or not self._letters:
            return (end if is_cut else gap.end()), False
        line = standard(data[gap.end() : end])
        if self._letters < MIN_LINE == self.min_line:
            self.min_line = max(_MIN_SHORT_LINE, self._letters)
            return position, False
        if self._ends_image():
            return position, True
        if len(line) >= self.min_line:
            return gap.end(), False
        if padding := PADDING.match(data, end):
            return self._end_behind(padding, end), True
        is_last_line = self._ends_image(line) or (gap[0] != b" " and (self._letters + len(line)) % 4 == 0)
        return end if is_last_line else position, True

    def _end_behind(self, padding: re.Match[bytes], end: int) -> int:
        return end if self._is_piece else padding.end()

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
        self._write(data)

    def _write(self, data: bytes) -> None:
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


def _end_of(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    match = pattern.match(data, position)
    return match.end() if match else position
