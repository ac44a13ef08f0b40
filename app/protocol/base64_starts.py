r"""Find where base64 of an image may begin in bytes that arrive in chunks, whatever its spelling.

It begins in one of three ways:

    data:image/png;base64,AAAA...    behind the mark "base64," of a data URL, or "base64://"
    "iVBORw0KGgo...                  with the first bytes of an image format, not in the middle of a word
    "x3d8Q...                        behind a quote, with more letters than a text has: a piece, which began earlier

A chunk may end within such a beginning. `held_back` and `held_back_piece` say how many of its bytes wait for the next.
"""

import re

from app.protocol.base64_spelling import ANY_CHARACTER, ANY_GAP, BLANK, CUT_ESCAPE, IMAGE_STARTS

#: How the first bytes of images are spelled. Only those of a JPEG have a letter that is often escaped.
_MAGIC = tuple(start.encode() for start in IMAGE_STARTS)
_ESCAPES = (b"\\", b"\\\\", b"\\\\\\")
_SLASHES = (*(escape + end for escape in _ESCAPES for end in (b"/", b"u002f", b"u002F")), b"%2F", b"%2f")
_SPELLED_JPEG = tuple(slash + b"9j" + slash for slash in _SLASHES)
#: AVIF and HEIF begin with the size of their first box, and "ftyp".
_BOXES = tuple(
    b"AAAA%cGZ0eXB" % character for character in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)
#: Fewer letters or escapes are not an image, so that words about base64 are passed over quickly.
_LETTERS_AHEAD = rb"(?:[A-Za-z0-9+/_\\%&-]{12}|[A-Za-z0-9+/_\\%&-]{0,11}+\Z)"

#: What stands in front of base64 in a data URL, and in the address of some chat robots.
_MARK = re.compile(rb"(?:,|%2[Cc]|\\{1,3}u002[Cc]|://)(?=(?:" + ANY_GAP + rb")?+" + _LETTERS_AHEAD + rb")")
_MARK_NAMES = (b"base64", b"BASE64")
_MARK_ENDS = (b",", b"%2C", b"%2c", b"://", *(escape + code for escape in _ESCAPES for code in (b"u002C", b"u002c")))
_MARKS = tuple(name + end for name in _MARK_NAMES for end in _MARK_ENDS)
#: The first bytes of an image that are not the middle of a longer word. The escape of a line break may stand in front.
#: The pattern begins with one set of characters that base64 does not contain, so that base64 is searched fast.
_FIRST_BYTES = re.compile(
    rb"[^A-Za-z0-9+/_-](?:(?<![%=\\])|(?<=\\)(?:[nrt]|u000[aAdD])|(?<=%)0[aAdD])(?P<image>"
    + b"|".join(map(re.escape, (*_MAGIC, *_SPELLED_JPEG)))
    + rb"|AAAA[A-Za-z0-9+/]GZ0eXB)"
    + rb"(?="
    + _LETTERS_AHEAD
    + rb")"
)
#: How many bytes in front of an image tell whether it begins there.
LOOKBEHIND = 6
#: Every beginning of a mark or of first bytes.
_BEGINNINGS = frozenset(
    start[:length] for start in (*_MARKS, *_MAGIC, *_SPELLED_JPEG, *_BOXES) for length in range(1, len(start))
)
_MAX_BEGINNING = max(map(len, _BEGINNINGS))
#: What stands in every text with a start. All spellings of a JPEG have `9j` in common.
_LITERALS = re.compile(b"|".join((*_MARK_NAMES, *(magic for magic in _MAGIC if b"9j" not in magic), b"9j", b"AAAA")))
#: Bytes that are searched at a time, so that many starts close to each other do not make the search quadratic.
_WINDOW = 8 * 1024

#: Behind a quote, so many groups of letters are a piece of base64 that began earlier. No text has lines of such words.
_GROUP, _MIN_GROUPS = 8, 128
_EIGHT_CHARACTERS = (
    b"(?:" + ANY_CHARACTER + b"{0,%d}" % (_GROUP - 1) + ANY_GAP + b")?" + ANY_CHARACTER + b"{%d}" % _GROUP
)
_PIECE_START = re.compile(b'"(?:' + ANY_GAP + b")?+(?=(?:" + _EIGHT_CHARACTERS + b"){%d})" % _MIN_GROUPS)
#: The end of a chunk that may be the start of one.
_OPEN_PIECE = re.compile(
    b'"(?:' + ANY_CHARACTER + b"|" + BLANK + b"){0,%d}+" % (2 * _GROUP * _MIN_GROUPS) + b"(?:" + CUT_ESCAPE + rb")?\Z"
)


def may_have_start(data: bytes) -> bool:
    """Return False where `find_start` would find nothing: for most texts, in a fifth of the time."""
    return _LITERALS.search(data) is not None


def find_start(data: bytes, position: int) -> int:
    """Return where base64 may begin at or behind `position`, -1 if nowhere: behind a mark, or with an image."""
    for begin in range(position, len(data), _WINDOW):
        start = _find_start(data, begin, begin + _WINDOW + LOOKBEHIND + _MAX_BEGINNING)
        if start >= 0:
            return start
    return -1


def _find_start(data: bytes, position: int, end: int) -> int:
    marks = [mark for mark in (_find_mark(data, name, position, end) for name in _MARK_NAMES) if mark >= 0]
    image = _find_first_bytes(data, position, min(marks, default=end))
    return image if image >= 0 else min(marks, default=-1)


def _find_mark(data: bytes, name: bytes, position: int, end: int) -> int:
    at = data.find(name, position, end)
    while at >= 0:
        if mark := _MARK.match(data, at + len(name)):
            return mark.end()
        at = data.find(name, at + 1, end)
    return -1


def _find_first_bytes(data: bytes, position: int, end: int) -> int:
    match = _FIRST_BYTES.search(data, max(0, position - LOOKBEHIND), end)
    while match and match.start("image") < position:
        match = _FIRST_BYTES.search(data, match.start() + 1, end)
    return match.start("image") if match else -1


def held_back(data: bytes, position: int) -> int:
    """Return the number of bytes at the end of `data`, behind `position`, with which a start may begin."""
    for length in range(min(len(data) - position, _MAX_BEGINNING), 0, -1):
        if data[-length:] in _BEGINNINGS:
            return length
    return 0


def find_piece(data: bytes, position: int, end: int) -> int:
    """Return where a string that has only letters of base64 begins in front of `end`, -1 if nowhere."""
    if len(data) - position < _GROUP * _MIN_GROUPS:
        return -1
    # Not by a search to the end of the data: it would be repeated for each of many starts.
    quote = data.find(b'"', position, end)
    while quote >= 0:
        if (match := _PIECE_START.match(data, quote)) and match.end() <= end:
            return match.end()
        quote = data.find(b'"', quote + 1, end)
    return -1


def held_back_piece(data: bytes, position: int) -> int:
    """Return the number of bytes at the end of `data`, behind `position`, that may be the start of a piece."""
    quote = data.rfind(b'"', position)
    return len(data) - quote if quote >= 0 and _OPEN_PIECE.match(data, quote) else 0
