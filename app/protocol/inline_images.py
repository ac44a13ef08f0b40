"""Take large base64 images out of a body while it arrives, and leave small placeholders in their place.

    what arrives    {"content": "![fox](data:image/png;base64,iVBORw0KGgo... 20 MB ...)"}
    what is left    {"content": "![fox](data:image/png;base64,iVBORw0KGgo... 150 letters ...)"}

Otherwise the 20 MB would be held as bytes, as text, as JSON and as an image at once. A placeholder is a valid PNG of
8x8 pixels, so code that looks for images afterwards finds it exactly where the large image was. Used for chat replies,
for their joined texts, and for requests.

`base64_starts` tells where base64 may begin, `base64_decoder` decodes it up to its end, and this file decides what
stands in its place:

    a large image       a placeholder
    a small image       its base64 in plain spelling
    no image, short     what had come
    no image, long      the mark of a piece (see `image_pieces`) if pieces are kept, else nothing
"""

import zlib
from collections.abc import Callable

import pybase64

from app.protocol.base64_decoder import MIN_LINE, Base64Decoder
from app.protocol.base64_starts import LOOKBEHIND, find_piece, find_start, held_back, held_back_piece, may_have_start
from app.protocol.byte_sink import ByteSink, probably_equal
from app.protocol.image_format import bytes_reader, is_complete
from app.protocol.image_pieces import PIECE_MARK, Piece, mark_of_piece
from app.protocol.json_stream import base64_chunks

#: Smaller images are put back into the body: holding them costs less than a placeholder.
_MIN_IMAGE = 64 * 1024


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
            max_put_back: Letters of long base64 without a complete image that are put back: it may be a part of one.
            pieces: The pieces so far. Where their marks follow each other, the pieces are joined.
            keeps_pieces: Longer base64 without a complete image becomes a piece, also if no image begins with it.
        """
        self.spooled = {} if spooled is None else spooled
        self.discarded = 0
        self._new_sink = new_sink
        self._may_put_back = max_put_back
        self._pieces = [] if pieces is None else pieces
        self._keeps_pieces = keeps_pieces
        #: The pieces that are not joined yet, by number. A mark of any other number is text of the upstream.
        self._left: dict[int, Piece] = {}
        self._seen = 0
        #: The decoder of the run that is arriving.
        self._run: Base64Decoder | None = None
        #: What of the last chunk cannot be judged before the next one has come, and the bytes in front of that. The
        #: start of the body is no middle of a word, which a blank says.
        self._held, self._before = b"", b" "

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
                position, self._run = start, Base64Decoder(self._new_sink, self._left, is_piece=is_piece)
            position, has_ended = self._run.feed(data, position, is_last=is_last)
            if not has_ended:
                self._held = data[position:]
                return b"".join(out)
            out.append(self._replace(self._run))
            self._run = None
        cut = len(data) if is_last else len(data) - self._length_held_back(data, position)
        self._held, self._before = data[cut:], data[max(0, cut - LOOKBEHIND) : cut]
        out.append(data[position:cut])
        return b"".join(out)

    def _find_start(self, data: bytes, position: int) -> tuple[int, bool]:
        """Return where base64 may begin, -1 if nowhere, and whether it begins there in the middle of an image."""
        start = find_start(data, position)
        if self._keeps_pieces:
            piece = find_piece(data, position, len(data) if start < 0 else start - 1)
            return (start, False) if piece < 0 else (piece, True)
        marks = PIECE_MARK.finditer(data, position) if self._left else ()
        mark = next((mark.start() for mark in marks if int(mark[1]) in self._left), -1)
        return (mark, False) if mark >= 0 and (start < 0 or mark < start) else (start, False)

    def _length_held_back(self, data: bytes, position: int) -> int:
        return max(held_back(data, position), held_back_piece(data, position) if self._keeps_pieces else 0)

    def _replace(self, run: Base64Decoder) -> bytes:
        """Return what stands in place of base64 that has ended: see the top of the file."""
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
        is_known = piece.min_line == MIN_LINE or not self._keeps_pieces
        if is_small or (is_known and piece.length <= self._may_put_back):
            self._may_put_back -= 0 if is_small else piece.length
            return b"".join(piece.letters())
        if self._keeps_pieces:
            self._pieces.append(piece)
            return mark_of_piece(len(self._pieces) - 1)
        self.discarded += 1
        return b""


def may_hold_base64(data: bytes) -> bool:
    """Return whether a spooler may find anything in a body that has come as a whole."""
    # The start of the body is no middle of a word.
    has_start = may_have_start(data) and find_start(b" " + data, 1) >= 0
    return has_start or find_piece(data, 0, len(data)) >= 0


def placeholder_png(number: int) -> bytes:
    """Return a PNG of 8x8 gray pixels, a different file for each number."""
    pixels = zlib.compress(b"\x00" * 9 * 8)
    chunks = ((b"IHDR", b"\0\0\0\x08\0\0\0\x08\x08\0\0\0\0"), (b"tEXt", b"Placeholder\0%d" % number), (b"IDAT", pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
