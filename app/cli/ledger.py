"""`limner ledger`: sum up what requests have cost and brought, by key, day, outcome or model."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.messages import print_error
from app.protocol.attempt_costs import CostSource
from app.protocol.money import parse_amount, write_amount

#: The group of a ledger line. A line has no model if the request was refused before its body was read.
GROUPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "key": lambda entry: str(entry["key"]),
    "day": lambda entry: str(entry["at"])[:10],
    "outcome": lambda entry: str(entry["outcome"]),
    "model": lambda entry: str(entry.get("model") or "-"),
}

#: Figures of a line: the name in JSON, and the column of the table.
_FIGURES = {
    "requests": "requests",
    "ok": "ok",
    "joined": "joined",
    "images": "images",
    "attempts": "attempts",
    "input_tokens": "tokens in",
    "output_tokens": "tokens out",
    "bytes_in": "MB in",
    "bytes_out": "MB out",
    "mean_seconds": "mean s",
}
_COLUMNS = (*_FIGURES.values(), "cost", "currency", "source")


@dataclass(slots=True)
class LedgerSum:
    """What several lines say together.

    Attributes:
        figures: Sums, but of seconds the total: the mean follows.
        costs: Exact sums of what is known, by currency.
        sources: How many lines say so of their cost.
    """

    figures: Counter[str] = field(default_factory=Counter)
    costs: dict[str, Decimal] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, other: "LedgerSum") -> None:
        self.figures.update(other.figures)
        self.sources.update(other.sources)
        for currency, cost in other.costs.items():
            self.costs[currency] = self.costs.get(currency, Decimal(0)) + cost

    @property
    def source(self) -> str | None:
        """The weakest source of a part of the cost; None where nothing has a cost."""
        return next((str(source) for source in reversed(CostSource) if self.sources[source]), None)

    def as_document(self) -> dict[str, Any]:
        """Return the sums for JSON."""
        figures = {name: int(self.figures[name]) for name in _FIGURES}
        return {
            **figures,
            "mean_seconds": round(self.mean_seconds, 3),
            "costs": {currency: write_amount(cost) for currency, cost in sorted(self.costs.items())},
            "cost_source": self.source,
            "unknown_costs": self.sources[CostSource.UNKNOWN],
        }

    @property
    def mean_seconds(self) -> float:
        return self.figures["mean_seconds"] / max(1, self.figures["requests"])

    def as_row(self, name: str) -> tuple[str, ...]:
        """Return the cells of a line of the table."""
        costs = sorted(self.costs.items())
        return (
            name,
            *map(self._cell, _FIGURES),
            " + ".join(write_amount(cost) for _, cost in costs) or "-",
            " + ".join(currency for currency, _ in costs) or "-",
            self.source or "-",
        )

    def _cell(self, figure: str) -> str:
        if figure.startswith("bytes"):
            return f"{self.figures[figure] / 1e6:,.1f}"
        return f"{self.mean_seconds:,.1f}" if figure == "mean_seconds" else f"{self.figures[figure]:,.0f}"


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """The sums of a ledger by group, and the number of lines that cannot be read."""

    by: str
    groups: dict[str, LedgerSum]
    unreadable: int

    @property
    def total(self) -> LedgerSum:
        total = LedgerSum()
        for group in self.groups.values():
            total.add(group)
        return total

    def as_table(self) -> list[str]:
        """Return the lines of a table, the total last. Lines that cannot be read are counted below it."""
        rows = [self.groups[name].as_row(name) for name in sorted(self.groups)]
        table = align_columns([(self.by, *_COLUMNS), *rows, self.total.as_row("all")])
        unreadable = "1 line" if self.unreadable == 1 else f"{self.unreadable} lines"
        return [*table, f"{unreadable} cannot be read"] if self.unreadable else table

    def as_document(self) -> dict[str, Any]:
        """Return the sums for JSON."""
        return {
            "by": self.by,
            "groups": {name: self.groups[name].as_document() for name in sorted(self.groups)},
            "all": self.total.as_document(),
            "unreadable_lines": self.unreadable,
        }


@click.command("ledger")
@click.argument("file", default="-", type=click.Path())
@click.option(
    "--by", type=click.Choice([*GROUPS]), default="key", show_default=True, help="One line for each of these."
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, with exact amounts.")
def command(file: str, by: str, is_json: bool) -> int:
    """Sum up what LIMNER_LEDGER has recorded.

    FILE is the ledger. Without FILE the standard input is read.
    """
    if file == "-" and sys.stdin.isatty():
        print_error("ledger", "name the file of the ledger, or let another program write it to the standard input")
        return 2
    return report_ledger(file, by, is_json=is_json)


def report_ledger(file: str, by: str, *, is_json: bool = False) -> int:
    """Print the sums and return the exit code: 0, or 2 if the file cannot be read. `-` is the standard input."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as lines:
            summary = summarize(lines, by)
    except OSError as error:
        print_error("ledger", f"{file}: {error.strerror}")
        return 2
    if is_json:
        print(orjson.dumps(summary.as_document(), option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(summary.as_table()))
    return 0


def summarize(lines: Iterable[bytes], by: str) -> LedgerSummary:
    """Return the sums of ledger lines."""
    groups: defaultdict[str, LedgerSum] = defaultdict(LedgerSum)
    unreadable = 0
    for line in lines:
        try:
            entry = orjson.loads(line)
            group, sums = GROUPS[by](entry), read_entry(entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += bool(line.strip())
            continue
        groups[group].add(sums)
    return LedgerSummary(by, groups, unreadable)


def read_entry(entry: Mapping[str, Any]) -> LedgerSum:
    """Return what one ledger line says. A joined request has no costs: they are in the line of the other one."""
    usage = entry.get("usage") or {}
    figures = {
        "requests": 1,
        "ok": entry["outcome"] == "ok",
        "joined": "joined" in entry,
        "images": entry.get("images", 0),
        "attempts": entry.get("attempts", 0),
        "input_tokens": usage.get("input_tokens", 0),
        "output_tokens": usage.get("output_tokens", 0),
        "bytes_in": entry["bytes_in"],
        "bytes_out": entry["bytes_out"],
        "mean_seconds": entry["seconds"]["total"],
    }
    sums = LedgerSum(Counter({name: float(figure) for name, figure in figures.items()}))
    if entry.get("cost_source") is not None:
        sums.sources[CostSource(entry["cost_source"])] += 1
    if entry.get("cost") is not None:
        sums.costs[str(entry["currency"])] = _read_amount(entry["cost"])
    return sums


def _read_amount(value: object) -> Decimal:
    amount = parse_amount(value)
    if amount is None:
        raise ValueError("no amount of money")
    return amount


def align_columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Align names to the left and figures to the right."""
    rows = list(rows)
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join((name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))))
        for name, *cells in rows
    ]
