"""Images that stand together share the words above the first of them."""

import pytest

from app.extraction.groups import with_shared_words
from app.extraction.mentions import find_mentions

A, B = "![](https://x.example/a.png)", "![](https://x.example/b.png)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"Drafts: {A} {B}", "Drafts:"),
        (f"Drafts:\n{A}\n{B}", "Drafts:"),
        (f"Sources:\n- {A}\n- {B}", "Sources:"),
        (f"Source: {A}\n{B}", ""),
        (f"Drafts:\n{A}\n\n{B}", ""),
        (f"> Drafts:\n> {A}\n>\n> {B}", ""),
        (f"Draft: {A} Final: {B}", "Final:"),
        ("Draft: ![](https://x.example/a.png) https://x.example/b.png", ""),
        (f"{A} {B}", ""),
    ],
)
def test_the_last_image_has_words_of_its_own_or_those_of_its_group(text: str, words: str) -> None:
    assert [*with_shared_words(text, find_mentions(text))][-1].before.strip(" )>") == words


def test_a_text_without_a_url_has_no_groups() -> None:
    assert [*with_shared_words("", [])] == []
