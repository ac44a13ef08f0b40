"""Recognize what a text shows as deleted: struck through in Markdown, or within a tag of HTML for deletions."""

import re

#: Characters around a URL that are searched for the marks of a deletion.
_WINDOW = 1000
_TAG = re.compile(r"<(/?)(?:del|s|strike)(?:\s[^<>]{0,200})?>", re.IGNORECASE)
_STRIKE = re.compile(r"(?<!~)~~(?!~)")
_EMPTY_LINE = re.compile(r"\n[ \t]*\r?\n")


def is_deleted(text: str, start: int, end: int) -> bool:
    """Check whether what stands between two positions is struck through."""
    if "~~" not in text and "<" not in text:
        return False
    before, behind = text[max(0, start - _WINDOW) : start], text[end : end + _WINDOW]
    tags = _TAG.findall(before)
    if tags and not tags[-1]:
        return True
    opened = _STRIKE.findall(_EMPTY_LINE.split(before)[-1])
    return len(opened) % 2 == 1 and _STRIKE.search(_EMPTY_LINE.split(behind)[0]) is not None
