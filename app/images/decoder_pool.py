"""Keep decoder processes warm, and hand jobs to them."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import orjson

from app.images.blob import Blob
from app.images.decoder_messages import PREFIX_SIZE, READY

#: A decoder is replaced after this many jobs, whatever its libraries have leaked.
_MAX_JOBS = 200

#: Seconds for one job. A decoder that uses no CPU time hangs on a disk, or was stopped.
_MAX_SECONDS = 300.0

#: Attempts to start a decoder for a job: the template may end after it was handed the socket.
_MAX_STARTS = 2

#: Seconds for a process to start.
_MAX_START_SECONDS = 60.0

#: How the template is started. It imports what this process can import, and nothing that `site` would add.
_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[2:]; from app.images.decoder import main; main(int(sys.argv[1]))"

#: The whole environment of the template, which thus holds no key. Images of more than 8 MiB are returned to the system.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**20),
}


class DecoderExceeded(Exception):
    """A job has exceeded its limits, or its process has ended. The text says more, for the log."""


class DecoderUnavailable(Exception):
    """No process can be started. The text says why, for the log."""


class DecoderPool:
    """Run each job in a process of its own, of which `warm` wait for jobs.

    The processes have no descriptor of this process but their socket, and end when it is closed. Where a call is
    canceled, its process ends at once.
    """

    def __init__(self, warm: int, max_seconds: float = _MAX_SECONDS) -> None:
        self._warm = warm
        self._max_seconds = max_seconds
        self._idle: list[_Channel] = []
        self._template: _Template | None = None

    def start(self) -> None:
        """Start the processes, without waiting until they are ready. If that fails, the first job tries again."""
        with suppress(DecoderUnavailable):
            while len(self._idle) < self._warm:
                self._idle.append(self._start_decoder())

    async def run(self, job: Mapping[str, Any], inputs: Sequence[Blob], output: Blob) -> dict[str, Any]:
        """Do one job, and return the reply. The blobs may be closed as soon as this ends, in whatever way.

        Raises:
            DecoderExceeded: The job has exceeded its limits.
            DecoderUnavailable: No process can be started.
        """
        channel = await self._take()
        with ExitStack() as on_error:
            on_error.callback(self._replace, channel)
            try:
                async with asyncio.timeout(self._max_seconds):
                    reply = await channel.ask(job, inputs, output)
            except TimeoutError:
                raise DecoderExceeded(f"no reply within {self._max_seconds} s") from None
            except ConnectionError:
                raise DecoderExceeded("the process has ended") from None
            if "exceeded" in reply:
                raise DecoderExceeded(reply["exceeded"])
            channel.jobs += 1
            # Pillow loses memory with some damaged files.
            if channel.jobs < _MAX_JOBS and "error" not in reply:
                on_error.pop_all()
                self._idle.append(channel)
        return reply

    def close(self) -> None:
        """End all processes that wait. One with a job ends when its call does."""
        while self._idle:
            self._idle.pop().close()
        if self._template is not None:
            self._template.close()
            self._template = None

    async def _take(self) -> "_Channel":
        """Return a decoder that is ready: the one that was used last, or a new one if none waits."""
        attempts = 0
        while attempts < _MAX_STARTS:
            attempts += not self._idle
            channel = self._idle.pop() if self._idle else self._start_decoder()
            with ExitStack() as on_error:
                on_error.callback(channel.close)
                if await channel.is_ready():
                    on_error.pop_all()
                    return channel
        raise DecoderUnavailable("the process ends at its start")

    def _replace(self, channel: "_Channel") -> None:
        """End a decoder, and keep another one warm for it while the pool is open."""
        channel.close()
        if self._template is not None:
            self.start()

    def _start_decoder(self) -> "_Channel":
        with ExitStack() as on_error:
            try:
                ours, theirs = socket.socketpair()
                on_error.callback(ours.close)
                with theirs:
                    self._fork(theirs)
            except OSError as error:
                raise DecoderUnavailable(str(error)) from None
            ours.setblocking(False)
            on_error.pop_all()
            return _Channel(ours)

    def _fork(self, channel: socket.socket) -> None:
        if self._template is None or not self._template.fork(channel):
            if self._template is not None:
                self._template.close()
            self._template = None
            self._template = _Template()
            self._template.fork(channel)


class _Template:
    """The process that forks decoders."""

    def __init__(self) -> None:
        control, theirs = socket.socketpair()
        with ExitStack() as on_error, theirs:
            on_error.callback(control.close)
            number = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter
                [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, str(number), *map(os.path.abspath, sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[number],
                cwd="/",
                env=ENVIRONMENT,
                # Ctrl-C is for the server, which still needs the decoders while it drains.
                start_new_session=True,
            )
            self._control = control
            on_error.pop_all()

    def fork(self, channel: socket.socket) -> bool:
        """Request a decoder that serves `channel`, and return whether the process is there to do it."""
        try:
            socket.send_fds(self._control, [b"\0"], [channel.fileno()])
        except ConnectionError:
            return False
        return True

    def close(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()


class _Channel:
    """The socket of one decoder."""

    def __init__(self, end: socket.socket) -> None:
        self.jobs = 0
        self._socket = end
        self._has_started = False

    async def is_ready(self) -> bool:
        """Wait until the process is there, and return whether it still is."""
        try:
            if not self._has_started:
                async with asyncio.timeout(_MAX_START_SECONDS):
                    self._has_started = await self._receive(len(READY)) == READY
            # It sends nothing unasked, so there is nothing to read unless it has ended.
            return bool(self._socket.recv(1))
        except BlockingIOError:
            return True
        except (ConnectionError, TimeoutError):
            return False

    async def ask(self, job: Mapping[str, Any], inputs: Sequence[Blob], output: Blob) -> dict[str, Any]:
        """Hand over a job, and return the reply. Raises `ConnectionError` if the process has ended."""
        files = [None if blob.file_descriptor is None else blob.lend_file() for blob in inputs]
        kinds = [(blob.size, file is None) for blob, file in zip(inputs, files, strict=True)]
        message = orjson.dumps({**job, "inputs": kinds})
        descriptors = [*(file for file in files if file is not None), output.lend_file()]
        # The buffer of the socket is empty, so these few bytes do not have to wait.
        socket.send_fds(self._socket, [len(message).to_bytes(PREFIX_SIZE)], descriptors)
        held = (blob.read_at(0, blob.size) for blob, file in zip(inputs, files, strict=True) if file is None)
        await asyncio.get_running_loop().sock_sendall(self._socket, b"".join((message, *held)))
        length = await self._receive(PREFIX_SIZE)
        reply: dict[str, Any] = orjson.loads(await self._receive(int.from_bytes(length)))
        # It has closed them before it replied. A process that did not reply may still use them.
        for blob in (*(blob for blob, file in zip(inputs, files, strict=True) if file is not None), output):
            blob.end_loan()
        return reply

    def close(self) -> None:
        self._socket.close()

    async def _receive(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = b""
        while len(data) < size:
            received = await loop.sock_recv(self._socket, size - len(data))
            if not received:
                raise ConnectionResetError
            data += received
        return data
