"""Sum up the records of requests by hour and by key, for the status page.

With a ledger file the records of all workers count, and those from before a restart; otherwise those of this process.
"""

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from app.observability.logging import log

#: Hours that are remembered.
MAX_HOURS = 48

#: Keys for each hour; what others have used counts as theirs together, under the name `other`.
MAX_KEYS = 200

#: Bytes of a ledger that are read at first: about 60,000 requests.
MAX_FIRST_READ = 32 * 2**20

#: Bytes that are read in one step after that.
_READ_SIZE = 4 * 2**20

#: The ratio between two bounds of the times that are counted: a percentile is right to a tenth.
_STEP = math.log(1.1)


@dataclass(slots=True)
class Sums:
    """What some requests have brought and cost. `times` counts requests by the logarithm of their seconds."""

    requests: int = 0
    failures: int = 0
    images: int = 0
    costs: Counter[str] = field(default_factory=Counter)
    times: Counter[int] = field(default_factory=Counter)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add one record of the ledger. It is read completely first, so that an invalid one changes nothing."""
        is_failure, images = entry["outcome"] not in {"ok", "client_gone"}, int(entry.get("images", 0))
        has_run, cost = "images" in entry, _decimal(entry.get("cost"))
        step = round(math.log(max(entry["seconds"]["total"], 0.001)) / _STEP) if has_run else 0
        self.requests += 1
        self.failures += is_failure
        self.images += images
        if has_run:
            self.times[step] += 1
        if cost is not None:
            self.costs[str(entry.get("currency") or "")] += cost  # type: ignore[assignment]  # a Counter of decimals

    def merge(self, other: "Sums") -> None:
        """Add other sums to these."""
        self.requests += other.requests
        self.failures += other.failures
        self.images += other.images
        self.costs.update(other.costs)
        self.times.update(other.times)

    def report(self) -> dict[str, Any]:
        """Return the sums as JSON values; times are those of requests that ran, in seconds."""
        return {
            "requests": self.requests,
            "failures": self.failures,
            "images": self.images,
            "costs": {currency: str(cost) for currency, cost in sorted(self.costs.items())},
            "median_seconds": self._percentile(0.5),
            "p95_seconds": self._percentile(0.95),
        }

    def _percentile(self, part: float) -> float | None:
        left = part * self.times.total()
        for step, count in sorted(self.times.items()):
            left -= count
            if left <= 0:
                return round(math.exp(step * _STEP), 3)
        return None


@lru_cache(2)
def name_hour(hour: int) -> str:
    """Return the name of an hour since 1970, as records have it: the same for thousands of them."""
    return f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%dT%H}"


class HourlySummary:
    """Sums of the last two days, by the hour in UTC and by key."""

    def __init__(self) -> None:
        self._hours: OrderedDict[str, dict[str, Sums]] = OrderedDict()

    def add(self, entry: Mapping[str, Any], hour: str | None = None) -> None:
        """Add one record of the ledger. Records older than the hours that are remembered are left out.

        `hour`: the hour of the record in UTC, where it is known already.

        Raises:
            KeyError, TypeError, ValueError: It is no such record.
        """
        name = str(entry["key"])
        if hour is None:
            hour = f"{datetime.fromisoformat(entry['at']).astimezone(UTC):%Y-%m-%dT%H}"
        if hour not in self._hours:
            if len(self._hours) >= MAX_HOURS and hour < min(self._hours):
                return
            self._hours[hour] = {}
            while len(self._hours) > MAX_HOURS:
                del self._hours[min(self._hours)]
        keys = self._hours[hour]
        name = name if name in keys or len(keys) < MAX_KEYS else "other"
        sums = keys.get(name) or Sums()
        sums.add(entry)
        keys[name] = sums

    def report(self, now: datetime, hours: int = 24) -> dict[str, Any]:
        """Return the sums of the last hours, the oldest first, of all keys together and of each key over all hours."""
        names = [f"{now.astimezone(UTC) - timedelta(hours=back):%Y-%m-%dT%H}" for back in range(hours - 1, -1, -1)]
        keys: dict[str, Sums] = {}
        rows = []
        for name in names:
            total = Sums()
            for key, sums in self._hours.get(name, {}).items():
                total.merge(sums)
                keys.setdefault(key, Sums()).merge(sums)
            rows.append({"hour": f"{name}:00:00Z", **total.report()})
        by_use = sorted(keys.items(), key=lambda item: (-item[1].requests, item[0]))
        return {"hours": rows, "keys": [{"name": key, **sums.report()} for key, sums in by_use]}


class LedgerFollower:
    """Read what has been appended to a ledger file since the last time, also after the file was rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_id: tuple[int, int] | None = None
        self._offset = 0

    def new_entries(self) -> Iterator[Mapping[str, Any]]:
        """Yield the new records. Lines that are not JSON objects are left out; a line without its end is read later.

        Raises:
            OSError: The file cannot be read.
        """
        with self._path.open("rb") as file:
            status = self._path.stat()
            if (status.st_dev, status.st_ino) != self._file_id or status.st_size < self._offset:
                self._file_id = status.st_dev, status.st_ino
                self._offset = max(0, status.st_size - MAX_FIRST_READ)
            while True:
                file.seek(self._offset)
                chunk = file.read(_READ_SIZE)
                end = chunk.rfind(b"\n") + 1
                if end == 0:
                    return
                self._offset += end
                yield from _parse(chunk[:end].splitlines())


class HourlyReports:
    """What the status page shows of the last day: from the ledger file if there is one, else from this process."""

    def __init__(self, summary: HourlySummary, ledger: Path | None) -> None:
        """`summary`: gets the records of this process unless there is a ledger file."""
        self._summary = summary
        self._follower = None if ledger is None else LedgerFollower(ledger)
        self._lock = asyncio.Lock()

    async def read(self, now: datetime) -> dict[str, Any]:
        """Return the report. A ledger that cannot be read is logged, and what was read before is shown."""
        async with self._lock:
            if self._follower is not None:
                await asyncio.to_thread(self._catch_up, self._follower)
        return self._summary.report(now)

    def _catch_up(self, follower: LedgerFollower) -> None:
        try:
            for entry in follower.new_entries():
                # Lines of other programs, or of another version.
                with suppress(KeyError, TypeError, ValueError):
                    self._summary.add(entry)
        except FileNotFoundError:
            # There was no request yet, or the file has just been rotated.
            return
        except OSError as error:
            log.warning("ledger_read_failed", reason=str(error))


def _parse(lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            yield entry


def _decimal(value: object) -> Decimal | None:
    try:
        return None if value is None else Decimal(str(value))
    except InvalidOperation:
        return None
