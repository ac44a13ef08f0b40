"""The file of keys: who holds one and what it may do; read anew when the file changes."""

import hashlib
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from app.errors import UserError
from app.observability.logging import log
from app.protocol.sizes import Size, parse_size

#: Seconds between two looks at the file, at least; and since it was written to, so that nobody is in the midst of it.
_CHECK_INTERVAL = 1.0

_NEVER = datetime.max.replace(tzinfo=UTC)


class InvalidKeyFile(ValueError):
    """A file of keys that cannot be used; its text names each line and the reason."""


class Rate(NamedTuple):
    """So many in any stretch of one minute, hour or day."""

    amount: int
    period: str


def _parse_name(value: object) -> object:
    """It goes into logs and error messages."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", value):
        raise PydanticCustomError("name", "expected 1 to 64 letters, digits and the characters . _ @ -")
    return value


def _parse_digest(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise PydanticCustomError("digest", "expected the 64 hexadecimal digits of the key's SHA-256")
    return bytes.fromhex(value)


def _parse_rate(value: object) -> object:
    match = re.fullmatch(r"([1-9][0-9]{0,6})/(minute|hour|day)", value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError("rate", 'expected texts like "30/minute", "200/hour" or "500/day"')
    return Rate(int(match[1]), match[2])


def _check_rates(rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
    if len({rate.period for rate in rates}) < len(rates):
        raise PydanticCustomError("rates", "expected one limit at most for a minute, an hour and a day each")
    return rates


def _parse_size(value: object) -> object:
    try:
        size = parse_size(value) if isinstance(value, str) else None
    except UserError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": error.message}) from None
    if size is None:
        raise PydanticCustomError("size", 'expected a size like "1536x1024"')
    return size


def _parse_expiry(value: object) -> object:
    """A date is valid to its end; times without a zone, and dates, are those of UTC."""
    try:
        moment = _parse_date_or_time(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if isinstance(moment, datetime):
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not isinstance(moment, date):
        raise PydanticCustomError("end", "expected a date like 2027-01-31, or a date with a time")
    # The last day that there is stands for never.
    last = moment == date.max
    return _NEVER if last else datetime(moment.year, moment.month, moment.day, tzinfo=UTC) + timedelta(days=1)


def _parse_upstream(value: object, given: ValidationInfo) -> object:
    known = (given.context or {}).get("upstreams")
    if not isinstance(value, str) or (known is not None and value not in known):
        names = ", ".join(known or ())
        raise PydanticCustomError("upstream", "expected the name of an upstream: {names}", {"names": names})
    return value


def _parse_date_or_time(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)


Rates = Annotated[tuple[Annotated[Rate, BeforeValidator(_parse_rate)], ...], AfterValidator(_check_rates)]
ModelNames = tuple[Annotated[str, Field(min_length=1, max_length=256)], ...]
Amount = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]


class ClientKey(BaseModel):
    """One `[[keys]]` table. What it leaves out is not limited; `expires` is the first moment without the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    name: Annotated[str, BeforeValidator(_parse_name)]
    sha256: Annotated[bytes, BeforeValidator(_parse_digest)]
    requests: Rates = ()
    images: Rates = ()
    concurrency: Amount | None = None
    models: ModelNames = ()
    max_size: Annotated[Size, BeforeValidator(_parse_size)] | None = None
    max_quality: Literal["low", "medium", "high"] | None = None
    upstream: Annotated[str, BeforeValidator(_parse_upstream)] | None = None
    expires: Annotated[datetime, BeforeValidator(_parse_expiry)] | None = None
    monthly_images: Amount | None = None


class _FileVersion(NamedTuple):
    """What tells one state of a file from another; `written` is in nanoseconds."""

    modified_ns: int
    size: int
    inode: int


