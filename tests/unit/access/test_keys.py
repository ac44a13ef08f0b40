"""The key file: what a table may contain, how mistakes are described, and when the file is read again."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.access import keys
from app.access.keys import ClientKey, InvalidKeyFile, KeyFile, Rate, generate_key, parse_keys
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import Size

DIGEST = hashlib.sha256(b"sk-alice").hexdigest()
HEAD = f'[[keys]]\nname = "alice"\nsha256 = "{DIGEST}"\n'


@dataclass(frozen=True)
class Case:
    name: str
    line: str
    field: str
    value: Any


CASES = [
    Case("its name", "", "name", "alice"),
    Case("its digest", "", "sha256", bytes.fromhex(DIGEST)),
    Case("no limit where none is set", "", "requests", ()),
    Case("requests a minute", 'requests = ["30/minute"]', "requests", (Rate(30, "minute"),)),
    Case("images an hour and a day", 'images = ["10/hour", "500/day"]', "images", (Rate(10, "hour"), Rate(500, "day"))),
    Case("concurrency", "concurrency = 4", "concurrency", 4),
    Case("models", 'models = ["gpt-image-1"]', "models", ("gpt-image-1",)),
    Case("the largest size", 'max_size = "1536x1024"', "max_size", Size(1536, 1024)),
    Case("exact sizes", 'size = "exact; fit=contain"', "size", SizeMode.CONTAIN),
    Case("the best quality", 'max_quality = "medium"', "max_quality", "medium"),
    Case("an upstream", 'upstream = "spare"', "upstream", "spare"),
    Case("images a month", "monthly_images = 1000", "monthly_images", 1000),
    Case("money a month", 'monthly_cost = "50.00"', "monthly_cost", Decimal("50.00")),
    Case("whole money a month", "monthly_cost = 50", "monthly_cost", Decimal(50)),
    Case("webhooks", "webhooks = true", "webhooks", True),
    Case("no webhooks", "webhooks = false", "webhooks", False),
    Case("the secret of its webhooks", 'webhook_secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"', "webhook_secret", bytes(24)),
    Case("a date counts to its end", "expires = 2027-01-31", "expires", datetime(2027, 2, 1, tzinfo=UTC)),
    Case("a date as text, without hyphens", 'expires = "20270131"', "expires", datetime(2027, 2, 1, tzinfo=UTC)),
    Case("the last date means never", "expires = 9999-12-31", "expires", datetime.max.replace(tzinfo=UTC)),
    Case("a date as text", 'expires = "2027-01-31"', "expires", datetime(2027, 2, 1, tzinfo=UTC)),
    Case("a time with a zone", "expires = 2027-01-31T10:00:00+01:00", "expires", datetime(2027, 1, 31, 9, tzinfo=UTC)),
    Case("a time without a zone is in UTC", 'expires = "2027-01-31T10:00"', "expires", datetime(2027, 1, 31, 10, tzinfo=UTC)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_fields_of_a_table(case: Case) -> None:
    [key] = parse_keys(HEAD + case.line)
    assert getattr(key, case.field) == case.value


@dataclass(frozen=True)
class Wrong:
    name: str
    text: str
    message: str


TWO = HEAD.replace("alice", "bob").replace(DIGEST, "0" * 64)
RATE = 'expected texts like "30/minute", "200/hour" or "500/day"'
WRONG = [
    Wrong("no TOML", "[[keys]]\nname = \n", "Invalid value (at line 2, column 8)"),
    Wrong("something else", "models = 1", "expected [[keys]] tables and nothing else"),
    Wrong("one table", '[keys]\nname = "alice"', "expected [[keys]] tables and nothing else"),
    Wrong("no tables", "keys = [1]", "table 1: keys: Input should be a valid dictionary or instance of ClientKey"),
    Wrong("a size mode that does not exist", f'{HEAD}size = "big"', 'line 4: size: expected "native", "exact" or "exact; fit=contain"'),
    Wrong("a secret of webhooks that is none", f'{HEAD}webhook_secret = "sk-short"', "line 4: webhook_secret: expected whsec_ and 24 to 64 bytes in base64"),
    Wrong("a secret of webhooks that is no text", f"{HEAD}webhook_secret = 7", "line 4: webhook_secret: expected whsec_ and 24 to 64 bytes in base64"),
    Wrong("webhooks that are neither allowed nor not", f'{HEAD}webhooks = "yes"', "line 4: webhooks: Input should be a valid boolean"),
    Wrong("money that is not exact", f"{HEAD}monthly_cost = 0.1", 'line 4: monthly_cost: expected an amount of money in quotes, like "50.00"'),
    Wrong("no name", f'# mine\n\n[[keys]]\nsha256 = "{DIGEST}"', "line 3: name: required but not set"),
    Wrong("a name that breaks logs", HEAD.replace("alice", "a b"), "line 2: name: expected 1 to 64 letters, digits and the characters . _ @ -"),
    Wrong("the key itself", HEAD.replace(DIGEST, "sk-alice"), "line 3: sha256: expected the 64 hexadecimal digits of the key's SHA-256"),
    Wrong("a digest that is a number", "[[keys]]\nname = 'a'\nsha256 = 1", "line 3: sha256: expected the 64 hexadecimal digits of the key's SHA-256"),
    Wrong("a misspelt field, of the second table", HEAD + TWO + "request = []", f"line 7: request: there is no such field. The fields are {', '.join(ClientKey.model_fields)}"),
    Wrong("a key in place of its digest", "[[keys]]\nname = 'a'\nkey = 'sk-a'", "line 1: sha256: required but not set; line 3: key: the file holds no keys but their digests, as sha256; `limner keys new NAME` makes both"),
    Wrong("a rate in other words", HEAD + 'requests = ["30 per minute"]', f"line 4: requests: {RATE}"),
    Wrong("a rate of nothing", HEAD + 'images = ["0/day"]', f"line 4: images: {RATE}"),
    Wrong("a rate that is a number", HEAD + "images = [3]", f"line 4: images: {RATE}"),
    Wrong("two limits for one period", HEAD + 'images = ["9/day", "1/hour", "8/day"]', "line 4: images: expected one limit at most for a minute, an hour and a day each"),
    Wrong("an invalid size", HEAD + 'max_size = "large"', "line 4: max_size: Invalid size 'large'. Expected WIDTHxHEIGHT, for example '1824x1024'."),
    Wrong("a size that is no limit", HEAD + 'max_size = "auto"', 'line 4: max_size: expected a size like "1536x1024"'),
    Wrong("a size that is a number", HEAD + "max_size = 1", 'line 4: max_size: expected a size like "1536x1024"'),
    Wrong("an unknown quality", HEAD + 'max_quality = "best"', "line 4: max_quality: Input should be 'low', 'medium' or 'high'"),
    Wrong("concurrency as text", HEAD + 'concurrency = "4"', "line 4: concurrency: Input should be a valid integer"),
    Wrong("an invalid date", HEAD + 'expires = "soon"', "line 4: expires: expected a date like 2027-01-31, or a date with a time"),
    Wrong("a time of day", HEAD + "expires = 10:00:00", "line 4: expires: expected a date like 2027-01-31, or a date with a time"),
    Wrong("two of one name", HEAD + HEAD.replace(DIGEST, "0" * 64), "two keys have the name alice"),
    Wrong("two of one key", HEAD + HEAD.replace("alice", "bob"), "alice and bob have the same key"),
    Wrong("two mistakes", HEAD + "concurrency = 0\nimages = 3", "line 5: images: Input should be a valid tuple; line 4: concurrency: Input should be greater than or equal to 1"),
    Wrong("a number with more digits than anyone reads", HEAD + f"concurrency = {'9' * 5000}", "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit"),
    Wrong("an upstream that does not exist", HEAD + 'upstream = "spar"', "line 4: upstream: expected the name of an upstream: main, spare"),
    Wrong("an upstream that is a number", HEAD + "upstream = 1", "line 4: upstream: expected the name of an upstream: main, spare"),
    Wrong("tables on one line", "keys = [{name = 'a'}]", "table 1: sha256: required but not set"),
]  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_each_mistake_is_described_with_its_line(case: Wrong) -> None:
    with pytest.raises(InvalidKeyFile) as caught:
        parse_keys(case.text, ["main", "spare"])
    assert str(caught.value) == case.message


class File:
    """A key file with clocks that the test sets. `age`: seconds since the file was written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.toml"
        self.now = 0.0
        self.age = 60.0
        self.write(HEAD)
        self.key_file = KeyFile(self.path, ["main"], monotonic=lambda: self.now, wall_clock=lambda: self.now + self.age)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.now += 1
        # Two writes within one tick of the file system's clock must be distinguished.
        os.utime(self.path, (self.now, self.now))

    def replace(self, make: Callable[[Path], object]) -> None:
        self.path.unlink()
        make(self.path)

    def names(self) -> list[str]:
        self.key_file.look()
        found = [self.key_file.lookup(bytes.fromhex(digest)) for digest in (DIGEST, "0" * 64)]
        return [key.name for key in found if key is not None]


