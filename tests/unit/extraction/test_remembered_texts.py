"""Texts of upstreams have any length. None stays in memory because what it says is remembered."""

import sys
from collections.abc import Callable

import pytest

from app.extraction.keys import words_of, words_of_label
from app.extraction.standing import (
    is_unrelated,
    names_result,
    shows_example,
    standing_of,
    standing_of_copy,
)
from app.extraction.structured import walk_json
from app.extraction.urls import MAX_URL_LENGTH, classify_url, has_image_ending


@pytest.mark.parametrize(
    ("what", "read"),
    [
        ("a key", words_of),
        ("a label in JSON", words_of_label),
        ("a name", names_result),
        ("a label", lambda text: standing_of("", text, "")),
        ("an address", lambda text: standing_of("", "", text)),
        ("the label of a copy", lambda text: standing_of_copy("", text)),
        ("a label that may be unrelated", lambda text: is_unrelated("", text)),
        ("a label that may be one of an example", lambda text: shows_example("", text)),
        ("a URL that is classified", classify_url),
        ("a URL of which the ending is looked at", has_image_ending),
        ("a value of an unfinished task", lambda text: walk_json({"status": "running", "url": text})),
        ("an image with its page", lambda text: walk_json({"image_url": text, "origin_url": "a"})),
        ("the page of an image", lambda text: walk_json({"image_url": "https://a.example/a.png", "origin_url": text})),
        ("a key of an object", lambda text: walk_json({text: "x"})),
    ],
)
def test_a_long_text_is_not_kept(what: str, read: Callable[[str], object]) -> None:
    # Each row has a text of its own: an equal one may be known already.
    text = f"https://images.example/{what} " + "final image " * MAX_URL_LENGTH
    before = sys.getrefcount(text)
    read(text)
    assert sys.getrefcount(text) == before


def test_a_key_is_read_as_far_as_its_80th_character() -> None:
    assert "image" in words_of("_" * 75 + "image")
    assert "image" not in words_of("_" * 76 + "image")


def test_a_url_is_read_to_its_end_however_long() -> None:
    assert has_image_ending(f"https://a.example/{'x' * MAX_URL_LENGTH}.png")