class KeyFile:
    """The rows of the file as it is now, or as it was when it was last fit to be read.

    `upstreams`: the names that a row may choose from.
    """

    def __init__(
        self,
        path: Path,
        upstreams: Collection[str] | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises KeysBroken."""
        self._path = path
        self._upstreams = upstreams
        self._monotonic, self._wall_clock = monotonic, wall_clock
        self._checked_at = monotonic()
        self._version = self._stat()
        self._keys = self._read()

    def lookup(self, digest: bytes) -> ClientKey | None:
        """By the SHA-256 of a key: how long that takes tells of digests only. Looks at the file once a second."""
        if self._monotonic() - self._checked_at >= _CHECK_INTERVAL:
            stamp = self._stat()
            if stamp != self._version and not self._was_just_written(stamp):
                self.reload()
        return self._keys.get(digest)

    def reload(self) -> None:
        """A broken file is complained of once, and changes nothing."""
        self._version = self._stat()
        try:
            self._keys = self._read()
        except InvalidKeyFile as error:
            log.error("key_file_rejected", path=str(self._path), reason=str(error))
        else:
            log.info("key_file_loaded", path=str(self._path), keys=len(self._keys))

    def _was_just_written(self, stamp: _FileVersion | None) -> bool:
        """Half of a file can be whole tables, without their last limits. A time that is yet to come says nothing."""
        return stamp is not None and 0 <= self._wall_clock() - stamp.modified_ns / 1e9 < _CHECK_INTERVAL

    def _stat(self) -> _FileVersion | None:
        self._checked_at = self._monotonic()
        try:
            found = self._path.stat()
        except OSError:
            return None
        return _FileVersion(found.st_mtime_ns, found.st_size, found.st_ino)

    def _read(self) -> dict[bytes, ClientKey]:
        try:
            return {row.sha256: row for row in parse_keys(self._path.read_text("utf-8"), self._upstreams)}
        except OSError as error:
            raise InvalidKeyFile(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidKeyFile("is not UTF-8") from None


def parse_keys(text: str, upstreams: Collection[str] | None = None) -> tuple[ClientKey, ...]:
    """Raises KeysBroken, with a part of its text for each thing that is wrong. Without `upstreams` any name will do."""
    try:
        document = tomllib.loads(text)
    except ValueError as error:
        # Of TOML, or a number with thousands of digits.
        raise InvalidKeyFile(str(error)) from None
    tables = document.pop("keys", [])
    if document or not isinstance(tables, list):
        raise InvalidKeyFile("expected [[keys]] tables and nothing else")
    places = _source_locations(text, len(tables))
    rows, wrong = list[ClientKey](), list[str]()
    for number, table in enumerate(tables):
        try:
            rows.append(ClientKey.model_validate(table, context={"upstreams": upstreams}))
        except ValidationError as error:
            wrong += _describe_errors(error, places[number])
    wrong += _find_duplicates(rows)
    if wrong:
        raise InvalidKeyFile("; ".join(wrong))
    return tuple(rows)


#: Where a table begins, and where each of its fields is; in words.
_SourceLocation = tuple[str, dict[str, str]]


def _source_locations(text: str, tables: int) -> list[_SourceLocation]:
    """Tables are counted where they are not written under headers of their own, as in `keys = [{...}]`."""
    places: list[_SourceLocation] = []
    for number, line in enumerate(text.splitlines(), 1):
        field = re.match(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=", line)
        if re.match(r"\s*\[\[\s*[\"']?keys[\"']?\s*\]\]", line):
            places.append((f"line {number}", {}))
        elif places and field:
            places[-1][1].setdefault(field[1], f"line {number}")
    return places if len(places) == tables else [(f"table {number}", {}) for number in range(1, tables + 1)]


def _describe_errors(error: ValidationError, place: _SourceLocation) -> Iterator[str]:
    start, fields = place
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(problem["loc"][0]) if problem["loc"] else "keys"
        yield f"{fields.get(field, start)}: {field}: {problem['msg']}"


def _find_duplicates(rows: list[ClientKey]) -> Iterator[str]:
    seen: dict[str | bytes, str] = {}
    for row in rows:
        if row.name in seen:
            yield f"two keys have the name {row.name}"
        elif row.sha256 in seen:
            yield f"{seen[row.sha256]} and {row.name} have the same key"
        seen |= {row.name: row.name, row.sha256: row.name}


def generate_key(name: str) -> tuple[str, str]:
    """A key that nobody can guess, and its table for the file. Raises KeysBroken for a name that is none."""
    key = f"sk-limner-{secrets.token_urlsafe(32)}"
    table = f'[[keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
    fields: dict[str, Any] = {"name": name, "sha256": "0" * 64}
    try:
        ClientKey.model_validate(fields)
    except ValidationError as error:
        raise InvalidKeyFile(error.errors()[0]["msg"]) from None
    return key, table
