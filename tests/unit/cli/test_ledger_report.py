"""Sums of the ledger, and lines that cannot be read."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.cli.ledger import GROUPS, report_ledger, summarize
from app.cli.main import main
from tests.support.terminal import Keyboard, Pipe


def entry(**more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 20, "output_tokens": 1000}
    line = {"at": "2026-11-22T08:00:00.000+00:00", "key": "k1", "model": "gpt-image-2", "outcome": "ok", "bytes_in": 500_000, "bytes_out": 3_000_000, "images": 1, "attempts": 1, "usage": usage, "seconds": {"total": 60.0}, "cost": "0.075", "cost_source": "upstream", "currency": "USD"}  # fmt: skip
    return line | more


PAID = entry()
#: A request that joined another one, whose line has the costs.
JOINED = {
    name: fact
    for name, fact in entry(joined="req_1", key="k2").items()
    if name not in {"images", "attempts", "usage", "cost", "cost_source", "currency"}
}
REFUSED = {
    "at": "2026-11-23T00:00:00.000+00:00",
    "key": "k1",
    "outcome": "invalid_value",
    "bytes_in": 100,
    "bytes_out": 200,
    "seconds": {"total": 0.001},
}
LINES = [orjson.dumps(line) for line in (PAID, JOINED, REFUSED, entry(images=3, attempts=4))]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    by: str
    rows: dict[str, tuple[int, int, int, int]]


#: Requests, ok, joined, images.
CASES = [
    Case("by key", "key", {"k1": (3, 2, 0, 4), "k2": (1, 1, 1, 0), "all": (4, 3, 1, 4)}),
    Case("by day", "day", {"2026-11-22": (3, 3, 1, 4), "2026-11-23": (1, 0, 0, 0), "all": (4, 3, 1, 4)}),
    Case("by outcome", "outcome", {"invalid_value": (1, 0, 0, 0), "ok": (3, 3, 1, 4), "all": (4, 3, 1, 4)}),
    Case("by model, which is unknown for a refused request", "model", {"-": (1, 0, 0, 0), "gpt-image-2": (3, 3, 1, 4), "all": (4, 3, 1, 4)}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_lines_are_summed(case: Case) -> None:
    head, *rows = (line.split() for line in summarize(LINES, case.by).as_table())
    assert head[0] == case.by
    assert {row[0]: tuple(map(int, row[1:5])) for row in rows} == case.rows


def test_every_group_has_a_case() -> None:
    assert {case.by for case in CASES} == set(GROUPS)


def test_the_table_has_a_line_for_each_key_and_a_total() -> None:
    assert summarize(LINES, "key").as_table() == [
        "key  requests  ok  joined  images  attempts  tokens in  tokens out  MB in  MB out  mean s  cost  currency    source",
        "k1          3   2       0       4         5         40       2,000    1.0     6.0    40.0  0.15       USD  upstream",
        "k2          1   1       1       0         0          0           0    0.5     3.0    60.0     -         -         -",
        "all         4   3       1       4         5         40       2,000    1.5     9.0    45.0  0.15       USD  upstream",
    ]


@dataclass(frozen=True, slots=True)
class Costs:
    """Lines with these costs, and the last three cells of their sum."""

    name: str
    costs: list[dict[str, Any]]
    cells: list[str]


def cost(amount: str | None, source: str = "upstream", currency: str = "USD") -> dict[str, Any]:
    return {"cost": amount, "cost_source": source, "currency": currency}


COSTS = [
    Costs("amounts are exact", [cost("0.1"), cost("0.2")], ["0.3", "USD", "upstream"]),
    Costs("many digits", [cost("0.000000001"), cost("99999")], ["99999.000000001", "USD", "upstream"]),
    Costs("the weakest source counts", [cost("1"), cost("1", "table")], ["2", "USD", "table"]),
    Costs("a part is unknown", [cost("1", "table"), cost("0.5", "unknown")], ["1.5", "USD", "unknown"]),
    Costs("nothing is known", [cost(None, "unknown")], ["-", "-", "unknown"]),
    Costs("nothing was charged", [cost("0")], ["0", "USD", "upstream"]),
    Costs("two currencies, since the setting was changed", [cost("1"), cost("2", currency="EUR")], ["2+1", "EUR+USD", "upstream"]),
    Costs("no costs", [{}], ["-", "-", "-"]),
]  # fmt: skip


@pytest.mark.parametrize("case", COSTS, ids=lambda case: case.name)
def test_costs_are_summed(case: Costs) -> None:
    plain = {name: fact for name, fact in entry().items() if name not in cost(None)}
    *_, total = summarize([orjson.dumps(plain | each) for each in case.costs], "key").as_table()
    assert total.replace(" + ", "+").split()[-3:] == case.cells


def test_sums_are_exact_in_json() -> None:
    lines = [*LINES, orjson.dumps(entry(**cost("2.5", "unknown", "EUR"))), b"half a line"]
    document = summarize(lines, "key").as_document()
    figures = {"requests": 4, "ok": 3, "joined": 0, "images": 5, "attempts": 6}
    assert document["groups"]["k1"] == {
        **figures,
        "input_tokens": 60,
        "output_tokens": 3000,
        "bytes_in": 1_500_100,
        "bytes_out": 9_000_200,
        "mean_seconds": 45.0,
        "costs": {"EUR": "2.5", "USD": "0.15"},
        "cost_source": "unknown",
        "unknown_costs": 1,
    }
    assert (document["by"], list(document["groups"]), document["unreadable_lines"]) == ("key", ["k1", "k2"], 1)
    assert document["groups"]["k2"]["costs"] == {}
    assert document["all"]["requests"] == 5


UNREADABLE = [b'{"at": "2026', b"[]", b"7", b'{"at": "2026-11-22"}', orjson.dumps(entry(usage={"input_tokens": "many"})), orjson.dumps(entry(seconds=7)), orjson.dumps(entry(cost="much")), orjson.dumps(entry(cost_source="hearsay"))]  # fmt: skip


@pytest.mark.parametrize("line", UNREADABLE)
def test_a_line_that_cannot_be_read_is_counted_and_left_out(line: bytes) -> None:
    *table, last = summarize([*LINES, line, b"\n"], "key").as_table()
    assert (table, last) == (summarize(LINES, "key").as_table(), "1 line cannot be read")


def test_an_empty_ledger_has_an_empty_table() -> None:
    assert [line.split()[:2] for line in summarize([], "day").as_table()] == [["day", "requests"], ["all", "0"]]


def test_a_file_is_summed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"\n".join(LINES))
    assert report_ledger(str(path), "key") == 0
    assert capsys.readouterr().out.splitlines() == summarize(LINES, "key").as_table()


def test_a_file_is_summed_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"\n".join(LINES))
    assert main(["ledger", str(path), "--by", "day", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out) == summarize(LINES, "day").as_document()


def test_the_standard_input_is_summed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(LINES[0]))
    assert report_ledger("-", "model") == 0
    assert capsys.readouterr().out.splitlines() == summarize(LINES[:1], "model").as_table()


def test_more_lines_that_cannot_be_read_are_counted() -> None:
    assert summarize([b"7", b"[]"], "key").as_table()[-1] == "2 lines cannot be read"


def test_nobody_waits_at_a_terminal_for_a_ledger(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard(b""))
    assert main(["ledger"]) == 2
    assert capsys.readouterr().err.startswith("limner ledger: name the file of the ledger, or ")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_ledger(f"{tmp_path}/none", "key") == 2
    assert capsys.readouterr().err == f"limner ledger: {tmp_path}/none: No such file or directory. See docs/cli.md\n"
