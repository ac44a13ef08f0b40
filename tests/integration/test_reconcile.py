"""The ledger and the bill of an upstream are compared row by row; a whole month comes out even."""

import asyncio
import csv
import io
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from app.cli.bills import InvalidBill
from app.cli.main import main
from app.cli.reconcile import Reconciliation, as_document, compare_files
from tests.support.billing_upstream import BillingUpstream, billed_limner

#: 2026-11-01 in UTC.
NOVEMBER = 1_793_491_200.0


def entry(
    request_id: str = "req_1", *attempts: dict[str, Any], at: str = "2026-11-10T12:02:00.000+00:00", **fields: Any
) -> dict[str, Any]:
    recorded = {"upstream_attempts": list(attempts)} if attempts else {}
    return {"at": at, "request_id": request_id, "outcome": "ok", "seconds": {"total": 120.0}, **recorded, **fields}


def attempt(cost: str | None, *ids: str, at: float = NOVEMBER + 9.5 * 86_400, upstream: str = "main") -> dict[str, Any]:
    return {"at": at, "upstream": upstream, "model": "m", "ids": list(ids), "cost": cost, "cost_source": "upstream"}


def row(cost: str, generation_id: str = "", at: str = "2026-11-10 12:01:00.000", model: str = "m") -> dict[str, Any]:
    return {"generation_id": generation_id, "created_at": at, "cost_total": cost, "model_permaslug": model}


LOST = entry("req_9", outcome="question_lost", joined="req_0", n=2)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    ledger: list[dict[str, Any]]
    bill: list[dict[str, Any]]
    counts: dict[str, int]
    unexplained: str = "0"
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("the same amounts", [entry("req_1", attempt("0.040", "gen-1"))], [row("0.04", "gen-1")], {"matched": 1}),
    Case("an attempt that cost nothing needs no row", [entry("req_1", attempt("0"), attempt("0.04", "gen-1"))], [row("0.04", "gen-1")], {"matched": 1}),
    Case("different amounts", [entry("req_1", attempt("0.04", "gen-1"))], [row("0.05", "gen-1")], {"different": 1}, "0.01"),
    Case("an amount that should be nothing", [entry("req_1", attempt("0", "gen-1"))], [row("0.05", "gen-1")], {"different": 1}, "0.05"),
    Case("a difference within the tolerance", [entry("req_1", attempt("0.0400001", "gen-1"))], [row("0.04", "gen-1")], {"matched": 1}, "0", {"tolerance": Decimal("0.000001")}),
    Case("a row without a request", [], [row("0.04", "gen-1")], {"unknown_rows": 1}, "0.04"),
    Case("a request without a row", [entry("req_1", attempt("0.04", "gen-1"))], [], {"unbilled": 1}, "-0.04"),
    Case("several rows of one request", [entry("req_1", attempt("0.04", "gen-1"))], [row("0.06", "gen-1"), row("-0.02", "gen-1")], {"matched": 1}),
    Case("a timeout that was billed", [entry("req_1", attempt(None))], [row("0.04", "gen-7")], {"settled": 1}),
    Case("a timeout that was not billed", [entry("req_1", attempt(None))], [], {"unbilled_unknowns": 1}),
    Case("an unknown cost with a known id", [entry("req_1", attempt(None, "gen-1"))], [row("0.04", "gen-1", at="2026-12-24 00:00:00")], {"settled": 1}),
    Case("a timeout, and a row of another day", [entry("req_1", attempt(None))], [row("0.04", "gen-7", at="2026-11-12 12:00:00")], {"unbilled_unknowns": 1, "unknown_rows": 1}, "0.04"),
    Case("a timeout, and a row of another model", [entry("req_1", attempt(None))], [row("0.04", "gen-7", model="other")], {"unbilled_unknowns": 1, "unknown_rows": 1}, "0.04"),
    Case("a dated name of the model", [entry("req_1", attempt(None))], [row("0.04", "gen-7", model="m-20261101")], {"settled": 1}),
    Case("a row without a time fits nothing", [entry("req_1", attempt(None))], [row("0.04", "", at="")], {"unbilled_unknowns": 1, "unknown_rows": 1}, "0.04"),
    Case("a row that is older by the difference of two clocks", [entry("req_1", attempt(None))], [row("0.04", at="2026-11-10 11:59:10")], {"settled": 1}),
    Case("a row that is older", [entry("req_1", attempt(None))], [row("0.04", at="2026-11-10 11:58:50")], {"unbilled_unknowns": 1, "unknown_rows": 1}, "0.04"),
    Case("two timeouts and one row", [entry("req_1", attempt(None)), entry("req_2", attempt(None))], [row("0.04")], {"settled": 1, "unbilled_unknowns": 1}),
    Case("the upstream bills by the id of the request", [entry("req_1", attempt("0.04"), attempt("0.05"))], [row("0.05", "req_1"), row("0.04", "req_1")], {"matched": 2}),
    Case("a replica that died with two images", [LOST, LOST], [row("0.04", "gen-1"), row("0.04", "gen-2"), row("0.04", "gen-3")], {"settled": 1, "unknown_rows": 1}, "0.04"),
    Case("a request that joined another one costs nothing", [entry("req_2", joined="req_1")], [], {}),
    Case("another upstream", [entry("req_1", attempt("0.04", "gen-1"), attempt("0.04", upstream="spare"))], [row("0.04", "gen-1")], {"matched": 1}, "0", {"upstream": "main"}),
    Case("another month", [entry("req_1", attempt("0.04", "gen-1"))], [row("0.04", "gen-1")], {}, "0", {"month": "2026-10"}),
    Case("the month itself", [entry("req_1", attempt("0.04", "gen-1"))], [row("0.04", "gen-1")], {"matched": 1}, "0", {"month": "2026-11"}),
]  # fmt: skip


