"""Which image some bytes are: media type, pixel size, alpha; and the data URLs that carry them."""

import re
from urllib.parse import unquote_to_bytes

import pybase64

from app.protocol.image_format import sniff

#: What lenient base64 may hold beside its alphabet: line breaks, blanks, and marks nobody sees.
_BLANKS = re.compile(r"[\s\u200b-\u200d\u2060\ufeff\u00ad]+")
_URL_SAFE = str.maketrans("-_", "+/")

#: A data URL's media type and parameters are short; without this bound a text without commas is searched to its end.
_LONGEST_HEAD = 512


def decode_data_url(url: str) -> bytes:
    """Any media type; base64 with line breaks, the URL-safe alphabet, %-escapes or without padding is understood.

    Raises ValueError for everything else.
    """
    comma = url.find(",", 0, _LONGEST_HEAD)
    if comma < 0 or url[:5].lower() != "data:":
        raise ValueError("not a data URL")
    if not url[:comma].rstrip().lower().endswith(";base64"):
        return unquote_to_bytes(url[comma + 1 :])
    return decode_base64(url[comma + 1 :])


def decode_base64(text: str) -> bytes:
    """Raises ValueError where something else than base64 in one of its spellings is in the text."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return _decode_lenient(text)


def _decode_lenient(text: str) -> bytes:
    if "%" in text:
        text = unquote_to_bytes(text).decode("ascii")
    text = _BLANKS.sub("", text).translate(_URL_SAFE).rstrip("=")
    return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def image_data_url(data: bytes) -> str:
    """In the one spelling: the type that the bytes have, padded base64 on one line. `data` is an image."""
    info = sniff(data)
    if info is None:
        raise ValueError("not an image")
    return f"data:{info.media_type};base64,{pybase64.b64encode_as_string(data)}"
