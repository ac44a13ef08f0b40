"""Main functions of worker processes for tests of the supervisor. They import nothing of the app, to start fast."""

import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

#: As in app/server/draining.py.
READY, STOPPED_LISTENING, DRAIN = b"ready", b"leaving", b"drain"


def record_messages(folder: Path, _: object, sockets: list[socket.socket], pipe: Connection) -> None:
    """Listen, write received messages into a file of `folder`, and end at DRAIN."""
    for each in sockets:
        each.listen()
    with (folder / str(os.getpid())).open("ab", buffering=0) as file:
        pipe.send_bytes(READY)
        while (message := pipe.recv_bytes()) != DRAIN:
            file.write(message + b"\n")


def record_signal_mask(folder: Path, settings: object, sockets: list[socket.socket], pipe: Connection) -> None:
    """Write the blocked signals into a file of `folder`, then do the same as `record_messages`."""
    blocked = sorted(signal.Signals(each).name for each in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    (folder / "mask").write_text(" ".join(blocked))
    record_messages(folder, settings, sockets, pipe)


def stop_listening(_: Path, __: object, sockets: list[socket.socket], pipe: Connection) -> None:
    """Listen, then stop listening, but do not end."""
    pipe.send_bytes(READY)
    for each in sockets:
        each.listen()
        each.close()
    pipe.send_bytes(STOPPED_LISTENING)
    pipe.recv_bytes()


def ignore_messages(_: Path, __: object, ___: list[socket.socket], pipe: Connection) -> None:
    """Become ready, and ignore all messages."""
    pipe.send_bytes(READY)
    signal.pause()


def exit_early(_: Path, __: object, ___: list[socket.socket], pipe: Connection) -> None:
    """End before being ready."""
    pipe.close()
    raise SystemExit(7)
