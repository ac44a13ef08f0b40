"""The spellings of base64 inside JSON, URLs and texts, as patterns over bytes.

Encoders escape slashes (PHP), escape any character as `\\u002f` or `%2F`, use the URL-safe alphabet, leave the padding
out, and break lines. A reply may be JSON inside JSON, so that a backslash may stand there several times.
"""

import re
from functools import cache

_BACKSLASHES = rb"\\{1,8}"
_LETTER = rb"[A-Za-z0-9+/_-]"
#: The hexadecimal codes of the letters of both alphabets.
_CODE = rb"(?:2[BDFbdf]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff])"
_ESCAPED_LETTER = rb"(?:" + _BACKSLASHES + rb"(?:/|u00" + _CODE + rb")|%" + _CODE + rb"|&#(?:4[357]|x2[BDFbdf]);)"
_PADDING = rb"(?:=|" + _BACKSLASHES + rb"u003[Dd]|%3[Dd]|&#61;|&#x3[Dd];)"
#: White space. A line of an event begins with "data:" once more.
_BLANK = (
    rb"(?:[ \t]|\r?\n(?:data: ?)?|\r(?!\n)|"
    + _BACKSLASHES
    + rb"(?:[nrt]|u000[9ADad]|u0020)|%(?:0[9ADad]|20))"
)
#: More blanks than these end a run.
_BLANKS = _BLANK + rb"{1,16}+"

#: The first bytes of image formats in base64: PNG, JPEG, WebP, GIF, TIFF in both byte orders.
_MAGIC = (b"iVBORw0KGgo", b"/9j/", b"UklGR", b"R0lGOD", b"SUkqA", b"TU0AK")
_SLASHES = tuple(b"\\" * depth + end for depth in (1, 2, 3) for end in (b"/", b"u002f", b"u002F")) + (b"%2F", b"%2f")
_SPELLED_JPEG = tuple(slash + b"9j" + slash for slash in _SLASHES)
#: AVIF and HEIF begin with the size of their first box, and "ftyp".
_BOXES = tuple(b"AAAA%cGZ0eXB" % letter for letter in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")

#: What stands in front of base64 in a data URL, and in the address of some chat robots.
_MARKS = (b"base64,", b"BASE64,", b"base64%2C", b"base64%2c", b"base64\\u002c", b"base64\\u002C", b"base64://")
_STARTS = (*_MAGIC, *_SPELLED_JPEG, *_BOXES)

#: Where base64 may begin: behind a mark, or with the first bytes of an image that are not the middle of a longer word.
#: The escape of a line break may stand in front.
START = re.compile(
    b"(?P<mark>"
    + b"|".join(map(re.escape, _MARKS))
    + rb")|(?:(?<![A-Za-z0-9+/_%=\\-])|(?<=\\[nrt])|(?<=u000[aAdD])|(?<=%0[aAdD]))(?:"
    + b"|".join(map(re.escape, (*_MAGIC, *_SPELLED_JPEG)))
    + rb"|AAAA[A-Za-z0-9+/]GZ0eXB)"
)
#: Every beginning of what `START` matches, by length.
_BEGINNINGS = frozenset(start[:length] for start in (*_MARKS, *_STARTS) for length in range(1, len(start)))
_MAX_BEGINNING = max(map(len, _BEGINNINGS))
#: How far `START` looks back.
LOOKBEHIND = 5

#: An image directly behind the line break at the end of another one.
_NEXT_IMAGE = b"(?:" + b"|".join(map(re.escape, _MAGIC)) + b")"

PADDING = re.compile(_PADDING + rb"(?:(?:" + _BLANKS + rb")?+" + _PADDING + rb")?+")
BLANKS = re.compile(_BLANKS)
LINE = re.compile(rb"(?:" + _LETTER + rb"++|" + _ESCAPED_LETTER + rb")*+")
#: The end of a chunk that cannot be judged before the next one has come.
_CUT_ESCAPE = (
    _BACKSLASHES + rb"(?:u(?:0(?:0[0-9A-Fa-f]?)?)?)?|%[0-9A-Fa-f]?|&(?:#(?:[0-9]{0,2}|x[0-9A-Fa-f]{0,2}))?|\r"
    rb"|\r?\n(?:d(?:a(?:t(?:a:?)?)?)?)?"
)


@cache
def lines_pattern(min_line: int) -> re.Pattern[bytes]:
    """Return the pattern of lines of base64: blanks stand only in front of a line of at least `min_line` letters."""
    least = b"{%d}" % min_line
    letter = rb"(?:" + _LETTER + rb"|" + _ESCAPED_LETTER + rb")"
    ahead = rb"(?:" + _LETTER + least + rb"|" + letter + least + rb")"
    pattern = rb"(?:" + _LETTER + rb"++|" + _ESCAPED_LETTER + rb"|" + _BLANKS + rb"(?!" + _NEXT_IMAGE + rb")(?=" + ahead + rb"))*+"
    return re.compile(pattern)


@cache
def open_end_pattern(min_line: int) -> re.Pattern[bytes]:
    """Return the pattern of what may continue base64 behind the end of a chunk, but cannot be judged yet."""
    letter = rb"(?:" + _LETTER + rb"|" + _ESCAPED_LETTER + rb")"
    pads = rb"(?:" + _PADDING + rb"(?:" + _BLANKS + rb")?+){0,2}+"
    pattern = rb"(?:" + _BLANKS + rb")?+" + letter + b"{0,%d}+" % (min_line + 12) + pads + rb"(?:" + _CUT_ESCAPE + rb")?\Z"
    return re.compile(pattern)


def held_back(data: bytes, position: int) -> int:
    """Return the number of bytes at the end of `data`, behind `position`, with which a start may begin."""
    for length in range(min(len(data) - position, _MAX_BEGINNING), 0, -1):
        if data[-length:] in _BEGINNINGS:
            return length
    return 0


_CODED = re.compile(_BACKSLASHES + rb"u00([0-7][0-9A-Fa-f])|%([0-7][0-9A-Fa-f])|&#x([0-9A-Fa-f]{2});|&#([0-9]{2});")
_LINE_BREAKS = (b"\\n", b"\\r", b"\\t", b"data:")
#: The escapes that encoders write. A replacement costs a tenth of what `_CODED` costs.
_COMMON = tuple(
    (lead + code, letter)
    for lead in (b"\\u00", b"%")
    for code, letter in ((b"2F", b"/"), (b"2f", b"/"), (b"2B", b"+"), (b"2b", b"+"), (b"3D", b"="), (b"3d", b"="))
)
_STANDARD = bytes.maketrans(b"-_", b"+/")


def _character(match: re.Match[bytes]) -> bytes:
    code = match[1] or match[2] or match[3]
    return bytes((int(code, 16) if code else int(match[4]),))


def standard(base64: bytes) -> bytes:
    """Return spelled base64 in the standard alphabet, without blanks and escapes."""
    if b"\\" in base64 or b"%" in base64 or b"&" in base64 or b":" in base64:
        while b"\\\\" in base64:
            base64 = base64.replace(b"\\\\", b"\\")
        for line_break in _LINE_BREAKS:
            base64 = base64.replace(line_break, b"")
        for escape, letter in _COMMON:
            base64 = base64.replace(escape, letter)
        if b"\\u" in base64 or b"%" in base64 or b"&" in base64:
            base64 = _CODED.sub(_character, base64)
    return base64.translate(_STANDARD, b"\\ \t\r\n")
