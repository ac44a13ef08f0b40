r"""How base64 may be spelled inside JSON, URLs and texts: patterns over bytes, and the plain spelling of anything.

Encoders escape slashes (PHP), escape any character as `\u002f`, `%2F` or `&#47;`, use the URL-safe alphabet, leave the
padding out, and break lines. A reply may be JSON inside JSON, so that a backslash may stand there several times. All of
these spell the same letters:

    iVBO/w==        plain
    iVBO_w          the URL-safe alphabet, without padding
    iVBO\/w==       PHP; in JSON inside JSON iVBO\\\/w==
    iVBO%2Fw%3D%3D  a form
    iV\nBO/w==      two lines, whose line break is escaped

The parts of the patterns, from small to large: a character (a letter of either alphabet, as such or escaped), a gap
(the blanks between two lines), a line, and all lines. What can only be judged with the next chunk is an open end.
"""

import re
from functools import cache

_BACKSLASHES = rb"\\{1,8}"
_CHARACTER = rb"[A-Za-z0-9+/_-]"
#: The hexadecimal codes of the letters of both alphabets.
_CODE = rb"(?:2[BDFbdf]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff])"
_ESCAPED_CHARACTER = rb"(?:" + _BACKSLASHES + rb"(?:/|u00" + _CODE + rb")|%" + _CODE + rb"|&#(?:4[357]|x2[BDFbdf]);)"
ANY_CHARACTER = b"(?:" + _CHARACTER + b"|" + _ESCAPED_CHARACTER + b")"
_PADDING = rb"(?:=|" + _BACKSLASHES + rb"u003[Dd]|%3[Dd]|&#61;|&#x3[Dd];)"
#: White space. A line of an event begins with "data:" once more.
BLANK = rb"(?:[ \t]|\r?\n(?:data: ?)?|\r(?!\n)|" + _BACKSLASHES + rb"(?:[nrt]|u000[9ADad]|u0020)|%(?:0[9ADad]|20))"
#: What stands between two lines. More blanks end the base64.
ANY_GAP = BLANK + rb"{1,16}+"
#: What may be the start of an escape or of a line break at the end of a chunk.
CUT_ESCAPE = (
    _BACKSLASHES + rb"(?:u(?:0(?:0[0-9A-Fa-f]?)?)?)?|%[0-9A-Fa-f]?|&(?:#(?:[0-9]{0,2}|x[0-9A-Fa-f]{0,2}))?|\r"
    rb"|\r?\n(?:d(?:a(?:t(?:a:?)?)?)?)?"
)

#: The first bytes of image formats in base64: PNG, JPEG, WebP, GIF, TIFF in both byte orders.
IMAGE_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "SUkqA", "TU0AK")
#: Such bytes behind the end of a line: an image of its own, which does not continue the one in front.
_NEXT_IMAGE = b"(?:" + b"|".join(re.escape(start.encode()) for start in IMAGE_STARTS) + b")"
IMAGE_START = re.compile(_NEXT_IMAGE)

PADDING = re.compile(_PADDING + rb"(?:(?:" + ANY_GAP + rb")?+" + _PADDING + rb")?+")
GAP = re.compile(ANY_GAP)
LINE = re.compile(rb"(?:" + _CHARACTER + rb"++|" + _ESCAPED_CHARACTER + rb")*+")


@cache
def lines_pattern(min_line: int) -> re.Pattern[bytes]:
    """Return the pattern of lines of base64: a gap stands only in front of a line of at least `min_line` letters."""
    least = b"{%d}" % min_line
    next_line = b"(?!" + _NEXT_IMAGE + b")(?=" + _CHARACTER + least + b"|" + ANY_CHARACTER + least + b")"
    return re.compile(b"(?:" + _CHARACTER + b"++|" + _ESCAPED_CHARACTER + b"|" + ANY_GAP + next_line + b")*+")


@cache
def open_end_pattern(min_line: int) -> re.Pattern[bytes]:
    """Return the pattern of an open end: a chunk ends behind a gap, a short line, padding, or within an escape."""
    line = ANY_CHARACTER + b"{0,%d}+" % (min_line + 12)
    padding = b"(?:" + _PADDING + b"(?:" + ANY_GAP + b")?+){0,2}+"
    return re.compile(b"(?:" + ANY_GAP + b")?+" + line + padding + b"(?:" + CUT_ESCAPE + rb")?\Z")


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
