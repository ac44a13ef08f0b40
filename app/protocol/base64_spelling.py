r"""The spellings of base64 inside JSON, URLs and texts, as patterns over bytes.

Encoders escape slashes (PHP), escape any character as `\u002f` or `%2F`, use the URL-safe alphabet, leave the padding
out, and break lines. A reply may be JSON inside JSON, so that a backslash may stand there several times.
"""

import re
from functools import cache

_BACKSLASHES = rb"\\{1,8}"
_CHARACTER = rb"[A-Za-z0-9+/_-]"
#: The hexadecimal codes of the letters of both alphabets.
_CODE = rb"(?:2[BDFbdf]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff])"
_ESCAPED_CHARACTER = rb"(?:" + _BACKSLASHES + rb"(?:/|u00" + _CODE + rb")|%" + _CODE + rb"|&#(?:4[357]|x2[BDFbdf]);)"
_ANY_CHARACTER = b"(?:" + _CHARACTER + b"|" + _ESCAPED_CHARACTER + b")"
_PADDING = rb"(?:=|" + _BACKSLASHES + rb"u003[Dd]|%3[Dd]|&#61;|&#x3[Dd];)"
#: White space. A line of an event begins with "data:" once more.
_BLANK = rb"(?:[ \t]|\r?\n(?:data: ?)?|\r(?!\n)|" + _BACKSLASHES + rb"(?:[nrt]|u000[9ADad]|u0020)|%(?:0[9ADad]|20))"
#: More blanks than these end a run.
_BLANKS = _BLANK + rb"{1,16}+"

#: The first bytes of image formats in base64: PNG, JPEG, WebP, GIF, TIFF in both byte orders.
IMAGE_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "SUkqA", "TU0AK")
_MAGIC = tuple(start.encode() for start in IMAGE_STARTS)
_ESCAPES = (b"\\", b"\\\\", b"\\\\\\")
_SLASHES = (*(escape + end for escape in _ESCAPES for end in (b"/", b"u002f", b"u002F")), b"%2F", b"%2f")
_SPELLED_JPEG = tuple(slash + b"9j" + slash for slash in _SLASHES)
#: AVIF and HEIF begin with the size of their first box, and "ftyp".
_BOXES = tuple(
    b"AAAA%cGZ0eXB" % character for character in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)

#: The end of a chunk that cannot be judged before the next one has come.
_CUT_ESCAPE = (
    _BACKSLASHES + rb"(?:u(?:0(?:0[0-9A-Fa-f]?)?)?)?|%[0-9A-Fa-f]?|&(?:#(?:[0-9]{0,2}|x[0-9A-Fa-f]{0,2}))?|\r"
    rb"|\r?\n(?:d(?:a(?:t(?:a:?)?)?)?)?"
)
#: Fewer letters or escapes are not an image, so that words about base64 are passed over quickly.
_LETTERS_AHEAD = rb"(?:[A-Za-z0-9+/_\\%&-]{12}|[A-Za-z0-9+/_\\%&-]{0,11}+\Z)"

#: What stands in front of base64 in a data URL, and in the address of some chat robots.
_MARK = re.compile(rb"(?:,|%2[Cc]|\\{1,3}u002[Cc]|://)(?=(?:" + _BLANKS + rb")?+" + _LETTERS_AHEAD + rb")")
_MARK_NAMES = (b"base64", b"BASE64")
_MARK_ENDS = (b",", b"%2C", b"%2c", b"://", *(escape + code for escape in _ESCAPES for code in (b"u002C", b"u002c")))
_MARKS = tuple(name + end for name in _MARK_NAMES for end in _MARK_ENDS)
_STARTS = (*_MAGIC, *_SPELLED_JPEG, *_BOXES)
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
#: Every beginning of a mark or of first bytes.
_BEGINNINGS = frozenset(start[:length] for start in (*_MARKS, *_STARTS) for length in range(1, len(start)))
_MAX_BEGINNING = max(map(len, _BEGINNINGS))
#: How many bytes in front of an image tell whether it begins there.
LOOKBEHIND = 6


#: What stands in every text with a start. All spellings of a JPEG have `9j` in common.
_LITERALS = re.compile(b"|".join((*_MARK_NAMES, *(magic for magic in _MAGIC if b"9j" not in magic), b"9j", b"AAAA")))


