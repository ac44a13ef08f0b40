"""Search long texts in slices, since Python lets no other thread run during one search."""

import re

#: Characters that are searched at a time, and the longest match that is found wherever it begins.
SLICE, MAX_MATCH = 128 * 1024, 4096


def search_in_slices(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    """Return the first match between two positions. A longer one than `MAX_MATCH` may be cut off or missed."""
    for position in range(start, end, SLICE):
        match = pattern.search(text, position, min(end, position + SLICE + MAX_MATCH))
        if match is not None:
            return match
    return None
