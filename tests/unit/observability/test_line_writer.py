"""Lines reach their reader in order, or are counted, and nobody ever waits for a reader that has stopped."""

import errno
import fcntl
import os
import pty
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from app.observability import line_writer
from app.observability.line_writer import LineWriter

LINE = b"x" * 699 + b"\n"


def is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def read_available(descriptor: int) -> bytes:
    found = bytearray()
    while is_readable(descriptor):
        found += os.read(descriptor, 65536)
    return bytes(found)


class Pipe:
    """A real pipe that a test can fill, and a writer to it."""

    def __init__(self, *, max_waiting: int = 1_000_000, fills: bool = False) -> None:
        self.reader, self.end = os.pipe()
        if fills:
            self.fill()
        self.losses: list[str] = []
        self.resumed: list[int] = []
        self.writer = LineWriter(self.end, self.losses.append, self.resumed.append, max_waiting)

    def fill(self) -> None:
        """Leave no room for a single byte."""
        os.set_blocking(self.end, False)
        for size in (4096, 1):
            try:
                while True:
                    os.write(self.end, b"." * size)
            except BlockingIOError:
                pass
        os.set_blocking(self.end, True)

    def read(self) -> bytes:
        """Return what was written, once nothing waits any more."""
        found = bytearray()
        while self.writer._waiting_bytes or is_readable(self.reader):
            found += read_available(self.reader)
            self.writer.flush_waiting(0.01)
        return bytes(found.lstrip(b"."))

    def close(self) -> None:
        self.read()
        os.close(self.end)
        os.close(self.reader)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def full_pipe() -> Iterator[Pipe]:
    made = Pipe(fills=True, max_waiting=10_000)
    yield made
    made.close()


def test_a_line_is_written_at_once_without_a_thread(pipe: Pipe) -> None:
    assert pipe.writer.write(b"one\n") == 4
    assert os.read(pipe.reader, 100) == b"one\n"
    assert pipe.writer._thread is None


def test_lines_wait_for_a_reader_that_has_stopped_and_stay_in_order(full_pipe: Pipe) -> None:
    lines = [b"%d\n" % number for number in range(500)]
    for line in lines:
        full_pipe.writer.write(line)
    assert full_pipe.writer._waiting_bytes == sum(map(len, lines))
    assert full_pipe.read() == b"".join(lines)
    assert (full_pipe.losses, full_pipe.resumed) == ([], [])
    full_pipe.writer.write(b"at once\n")
    assert os.read(full_pipe.reader, 100) == b"at once\n"


def test_what_is_too_much_is_lost_and_counted_once_lines_are_read_again(full_pipe: Pipe) -> None:
    counts: SimpleQueue[int] = SimpleQueue()
    full_pipe.writer._on_resume = counts.put
    for _ in range(20):
        full_pipe.writer.write(LINE)
    assert full_pipe.losses == ["its reader has stopped reading"] * 6
    assert full_pipe.read() == LINE * 14
    assert counts.get(timeout=20) == 6


def test_what_is_written_about_lost_lines_follows_them(full_pipe: Pipe) -> None:
    full_pipe.writer._on_resume = lambda lines: full_pipe.writer.write(b"%d lost\n" % lines)
    full_pipe.writer.write(LINE * 20)
    assert full_pipe.losses
    full_pipe.writer.write(b"kept\n")
    found = full_pipe.read()
    while not found.endswith(b"lost\n"):
        found += os.read(full_pipe.reader, 100)
    assert found == b"kept\n1 lost\n"


def test_a_pipe_that_fills_is_left_before_it_is_full(pipe: Pipe) -> None:
    for _ in range(200):
        pipe.writer.write(LINE)
    assert pipe.writer._thread is not None
    assert pipe.read() == LINE * 200


@pytest.mark.parametrize("size", [4097, 200_000])
def test_a_line_that_does_not_surely_fit_waits(pipe: Pipe, size: int) -> None:
    line = b"y" * size + b"\n"
    pipe.writer.write(line)
    pipe.writer.write(b"after\n")
    assert pipe.read() == line + b"after\n"


