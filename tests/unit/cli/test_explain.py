"""`limner explain` names the setting that an upstream's error is about."""

import sys
from pathlib import Path

import orjson
import pytest

from app.cli.explain import explain_file
from app.extraction.places import OF_NOTHING
from tests.support.terminal import Keyboard, Pipe

KEY = "LIMNER_UPSTREAM_API_KEY, or api_key of the upstream in limner.toml"
MODEL = "LIMNER_UPSTREAM_MODEL, or model of the upstream in limner.toml"
DIALECT = "LIMNER_UPSTREAM_DIALECT, or dialect of the upstream in limner.toml"
REFUSED = '{"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}'
CASES = [
    ("a refused key", REFUSED, KEY),
    ("a line of the log, with its status", 'upstream answered 404: {"error": {"message": "The model x is not found."}}', MODEL),
    ("a field that only this server writes", '{"error": {"message": "Unknown parameter.", "param": "modalities"}}', DIALECT),
    ("a refusal, which is about the prompt", '{"error": {"message": "Against our policy.", "code": "content_policy_violation"}}', None),
    ("words of a model about a key", "Your API key is invalid, said the fox.", OF_NOTHING),
    ("a refusal in words", "I cannot help with that: it violates our content policy.", None),
    ("an image beside an error", '{"choices": [{"message": {"content": "![x](https://e.com/a.png)"}}], "error": {"code": "invalid_api_key"}}', None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pasted", "place"), CASES, ids=[row[0] for row in CASES])
def test_the_place_to_mend_is_named(
    name: str, pasted: str, place: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reply"
    file.write_text(pasted)
    explain_file(str(file))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("mend")] == ([] if place is None else [f"mend     {place}"])
    explain_file(str(file), as_json=True)
    assert orjson.loads(capsys.readouterr().out)["mend"] == place


def test_at_a_terminal_a_line_says_how_to_end_the_reply(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard(b"![fox](https://e.com/fox.png)\n"))
    assert explain_file("-") == 0
    out, err = capsys.readouterr()
    assert ("https://e.com/fox.png" in out, err) == (
        True,
        "Paste the reply. End it with Ctrl-D at the beginning of a line.\n",
    )


def test_a_reply_from_another_program_is_read_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(b"![fox](https://e.com/fox.png)\n"))
    assert (explain_file("-"), capsys.readouterr().err) == (0, "")
