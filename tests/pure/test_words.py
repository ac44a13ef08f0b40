"""Word lists."""

from app.pure.words import word_set


def test_words_are_told_apart_by_white_space() -> None:
    assert word_set(" a  b\nc a ") == frozenset({"a", "b", "c"})
