"""Write lines to a pipe, socket or terminal whose reader may stop, without ever waiting for it."""

import fcntl
import io
import os
import select
import stat
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial

#: Bytes of lines that wait for their reader. What comes beyond them is lost.
MAX_WAITING_BYTES = 4 * 1024 * 1024

#: Bytes of a pipe that can be full of lines to a quarter and still take another one. Linux makes smaller ones for users
#: who have many.
_MIN_CAPACITY = 4 * select.PIPE_BUF

#: Room for the result of an `ioctl`.
_INT = bytes(4)

#: Why lines are lost that nobody reads.
STOPPED = "its reader has stopped reading"


class LineWriter(io.RawIOBase):
    """Write whole lines to a descriptor, and keep those that would have to wait for a thread that may.

    As long as there surely is room a line is written at once, so that nothing is lost when this process is killed, and
    no thread runs. The descriptor is not made non-blocking: it belongs to all processes that share the terminal or the
    pipe, and others do not expect that. It stays open when this object is closed.
    """

    def __init__(
        self,
        descriptor: int,
        on_loss: Callable[[str], object],
        on_resume: Callable[[int], object],
        max_waiting: int = MAX_WAITING_BYTES,
    ) -> None:
        """Write to this descriptor.

        Args:
            descriptor: Anything that can be written to.
            on_loss: Called with the reason for each line that is lost. It must not write to this object.
            on_resume: Called with the number of lines lost, once lines can be written again; perhaps in a thread.
            max_waiting: Bytes of lines that may wait.
        """
        self._descriptor = descriptor
        self._on_loss, self._on_resume = on_loss, on_resume
        self._max_waiting = max_waiting
        self._has_room = _room_check(descriptor)
        self._context = copy_context()
        # Re-entrant: while it is held, an object may be collected whose end is logged.
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        #: Bytes of the lines that wait, with those that the thread is writing.
        self._waiting_bytes = 0
        self._lost = 0
        self._thread: threading.Thread | None = None

    def write(self, line: bytes, /) -> int:  # type: ignore[override]  # reason: nothing writes other buffers
        """Write one or more whole lines, now or later. Never waits and never raises."""
        with self._changed:
            lost = self._write_or_keep(line)
        self._report(lost)
        return len(line)

    def flush_waiting(self, seconds: float) -> None:
        """Wait until nothing waits any more, but not for longer than that."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes, seconds)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def _write_or_keep(self, line: bytes) -> int:
        """Return how many lines were lost before this one, if it is the first that could be written again."""
        if self._waiting_bytes or not self._has_room(len(line)):
            self._keep(line)
            return 0
        try:
            written = os.write(self._descriptor, line)
        except BlockingIOError:
            # Another process has made the descriptor non-blocking.
            written = 0
        except OSError as error:
            self._lose(str(error))
            return 0
        if written < len(line):
            self._keep(line[written:])
            return 0
        return self._take_lost()

    def _keep(self, line: bytes) -> None:
        if self._waiting_bytes + len(line) > self._max_waiting:
            self._lose(STOPPED)
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        if self._thread is None:
            # No thread can be started when the machine has no more, or when Python ends. The next line tries again.
            with suppress(RuntimeError):
                thread = threading.Thread(target=self._write_forever, name="limner-lines", daemon=True)
                thread.start()
                self._thread = thread
        self._changed.notify_all()

    def _lose(self, reason: str) -> None:
        self._lost += 1
        self._on_loss(reason)

    def _take_lost(self) -> int:
        lost, self._lost = self._lost, 0
        return lost

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                lines = self._take_lines()
            try:
                self._write_waiting(lines)
                reason = ""
            except OSError as error:
                reason = str(error)
            with self._changed:
                self._waiting_bytes -= len(lines)
                if reason:
                    self._lose(reason)
                lost = 0 if self._waiting or reason else self._take_lost()
                self._changed.notify_all()
            self._report(lost)

    def _report(self, lost: int) -> None:
        """Tell of lost lines, in the context in which this object was made: they are of many requests."""
        if lost:
            self._context.copy().run(self._on_resume, lost)

    def _take_lines(self) -> bytes:
        """Take as many lines as a pipe surely takes at once, so that those of several processes do not mix."""
        lines = [self._waiting.popleft()]
        size = len(lines[0])
        while self._waiting and size + len(self._waiting[0]) <= select.PIPE_BUF:
            size += len(self._waiting[0])
            lines.append(self._waiting.popleft())
        return b"".join(lines)

    def _write_waiting(self, data: bytes) -> None:
        """Write all of it, and wait for the reader as long as that takes."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                _writable(self._descriptor).poll()


def _room_check(descriptor: int) -> Callable[[int], bool]:
    """Return what says whether so many bytes can surely be written without waiting."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode):
        return _pipe_room_check(descriptor)
    if stat.S_ISSOCK(mode):
        return partial(_socket_has_room, _writable(descriptor))
    # A terminal may have less room than one line needs.
    return _never if os.isatty(descriptor) else _always


def _pipe_room_check(descriptor: int) -> Callable[[int], bool]:
    """Return a check that leaves room for other workers, which may write to the same pipe at the same moment.

    Lines waste up to half of a pipe, so a quarter of its bytes need half of its pages.
    """
    try:
        capacity = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
        check = partial(_pipe_has_room, descriptor, capacity // 4)
        check(0)
    except (AttributeError, OSError):
        # Systems other than Linux do not say this of a pipe.
        return _never
    return check if capacity >= _MIN_CAPACITY else _never


def _never(_: int) -> bool:
    return False


def _always(_: int) -> bool:
    return True


def _pipe_has_room(descriptor: int, max_unread: int, size: int) -> bool:
    unread = int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, _INT), sys.byteorder)
    return unread <= max_unread and size <= select.PIPE_BUF


def _socket_has_room(writable: select.poll, size: int) -> bool:
    # Linux calls a socket writable only while at least a third of its buffer is free.
    return size <= select.PIPE_BUF and bool(writable.poll(0))


def _writable(descriptor: int) -> select.poll:
    found = select.poll()
    found.register(descriptor, select.POLLOUT)
    return found
