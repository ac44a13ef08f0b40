"""Read the file of client keys, and read it again when it changes.

Each `[[keys]]` table is one key: its owner's name, its digest, and what it may do.
"""

import hashlib
import os
import re
import secrets
import stat
import threading
import time
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextvars import copy_context
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from app.errors import UserError
from app.observability.logging import log
from app.protocol.money import parse_amount
from app.protocol.size_fit import SizeMode, read_size_mode
from app.protocol.sizes import Size, parse_size
from app.protocol.webhook_signature import parse_secret

#: Seconds between two checks of the file, and seconds since its last change, so that no half-written file is read.
_CHECK_INTERVAL = 1.0

#: A look at the file that takes this many seconds is reported: until it ends, a key that was removed stays valid.
_SILENT_SECONDS = 5.0

_NEVER = datetime.max.replace(tzinfo=UTC)


class InvalidKeyFile(ValueError):
    """The key file cannot be used. The message names each line and its mistake."""


class Rate(NamedTuple):
    """A limit of `amount` in any period of one minute, hour or day."""

    amount: int
    period: str


def _parse_name(value: object) -> object:
    # The name appears in logs and error messages, so it must not break them.
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


def _parse_money(value: object) -> object:
    amount = value if isinstance(value, Decimal) else parse_amount(value)
    if amount is None:
        raise PydanticCustomError("money", 'expected an amount of money in quotes, like "50.00"')
    return amount


def _parse_webhook_secret(value: object) -> object:
    try:
        return parse_secret(value) if isinstance(value, str) else parse_secret("")
    except ValueError as error:
        raise PydanticCustomError("webhook_secret", "{reason}", {"reason": str(error)}) from None


def _parse_size(value: object) -> object:
    try:
        size = parse_size(value) if isinstance(value, str) else None
    except UserError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": error.message}) from None
    if size is None:
        raise PydanticCustomError("size", 'expected a size like "1536x1024"')
    return size


def _parse_size_mode(value: object) -> object:
    mode = read_size_mode(value) if isinstance(value, str) else None
    if mode is None:
        raise PydanticCustomError("size_mode", 'expected "native", "exact" or "exact; fit=contain"')
    return mode


