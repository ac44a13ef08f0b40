"""`limner ledger`: sum up what requests have cost and brought, by key, day, outcome or model."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.messages import print_error

#: The group of a ledger line. A line has no model if the request was refused before its body was read.
GROUPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "key": lambda entry: str(entry["key"]),
    "day": lambda entry: str(entry["at"])[:10],
    "outcome": lambda entry: str(entry["outcome"]),
    "model": lambda entry: str(entry.get("model") or "-"),
}

_COLUMNS = ("requests", "ok", "joined", "images", "attempts", "tokens in", "tokens out", "MB in", "MB out", "mean s")


@click.command("ledger")
@click.argument("file", default="-", type=click.Path())
@click.option(
    "--by", type=click.Choice([*GROUPS]), default="key", show_default=True, help="One line for each of these."
)
def command(file: str, by: str) -> int:
    """Sum up what LIMNER_LEDGER has recorded.

    FILE is the ledger. Without FILE the standard input is read.
    """
    return report_ledger(file, by)


def report_ledger(file: str, by: str) -> int:
    """Print the table and return the exit code: 0, or 2 if the file cannot be read. `-` is the standard input."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as lines:
            table = summarize(lines, by)
    except OSError as error:
        print_error("ledger", f"{file}: {error.strerror}")
        return 2
    print("\n".join(table))
    return 0


def summarize(lines: Iterable[bytes], by: str) -> list[str]:
    """Return the lines of a table, the total last. Ledger lines that cannot be read are counted below it."""
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    unreadable = 0
    for line in lines:
        try:
            entry = orjson.loads(line)
            group, figures = GROUPS[by](entry), read_figures(entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += bool(line.strip())
            continue
        sums[group].update(figures)
    rows = [format_row(name, sums[name]) for name in sorted(sums)]
    total: Counter[str] = Counter()
    for group in sums:
        total.update(sums[group])
    table = align_columns([(by, *_COLUMNS), *rows, format_row("all", total)])
    return [*table, f"{unreadable} lines cannot be read"] if unreadable else table


def read_figures(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the columns of one ledger line. A joined request has no costs: they are in the line of the other one."""
    usage = entry.get("usage") or {}
    figures = {
        "requests": 1,
        "ok": entry["outcome"] == "ok",
        "joined": "joined" in entry,
        "images": entry.get("images", 0),
        "attempts": entry.get("attempts", 0),
        "tokens in": usage.get("input_tokens", 0),
        "tokens out": usage.get("output_tokens", 0),
        "MB in": entry["bytes_in"],
        "MB out": entry["bytes_out"],
        "mean s": entry["seconds"]["total"],
    }
    return {name: float(figure) for name, figure in figures.items()}


def format_row(name: str, figures: Mapping[str, float]) -> tuple[str, ...]:
    def cell(column: str) -> str:
        figure = figures.get(column, 0)
        if column.startswith("MB"):
            return f"{figure / 1e6:,.1f}"
        if column.startswith("mean"):
            return f"{figure / max(1, figures.get('requests', 0)):,.1f}"
        return f"{figure:,.0f}"

    return (name, *map(cell, _COLUMNS))


def align_columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Align names to the left and figures to the right."""
    rows = list(rows)
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join((name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))))
        for name, *cells in rows
    ]
