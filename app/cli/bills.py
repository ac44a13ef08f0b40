"""Read the bill of an upstream: CSV or JSON, by the names of its columns."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

#: Numbers above this are milliseconds since 1970, not seconds.
_MAX_SECONDS = 10**11

#: How deep the list of rows may lie in a JSON document.
_MAX_DEPTH = 4

_AMOUNT = re.compile(r"(-?)[$€£¥]?\s*([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?)\s*[A-Za-z]{0,3}")
#: Unlike orjson, it keeps the digits of fractions.
_DECODER = json.JSONDecoder(parse_float=Decimal)

_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?:[,.]|$))")


class InvalidBill(ValueError):
    """The bill cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a bill says what. Several columns of ids are alternatives; several columns of costs are added.

    Attributes:
        divide: What the costs are divided by to get the currency.
        signs: What each value of the column `kind` means: 1 a charge, -1 a refund. Other rows are not part of the bill.
    """

    ids: tuple[str, ...]
    costs: tuple[str, ...]
    at: str = ""
    model: str = ""
    divide: Decimal = Decimal(1)
    kind: str = ""
    signs: Mapping[str, int] | None = None


#: OpenRouter's activity export, and the log of new-api and its relatives, which count half a million to the dollar.
PRESETS = {
    "openrouter": Columns(("generation_id",), ("cost_total", "byok_usage_inference"), "created_at", "model_permaslug"),
    "new-api": Columns(
        ("request_id", "upstream_request_id"),
        ("quota",),
        "created_at",
        "model_name",
        Decimal(500_000),
        "type",
        {"2": 1, "6": -1},
    ),
}


@dataclass(frozen=True, slots=True)
class BillRow:
    """One row of a bill. `number` counts from 1; `at` is in seconds since 1970, None where it is unknown."""

    number: int
    ids: tuple[str, ...]
    amount: Decimal
    at: float | None = None
    model: str = ""


def choose_columns(
    preset: str | None, given: Mapping[str, str], divide: Decimal | None, names: Iterable[str]
) -> Columns:
    """Return the columns of a bill: those of the preset, or of the one that fits, with those that are given.

    Raises:
        InvalidBill: No preset fits, and the columns of the id and of the cost are not given.
    """
    found = set(names)
    fitting = (columns for columns in PRESETS.values() if {columns.ids[0], columns.costs[0]} <= found)
    columns = PRESETS[preset] if preset is not None else next(fitting, Columns((), ()))
    changes: dict[str, Any] = {name: given[name] for name in ("at", "model") if name in given}
    changes |= {f"{name}s": tuple(given[name].split("+")) for name in ("id", "cost") if name in given}
    changes |= {} if divide is None else {"divide": divide}
    columns = replace(columns, **changes)
    if not columns.ids or not columns.costs:
        raise InvalidBill(f"name its columns of ids and costs by --column; it has {', '.join(sorted(found)) or 'none'}")
    if missing := {*columns.costs[:1]} - found:
        raise InvalidBill(f"it has no column {', '.join(missing)}, only {', '.join(sorted(found))}")
    return columns


def read_bill(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a bill as they are.

    Raises:
        InvalidBill: The file is neither CSV nor JSON with rows.
        OSError: It cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidBill("it is not UTF-8") from None
    if text.lstrip()[:1] in {"{", "["}:
        rows = _find_rows(_read_json(text))
        if rows is None:
            raise InvalidBill("its JSON has no list of rows")
        return rows
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)]


def _read_json(text: str) -> Any:
    """Parse JSON, or a JSON object on each line. Numbers keep their digits."""
    documents, position = [], 0
    try:
        while match := re.compile(r"\S").search(text, position):
            document, position = _DECODER.raw_decode(text, match.start())
            documents.append(document)
    except (ValueError, RecursionError) as error:
        raise InvalidBill(f"it is not JSON: {error}") from None
    return documents[0] if len(documents) == 1 else documents


def _find_rows(document: Any, depth: int = 0) -> list[dict[str, Any]] | None:
    """Return the first list of objects; a document that is nothing but its envelope has none."""
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        nested = _find_rows(document[0], depth + 1) if len(document) == 1 else None
        return nested or document
    if not isinstance(document, dict) or depth > _MAX_DEPTH:
        return None
    return next((rows for value in document.values() if (rows := _find_rows(value, depth + 1)) is not None), None)


def parse_rows(rows: Iterable[Mapping[str, Any]], columns: Columns) -> Iterator[BillRow]:
    """Yield the rows that charge or refund something.

    Raises:
        InvalidBill: A row has no amount or no time that can be read.
    """
    for number, row in enumerate(rows, 1):
        sign = 1
        if columns.signs is not None and row.get(columns.kind) not in {None, ""}:
            sign = columns.signs.get(str(row[columns.kind]), 0)
        amount = sign * sum((_amount(row.get(name), number) for name in columns.costs), Decimal(0)) / columns.divide
        ids = tuple(str(row[name]) for name in columns.ids if row.get(name))
        if amount or (ids and sign):
            at, model = _time(row.get(columns.at), number), row.get(columns.model)
            yield BillRow(number, ids, amount, at, str(model or ""))


def _amount(value: Any, number: int) -> Decimal:
    if value is None or value == "":
        return Decimal(0)
    match = _AMOUNT.fullmatch(_THOUSANDS.sub("", str(value).strip()))
    if match is None or isinstance(value, bool):
        raise InvalidBill(f"row {number}: no amount: {str(value)[:40]!r}")
    return Decimal(match[1] + match[2])


def _time(value: Any, number: int) -> float | None:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if re.fullmatch(r"[0-9]{1,16}(\.[0-9]{1,9})?", text):
        seconds = float(text)
        return seconds / 1000 if seconds > _MAX_SECONDS else seconds
    try:
        moment = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        raise InvalidBill(f"row {number}: no time: {text[:40]!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
