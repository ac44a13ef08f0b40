"""Read the text that clients send: its encoding, halves of surrogate pairs, and what is wrong with a JSON document."""

import codecs
import re
from typing import Any

import orjson

from app.errors import InvalidRequest

_NOT_JSON = "We could not parse the JSON body of your request"

#: Charsets that libraries write without looking at the text, which is UTF-8 as a rule.
_UNMEANT_CHARSETS = {"utf-8", "ascii", "iso8859-1", "cp1252"}

#: A UTF-8 sequence of three or four bytes that has lost its end: a text that was cut after a number of bytes. One lone
#: byte is not enough evidence, since it may as well be a letter of another encoding.
_CUT_SEQUENCE = re.compile(rb"(?:[\xe0-\xef][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{1,2})(?![\x80-\xbf])")

#: A run of backslashes and what may be half a surrogate pair: a high half with or without its low one, or a low one.
_SURROGATE = re.compile(
    rb"(?<!\\)(\\++)u(?:([dD][89abAB][\da-fA-F]{2})(\\u[dD][c-fC-F][\da-fA-F]{2})?|[dD][c-fC-F][\da-fA-F]{2})"
)
_REPLACEMENT = rb"\ufffd"

#: Halves that are replaced: no prompt is longer.
_MAX_HALVES = 32_000

#: Byte order marks, longer ones first, since that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

#: Where the zeros stand in four bytes of JSON, whose first two characters are ASCII (RFC 4627, section 3).
_ZEROS = {
    "x000": "utf-32-le",
    "000x": "utf-32-be",
    "x0x0": "utf-16-le",
    "0x0x": "utf-16-be",
}


def wide_encoding(head: bytes) -> str | None:
    """Return the encoding of a JSON document whose first four bytes say UTF-16 or UTF-32, else None."""
    if head[:4].isascii() and b"\0" not in head[:4]:
        return None
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    return marked or _ZEROS.get("".join("0" if byte == 0 else "x" for byte in head[:4]))


def decode_text(data: bytes | bytearray, charset: str = "") -> str:
    """Decode UTF-8, or the `charset` that the client declares.

    Half a character that was cut off becomes U+FFFD, and surrogate pairs that were encoded one by one become the
    character that they stand for.

    Raises:
        UnicodeDecodeError: The bytes are neither.
    """
    name = charset_name(charset)
    if name not in _UNMEANT_CHARSETS:
        return data.decode(name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if name != "utf-8":
            return data.decode(name)
    whole = _CUT_SEQUENCE.sub("\ufffd".encode(), data)
    return (
        whole.decode("utf-8-sig", "surrogatepass").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


def charset_name(charset: str) -> str:
    """Return Python's name for a charset; that of UTF-8 where Python knows none of this name."""
    if not charset:
        return "utf-8"
    try:
        b"a".decode(charset, "replace")  # Refuses codecs that encode no text, like `hex`.
        return codecs.lookup(charset).name
    except (LookupError, ValueError):
        return "utf-8"


def parse_json(body: bytes | bytearray, charset: str = "") -> Any:
    """Parse a document. Raises `InvalidRequest`, which says where the document is wrong, and what is."""
    try:
        document = orjson.loads(body if charset_name(charset) in _UNMEANT_CHARSETS else decode_text(body, charset))
    except ValueError:  # orjson's error, and that of Python's decoders.
        document = _parse_leniently(body, charset)
    if isinstance(document, str) and document.lstrip().startswith(("{", "[")):
        message = (
            "The body of the request is a JSON string that holds JSON: it was encoded twice. Send the object itself."
        )
        raise InvalidRequest(message, code="invalid_type")
    return document


def _parse_leniently(body: bytes | bytearray, charset: str) -> Any:
    try:
        text = decode_text(body, charset).encode()
    except UnicodeDecodeError as error:
        message = f"{_NOT_JSON}: it is not valid UTF-8 at byte {error.start + 1}. Send it as UTF-8."
        raise InvalidRequest(message) from None
    try:
        return orjson.loads(_SURROGATE.sub(_without_half, text, _MAX_HALVES))
    except orjson.JSONDecodeError as error:
        message = f"{_NOT_JSON}: {error.msg} at line {error.lineno}, column {error.colno}."
        raise InvalidRequest(message) from None


def _without_half(match: re.Match[bytes]) -> bytes:
    """Return the escapes with U+FFFD in place of half a surrogate pair, which no UTF-8 can express."""
    backslashes, high, low = match[1], match[2], match[3]
    if len(backslashes) % 2 == 0:  # The `u` is a letter behind escaped backslashes.
        return match[0] if low is None else match[0].removesuffix(low) + _REPLACEMENT
    if high is not None and low is not None:
        return match[0]
    return backslashes[1:] + _REPLACEMENT
