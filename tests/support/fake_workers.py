"""Workers for tests of their supervisor: what each does in its process. They load nothing of the app, to start soon."""

import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

#: As in app/server.py.
READY, LEAVING, DRAIN = b"ready", b"leaving", b"drain"


def obey(heard: Path, _: object, sockets: list[socket.socket], line: Connection) -> None:
    """Listens, writes down what it is told, and ends when it is to drain. `heard`: a folder."""
    for each in sockets:
        each.listen()
    with (heard / str(os.getpid())).open("ab", buffering=0) as file:
        line.send_bytes(READY)
        while (said := line.recv_bytes()) != DRAIN:
            file.write(said + b"\n")


def tell_mask(heard: Path, settings: object, sockets: list[socket.socket], line: Connection) -> None:
    """Writes down which signals it does not get yet."""
    blocked = sorted(signal.Signals(each).name for each in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    (heard / "mask").write_text(" ".join(blocked))
    obey(heard, settings, sockets, line)


def leave(_: Path, __: object, sockets: list[socket.socket], line: Connection) -> None:
    """Listens, and then no longer, though it has not ended."""
    line.send_bytes(READY)
    for each in sockets:
        each.listen()
        each.close()
    line.send_bytes(LEAVING)
    line.recv_bytes()


def refuse(_: Path, __: object, ___: list[socket.socket], line: Connection) -> None:
    """Listens, and hears nothing."""
    line.send_bytes(READY)
    signal.pause()


def fail(_: Path, __: object, ___: list[socket.socket], line: Connection) -> None:
    """Ends before it is ready."""
    line.close()
    raise SystemExit(7)
