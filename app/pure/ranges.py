"""The parts of a document that a `Range` header asks for."""

import re

#: One range only: of several, a server may send the whole (RFC 9110, 14.2).
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.ASCII | re.IGNORECASE)


def read_range(header: str | None, size: int) -> range | None:
    """None where it asks for nothing that is understood, so that the whole is sent; empty where nothing is there."""
    match = _RANGE.fullmatch(header or "")
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(size, int(last) + 1) if last else size)