def test_a_changed_file_is_read_at_the_next_look(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.write(HEAD + TWO)
    assert len(file.key_file.keys) == 1
    assert file.names() == ["alice", "bob"]


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.write("\ufeff" + HEAD + TWO)
    assert file.names() == ["alice", "bob"]


def test_a_file_that_has_not_changed_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = File(tmp_path)
    monkeypatch.setattr(keys, "_read_regular_file", lambda _: pytest.fail("read again"))
    file.now += 10
    assert file.names() == ["alice"]


SPECIAL = "is a pipe or a device. It is read again and again, so it must be a regular file"


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def remove(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


BROKEN: dict[str, tuple[Callable[[File], Any], str]] = {
    "a mistake": (lambda file: file.write(HEAD + "concurrency = 0"), "line 4: concurrency: Input should be greater than or equal to 1"),
    "an upstream that does not exist": (lambda file: file.write(HEAD + 'upstream = "spar"'), "line 4: upstream: expected the name of an upstream: main"),
    "no text": (lambda file: file.path.write_bytes(b"\xff"), "is not UTF-8"),
    "no file": (lambda file: file.path.unlink(), "cannot be read: No such file or directory"),
    "a pipe that nobody writes to": (lambda file: file.replace(os.mkfifo), SPECIAL),
    "a device that never ends": (lambda file: file.replace(lambda path: path.symlink_to("/dev/zero")), SPECIAL),
    "a terminal": (lambda file: file.replace(lambda path: path.symlink_to("/dev/ptmx")), SPECIAL),
    "a folder": (lambda file: file.replace(Path.mkdir), "cannot be read: Is a directory"),
    "a socket": (lambda file: file.replace(bind_socket), "cannot be read: No such device or address"),
    "thousands of brackets": (lambda file: file.write("keys = " + "[" * 20_000), "is nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_with_mistakes_is_logged_once_and_changes_nothing(name: str, tmp_path: Path) -> None:
    breaks, reason = BROKEN[name]
    file = File(tmp_path)
    breaks(file)
    with capture_logs() as logs:
        for _ in range(3):
            file.now += 1
            assert file.names() == ["alice"]
        assert [(record["log_level"], record["reason"]) for record in logs] == [("error", reason)]
        remove(file.path)
        file.write(TWO)
        assert file.names() == ["bob"]
        assert (logs[-1]["event"], logs[-1]["keys"]) == ("key_file_loaded", 1)


def test_a_file_that_was_just_written_is_not_read_for_a_second(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.write(HEAD + TWO)
    file.age = 0.0
    assert file.names() == ["alice"]
    file.age = 1.0
    assert file.names() == ["alice", "bob"]


def test_a_modification_time_in_the_future_delays_nothing(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.write(HEAD + TWO)
    file.age = -3600.0
    assert file.names() == ["alice", "bob"]


def test_reload_reads_the_file_at_once(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.age = 0.0
    file.write(TWO)
    file.key_file.reload()
    assert file.names() == ["bob"]


def stop(key_file: KeyFile) -> None:
    key_file.close()
    for thread in threading.enumerate():
        if thread.name == "limner-keys":
            thread.join(60)


class SilentFile(File):
    """A key file on a file system that does not respond until `responds` is set."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.responds, self.is_asked = threading.Event(), threading.Event()
        read = self.key_file._stat

        def wait() -> object:
            self.is_asked.set()
            assert self.responds.wait(60)
            return read()

        patch.setattr(self.key_file, "_stat", wait)


def test_a_file_system_that_does_not_respond_holds_up_nobody_and_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SilentFile(tmp_path, monkeypatch)
    alice = bytes.fromhex(DIGEST)
    with capture_logs() as logs:
        file.key_file.watch()
        assert file.is_asked.wait(60)
        file.now += 4.9
        file.key_file.reload()
        assert file.key_file.lookup(alice) is not None
        assert logs == []
        file.now += 0.1
        for _ in range(3):
            assert file.key_file.lookup(alice) is not None
            file.key_file.reload()
        assert [record["event"] for record in logs] == ["key_file_rejected"]
        assert "does not respond" in logs[0]["reason"]
        file.responds.set()
        stop(file.key_file)


def test_the_watched_file_is_read_when_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = File(tmp_path)
    monkeypatch.setattr(keys, "_CHECK_INTERVAL", 600.0)
    looks = Queue[int]()
    look = file.key_file.look

    def count() -> None:
        look()
        looks.put(len(file.key_file.keys))

    monkeypatch.setattr(file.key_file, "look", count)
    file.key_file.watch()
    assert looks.get(timeout=60) == 1
    file.age = 0.0
    file.write(HEAD + TWO)
    file.key_file.reload()
    assert looks.get(timeout=60) == 2
    stop(file.key_file)


@pytest.mark.parametrize("special", [os.mkfifo, Path.mkdir], ids=["a pipe", "a folder"])
def test_what_is_no_file_is_an_error_at_the_start(tmp_path: Path, special: Callable[[Path], None]) -> None:
    special(tmp_path / "keys.toml")
    with pytest.raises(InvalidKeyFile, match=r"regular file|Is a directory"):
        KeyFile(tmp_path / "keys.toml")


def test_a_missing_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidKeyFile, match="No such file"):
        KeyFile(tmp_path / "none")


def test_a_generated_key_matches_its_table() -> None:
    key, table = generate_key("alice")
    [entry] = parse_keys(table)
    assert entry.sha256 == hashlib.sha256(key.encode()).digest()
    assert key != generate_key("alice")[0]
    with pytest.raises(InvalidKeyFile, match="expected 1 to 64"):
        generate_key('a"b')
