"""The ledger in sums: what was asked and what it took, by key, day, outcome or model."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson

#: How lines are put together. A line without a model is that of a request that was refused before it was read.
GROUPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "key": lambda entry: str(entry["key"]),
    "day": lambda entry: str(entry["at"])[:10],
    "outcome": lambda entry: str(entry["outcome"]),
    "model": lambda entry: str(entry.get("model") or "-"),
}

_COLUMNS = ("questions", "ok", "joined", "images", "attempts", "tokens in", "tokens out", "MB in", "MB out", "mean s")


def report_ledger(file: str, by: str) -> int:
    """The exit code: 0 well, 2 no such file. `-` is the standard input."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as lines:
            print("\n".join(summarize(lines, by)))
    except OSError as error:
        print(f"limner ledger: {file}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def summarize(lines: Iterable[bytes], by: str) -> list[str]:
    """The lines of a table, the sum of all last; lines that nobody can read are counted below."""
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
    """What a request that joined another's has cost stands in the other's line."""
    usage = entry.get("usage") or {}
    figures = {
        "questions": 1,
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
            return f"{figure / max(1, figures.get('questions', 0)):,.1f}"
        return f"{figure:,.0f}"

    return (name, *map(cell, _COLUMNS))


def align_columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Names to the left, figures to the right."""
    rows = list(rows)
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join((name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))))
        for name, *cells in rows
    ]
