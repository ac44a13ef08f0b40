"""Read and write data URLs and the base64 in them, as loosely as clients and upstreams spell them."""

import re
from urllib.parse import unquote_to_bytes

import pybase64

from app.protocol.image_format import sniff

#: What loosely written base64 may contain beside its alphabet: line breaks, blanks and invisible characters.
_BLANKS = re.compile(r"[\s\u200b-\u200d\u2060\ufeff\u00ad]+")
_URL_SAFE = str.maketrans("-_", "+/")

#: Characters in which the comma is looked for. Media type and parameters are short; without this bound a long text
#: without commas would be searched to its end.
_MAX_HEAD = 512


def decode_data_url(url: str) -> bytes:
    """Decode a data URL of any media type, written as percent-encoded text or as base64 (see `decode_base64`).

    Raises:
        ValueError: The text is not a data URL, or its base64 is invalid.
    """
    comma = url.find(",", 0, _MAX_HEAD)
    if comma < 0 or url[:5].lower() != "data:":
        raise ValueError("not a data URL")
    if not url[:comma].rstrip().lower().endswith(";base64"):
        return unquote_to_bytes(url[comma + 1 :])
    return decode_base64(url[comma + 1 :])


def decode_base64(text: str) -> bytes:
    """Decode base64 that may have line breaks, the URL-safe alphabet, %-escapes or no padding.

    Raises:
        ValueError: The text contains anything else.
    """
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return _decode_loose(text)


def _decode_loose(text: str) -> bytes:
    if "%" in text:
        text = unquote_to_bytes(text).decode("ascii")
    text = _BLANKS.sub("", text).translate(_URL_SAFE).rstrip("=")
    return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def image_data_url(data: bytes) -> str:
    """Return the canonical data URL of an image: the media type of its bytes, and padded base64 on one line.

    Raises:
        ValueError: The bytes are not an image.
    """
    info = sniff(data)
    if info is None:
        raise ValueError("not an image")
    return f"data:{info.media_type};base64,{pybase64.b64encode_as_string(data)}"