def test_the_end_waits_for_slow_readers_but_not_forever(full_pipe: Pipe) -> None:
    full_pipe.writer.write(b"last\n")
    full_pipe.writer.flush_waiting(0.0)
    reader = threading.Thread(target=full_pipe.read)
    reader.start()
    full_pipe.writer.flush_waiting(20.0)
    assert full_pipe.writer._waiting_bytes == 0
    reader.join()


def test_a_non_blocking_pipe_of_another_process_loses_nothing(full_pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bytearray()

    class ReadOnlyOnceTheThreadWaits:
        def poll(self) -> None:
            found.extend(read_available(full_pipe.reader))

    monkeypatch.setattr(line_writer, "_writable", lambda _: ReadOnlyOnceTheThreadWaits())
    os.set_blocking(full_pipe.end, False)
    full_pipe.writer._has_room = line_writer._always
    for _ in range(10):
        full_pipe.writer.write(LINE)
    full_pipe.writer.flush_waiting(20.0)
    assert bytes(found).lstrip(b".") + full_pipe.read() == LINE * 10
    assert full_pipe.losses == []


def test_the_rest_of_a_line_that_was_cut_follows(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    pipe.writer.write(b"123456789\n")
    assert pipe.read() == b"123456789\n"


def test_a_reader_that_has_gone_costs_lines_and_no_exception() -> None:
    reader, end = os.pipe()
    losses: list[str] = []
    writer = LineWriter(end, losses.append, print)
    os.close(reader)
    writer.write(b"one\n")
    writer.write(b"two\n" * 2000)
    writer.flush_waiting(20.0)
    assert losses == ["[Errno 32] Broken pipe"] * 2
    os.close(end)


def test_lines_lost_on_a_full_disk_are_counted_when_there_is_room(tmp_path: Path) -> None:
    path, losses, resumed = tmp_path / "log", list[str](), list[int]()
    end = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(end, losses.append, resumed.append)
    writer.write(b"one\n")
    writer.write(b"two\n")
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, end)
    writer.write(b"three\n")
    writer.write(b"four\n")
    assert (losses, resumed) == (["[Errno 28] No space left on device"] * 2, [2])
    assert path.read_bytes() == b"three\nfour\n"
    os.close(file)
    os.close(end)


@contextmanager
def socket_pair() -> Iterator[tuple[int, int]]:
    one, other = socket.socketpair()
    with one, other:
        yield one.fileno(), other.fileno()


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    controller, end = pty.openpty()
    yield controller, end
    os.close(controller)
    os.close(end)


@pytest.mark.parametrize("opened", [socket_pair, terminal])
def test_readers_of_sockets_and_terminals_may_stop_too(
    opened: Callable[[], AbstractContextManager[tuple[int, int]]],
) -> None:
    with opened() as (reader, end):
        losses: list[str] = []
        writer = LineWriter(end, losses.append, print, 100_000)
        writer.write(b"first\n")
        assert os.read(reader, 100).splitlines() == [b"first"]
        while not losses:
            writer.write(LINE)
        assert writer._waiting_bytes > 90_000
        while writer._waiting_bytes:
            read_available(reader)
            writer.flush_waiting(0.01)


def test_a_pipe_that_may_be_too_small_for_a_line_is_left_to_the_thread() -> None:
    reader, end = os.pipe()
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    writer = LineWriter(end, print, print)
    writer.write(b"one\n")
    assert os.read(reader, 100) == b"one\n"
    assert writer._thread is not None
    os.close(reader)
    os.close(end)


def test_a_system_that_does_not_know_how_full_a_pipe_is_leaves_it_to_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    pipe = Pipe()
    pipe.writer.write(b"one\n")
    assert pipe.read() == b"one\n"
    assert pipe.writer._thread is not None
    pipe.close()


def test_a_line_waits_while_no_thread_can_be_started(full_pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        full_pipe.writer.write(b"one\n")
    full_pipe.writer.write(b"two\n")
    assert full_pipe.read() == b"one\ntwo\n"


def test_it_is_a_stream_that_python_can_use(pipe: Pipe) -> None:
    assert (pipe.writer.writable(), pipe.writer.fileno(), pipe.writer.isatty()) == (True, pipe.end, False)
    pipe.writer.close()
    os.write(pipe.end, b"still open\n")
    assert os.read(pipe.reader, 100) == b"still open\n"