def compare(folder: Path, ledger: list[dict[str, Any]], bill: list[dict[str, Any]], **options: Any) -> Reconciliation:
    (folder / "ledger.jsonl").write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in ledger) + b'{"cut\n[]\n')
    (folder / "bill.csv").write_text(write_csv(bill or [row("")]))
    return compare_files(folder / "bill.csv", [folder / "ledger.jsonl"], **options)


def write_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, [*rows[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_row_is_explained_or_not(case: Case, tmp_path: Path) -> None:
    result = compare(tmp_path, case.ledger, case.bill, **case.options)
    document = as_document(result)
    kinds = ("matched", "different", "settled", "unbilled_unknowns", "unbilled", "unknown_rows")
    assert {kind: len(document[kind]) for kind in kinds if document[kind]} == case.counts
    assert document["unexplained"] == case.unexplained


NEW_API = [
    {"type": 2, "request_id": "up-1", "quota": 20_000, "created_at": 1_794_312_060, "model_name": "m"},
    {"type": 2, "request_id": "up-2", "quota": 25_000, "created_at": 1_794_312_060_000, "model_name": "m"},
    {"type": 6, "request_id": "up-2", "quota": 5_000, "created_at": 1_794_312_061, "model_name": "m"},
    {"type": 1, "request_id": "", "quota": 5_000_000, "created_at": 1_794_312_061, "model_name": ""},
]
LEDGER = [entry("req_1", attempt("0.04", "up-1"), attempt("0.04", "x", "up-2"))]
OWN = [
    {"Ref": "up-1", "Fee": "$0.04", "Tax": "", "When": ""},
    {"Ref": "up-2", "Fee": "0.030", "Tax": "0.01 USD", "When": "2026-11-10T12:00:00Z"},
]
OWN_COLUMNS = {"id": "Ref", "cost": "Fee+Tax", "at": "When"}
FORMS = [
    ("new-api's answer", orjson.dumps({"success": True, "data": {"page": 1, "items": NEW_API}}).decode(), {}),
    ("a JSON list", orjson.dumps(NEW_API).decode(), {"preset": "new-api"}),
    ("a JSON list within a list", orjson.dumps([{"data": NEW_API}]).decode(), {}),
    ("a JSON object on each line", "\n".join(orjson.dumps(each).decode() for each in NEW_API) + "\n", {}),
    ("CSV with a byte order mark", "\ufeff" + write_csv(NEW_API), {}),
    ("own columns, separated by semicolons", write_csv(OWN, ";"), {"columns": OWN_COLUMNS}),
    ("thousands", "Ref,Fee\nup-1,\"40,000\"\nup-2,\"40,000.0\"\n", {"columns": OWN_COLUMNS | {"cost": "Fee"}, "divide": Decimal(1_000_000)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "options"), FORMS, ids=[form[0] for form in FORMS])
def test_bills_have_many_forms(name: str, text: str, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bill").write_text(text)
    (tmp_path / "ledger").write_bytes(orjson.dumps(LEDGER[0]))
    result = compare_files(tmp_path / "bill", [tmp_path / "ledger"], **options)
    assert (len(result.matched), result.unexplained, result.bill_total) == (2, Decimal(0), Decimal("0.08"))


MISTAKES = [
    ("unknown columns", b"a,b\n1,2\n", "name its columns of ids and costs by --column; it has a, b"),
    ("nothing at all", b"", "name its columns of ids and costs by --column; it has none"),
    ("no UTF-8", b"\xff\xfe", "it is not UTF-8"),
    ("broken JSON", b'{"data": [', "it is not JSON"),
    ("JSON without rows", b'{"a": {"b": {"c": {"d": {"e": {"f": [{}]}}}}}}', "its JSON has no list of rows"),
    ("an amount that is none", b"generation_id,cost_total\ng,much\n", "row 1: no amount: 'much'"),
    ("a boolean for an amount", b'[{"generation_id": "g", "cost_total": true}]', "row 1: no amount: 'True'"),
    ("a time that is none", b"generation_id,cost_total,created_at\ng,1,now\n", "row 1: no time: 'now'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bill", "message"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_bill_that_cannot_be_used_is_explained(name: str, bill: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bill").write_bytes(bill)
    (tmp_path / "ledger").write_bytes(b"")
    with pytest.raises(InvalidBill, match=message.replace("(", "\\(")):
        compare_files(tmp_path / "bill", [tmp_path / "ledger"])


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "bill").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidBill, match="it has no column c, only a, b"):
        compare_files(tmp_path / "bill", [], columns={"id": "a", "cost": "c"})


def test_the_command_prints_sums_and_what_needs_a_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = [
        entry("req_1", attempt("0.04", "gen-1")),
        entry("req_2", attempt("0.05", "gen-2")),
        entry("req_3", attempt("1", "g")),
    ]
    bill = [row("0.04", "gen-1"), row("0.07", "gen-2"), *(row("0.01", f"x-{number}", at="") for number in range(21))]
    compare(tmp_path, ledger, bill)
    arguments = ["reconcile", str(tmp_path / "bill.csv"), "--ledger", str(tmp_path / "ledger.jsonl")]
    assert main(arguments) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[:9] == [
        "                              rows  ledger  bill",
        "matched                          1    0.04  0.04",
        "different amounts                1    0.05  0.07",
        "unknown outcomes, billed         0    0.00  0.00",
        "unknown outcomes, not billed     0    0.00  0.00",
        "in the ledger, not billed        1    1.00  0.00",
        "billed, not in the ledger       21    0.00  0.21",
        "all                                   1.09  0.32",
        "unexplained: -0.77",
    ]
    assert "  2026-11-10T12:00:00+00:00  req_2  ledger 0.05, bill 0.07  gen-2" in printed
    assert "  row 3  -  0.01  x-0" in printed
    assert "  and 1 more: see --json" in printed
    assert main([*arguments, "--json", "--column", "at=created_at", "--divide", "1", "--tolerance", "0.5"]) == 1
    assert orjson.loads(capsys.readouterr().out)["unexplained"] == "-0.79"


def test_the_command_is_content_if_both_sides_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(tmp_path, [entry("req_1", attempt("0.04", "gen-1"))], [row("0.04", "gen-1")])
    assert main(["reconcile", str(tmp_path / "bill.csv"), "--ledger", str(tmp_path / "ledger.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "unexplained: 0.00"


def test_the_command_explains_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bill").write_text("a,b\n1,2\n")
    known = ["reconcile", str(tmp_path / "bill"), "--ledger", str(tmp_path / "bill")]
    assert main(known) == 2
    assert "name its columns" in capsys.readouterr().err
    assert main([*known[:3], str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main([*known, "--column", "price=a"]) == 2


WRONG_OPTIONS = {
    "a divisor in words": ("--divide", "much", "expected a number that is not negative"),
    "a divisor of zero": ("--divide", "0", "expected a number above 0"),
    "a negative divisor": ("--divide", "-3", "expected a number that is not negative"),
    "a tolerance without an end": ("--tolerance", "Infinity", "expected a number that is not negative"),
    "a month in words": ("--month", "november", "expected a month like 2026-11"),
    "a thirteenth month": ("--month", "2026-13", "expected a month like 2026-11"),
    "a negative window": ("--window", "-5", "not in the range x>=0"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_an_option_that_would_explain_everything_away_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option, value, message = WRONG_OPTIONS[name]
    (tmp_path / "bill").write_text("generation_id,cost_total\na,0.1\n")
    (tmp_path / "ledger").write_text("")
    assert main(["reconcile", str(tmp_path / "bill"), "--ledger", str(tmp_path / "ledger"), option, value]) == 2
    assert message in capsys.readouterr().err


def test_a_month_with_failures_leaves_nothing_unexplained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 % of the requests time out, others are retried, and replies are lost: the bill settles all of it."""
    chance, clock, jobs = Random(18), NOVEMBER, count()
    faults = (
        ["ok"] * 80
        + ["timeout"] * 4
        + ["silent"] * 1
        + ["lost"] * 2
        + ["broken"] * 3
        + ["busy"] * 6
        + ["refused"] * 4
        + ["text"] * 2
    )

    async def simulate() -> BillingUpstream:
        nonlocal clock
        monkeypatch.setattr("app.jobs.pipeline_io.time.time", lambda: clock)
        upstream = BillingUpstream(
            lambda: chance.choice(faults), lambda: chance.choice(["0.04", "0.0345", "0.17"]), now=lambda: clock + 40
        )
        async with billed_limner(upstream, tmp_path, retry_ambiguous=True, upstream_attempts=4) as limner:
            for number in jobs:
                clock += chance.expovariate(1 / 6000)
                if clock > NOVEMBER + 30 * 86_400:
                    return upstream
                await limner.generate(prompt=f"fox {number}", n=chance.choice([1, 1, 1, 2]))
        raise AssertionError

    upstream = asyncio.run(simulate())
    (tmp_path / "bill.csv").write_text(write_csv(upstream.bill))
    result = compare_files(tmp_path / "bill.csv", [tmp_path / "ledger.jsonl"])
    assert len(upstream.bill) > 300
    assert len(result.settled) > 10
    assert len(result.unbilled_unknowns) > 1
    assert result.bill_total == sum(Decimal(each["cost_total"]) for each in upstream.bill)
    assert as_document(result)["unexplained"] == "0"
    assert [result.unknown_rows, result.different, result.unbilled] == [[], [], []]