def _parse_expiry(value: object) -> object:
    """Return the first moment at which the key is invalid. A date counts to its end; without a zone, times are UTC."""
    try:
        moment = _parse_date_or_time(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if isinstance(moment, datetime):
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not isinstance(moment, date):
        raise PydanticCustomError("end", "expected a date like 2027-01-31, or a date with a time")
    # No day follows the last date of Python, so it means never.
    return (
        _NEVER
        if moment == date.max
        else datetime(moment.year, moment.month, moment.day, tzinfo=UTC) + timedelta(days=1)
    )


def _parse_upstream(value: object, validation: ValidationInfo) -> object:
    known = (validation.context or {}).get("upstreams")
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
    """One `[[keys]]` table. A field that is left out sets no limit.

    Attributes:
        sha256: The digest of the key, which itself is written nowhere.
        requests: Limits on requests, at most one for each period.
        images: Limits on images, at most one for each period.
        size: Whether images get exactly the requested size; None leaves it to the server.
        concurrency: Upstream requests in flight at the same time.
        upstream: The only upstream that requests of this key are sent to.
        expires: The first moment at which the key is invalid.
        monthly_images: Images in a calendar month, in UTC.
        monthly_cost: Money in a calendar month, in UTC.
        webhooks: Whether requests may name an address that is told when they end; None leaves it to the server.
        webhook_secret: What signs these webhooks; None leaves it to the server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    name: Annotated[str, BeforeValidator(_parse_name)]
    sha256: Annotated[bytes, BeforeValidator(_parse_digest)]
    requests: Rates = ()
    images: Rates = ()
    concurrency: Amount | None = None
    models: ModelNames = ()
    max_size: Annotated[Size, BeforeValidator(_parse_size)] | None = None
    size: Annotated[SizeMode, BeforeValidator(_parse_size_mode)] | None = None
    max_quality: Literal["low", "medium", "high"] | None = None
    upstream: Annotated[str, BeforeValidator(_parse_upstream)] | None = None
    expires: Annotated[datetime, BeforeValidator(_parse_expiry)] | None = None
    monthly_images: Amount | None = None
    monthly_cost: Annotated[Decimal, BeforeValidator(_parse_money)] | None = None
    webhooks: Annotated[bool, Field(strict=True)] | None = None
    webhook_secret: Annotated[bytes, BeforeValidator(_parse_webhook_secret)] | None = Field(None, repr=False)


class _FileVersion(NamedTuple):
    """What distinguishes two versions of a file."""

    modified_ns: int
    size: int
    inode: int


class KeyFile:
    """The keys of the file. When a new version of the file has mistakes, the keys of the last valid one remain.

    A thread of its own looks at the file once a second: a file system that does not respond, as of a server that has
    gone, holds up no request and not the end of the process.
    """

    def __init__(
        self,
        path: Path,
        upstreams: Collection[str] | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the file.

        Args:
            path: The key file.
            upstreams: The upstreams that a key may name. None permits every name.
            monotonic: Returns seconds. Decides for how long the file system has not responded.
            wall_clock: Returns seconds since 1970, as the times of files do.

        Raises:
            InvalidKeyFile: The file cannot be used.
        """
        self._path = path
        self._upstreams = upstreams
        self._monotonic, self._wall_clock = monotonic, wall_clock
        self._wake = threading.Event()
        self._has_to_reload = self._is_closed = False
        #: Since when the file is being looked at, and whether it was reported that this takes long.
        self._looking_since: float | None = None
        self._is_reported = False
        self._version = self._stat()
        self._keys = self._read()

    def lookup(self, digest: bytes) -> ClientKey | None:
        """Return the entry of the key with this SHA-256 digest, as the file was read last.

        Its duration may depend on the digest, but reveals nothing about a key.
        """
        if self._looking_since is not None:
            self._report_silence(self._looking_since)
        return self._keys.get(digest)

    @property
    def keys(self) -> Collection[ClientKey]:
        """The entries of all keys, as the file was read last."""
        return self._keys.values()

    def watch(self) -> None:
        """Look at the file once a second from now on."""
        # The log names the worker by its context.
        look = partial(copy_context().run, self._look_until_closed)
        threading.Thread(target=look, name="limner-keys", daemon=True).start()

    def reload(self) -> None:
        """Let the file be read as soon as possible, even if it does not seem to have changed."""
        if self._looking_since is not None:
            self._report_silence(self._looking_since)
        self._has_to_reload = True
        self._wake.set()

    def close(self) -> None:
        """Look at the file no more."""
        self._is_closed = True
        self._wake.set()

    def look(self) -> None:
        """Read the file if it has changed. A file with mistakes is logged once and changes nothing. May block."""
        self._looking_since = self._monotonic()
        version, has_to_reload = self._stat(), self._has_to_reload
        if has_to_reload or (version != self._version and not self._was_just_written(version)):
            self._has_to_reload = False
            self._version = version
            self._read_again()
        self._looking_since, self._is_reported = None, False

    def _look_until_closed(self) -> None:
        while not self._is_closed:
            self._wake.clear()
            self.look()
            self._wake.wait(_CHECK_INTERVAL)

    def _read_again(self) -> None:
        try:
            self._keys = self._read()
        except InvalidKeyFile as error:
            self._reject(str(error))
        else:
            log.info("key_file_loaded", path=str(self._path), keys=len(self._keys))

    def _report_silence(self, since: float) -> None:
        if not self._is_reported and self._monotonic() - since >= _SILENT_SECONDS:
            self._is_reported = True
            self._reject("its file system does not respond; changes of the file have no effect until it does")

    def _reject(self, reason: str) -> None:
        log.error("key_file_rejected", path=str(self._path), reason=reason)

    def _was_just_written(self, version: _FileVersion | None) -> bool:
        # Half of a file can be valid but lack the limits of its last key. A time in the future says nothing.
        return version is not None and 0 <= self._wall_clock() - version.modified_ns / 1e9 < _CHECK_INTERVAL

    def _stat(self) -> _FileVersion | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return _FileVersion(found.st_mtime_ns, found.st_size, found.st_ino)

    def _read(self) -> dict[bytes, ClientKey]:
        try:
            return {key.sha256: key for key in parse_keys(_read_regular_file(self._path), self._upstreams)}
        except OSError as error:
            raise InvalidKeyFile(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidKeyFile("is not UTF-8") from None


def _read_regular_file(path: Path) -> str:
    """Return the text of a file.

    Raises:
        InvalidKeyFile: It is something else, which may never end or can be read only once.
        OSError: It cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    # Opening a pipe would wait for somebody who writes into it.
    with open(path, encoding="utf-8-sig", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidKeyFile("is a pipe or a device. It is read again and again, so it must be a regular file")
        return file.read()


def parse_keys(text: str, upstreams: Collection[str] | None = None) -> tuple[ClientKey, ...]:
    """Parse the text of a key file. Without `upstreams`, a key may name any upstream.

    Raises:
        InvalidKeyFile: The text has mistakes. The message lists all of them.
    """
    try:
        document = tomllib.loads(text)
    except ValueError as error:
        # Invalid TOML, or a number with thousands of digits.
        raise InvalidKeyFile(str(error)) from None
    except RecursionError:
        raise InvalidKeyFile("is nested too deeply") from None
    tables = document.pop("keys", [])
    if document or not isinstance(tables, list):
        raise InvalidKeyFile("expected [[keys]] tables and nothing else")
    locations = _source_locations(text, len(tables))
    keys, mistakes = list[ClientKey](), list[str]()
    for number, table in enumerate(tables):
        try:
            keys.append(ClientKey.model_validate(table, context={"upstreams": upstreams}))
        except ValidationError as error:
            mistakes += _describe_errors(error, locations[number])
    mistakes += _find_duplicates(keys)
    if mistakes:
        raise InvalidKeyFile("; ".join(mistakes))
    return tuple(keys)


#: Where a table begins, and where each of its fields stands, in words ("line 3").
_SourceLocation = tuple[str, dict[str, str]]


def _source_locations(text: str, tables: int) -> list[_SourceLocation]:
    """Find the lines of all tables. Tables without headers of their own (`keys = [{...}]`) are numbered instead."""
    locations: list[_SourceLocation] = []
    for number, line in enumerate(text.splitlines(), 1):
        field = re.match(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=", line)
        if re.match(r"\s*\[\[\s*[\"']?keys[\"']?\s*\]\]", line):
            locations.append((f"line {number}", {}))
        elif locations and field:
            locations[-1][1].setdefault(field[1], f"line {number}")
    return locations if len(locations) == tables else [(f"table {number}", {}) for number in range(1, tables + 1)]


def _describe_errors(error: ValidationError, location: _SourceLocation) -> Iterator[str]:
    start, fields = location
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(problem["loc"][0]) if problem["loc"] else "keys"
        yield f"{fields.get(field, start)}: {field}: {_describe_problem(field, problem['type'], problem['msg'])}"


def _describe_problem(field: str, kind: str, message: str) -> str:
    if kind == "missing":
        return "required but not set"
    if kind != "extra_forbidden":
        return message
    if field in {"key", "token", "api_key"}:
        return "the file holds no keys but their digests, as sha256; `limner keys new NAME` makes both"
    return f"there is no such field. The fields are {', '.join(ClientKey.model_fields)}"


def _find_duplicates(keys: list[ClientKey]) -> Iterator[str]:
    seen: dict[str | bytes, str] = {}
    for key in keys:
        if key.name in seen:
            yield f"two keys have the name {key.name}"
        elif key.sha256 in seen:
            yield f"{seen[key.sha256]} and {key.name} have the same key"
        seen |= {key.name: key.name, key.sha256: key.name}


def generate_key(name: str) -> tuple[str, str]:
    """Return a new random key and its table for the key file.

    Raises:
        InvalidKeyFile: The name is not valid.
    """
    key = f"sk-limner-{secrets.token_urlsafe(32)}"
    table = f'[[keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
    fields: dict[str, Any] = {"name": name, "sha256": "0" * 64}
    try:
        ClientKey.model_validate(fields)
    except ValidationError as error:
        raise InvalidKeyFile(error.errors()[0]["msg"]) from None
    return key, table
