"""Base64 in texts: where a run begins, where it ends, and what is no run."""

from dataclasses import dataclass

import pybase64
import pytest

from app.extraction.base64_runs import MARK, Base64Run, extract_base64, resolve_run
from tests.support.image_files import JPEG_BASE64 as JPEG
from tests.support.image_files import PNG as PNG_FILE
from tests.support.image_files import PNG_BASE64 as PNG

#: Longer than the slices that the decoder validates.
LARGE = pybase64.b64encode_as_string(PNG_FILE + bytes(range(256)) * 800)
#: Cut or filled up to a length that needs padding, whatever length the PNG encoder produces.
PADDED = pybase64.b64encode_as_string((PNG_FILE + bytes(3))[: len(PNG_FILE) // 3 * 3 + 1])
SAFE = LARGE.replace("+", "-").replace("/", "_")
ONE = f"{MARK}0{MARK}"


def wrapped(text: str, end: str) -> str:
    return end.join(text[start : start + 76] for start in range(0, len(text), 76))


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    shortened: str
    runs: tuple[Base64Run, ...]


HEAD = "data:image/png;base64,"
CASES_OF_TEXT = [
    Case("no base64", "data: https://a.example/x", "data: https://a.example/x", ()),
    Case("a data URL", f"![x]({HEAD}{PNG})", f"![x]({ONE})", (Base64Run(HEAD, PNG),)),
    Case("base64 alone", f"x {PNG} y", f"x {ONE} y", (Base64Run("", PNG),)),
    Case("two runs", f"{HEAD}{PNG}\n\n{JPEG}", f"{ONE}\n\n{MARK}1{MARK}", (Base64Run(HEAD, PNG), Base64Run("", JPEG))),
    Case(
        "two runs, base64 alone first",
        f"{JPEG} {HEAD}{PNG}",
        f"{ONE} {MARK}1{MARK}",
        (Base64Run("", JPEG), Base64Run(HEAD, PNG)),
    ),
    Case("a large run", f"{HEAD}{LARGE})", f"{ONE})", (Base64Run(HEAD, LARGE),)),
    Case("a large run in the URL-safe alphabet", f"{HEAD}{SAFE})", f"{ONE})", (Base64Run(HEAD, SAFE),)),
    Case("several lines", f"{HEAD}{wrapped(PNG, chr(10))})", f"{ONE})", (Base64Run(HEAD, wrapped(PNG, "\n")),)),
    Case(
        "several lines with escaped breaks",
        f"{wrapped(PNG, chr(92) + 'n')}",
        ONE,
        (Base64Run("", wrapped(PNG, "\\n")),),
    ),
    Case(
        "several lines whose breaks became blanks",
        f"{HEAD}{wrapped(PADDED, ' ')})",
        f"{ONE})",
        (Base64Run(HEAD, wrapped(PADDED, " ")),),
    ),
    Case("a word behind padding", f"{HEAD}{PADDED}\ndone", f"{ONE}\ndone", (Base64Run(HEAD, PADDED),)),
    Case("a word below", f"{HEAD}{'A' * 40}\nok", f"{ONE}\nok", (Base64Run(HEAD, "A" * 40),)),
    Case("an empty line below", f"{HEAD}{'A' * 40}\n\nok", f"{ONE}\n\nok", (Base64Run(HEAD, "A" * 40),)),
    Case("an ellipsis", f"{HEAD}...", f"{HEAD}...", ()),
    Case("the middle of something longer", f"https://a.example/x{JPEG}", f"https://a.example/x{JPEG}", ()),
    Case("an escaped line break in front", f"x\\n{PNG} y", f"x\\n{ONE} y", (Base64Run("", PNG),)),
    Case("a mark in the text", f"a{MARK}b", "ab", ()),
]


@pytest.mark.parametrize("case", CASES_OF_TEXT, ids=lambda case: case.name)
def test_runs_are_cut_out(case: Case) -> None:
    assert extract_base64(case.text) == (case.shortened, case.runs)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\\n"])
@pytest.mark.parametrize("size", range(60, 400))
def test_the_last_line_belongs_to_its_run(size: int, end: str) -> None:
    text = wrapped(pybase64.b64encode_as_string(b"\x89PNG\r\n\x1a\n" + bytes(size)), end)
    assert extract_base64(f"{HEAD}{text})") == (f"{ONE})", (Base64Run(HEAD, text),))


def test_runs_beyond_a_limit_stay_in_the_text() -> None:
    shortened, runs = extract_base64(f"{HEAD}{'A' * 16} " * 1500)
    assert len(runs) == 1000
    assert shortened.count("data:") == 500


def test_a_mark_leads_to_its_run_if_there_is_one() -> None:
    run = Base64Run("", PNG)
    assert resolve_run(ONE, [run]) is run
    assert resolve_run(f"{MARK}1{MARK}", [run]) is None
    assert resolve_run("x", [run]) is None
