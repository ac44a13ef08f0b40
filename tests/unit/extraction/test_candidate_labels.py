"""What the label of a URL, and the words in front of it, say about the URL."""

import pytest

from app.extraction.own_links import ClientTexts
from app.extraction.standing import (
    Standing,
    is_name,
    is_unrelated,
    last_clause,
    names_result,
    shows_example,
    standing_of,
)

URL = "https://cdn.example.com/gen/a1.png"


@pytest.mark.parametrize(
    ("words", "label", "url", "secondary"),
    [
        ("", "image", URL, False),
        ("", "preview", URL, True),
        ("", "缩略图", URL, True),
        ("", "45%", URL, True),
        ("Before:", "", URL, True),
        ("From your reference, the result:", "", URL, False),
        ("根据您的参考图，已生成：", "", URL, False),
        ("", "", "https://cdn.example.com/thumbs/a1.png", True),
        ("", "", "https://cdn.example.com/a1_thumb.webp?x=1", True),
        ("", "", "https://cdn.example.com/Previews/A1.PNG", True),
        ("", "", "https://cdn.example.com/A1_SMALL.PNG", True),
        ("", "", "https://cdn.example.com/a1.png?from=preview", False),
        ("", f"{'a red fox ' * 9}preview", URL, False),
        ("With watermark:", "", URL, True),
        ("Without watermark:", "", URL, False),
        ("无水印：", "", URL, False),
        ("", "", "https://cdn.example.com/a1_watermark.png", True),
        ("", "", "https://cdn.example.com/a1_no_watermark.png", False),
    ],
)
def test_a_secondary_image_is_known_by_words_label_or_path(words: str, label: str, url: str, secondary: bool) -> None:
    assert (standing_of(words, label, url) > Standing.DOUBTFUL) is secondary


@pytest.mark.parametrize(
    ("words", "label", "unrelated"),
    [
        ("Source: ", "", True),
        ("", "fox from Wikimedia", True),
        ("", "powered by x", False),
        ("来源：", "", True),
        ("Result: ", "image", False),
    ],
)
def test_an_unrelated_image_is_known_by_words(words: str, label: str, unrelated: bool) -> None:
    assert is_unrelated(words, label) is unrelated


@pytest.mark.parametrize(
    ("words", "label", "away"),
    [
        ("For example: ", "", True),
        ("", "documentation of a fox", True),
        ("教程：", "", True),
        ("Result: ", "fox", False),
    ],
)
def test_an_image_beside_the_result_may_stand_in_documentation(words: str, label: str, away: bool) -> None:
    assert shows_example(words, label) is away


@pytest.mark.parametrize(
    ("words", "named", "result"),
    [
        ("Depth map: ", True, False),
        ("**Result:** ", True, True),
        ("输出：", True, True),
        ("Let me try again.", False, False),
        ("A sentence that goes on for much longer than names do: ", False, False),
        ("the result of all of my attempts at painting:", False, False),
    ],
)
def test_a_name_in_front_of_an_image_is_no_sentence(words: str, named: bool, result: bool) -> None:
    assert (is_name(words), names_result(words)) == (named, result)


PROMPT = "Edit this: keep the original image, but  paint a red fox with a hat in the foreground"


@pytest.mark.parametrize(
    ("words", "repeated"),
    [
        (PROMPT, True),
        ("Edit this: keep the original...", True),
        (f"**Prompt:** {PROMPT.upper()}", True),
        ("keep the original image, but paint a red fox with a hat", True),
        ("original image", False),
        ("Edi", False),
        ("Result:", False),
        ("data:image/png", False),
    ],
)
def test_words_that_repeat_the_prompt_are_recognized_by_its_beginning_or_by_much_of_it(
    words: str, repeated: bool
) -> None:
    assert ClientTexts([PROMPT, "data:image/png;base64,iVBORw0KGgo"]).has_words(words) is repeated


@pytest.mark.parametrize(
    ("words", "clause"), [("a. b: ", "b:"), ("甲，乙：", "乙："), ("a.b", "a.b"), ("", ""), ("a。", "a")]
)
def test_only_the_last_clause_is_about_the_url(words: str, clause: str) -> None:
    assert last_clause(words) == clause
