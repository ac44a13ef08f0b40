"""The spellings of base64 in which servers and programs write images."""

from collections.abc import Callable
from dataclasses import dataclass

import pybase64
import pytest


def base64_of(data: bytes) -> str:
    return pybase64.b64encode_as_string(data)


def wrapped(text: str, width: int, line_break: str) -> str:
    return line_break.join(text[start : start + width] for start in range(0, len(text), width))


@dataclass(frozen=True)
class Spelling:
    name: str
    spell: Callable[[str], str]


SPELLINGS = [
    Spelling("plain", lambda text: text),
    Spelling("without padding", lambda text: text.rstrip("=")),
    Spelling("slashes escaped as PHP does", lambda text: text.replace("/", "\\/")),
    Spelling("slashes escaped twice", lambda text: text.replace("/", "\\\\/")),
    Spelling("signs escaped by number", lambda text: text.replace("/", "\\u002f").replace("+", "\\u002B")),
    Spelling("signs escaped by number, twice", lambda text: text.replace("/", "\\\\u002F").replace("=", "\\\\u003d")),
    Spelling("a letter escaped by number", lambda text: text.replace("Q", "\\u0051").replace("a", "\\u0061")),
    Spelling("every letter escaped by number", lambda text: "".join(f"\\u00{ord(each):02x}" for each in text)),
    Spelling("every letter behind a percent sign", lambda text: "".join(f"%{ord(each):02X}" for each in text)),
    Spelling("the URL-safe alphabet", lambda text: text.replace("+", "-").replace("/", "_")),
    Spelling("percent signs", lambda text: text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")),
    Spelling("a letter behind a percent sign", lambda text: text.replace("Q", "%51").replace("z", "%7A")),
    Spelling("references of HTML", lambda text: text.replace("+", "&#43;").replace("/", "&#x2F;").replace("=", "&#61;")),
    Spelling("lines", lambda text: wrapped(text, 76, "\n")),
    Spelling("lines of Windows", lambda text: wrapped(text, 64, "\r\n")),
    Spelling("escaped line breaks", lambda text: wrapped(text, 76, "\\n")),
    Spelling("escaped line breaks of Windows", lambda text: wrapped(text, 60, "\\r\\n")),
    Spelling("line breaks escaped twice", lambda text: wrapped(text, 76, "\\\\n")),
    Spelling("line breaks escaped by number", lambda text: wrapped(text, 76, "\\u000a")),
    Spelling("line breaks behind percent signs", lambda text: wrapped(text, 76, "%0D%0A")),
    Spelling("lines that are indented", lambda text: wrapped(text, 76, "\n    ")),
    Spelling("lines of an event", lambda text: wrapped(text, 76, "\ndata: ")),
    Spelling("blanks", lambda text: wrapped(text, 76, " ")),
    Spelling("short lines", lambda text: wrapped(text, 19, "\\n")),
    Spelling("lines of odd length", lambda text: wrapped(text, 77, "\n")),
    Spelling("long lines without padding", lambda text: wrapped(text.rstrip("="), 5_001, "\n")),
    Spelling("a line break in front and behind", lambda text: f"\\n{text}\\n"),
    Spelling("PHP with line breaks", lambda text: wrapped(text, 76, "\\r\\n").replace("/", "\\/")),
]  # fmt: skip
#: Those that leave some letters as they are. Without a mark in front, an image is known by its first letters.
WITH_LETTERS = [each for each in SPELLINGS if not each.name.startswith("every letter")]
each_spelling = pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.name)
