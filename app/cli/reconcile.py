"""`limner reconcile`: compare what the ledger says with the bill of an upstream, row by row."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.bills import PRESETS, BillRow, InvalidBill, choose_columns, parse_rows, read_bill
from app.cli.ledger import align_columns
from app.cli.messages import print_error
from app.protocol.money import write_amount

#: Seconds by which the clocks of both sides may differ.
_SKEW = 60.0

#: Rows of each kind that the table lists.
_MAX_LISTED = 20

_ZERO = Decimal(0)


@dataclass(eq=False, slots=True)
class LedgerCost:
    """Something that the ledger says may have been paid for: an attempt, or a job whose replica has died.

    Attributes:
        amount: None where the ledger does not know it.
        start, end: When the upstream worked on it, in seconds since 1970.
        capacity: How many rows of a bill it may have.
        billed: What the bill says of it.
    """

    request_id: str
    ids: tuple[str, ...]
    amount: Decimal | None
    start: float
    end: float
    model: str = ""
    capacity: int = 1
    billed: list[BillRow] = field(default_factory=list)

    @property
    def billed_amount(self) -> Decimal:
        return sum((row.amount for row in self.billed), _ZERO)

    def may_be(self, row: BillRow, window: float) -> bool:
        """Return whether a row without a known id may be for this: its time and its model fit."""
        fits = not row.model or not self.model or row.model.startswith(self.model) or self.model.startswith(row.model)
        is_timely = row.at is not None and self.start - _SKEW <= row.at <= self.end + window
        return fits and is_timely and len(self.billed) < self.capacity

    def as_fields(self) -> dict[str, Any]:
        """Return what a report shows."""
        known = None if self.amount is None else write_amount(self.amount)
        billed = signed(self.billed_amount)
        return {
            "request_id": self.request_id,
            "ids": list(self.ids),
            "at": iso(self.start),
            "ledger": known,
            "bill": billed,
        }


@dataclass(slots=True)
class Reconciliation:
    """What became of each row of the bill and of the ledger.

    Attributes:
        matched: Both say the same.
        different: Both know the request and say different amounts.
        settled: The ledger did not know the cost, and the bill says it.
        unbilled_unknowns: The ledger did not know the cost, and the bill has nothing: it cost nothing.
        unbilled: The ledger knows a cost that the bill does not have.
        unknown_rows: Rows of the bill that the ledger knows nothing of.
    """

    bill_total: Decimal = _ZERO
    matched: list[LedgerCost] = field(default_factory=list)
    different: list[LedgerCost] = field(default_factory=list)
    settled: list[LedgerCost] = field(default_factory=list)
    unbilled_unknowns: list[LedgerCost] = field(default_factory=list)
    unbilled: list[LedgerCost] = field(default_factory=list)
    unknown_rows: list[BillRow] = field(default_factory=list)

    @property
    def explained(self) -> Decimal:
        """What the bill would be by the ledger, once the bill has settled what the ledger did not know."""
        known = sum((cost.amount or _ZERO for cost in (*self.different, *self.unbilled)), _ZERO)
        return known + sum((cost.billed_amount for cost in (*self.matched, *self.settled)), _ZERO)

    @property
    def unexplained(self) -> Decimal:
        return self.bill_total - self.explained


def reconcile(
    costs: Sequence[LedgerCost], rows: Sequence[BillRow], window: float, tolerance: Decimal
) -> Reconciliation:
    """Join both sides by the upstream's ids, then what is left by time and model.

    Costs that share an id are compared together. `window`: seconds that a row may be later than its request.
    """
    left = _join_by_id(costs, rows)
    unknown = [cost for cost in costs if cost.amount is None and not cost.billed]
    result = Reconciliation(sum((row.amount for row in rows), _ZERO))
    for row in sorted(left, key=lambda each: each.at or 0.0):
        fitting = [cost for cost in unknown if cost.may_be(row, window)]
        # Of several, the one that ends first: the others may fit a later row, too.
        if fitting:
            min(fitting, key=lambda cost: cost.end).billed.append(row)
        else:
            result.unknown_rows.append(row)
    for cost in costs:
        if cost.amount is None:
            (result.settled if cost.billed else result.unbilled_unknowns).append(cost)
        elif cost.billed:
            is_same = abs(cost.billed_amount - cost.amount) <= tolerance
            (result.matched if is_same else result.different).append(cost)
        elif cost.amount:
            result.unbilled.append(cost)
    return result


def _join_by_id(costs: Sequence[LedgerCost], rows: Sequence[BillRow]) -> list[BillRow]:
    """Give each row to the costs with its id, and return the rows without any."""
    by_id: defaultdict[str, list[LedgerCost]] = defaultdict(list)
    for cost in costs:
        for each in dict.fromkeys((*cost.ids, cost.request_id)):
            by_id[each].append(cost)
    left = []
    for row in rows:
        owners = next((by_id[each] for each in row.ids if each in by_id), [])
        if owners:
            # Several chat requests of one request may share an id; each takes the row that fits it best.
            min(owners, key=lambda cost: _misfit(cost, row)).billed.append(row)
        else:
            left.append(row)
    return left


def _misfit(cost: LedgerCost, row: BillRow) -> tuple[bool, Decimal]:
    missing = (row.amount if cost.amount is None else cost.amount) - cost.billed_amount
    return bool(cost.billed) and row.amount > 0, abs(missing - row.amount)


def read_costs(lines: Iterable[bytes], upstream: str | None) -> Iterator[LedgerCost]:
    """Yield what the lines of a ledger say of costs. Lines that cannot be read are left out.

    A job whose replica has died has no line of its own: only the requests that have waited for it report it.
    """
    lost: set[str] = set()
    for line in lines:
        try:
            entry = orjson.loads(line)
            yield from _attempts(entry, upstream)
            job_id = str(entry.get("joined") or entry["request_id"])
            if entry["outcome"] == "question_lost" and "upstream_attempts" not in entry and job_id not in lost:
                lost.add(job_id)
                yield _lost_job(entry, job_id)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _attempts(entry: Mapping[str, Any], upstream: str | None) -> Iterator[LedgerCost]:
    for attempt in entry.get("upstream_attempts", ()):
        if upstream in {None, attempt["upstream"]}:
            amount = None if attempt["cost"] is None else Decimal(attempt["cost"])
            ids = tuple(attempt["ids"])
            yield LedgerCost(
                entry["request_id"], ids, amount, attempt["at"], max(attempt["at"], _ended_at(entry)), attempt["model"]
            )


def _lost_job(entry: Mapping[str, Any], job_id: str) -> LedgerCost:
    # It began before the request that reports it, at most by the time for which replicas work on a request.
    ended_at = _ended_at(entry)
    began_at = ended_at - entry["seconds"]["total"] - 3600
    return LedgerCost(job_id, (job_id,), None, began_at, ended_at, capacity=int(entry.get("n") or 1))


def _ended_at(entry: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp()


def in_month(at: float | None, month: str | None) -> bool:
    """Return whether a time is in a month like `2026-11`, in UTC. What has no time is in every month."""
    return month is None or at is None or f"{datetime.fromtimestamp(at, UTC):%Y-%m}" == month


def as_document(result: Reconciliation) -> dict[str, Any]:
    """Return the whole report as JSON values, amounts as texts."""
    kinds = ("matched", "different", "settled", "unbilled_unknowns", "unbilled")
    rows = [
        {"row": row.number, "ids": list(row.ids), "at": iso(row.at), "bill": signed(row.amount)}
        for row in result.unknown_rows
    ]
    return {
        "bill": signed(result.bill_total),
        "explained": signed(result.explained),
        "unexplained": signed(result.unexplained),
        **{kind: [cost.as_fields() for cost in getattr(result, kind)] for kind in kinds},
        "unknown_rows": rows,
    }


def as_table(result: Reconciliation) -> list[str]:
    """Return the lines of the sums, and below them the rows that need a look."""
    kinds: dict[str, Sequence[LedgerCost]] = {
        "matched": result.matched,
        "different amounts": result.different,
        "unknown outcomes, billed": result.settled,
        "unknown outcomes, not billed": result.unbilled_unknowns,
        "in the ledger, not billed": result.unbilled,
    }
    table = [("", "rows", "ledger", "bill")]
    for name, costs in kinds.items():
        ledger = sum((cost.amount or _ZERO for cost in costs), _ZERO)
        table.append((name, str(len(costs)), cents(ledger), cents(sum((cost.billed_amount for cost in costs), _ZERO))))
    unknown = sum((row.amount for row in result.unknown_rows), _ZERO)
    table.append(("billed, not in the ledger", str(len(result.unknown_rows)), cents(_ZERO), cents(unknown)))
    table.append(("all", "", cents(result.explained), cents(result.bill_total)))
    lines = [*align_columns(table), f"unexplained: {cents(result.unexplained)}"]
    for name in ("different amounts", "in the ledger, not billed"):
        lines += _listed(name, [" ".join(_shown(cost)) for cost in kinds[name]])
    rows = [
        f"row {row.number}  {iso(row.at) or '-'}  {signed(row.amount)}  {', '.join(row.ids)}"
        for row in result.unknown_rows
    ]
    return lines + _listed("billed, not in the ledger", rows)


def _shown(cost: LedgerCost) -> Iterator[str]:
    fields = cost.as_fields()
    yield f"{fields['at']}  {fields['request_id']}  ledger {fields['ledger']}, bill {fields['bill']}"
    yield f" {', '.join(cost.ids)}"


def _listed(name: str, rows: Sequence[str]) -> list[str]:
    if not rows:
        return []
    more = [f"  and {len(rows) - _MAX_LISTED} more: see --json"] if len(rows) > _MAX_LISTED else []
    return ["", f"{name}:", *(f"  {row}" for row in rows[:_MAX_LISTED]), *more]


def signed(amount: Decimal) -> str:
    """Write an amount that may be negative."""
    return f"-{write_amount(-amount)}" if amount < 0 else write_amount(amount)


def cents(amount: Decimal) -> str:
    """Write an amount with at least two digits behind the point, and as many as it has."""
    text = signed(amount)
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"


def iso(at: float | None) -> str | None:
    """Return a time as text, in UTC."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _parse_columns(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    columns = dict(each.partition("=")[::2] for each in given)
    if not columns.keys() <= {"id", "cost", "at", "model"} or not all(columns.values()):
        raise click.BadParameter("expected id=NAME, cost=NAME, at=NAME or model=NAME")
    return columns


