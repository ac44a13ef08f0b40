"""Sums of records by hour and key, and a ledger that is followed while it grows and is rotated."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.observability import hourly
from app.observability.hourly import HourlyReports, HourlySummary, LedgerFollower

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def entry(hours_ago: float = 0, key: str = "a", **fields: Any) -> dict[str, Any]:
    at = (NOW - timedelta(hours=hours_ago)).isoformat()
    return {"at": at, "key": key, "outcome": "ok", "images": 1, "seconds": {"total": 40.0}} | fields


def report(*entries: dict[str, Any], hours: int = 24) -> dict[str, Any]:
    summary = HourlySummary()
    for each in entries:
        summary.add(each)
    return summary.report(NOW, hours)


@dataclass(frozen=True, slots=True)
class Case:
    """`sums` are some of the figures of the last hour."""

    name: str
    entries: list[dict[str, Any]]
    sums: dict[str, Any] = field(default_factory=dict)


JOINED = {"outcome": "ok", "at": NOW.isoformat(), "key": "a", "seconds": {"total": 1.0}}
CASES = [
    Case("images and a failure", [entry(images=3), entry(images=0, outcome="moderation_blocked")], {"requests": 2, "images": 3, "failures": 1}),
    Case("a client that has left is no failure", [entry(outcome="client_gone")], {"requests": 1, "failures": 0}),
    Case("a request that has joined another brings no images and no time", [JOINED], {"requests": 1, "images": 0, "median_seconds": None}),
    Case("times to a tenth", [entry(seconds={"total": seconds}) for seconds in (10.0, 20.0, 100.0)], {"median_seconds": pytest.approx(20, rel=0.06), "p95_seconds": pytest.approx(100, rel=0.06)}),
    Case("no time at all", [entry(seconds={"total": 0.0})], {"median_seconds": pytest.approx(0.001, rel=0.06)}),
    Case("costs are added exactly, by currency", [entry(cost="0.1", currency="USD"), entry(cost="0.2", currency="USD"), entry(cost="1", currency="CNY")], {"costs": {"CNY": "1", "USD": "0.3"}}),
    Case("a cost that is a number", [entry(cost=0.25, currency="USD")], {"costs": {"USD": "0.25"}}),
    Case("a cost that is none", [entry(cost="much", currency="USD"), entry(cost=None)], {"costs": {}}),
    Case("an hour in another time zone", [entry() | {"at": "2026-03-01T13:05:00+01:00"}], {"requests": 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_records_are_summed_up(case: Case) -> None:
    last = report(*case.entries)["hours"][-1]
    assert last["hour"] == "2026-03-01T12:00:00Z"
    assert {name: last[name] for name in case.sums} == case.sums


def test_hours_without_requests_are_there_too() -> None:
    hours = report(entry(hours_ago=3), hours=4)["hours"]
    assert [(each["hour"][11:13], each["requests"]) for each in hours] == [("09", 1), ("10", 0), ("11", 0), ("12", 0)]


def test_an_hour_that_is_known_is_not_read_again() -> None:
    summary = HourlySummary()
    summary.add(entry() | {"at": "?"}, hour="2026-03-01T12")
    assert summary.report(NOW, 1)["hours"][0]["requests"] == 1


def test_keys_are_summed_over_the_hours_and_those_with_most_requests_come_first() -> None:
    keys = report(entry(key="b"), entry(5, key="b"), entry(key="a"), entry(key="c"), entry(30, key="old"))["keys"]
    assert [(each["name"], each["requests"]) for each in keys] == [("b", 2), ("a", 1), ("c", 1)]


def test_two_days_are_remembered() -> None:
    summary = HourlySummary()
    for hours in range(60):
        summary.add(entry(hours))
    summary.add(entry(-1))
    assert [row["requests"] for row in summary.report(NOW, 60)["hours"]] == [0] * 13 + [1] * 47


def test_keys_beyond_a_number_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hourly, "MAX_KEYS", 2)
    keys = report(*(entry(key=key) for key in "abcda"))["keys"]
    assert {each["name"]: each["requests"] for each in keys} == {"a": 2, "b": 1, "other": 2}


@pytest.mark.parametrize("broken", [{}, {"at": "yesterday"}, {"seconds": None}, {"outcome": []}])
def test_a_line_that_is_no_record_changes_nothing(broken: dict[str, Any]) -> None:
    summary = HourlySummary()
    line = {} if not broken else entry() | broken
    with pytest.raises((KeyError, TypeError, ValueError)):
        summary.add(line)
    assert summary.report(NOW)["keys"] == []


def lines(*numbers: int) -> bytes:
    return b"".join(orjson.dumps({"n": number}) + b"\n" for number in numbers)


def read(follower: LedgerFollower) -> list[int]:
    return [each["n"] for each in follower.new_entries()]


def test_a_ledger_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hourly, "_READ_SIZE", 40)
    file = tmp_path / "ledger"
    file.write_bytes(lines(*range(20)))
    follower = LedgerFollower(file)
    assert (read(follower), read(follower)) == (list(range(20)), [])
    with file.open("ab") as more:
        more.write(lines(20) + b'no JSON\n[1]\n{"n": 2')
    assert read(follower) == [20]
    with file.open("ab") as more:
        more.write(b"1}\n")
    assert read(follower) == [21]
    file.rename(tmp_path / "ledger.1")
    file.write_bytes(lines(22))
    assert read(follower) == [22]
    file.write_bytes(b"")
    file.write_bytes(lines(3))
    assert read(follower) in ([3], [])


def test_a_ledger_that_was_emptied_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    file.write_bytes(lines(1, 2, 3))
    follower = LedgerFollower(file)
    assert read(follower) == [1, 2, 3]
    file.write_bytes(lines(4))
    assert read(follower) == [4]


def test_only_the_end_of_a_large_ledger_is_read_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hourly, "MAX_FIRST_READ", 20)
    file = tmp_path / "ledger"
    file.write_bytes(lines(1, 2, 3, 4))
    assert read(LedgerFollower(file)) == [3, 4]


def read_report(reports: HourlyReports) -> dict[str, Any]:
    last: dict[str, Any] = asyncio.run(reports.read(NOW))["hours"][-1]
    return last


def test_the_report_comes_from_the_ledger(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    reports = HourlyReports(HourlySummary(), file)
    assert read_report(reports)["requests"] == 0
    file.write_bytes(orjson.dumps(entry()) + b'\n{"at": 1}\n')
    assert [read_report(reports)["requests"] for _ in range(2)] == [1, 1]


def test_a_ledger_that_cannot_be_read_shows_what_was_read_before(tmp_path: Path) -> None:
    summary = HourlySummary()
    summary.add(entry())
    assert read_report(HourlyReports(summary, tmp_path))["requests"] == 1


def test_without_a_ledger_the_report_is_that_of_this_process() -> None:
    summary = HourlySummary()
    summary.add(entry())
    assert read_report(HourlyReports(summary, None))["requests"] == 1
