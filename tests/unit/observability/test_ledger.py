"""Lines that stay whole: when files are renamed, disks are full, and several write at once."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import structlog

from app.observability.ledger import Ledger
from app.observability.metrics import REGISTRY

ROOT = Path(__file__).parents[3]

WRITER = """
import sys
from pathlib import Path
from app.observability.ledger import Ledger
book = Ledger(Path(sys.argv[1]))
for index in range(500):
    book.write({"who": sys.argv[2], "index": index, "filling": "x" * 700})
"""


def entries(path: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def failures() -> float:
    return REGISTRY.get_sample_value("limner_part_errors_total", {"part": "ledger"}) or 0.0


def test_each_entry_is_a_line_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"n": 0}\n')
    book = Ledger(path)
    book.write({"n": 1})
    book.write({"n": 2, "key": None})
    book.close()
    book.close()
    assert path.read_text() == '{"n": 0}\n{"n": 1}\n{"n":2,"key":null}\n'.replace('{"n": 1}', '{"n":1}')


def test_only_its_owner_may_write_and_only_his_group_may_read(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger.jsonl")
    book.write({})
    book.close()
    assert (tmp_path / "ledger.jsonl").stat().st_mode & 0o137 == 0


def test_a_file_that_was_renamed_or_removed_is_begun_anew(tmp_path: Path) -> None:
    path, old = tmp_path / "ledger.jsonl", tmp_path / "ledger.1"
    book = Ledger(path)
    book.write({"n": 1})
    path.rename(old)
    book.write({"n": 2})
    path.unlink()
    book.write({"n": 3})
    book.close()
    assert (entries(old), entries(path)) == ([{"n": 1}], [{"n": 3}])


def test_a_file_that_was_cut_to_nothing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    book = Ledger(path)
    book.write({"n": 1})
    path.write_bytes(b"")
    book.write({"n": 2})
    book.close()
    assert path.read_bytes() == b'{"n":2}\n'


def test_standard_output_is_written_and_left_open(capfd: pytest.CaptureFixture[str]) -> None:
    book = Ledger(None)
    book.write({"n": 1})
    book.close()
    book.write({"n": 2})
    assert capfd.readouterr().out == '{"n":1}\n{"n":2}\n'


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    command = (sys.executable, "-c", WRITER, str(path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen((*command, who), env=environment) for who in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    told = [(entry["who"], entry["index"]) for entry in entries(path)]
    assert sorted(told) == [(who, index) for who in "ab" for index in range(500)]


def test_a_full_disk_costs_a_line_and_is_logged_once_until_it_is_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.symlink_to("/dev/full")
    book, before = Ledger(path), failures()
    with structlog.testing.capture_logs() as logs:
        book.write({"n": 1})
        book.write({"n": 2})
        path.unlink()
        book.write({"n": 3})
        path.unlink()
        path.symlink_to("/dev/full")
        book.write({"n": 4})
    book.close()
    assert [record["event"] for record in logs] == ["ledger_write_failed", "ledger_write_failed"]
    assert "No space left" in logs[0]["reason"]
    assert failures() - before == 3


def test_a_folder_that_is_gone_costs_lines_only(tmp_path: Path) -> None:
    before = failures()
    book = Ledger(tmp_path / "gone" / "ledger.jsonl")
    with structlog.testing.capture_logs() as logs:
        book.write({"n": 1})
    book.close()
    assert (len(logs), failures() - before) == (1, 1)


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "ledger.jsonl", os.write
    book = Ledger(path)
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        book.write({"n": 1})
    book.write({"n": 2})
    book.write({"n": 3})
    book.close()
    assert path.read_bytes() == b'{"n":\n{"n":2}\n{"n":3}\n'
    assert [record["event"] for record in logs] == ["ledger_write_failed"]
