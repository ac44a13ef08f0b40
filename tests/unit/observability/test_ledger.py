"""Ledger lines stay whole when files are rotated, disks are full, and several processes write."""

import concurrent.futures
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
ledger = Ledger(Path(sys.argv[1]))
for index in range(500):
    ledger.write({"writer": sys.argv[2], "index": index, "filling": "x" * 700})
"""


def entries(path: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def failures() -> float:
    return REGISTRY.get_sample_value("limner_part_errors_total", {"part": "ledger"}) or 0.0


def test_each_entry_is_appended_as_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"n": 0}\n')
    ledger = Ledger(path)
    ledger.write({"n": 1})
    ledger.write({"n": 2, "key": None})
    ledger.close()
    ledger.close()
    assert path.read_text() == '{"n": 0}\n{"n": 1}\n{"n":2,"key":null}\n'.replace('{"n": 1}', '{"n":1}')


def test_the_owner_may_write_the_group_may_read_and_others_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.write({})
    ledger.close()
    assert (tmp_path / "ledger.jsonl").stat().st_mode & 0o137 == 0


def test_a_renamed_or_removed_file_is_created_again(tmp_path: Path) -> None:
    path, old = tmp_path / "ledger.jsonl", tmp_path / "ledger.1"
    ledger = Ledger(path)
    ledger.write({"n": 1})
    path.rename(old)
    ledger.write({"n": 2})
    path.unlink()
    ledger.write({"n": 3})
    ledger.close()
    assert (entries(old), entries(path)) == ([{"n": 1}], [{"n": 3}])


def test_a_truncated_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.write({"n": 1})
    path.write_bytes(b"")
    ledger.write({"n": 2})
    ledger.close()
    assert path.read_bytes() == b'{"n":2}\n'


def test_standard_output_is_written_and_not_closed(capfd: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(None)
    ledger.write({"n": 1})
    ledger.close()
    ledger.write({"n": 2})
    assert capfd.readouterr().out == '{"n":1}\n{"n":2}\n'


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    command = (sys.executable, "-c", WRITER, str(path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen((*command, name), env=environment) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    written = [(entry["writer"], entry["index"]) for entry in entries(path)]
    assert sorted(written) == [(name, index) for name in "ab" for index in range(500)]


def test_each_line_lost_on_a_full_disk_is_counted_and_the_first_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.symlink_to("/dev/full")
    ledger, before = Ledger(path), failures()
    with structlog.testing.capture_logs() as logs:
        ledger.write({"n": 1})
        ledger.write({"n": 2})
        path.unlink()
        ledger.write({"n": 3})
        path.unlink()
        path.symlink_to("/dev/full")
        ledger.write({"n": 4})
    ledger.close()
    assert [record["event"] for record in logs] == ["ledger_write_failed", "ledger_write_failed"]
    assert "No space left" in logs[0]["reason"]
    assert failures() - before == 3


def test_a_missing_folder_only_loses_lines(tmp_path: Path) -> None:
    before = failures()
    ledger = Ledger(tmp_path / "gone" / "ledger.jsonl")
    with structlog.testing.capture_logs() as logs:
        ledger.write({"n": 1})
    ledger.close()
    assert (len(logs), failures() - before) == (1, 1)


def test_a_line_that_was_cut_short_does_not_damage_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "ledger.jsonl", os.write
    ledger = Ledger(path)
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        ledger.write({"n": 1})
    ledger.write({"n": 2})
    ledger.write({"n": 3})
    ledger.close()
    assert path.read_bytes() == b'{"n":\n{"n":2}\n{"n":3}\n'
    assert [record["event"] for record in logs] == ["ledger_write_failed"]


def test_a_reader_of_standard_output_that_stops_costs_lines_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, end = os.pipe()
    monkeypatch.setattr("app.observability.ledger._STANDARD_OUTPUT", end)
    ledger, before = Ledger(None), failures()
    monkeypatch.setattr(ledger._output, "_max_waiting", 100_000)
    with structlog.testing.capture_logs() as logs:
        while failures() - before < 3:
            ledger.write({"filling": "x" * 700})
    assert [(record["event"], record["path"]) for record in logs] == [("ledger_write_failed", "/dev/stdout")]
    assert logs[0]["reason"] == "its reader has stopped reading"
    with open(reader, "rb") as file, concurrent.futures.ThreadPoolExecutor() as threads:
        lines = threads.submit(lambda: [orjson.loads(line) for line in file])
        ledger.close()
        os.close(end)
        assert len(lines.result()) > 100


def test_a_pipe_as_the_ledger_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    os.mkfifo(path)
    ledger, before = Ledger(path), failures()
    with structlog.testing.capture_logs() as logs:
        ledger.write({"n": 1})
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        ledger.write({"n": 2})
        assert os.read(reader, 100) == b'{"n":2}\n'
        while failures() - before < 2:
            ledger.write({"filling": "x" * 700})
    assert [record["reason"] for record in logs] == ["nobody reads this pipe", "its reader has stopped reading"]
    os.close(reader)
    ledger.close()
