"""What words say about an address, row by row."""

import pytest

from app.extraction.filters import announces_result, is_secondary, is_unrelated, last_clause

URL = "https://cdn.example.com/gen/a1.png"


@pytest.mark.parametrize(
    ("words", "label", "url", "lesser"),
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
        ("", "", "https://cdn.example.com/a1.png?from=preview", False),
        ("", f"{'a red fox ' * 9}preview", URL, False),
    ],
)
def test_lesser_pictures_are_known_by_words_label_or_path(words: str, label: str, url: str, lesser: bool) -> None:
    assert is_secondary(words, label, url) is lesser


@pytest.mark.parametrize(
    ("words", "label", "foreign"),
    [("Source: ", "", True), ("", "powered by x", True), ("来源：", "", True), ("Result: ", "image", False)],
)
def test_pictures_of_others_are_known_by_words(words: str, label: str, foreign: bool) -> None:
    assert is_unrelated(words, label) is foreign


@pytest.mark.parametrize(
    ("words", "label", "result"),
    [
        ("已生成图片：", "", True),
        ("Here you go: ", "", True),
        ("", "View image", True),
        ("", "U1", False),
        ("See the image guide: ", "", False),
        ("任务已提交，查询进度：", "", False),
        ("I cannot draw. Here is your image: ", "", True),
    ],
)
def test_the_result_is_known_by_words(words: str, label: str, result: bool) -> None:
    assert announces_result(words, label) is result


@pytest.mark.parametrize(
    ("words", "clause"), [("a. b: ", "b:"), ("甲，乙：", "乙："), ("a.b", "a.b"), ("", ""), ("a。", "a")]
)
def test_the_last_clause_counts(words: str, clause: str) -> None:
    assert last_clause(words) == clause
