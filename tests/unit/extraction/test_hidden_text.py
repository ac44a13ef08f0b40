"""Which parts of a text are hidden."""

from dataclasses import dataclass

import pytest

from app.extraction.text import is_html_page, strip_hidden


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    visible: str


CASES = [
    Case("nothing hidden", "a < b [c]", "a < b [c]"),
    Case("reasoning in tags", "a<think>x</think>b", "ab"),
    Case("reasoning several times", "a<think>x</think>b<thinking>x</thinking>c", "abc"),
    Case("a tag with attributes, in capital letters", 'a<THINK mode="x">x</THINK>b', "ab"),
    Case("a tag that is not closed", "a<think>x", "a"),
    Case("a closing tag alone", "x</think>a", "a"),
    Case("reasoning in square brackets", "a[THINK]x[/THINK]b", "ab"),
    Case("reasoning in triangles", "a◁think▷x◁/think▷b", "ab"),
    Case("reasoning in special tokens", "a<|begin_of_thought|>x<|end_of_thought|>b", "ab"),
    Case("folded reasoning", '<details type="reasoning" done="true">x</details>b', "b"),
    Case("folded reasoning by its summary", "<details><summary>思考过程</summary>x</details>b", "b"),
    Case("folded results", "<details><summary>图</summary>x</details>", "<details><summary>图</summary>x</details>"),
    Case("a comment", "a<!-- x -->b", "ab"),
    Case("sample code", "a\n```python\nx\n```\nb", "a\n\nb"),
    Case("a code block without language", "```\nx\n```", "```\nx\n```"),
    Case("a code block of JSON", "```json\nx\n```", "```json\nx\n```"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hidden_parts_are_removed(case: Case) -> None:
    assert strip_hidden(case.text) == case.visible


def test_text_behind_too_many_hidden_parts_is_not_read() -> None:
    assert strip_hidden("<think></think>a" * 2000).count("a") < 1000


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("<!DOCTYPE html><p>", True),
        ("\n <html><p>", True),
        ('<?xml version="1.0"?>\n<html>', True),
        ("<img src=x>", False),
        ("see <html>", False),
    ],
)
def test_an_html_page_is_known_by_its_first_tag(text: str, page: bool) -> None:
    assert is_html_page(text) is page


@pytest.mark.parametrize("before", [128 * 1024 - 3, 128 * 1024 + 1_000, 3 * 128 * 1024 - 1])
def test_hidden_parts_of_a_long_text_are_removed_wherever_they_begin(before: int) -> None:
    words = "<" * before
    assert strip_hidden(f"{words}<think>draft</think>result") == f"{words}result"
    assert strip_hidden(f"{words}draft</think>result") == "result"
    assert strip_hidden(f"{words}```python\ncode``` result") == f"{words} result"