def _parse_divisor(_: click.Context, __: click.Parameter, text: str | None) -> Decimal | None:
    number = None if text is None else _read_number(text)
    if number == 0:
        raise click.BadParameter("expected a number above 0")
    return number


def _parse_tolerance(_: click.Context, __: click.Parameter, text: str) -> Decimal:
    return _read_number(text)


def _read_number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except ArithmeticError:
        number = Decimal("nan")
    if not number.is_finite() or number < 0:
        raise click.BadParameter("expected a number that is not negative")
    return number


def _parse_month(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    # In a month that does not exist nothing differs, which would look as if all were well.
    if text is not None and not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", text):
        raise click.BadParameter("expected a month like 2026-11")
    return text


@click.command("reconcile")
@click.argument("bill", type=click.Path(path_type=Path))
@click.option(
    "--ledger",
    "ledgers",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The ledger; may be repeated, for files that were rotated.",
)
@click.option("--preset", type=click.Choice([*PRESETS]), help="Whose bill it is. By default its columns tell.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_parse_columns,
    metavar="WHAT=NAME",
    help="A column of the bill: id=NAME, cost=NAME, at=NAME, model=NAME. NAME+NAME for several.",
)
@click.option(
    "--divide",
    callback=_parse_divisor,
    metavar="N",
    help="Divide the costs of the bill by this: by 100 if it has cents.",
)
@click.option("--upstream", metavar="NAME", help="Compare only attempts at the upstream of this name.")
@click.option("--month", callback=_parse_month, metavar="YYYY-MM", help="Compare only this month, in UTC.")
@click.option(
    "--window",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Without an id: how much later than its request a row of the bill may be.",
)
@click.option(
    "--tolerance",
    default="0",
    callback=_parse_tolerance,
    metavar="AMOUNT",
    help="Two amounts that differ by no more count as equal. [default: 0]",
)
@click.option("--json", "is_json", is_flag=True, help="Print everything as JSON.")
def command(bill: Path, ledgers: Sequence[Path], is_json: bool, **options: Any) -> int:
    """Compare the ledger with the bill of an upstream.

    BILL is a file of CSV or JSON.
    """
    try:
        result = compare_files(bill, ledgers, **options)
    except InvalidBill as error:
        print_error("reconcile", f"{bill}: {error}")
        return 2
    except OSError as error:
        print_error("reconcile", f"{error.filename}: {error.strerror}")
        return 2
    if is_json:
        sys.stdout.write(
            orjson.dumps(as_document(result), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
        )
    else:
        print("\n".join(as_table(result)))
    return int(result.unexplained != 0)


def compare_files(
    bill: Path,
    ledgers: Sequence[Path],
    *,
    preset: str | None = None,
    columns: Mapping[str, str] | None = None,
    divide: Decimal | None = None,
    upstream: str | None = None,
    month: str | None = None,
    window: float = 600.0,
    tolerance: Decimal = _ZERO,
) -> Reconciliation:
    """Read both sides and compare them.

    Raises:
        InvalidBill: The bill cannot be used.
        OSError: A file cannot be read.
    """
    costs: list[LedgerCost] = []
    for path in ledgers:
        with path.open("rb") as lines:
            costs += (cost for cost in read_costs(lines, upstream) if in_month(cost.start, month))
    table = read_bill(bill)
    chosen = choose_columns(preset, columns or {}, divide, table[0] if table else (columns or {}).values())
    rows = [row for row in parse_rows(table, chosen) if in_month(row.at, month)]
    return reconcile(costs, rows, window, tolerance)
