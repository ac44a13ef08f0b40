"""Cut images written as base64 out of a text, so that their megabytes are searched only once.

A short numbered mark replaces each run of base64. The text around it can then be searched for URLs and JSON cheaply,
and a mark that is found in place of a URL leads back to its run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pybase64

from app.extraction.slices import search_in_slices
from app.protocol.base64_spelling import IMAGE_STARTS
from app.protocol.data_url import decode_base64

#: Encloses the number of a run that was cut out: a character of Unicode's private use area, which no URL contains.
MARK = "\ue000"
_NUMBERED_MARK = re.compile(rf"{MARK}([0-9]{{1,6}}){MARK}")

#: A text with more runs than these is no reply with images. Further runs stay in the text.
_MAX_RUNS = 1000
_ALPHABET = "[A-Za-z0-9+/_-]"
#: Base64 without a data URL's head must not follow one of these: it would be the middle of a longer word or URL.
_NOT_BEFORE = "[A-Za-z0-9+/_%-]"
#: The escape of a line break ends with a letter, too.
_BREAK = r"\\[nrt]"
#: How many more characters must follow each of `IMAGE_STARTS`: with fewer, words of prose would match by chance.
_MORE = (24, 48, 48, 32, 48, 48)
#: Where a run begins. Each pattern starts with literal characters, since `re` searches for a literal prefix fast.
_STARTS = (
    re.compile(rf"data:[^,:\s\"'<>()]{{0,120}}+,\s?(?:{_ALPHABET}|%2[BFbf]){{16}}"),
    *(
        re.compile(rf"{magic}(?:(?<!{_NOT_BEFORE}{magic})|(?<={_BREAK}{magic})){_ALPHABET}{{{more}}}")
        for magic, more in zip(IMAGE_STARTS, _MORE, strict=True)
    ),
    re.compile(rf"AAAA(?:(?<!{_NOT_BEFORE}AAAA)|(?<={_BREAK}AAAA)){_ALPHABET}GZ0eXB{_ALPHABET}{{48}}"),
)
#: What all of them begin with.
_LITERALS = ("data:", *IMAGE_STARTS, "AAAA")
#: No pattern of `_STARTS` matches more characters than these.
_MAX_START = 200
_LINE = re.compile(rf"(?:{_ALPHABET}+|%(?:2[BFbf]|3[Dd]))*(?:={{1,2}})?")
#: Between two lines of one run: a line break, its JSON escape, or a blank where line breaks became blanks.
_GAP = re.compile(r"(?:\\r)?\\n|\r?\n[ \t]*|[ ]")
#: A line with at least this many characters and no blank is not prose, so the run continues there.
_MIN_LINE = 32
#: Characters that the base64 decoder validates at a time.
_SLICE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Base64Run:
    """One image written as base64.

    Attributes:
        prefix: A data URL up to and including its comma, empty for base64 that stands alone.
        payload: The base64 as written: in either alphabet, with line breaks, escapes and padding.
    """

    prefix: str
    payload: str

    def decode(self) -> bytes:
        """Decode the payload.

        Raises:
            ValueError: The run is not base64, or is a data URL in another encoding.
        """
        payload = self.payload.replace("\\r", "").replace("\\n", "") if "\\" in self.payload else self.payload
        if not self.prefix or self.prefix.rstrip().lower().endswith("base64,"):
            return decode_base64(payload)
        raise ValueError("a data URL in another encoding")


#: The position up to which a pattern of `_STARTS` has searched, and its next match.
_Lookahead = tuple[int, re.Match[str] | None]


def extract_base64(text: str) -> tuple[str, tuple[Base64Run, ...]]:
    """Return the text with `MARK number MARK` in place of each run, and the runs by number."""
    if MARK in text:
        text = text.replace(MARK, "")
    if not any(map(text.__contains__, _LITERALS)):
        return text, ()
    parts: list[str] = []
    runs: list[Base64Run] = []
    lookahead: list[_Lookahead] = [(0, None)] * len(_STARTS)
    position = 0
    while len(runs) < _MAX_RUNS and (match := _next_start(text, position, lookahead)) is not None:
        start = match.start()
        payload = text.index(",", start) + 1 if match.re is _STARTS[0] else start
        end = _run_end(text, payload)
        parts.append(text[position:start])
        parts.append(f"{MARK}{len(runs)}{MARK}")
        runs.append(Base64Run(text[start:payload], text[payload:end]))
        position = end
    parts.append(text[position:])
    return "".join(parts), tuple(runs)


def strip_base64(text: str) -> str:
    """Remove every run from the text."""
    return _NUMBERED_MARK.sub("", extract_base64(text)[0])


def resolve_run(text: str, runs: Sequence[Base64Run]) -> Base64Run | None:
    """Return the run for which `text` is the mark, `None` for any other text.

    A mark that was written as a JSON escape survives `extract_base64`, so its number may have no run.
    """
    match = _NUMBERED_MARK.fullmatch(text)
    return runs[int(match[1])] if match and int(match[1]) < len(runs) else None


def _next_start(text: str, position: int, lookahead: list[_Lookahead]) -> re.Match[str] | None:
    """Return the first match of any pattern at or after `position`; `lookahead` is updated in place.

    Each pattern keeps its match until `position` has passed the match, and never searches a part of the text twice.
    """
    first, limit = None, len(text)
    for index, pattern in enumerate(_STARTS):
        searched, match = lookahead[index]
        if match is None or match.start() < position:
            searched = max(searched, position)
            match = search_in_slices(pattern, text, searched, min(limit + _MAX_START, len(text)))
            lookahead[index] = (match.start() if match else max(searched, limit), match)
        if match is not None and match.start() < limit:
            first, limit = match, match.start()
    return first


def _run_end(text: str, start: int) -> int:
    """Return the end of the run whose payload begins at `start`, over all its lines.

    A long line continues the run. A short line belongs to the run only if it completes the base64: with padding or,
    unless it follows a blank, to a multiple of four characters. So the prose behind an image stays outside.
    """
    end = _line_end(text, start)
    length = end - start
    while text[end - 1] != "=" and (gap := _GAP.match(text, end)):
        next_end = _line_end(text, gap.end())
        line = next_end - gap.end()
        is_last = text[next_end - 1] == "=" or (gap[0] != " " and (length + line) % 4 == 0)
        if line == 0 or (line < _MIN_LINE and not is_last):
            break
        end = next_end
        length += line
        if line < _MIN_LINE:
            break
    return end


def _line_end(text: str, start: int) -> int:
    # The decoder validates whole slices many times faster than a pattern matches them.
    position = start
    if (near_end := _match_line(text, start, start + 256)) < start + 256:
        return near_end
    while _is_base64(text[position : position + _SLICE]):
        position += _SLICE
    return _match_line(text, position, len(text))


def _match_line(text: str, start: int, limit: int) -> int:
    match = _LINE.match(text, start, limit)
    return match.end() if match else start


def _is_base64(text: str) -> bool:
    """Check for a full slice of base64 that continues, hence is not padded."""
    if len(text) < _SLICE or text.endswith("="):
        return False
    try:
        pybase64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True
