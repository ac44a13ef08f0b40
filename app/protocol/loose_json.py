"""Read JSON as upstreams write it: nearly valid, or several documents in one body."""

import json
import re
from typing import Any

import orjson

#: One half of a surrogate pair, where an upstream cut a text between the two. No JSON parser accepts it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_GAP = re.compile(r"[\s\x00\x1e\ufeff,;]*+")
#: Characters in front of the JSON.
_MAX_LEAD = 4000
_START = re.compile(r'\{\s*+"|\[\s*+\{')
_PAGE = re.compile(r"\s*+<(?:!doctype|html)", re.IGNORECASE)
#: Only looked for where a document cannot be read otherwise, since a string may contain the same.
_SPARE_COMMA = re.compile(r",(?=\s*+[}\]])")
#: A string, and the rest of one that has begun.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_STRING_END = re.compile(r'(?:[^"\\]++|\\.)*+"', re.DOTALL)
#: Digits of an integer that orjson can write again.
_MAX_DIGITS = 18


def read_documents(text: str) -> tuple[list[Any], str]:
    """Return the JSON documents at the start of a text, and what is left of it.

    A valid document is read by a strict parser. Otherwise NaN, line breaks in strings and halves of surrogate pairs are
    accepted, as well as documents one behind the other: a reply was paid for even if its JSON is damaged.
    """
    try:
        return [orjson.loads(text)], ""
    except orjson.JSONDecodeError:
        return _read_loosely(text)


def find_documents(text: str) -> list[Any]:
    """Return the JSON documents of a text that begins with something else, or has spare commas; none of an HTML page.

    Servers write warnings, comments, a call, or signs that keep browsers from running the text in front of their JSON.
    """
    if _PAGE.match(text):
        return []
    start = _START.search(text, 0, _MAX_LEAD)
    if start is None:
        return []
    # Only from the first sign on: in a document that is cut off, a later one begins a part of it.
    rest = text[start.start() :]
    attempts = (read_documents(mended)[0] for mended in (rest, _SPARE_COMMA.sub("", rest)))
    return next((found for found in attempts if any(isinstance(document, dict) for document in found)), [])


def flatten(documents: list[Any]) -> list[Any]:
    """Return the documents, with the items of those that are lists in their place."""
    return [each for document in documents for each in (document if isinstance(document, list) else [document])]


class OpenDocument:
    """The text of a JSON document that was cut into pieces at blank lines. Its work is linear in that text.

    Attributes:
        size: Characters so far.
        is_open: More must follow: a string, an object or a list has no end yet.
    """

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[str] = []
        self._is_in_string = False
        self._depth = 0

    @property
    def is_open(self) -> bool:
        return self._is_in_string or self._depth > 0

    @property
    def text(self) -> str:
        return "\n\n".join(self._pieces)

    def add(self, piece: str) -> bool:
        """Take the next piece, and return whether more must follow."""
        self._pieces.append(piece)
        self.size += len(piece)
        if self._is_in_string:
            end = _STRING_END.match(piece)
            if end is None:
                return True
            piece = piece[end.end() :]
        outside, quote, _ = _STRING.sub("", piece).partition('"')
        self._is_in_string = bool(quote)
        self._depth += outside.count("{") + outside.count("[") - outside.count("}") - outside.count("]")
        return self.is_open


def _read_loosely(text: str) -> tuple[list[Any], str]:
    text = _SURROGATE.sub(r"\\ufffd", text)
    documents: list[Any] = []
    position = _end_of_gap(text, 0)
    while text.startswith(("{", "["), position):
        try:
            document, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        documents.append(document)
        position = _end_of_gap(text, position)
    return documents, text[position:]


def _end_of_gap(text: str, position: int) -> int:
    match = _GAP.match(text, position)
    return match.end() if match else position


def _nothing(_: str) -> None:
    """Read NaN and Infinity, which no JSON can express."""


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_DECODER = json.JSONDecoder(strict=False, parse_constant=_nothing, parse_int=_number)
