"""`limner explain`: its report for people and its report for programs."""

import base64
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from app.cli.explain import explain_file
from app.extraction.explain import describe_url, printable
from app.extraction.places import OF_A_GUESS, OF_NOTHING
from tests.support.sample_images import noise, saved
from tests.support.terminal import Pipe

IMAGE = saved(noise((64, 48)), "PNG")
DATA_URL = "data:image/png;base64," + base64.b64encode(IMAGE).decode()

MARKDOWN = "     if it is wrong: markdown-image of FORMS in app/extraction/forms.py"


@dataclass(frozen=True, slots=True)
class Case:
    """`printed`: every line of the output."""

    name: str
    pasted: str
    printed: tuple[str, ...]
    code: int = 0
    sent: tuple[str, ...] = ()


CASES = [
    Case("an image", "![fox](https://e.com/a.png)", ("read as  plain words", "found    1", "  1. markdown-image: https://e.com/a.png", MARKDOWN, "dropped  0")),
    Case("an image and an SVG", "![fox](https://e.com/a.png) ![logo](https://e.com/a.svg)", ("read as  plain words", "found    1", "  1. markdown-image: https://e.com/a.png", MARKDOWN, "dropped  1", "  - markdown-image: https://e.com/a.svg", "    it leads to a file that is not an image", "    to mend: _OTHER_SUFFIXES in app/extraction/urls.py")),
    Case("an image that the client sent", "![fox](https://e.com/a.png)", ("read as  plain words", "found    0", "dropped  1", "  - markdown-image: https://e.com/a.png", "    the client itself had sent it", "    to mend: ClientTexts in app/extraction/own_links.py", "answer   400 no_image_in_reply: The upstream's reply contains no image. It said: ![fox](https://e.com/a.png)", f"mend     {OF_NOTHING}"), 1, ("https://e.com/a.png",)),
    Case("nothing better than a preview", "![thumbnail](https://e.com/thumb.png)", ("read as  plain words", "found    1", "  1. markdown-image: https://e.com/thumb.png", "     a preview or the like, taken because there is nothing better", MARKDOWN, "dropped  0")),
    Case("addresses that may lead to anything", "Aqui está: https://e.com/r/7f https://e.com/regras", ("read as  plain words", "found    0", "guessed  2, not downloaded here: for a request, the bytes behind them decide", "  - guessed-address: https://e.com/r/7f", "  - guessed-address: https://e.com/regras", f"    to mend: {OF_A_GUESS}", "dropped  0", "answer   if none is an image: 400 no_image_in_reply: The upstream's reply contains no image. It said: Aqui está: https://e.com/r/7f https://e.com/regras", f"mend     {OF_NOTHING}"), 1),
    Case("a refusal", "I cannot help with that: it violates our content policy.", ("read as  plain words", "found    0", "dropped  0", "answer   400 moderation_blocked: Your request was rejected by the safety system of the upstream. It said: I cannot help with that: it violates our content policy."), 1),
    Case("an error", '{"error":{"message":"busy","type":null,"code":7}}', ("read as  a body in JSON", "found    0", "dropped  0", 'answer   the upstream\'s own error: {"message":"busy","type":null,"code":7}'), 1),
    Case("an error that nests too deeply", '{"error":{"a":' + "[" * 400 + "]" * 400 + "}}", ("read as  a body in JSON", "found    0", "dropped  0", 'answer   the upstream\'s own error: {"a":[[[[[[[[]]]]]]]]}'), 1),
    Case("a stream that broke off", 'data: {"choices":[{"delta":{"content":"Wait"}}]}\n\ndata: {"cho', ("read as  a stream of events, which broke off", "found    0", "dropped  0", "answer   400 no_image_in_reply: The upstream's reply contains no image. It said: Wait", f"mend     {OF_NOTHING}"), 1),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_report_for_people(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "reply.txt"
    file.write_text(case.pasted)
    assert explain_file(str(file), sent=case.sent) == case.code
    assert tuple(capsys.readouterr().out.splitlines()) == case.printed


def test_the_report_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    url = DATA_URL
    monkeypatch.setattr(sys, "stdin", Pipe(f"![]({url}) ![logo](https://e.com/a.svg)".encode()))
    assert explain_file("-", as_json=True) == 0
    assert orjson.loads(capsys.readouterr().out) == {
        "read_as": "plain words",
        "complete": True,
        "found": [{"form": "markdown-image", "url": url, "is_lesser": False, "mend": "markdown-image of FORMS in app/extraction/forms.py"}],
        "guessed": [],
        "dropped": [{"form": "markdown-image", "candidate": "https://e.com/a.svg", "reason": "it leads to a file that is not an image", "mend": "_OTHER_SUFFIXES in app/extraction/urls.py"}],
        "answer": None,
        "mend": None,
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", Pipe(b"Hello"))
    assert explain_file("-", as_json=True) == 1
    assert orjson.loads(capsys.readouterr().out)["answer"].startswith("400 no_image_in_reply: ")


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_file(str(tmp_path / "none")) == 2
    assert capsys.readouterr().err == f"limner explain: {tmp_path}/none: No such file or directory. See docs/cli.md\n"


def test_a_data_url_is_described_by_its_content() -> None:
    assert describe_url(DATA_URL) == f"data URL, 64x48 png, {len(IMAGE):,} bytes"
    assert describe_url("data:image/png;base64,AAAA") == "data URL, not an image, 3 bytes"


def test_a_reply_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\nb") == "a\ufffd[31m\ufffdb"
    assert printable("a" * 7, 5) == "aaaa…"
