"""Find addresses without a host: some servers name their images by a path alone, which is one at their own origin."""

import re

from app.extraction.slices import search_in_slices

#: More in one text are not the answer to one request.
_MAX_FOUND = 50
_PATH = r"/(?![/\s])[^\s<>()\"'\\]{1,2000}"
#: An image in Markdown or HTML. Links are left out: without a host they lead to pages.
_IMAGE = re.compile(
    rf"!\[[^\[\]\n]{{0,300}}\]\(\s{{0,9}}<?({_PATH})|<img\b[^<>]{{0,300}}?\bsrc\s{{0,3}}=\s{{0,3}}[\"']?({_PATH})",
    re.IGNORECASE,
)
_WHOLE = re.compile(_PATH)


def may_have_path(text: str) -> bool:
    """Return whether a text may show an image by a path, at little cost."""
    return "](" in text or "<img" in text or '"/' in text


def paths_in(text: str) -> list[str]:
    """Return the paths that a text shows as images, in order."""
    found: list[str] = []
    position = 0
    while len(found) < _MAX_FOUND and (match := search_in_slices(_IMAGE, text, position, len(text))):
        found.append(match[1] or match[2])
        position = match.end()
    return found


def is_path(value: str) -> bool:
    """Return whether all of a string is a path."""
    return value.startswith("/") and _WHOLE.fullmatch(value) is not None
