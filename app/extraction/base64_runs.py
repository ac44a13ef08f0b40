"""Pictures written as base64 inside a text: cut out and numbered, so that nobody searches their megabytes again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pybase64

#: Around the number of a cut-out piece: a mark of Unicode's private area, which no address holds.
MARK = "\ue000"
_STAND_IN = re.compile(rf"{MARK}([0-9]{{1,6}}){MARK}")

#: More pieces than these in one text are no pictures; they are left as they are.
_MAX_PIECES = 1000
_ALPHABET = "[A-Za-z0-9+/_-]"
#: What may not stand in front of base64 alone: it would be the middle of something longer.
_MIDDLE = "[A-Za-z0-9+/_%=-]"
#: How the first bytes of each format look in base64, and how much must follow to keep chance hits in words away.
_MAGIC = (("iVBORw0KGgo", 24), ("/9j/", 48), ("UklGR", 48), ("R0lGOD", 32), ("SUkqA", 48), ("TU0AK", 48))
#: Each begins with letters that are compared as they are: that is how a pattern is searched fast.
_PIECES = (
    re.compile(rf"data:[^,:\s\"'<>()]{{0,120}}+,\s?(?:{_ALPHABET}|%2[BFbf]){{16}}"),
    *(re.compile(rf"{magic}(?<!{_MIDDLE}{magic}){_ALPHABET}{{{more}}}") for magic, more in _MAGIC),
    re.compile(rf"AAAA(?<!{_MIDDLE}AAAA){_ALPHABET}GZ0eXB{_ALPHABET}{{48}}"),
)
#: No pattern needs more letters than these to match.
_LONGEST = 200
_RUN = re.compile(rf"(?:{_ALPHABET}+|%(?:2[BFbf]|3[Dd]))*(?:={{1,2}})?")
#: Between the lines of one piece: a line break, in JSON's escape too, or a blank where the breaks were lost.
_GAP = re.compile(r"(?:\\r)?\\n|\r?\n[ \t]*|[ ]")
_LINE = 32
_SLICE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Base64Run:
    """`text` is a data URL where `head` is not empty, else base64 alone."""

    prefix: str
    payload: str


_Ahead = tuple[int, re.Match[str] | None]


def resolve_run(text: str, runs: Sequence[Base64Run]) -> Base64Run | None:
    """The piece that the text stands for. A mark that came as an escape in JSON may name a piece that is not there."""
    match = _STAND_IN.fullmatch(text)
    return runs[int(match[1])] if match and int(match[1]) < len(runs) else None


def strip_base64(text: str) -> str:
    """The text without any piece."""
    return _STAND_IN.sub("", extract_base64(text)[0])


def extract_base64(text: str) -> tuple[str, tuple[Base64Run, ...]]:
    """The text with `MARK number MARK` for each piece."""
    if MARK in text:
        text = text.replace(MARK, "")
    kept: list[str] = []
    pieces: list[Base64Run] = []
    ahead: list[_Ahead] = [(0, None)] * len(_PIECES)
    at = 0
    while len(pieces) < _MAX_PIECES and (found := _next(text, at, ahead)) is not None:
        start = found.start()
        payload = text.index(",", start) + 1 if found.re is _PIECES[0] else start
        end = _run_end(text, payload)
        kept.append(text[at:start])
        kept.append(f"{MARK}{len(pieces)}{MARK}")
        pieces.append(Base64Run(text[start:payload], text[payload:end]))
        at = end
    kept.append(text[at:])
    return "".join(kept), tuple(pieces)


def _next(text: str, at: int, ahead: list[_Ahead]) -> re.Match[str] | None:
    """The next piece. `ahead`: how far each pattern has looked and what it found, so that none looks twice."""
    best, limit = None, len(text)
    for index, pattern in enumerate(_PIECES):
        looked, match = ahead[index]
        if match is None or match.start() < at:
            looked = max(looked, at)
            match = pattern.search(text, looked, limit + _LONGEST) if looked < limit else None
            ahead[index] = (match.start() if match else max(looked, limit), match)
        if match is not None and match.start() < limit:
            best, limit = match, match.start()
    return best


def _run_end(text: str, start: int) -> int:
    """Over line breaks too: a line of this length without a blank is no prose, a shorter one must end a whole."""
    end = _line_end(text, start)
    letters = end - start
    while text[end - 1] != "=" and (gap := _GAP.match(text, end)):
        next_end = _line_end(text, gap.end())
        length = next_end - gap.end()
        is_last = text[next_end - 1] == "=" or (gap[0] != " " and (letters + length) % 4 == 0)
        if length == 0 or (length < _LINE and not is_last):
            break
        end = next_end
        letters += length
        if length < _LINE:
            break
    return end


def _line_end(text: str, start: int) -> int:
    """Whole slices are checked by the decoder, which is many times faster than a pattern."""
    at = start
    if (near := _match_run(text, start, start + 256)) < start + 256:
        return near
    while _is_base64(text[at : at + _SLICE]):
        at += _SLICE
    return _match_run(text, at, len(text))


def _match_run(text: str, start: int, limit: int) -> int:
    match = _RUN.match(text, start, limit)
    return match.end() if match else start


def _is_base64(piece: str) -> bool:
    if len(piece) < _SLICE or piece.endswith("="):
        return False
    try:
        pybase64.b64decode(piece, validate=True)
    except ValueError:
        return False
    return True
