"""Word lists as they are read best: words in a text, not one quoted string a line."""

import re

_WORD = re.compile(r"\S+")


def word_set(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))