def may_have_start(data: bytes) -> bool:
    """Return False where `find_start` would find nothing: for most texts, in a fifth of the time."""
    return _LITERALS.search(data) is not None


#: Bytes that are searched at a time, so that many starts close to each other do not make the search quadratic.
_WINDOW = 8 * 1024


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


#: An image directly behind the line break at the end of another one.
_NEXT_IMAGE = b"(?:" + b"|".join(map(re.escape, _MAGIC)) + b")"

#: The first bytes of an image where it may not continue another one.
IMAGE_START = re.compile(_NEXT_IMAGE)
#: Behind a quote, so many groups of letters are a piece of base64 that began earlier. No text has lines of such words.
_GROUP, _MIN_GROUPS = 8, 128
_EIGHT_CHARACTERS = (
    b"(?:" + _ANY_CHARACTER + b"{0,%d}" % (_GROUP - 1) + _BLANKS + b")?" + _ANY_CHARACTER + b"{%d}" % _GROUP
)
_PIECE_START = re.compile(b'"(?:' + _BLANKS + b")?+(?=(?:" + _EIGHT_CHARACTERS + b"){%d})" % _MIN_GROUPS)
#: The end of a chunk that may be the start of one.
_OPEN_PIECE = re.compile(
    b'"(?:'
    + _ANY_CHARACTER
    + b"|"
    + _BLANK
    + b"){0,%d}+" % (2 * _GROUP * _MIN_GROUPS)
    + b"(?:"
    + _CUT_ESCAPE
    + rb")?\Z"
)

PADDING = re.compile(_PADDING + rb"(?:(?:" + _BLANKS + rb")?+" + _PADDING + rb")?+")
BLANKS = re.compile(_BLANKS)
LINE = re.compile(rb"(?:" + _CHARACTER + rb"++|" + _ESCAPED_CHARACTER + rb")*+")


@cache
def lines_pattern(min_line: int) -> re.Pattern[bytes]:
    """Return the pattern of lines of base64: blanks stand only in front of a line of at least `min_line` letters."""
    least = b"{%d}" % min_line
    next_line = b"(?!" + _NEXT_IMAGE + b")(?=" + _CHARACTER + least + b"|" + _ANY_CHARACTER + least + b")"
    return re.compile(b"(?:" + _CHARACTER + b"++|" + _ESCAPED_CHARACTER + b"|" + _BLANKS + next_line + b")*+")


@cache
def open_end_pattern(min_line: int) -> re.Pattern[bytes]:
    """Return the pattern of what may continue base64 behind the end of a chunk, but cannot be judged yet."""
    line = _ANY_CHARACTER + b"{0,%d}+" % (min_line + 12)
    padding = b"(?:" + _PADDING + b"(?:" + _BLANKS + b")?+){0,2}+"
    return re.compile(b"(?:" + _BLANKS + b")?+" + line + padding + b"(?:" + _CUT_ESCAPE + rb")?\Z")


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


_LINE_BREAKS = (b"\\n", b"\\r", b"\\t", b"data:")
_ENTITIES = tuple(
    (b"&#%b;" % code, b"%c" % character)
    for character in b"+-/="
    for code in (b"%d" % character, b"x%02X" % character, b"x%02x" % character)
)
_STANDARD = bytes.maketrans(b"-_", b"+/")


def standard(base64: bytes) -> bytes:
    """Return spelled base64 in the standard alphabet, without blanks and escapes."""
    if b"\\" in base64 or b"%" in base64 or b"&" in base64 or b":" in base64:
        while b"\\\\" in base64:
            base64 = base64.replace(b"\\\\", b"\\")
        for line_break in _LINE_BREAKS:
            base64 = base64.replace(line_break, b"")
        if b"&" in base64:
            for entity, character in _ENTITIES:
                base64 = base64.replace(entity, character)
        if b"\\u" in base64 or b"%" in base64:
            # Python's own escapes, decoded in C: a function called for each takes forty times as long.
            plain = base64.replace(b"\\/", b"/").replace(b"%", b"\\x")
            base64 = plain.decode("unicode_escape").encode("latin-1")
    return base64.translate(_STANDARD, b"\\ \t\r\n")
