"""Decode images in processes of their own, with limits on memory and CPU time: what runs in these processes.

A template process imports Pillow once and forks a decoder for each socket that the server hands to it. A decoder serves
one job at a time, on files whose descriptors arrive with the job. It ends when the server closes the socket, even
during a job, and when a job exceeds its limits.

    job:    length, JSON, the bytes of small inputs; descriptors of the other inputs, and of the output
    reply:  length, JSON
"""

import fcntl
import gc
import os
import resource
import select
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from PIL import AvifImagePlugin, Image

from app.errors import ApiError
from app.images.codec import Source, TooComplexError, read_any_metadata
from app.images.conversions import (
    InputOptions,
    ResultOptions,
    apply_mask,
    check_exact_mask,
    check_mask,
    convert,
    prepare,
)
from app.images.decode_cost import Cost, DecodeLimits, NotGranted
from app.images.decoder_messages import PREFIX_SIZE, READY
from app.images.input_limits import InputLimits
from app.images.manifests import SigningOptions, sign
from app.protocol.size_fit import SizeMode

_MIB = 2**20

#: Bytes of an output, at most.
_MAX_FILE = 1024 * _MIB

#: Memory that a process may use in addition to what was granted: for Python itself, and in its address space for code.
_SLACK_DATA, _SLACK_ADDRESSES = 16 * _MIB, 64 * _MIB

_MAX_DETAIL = 300

#: Three inputs and an output.
_MAX_DESCRIPTORS = 4


# Files


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """A small input, which arrived with its job."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


@dataclass(frozen=True, slots=True)
class SharedFile:
    """An input in a file that other processes read as well, so it is read without moving a position."""

    descriptor: int
    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)


class Output:
    """The file for what a job writes. `close` empties it, for another attempt."""

    def __init__(self, descriptor: int) -> None:
        self.size = 0
        self._descriptor = descriptor

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self.size += len(view)
        while view:  # write(2) may write less than it was given, particularly on a disk that is nearly full.
            view = view[os.write(self._descriptor, view) :]

    def close(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.size = 0


# Jobs


def _run_convert(options: Any, inputs: Sequence[Source], limits: DecodeLimits, output: Output) -> dict[str, Any]:
    image_format, compression, size, mode, transparent = options
    chosen = ResultOptions(image_format, compression, _as_size(size), SizeMode(mode), transparent)
    return _written(convert(inputs[0], chosen, limits, lambda: output))


def _run_prepare(options: Any, inputs: Sequence[Source], limits: DecodeLimits, output: Output) -> dict[str, Any]:
    index, within, exact_size = options
    chosen = InputOptions(index, InputLimits(*within), _as_size(exact_size))
    prepared = prepare(inputs[0], chosen, limits, lambda: output)
    return _written(prepared.sink) | {"pixels": prepared.size, "shrunk": prepared.shrunk}


def _run_check_mask(exact: Any, inputs: Sequence[Source], limits: DecodeLimits, _output: Output) -> dict[str, Any]:
    check = check_exact_mask if exact else check_mask
    check(inputs[0], inputs[1], limits)
    return _written(None)


def _run_apply_mask(_: Any, inputs: Sequence[Source], limits: DecodeLimits, output: Output) -> dict[str, Any]:
    return _written(apply_mask(inputs[0], inputs[1], inputs[2], limits, lambda: output))


def _run_sign(options: Any, inputs: Sequence[Source], limits: DecodeLimits, output: Output) -> dict[str, Any]:
    output.write(sign(inputs[0], inputs[1], SigningOptions(*options), limits))
    return _written(output)


#: What a job may ask for.
OPERATIONS: dict[str, Callable[[Any, Sequence[Source], DecodeLimits, Output], dict[str, Any]]] = {
    "convert": _run_convert,
    "prepare": _run_prepare,
    "check_mask": _run_check_mask,
    "apply_mask": _run_apply_mask,
    "sign": _run_sign,
}


def _as_size(value: Any) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])


def _written(output: Output | None) -> dict[str, Any]:
    return {"written": None if output is None else output.size}


def run_job(job: dict[str, Any], inputs: Sequence[Source], output: Output, enforce: Callable[[Cost], object]) -> Any:
    """Do what a job asks for, and return the reply."""
    limits = DecodeLimits(job["max_pixels"], job["granted"], enforce)
    try:
        return OPERATIONS[job["operation"]](job["options"], inputs, limits, output)
    except NotGranted as more:
        return {"needs": more.memory}
    except TooComplexError as error:
        return {"too_complex": str(error)}
    except ApiError as error:
        public = {"message": error.message, "param": error.param, "code": error.code, "detail": error.detail}
        return {"error": type(error).__name__, "fields": public}


# The limits of a process


def enforce_cost(cost: Cost) -> None:
    """Let the kernel end this process, or refuse it memory, beyond this cost. What it holds already does not count.

    RLIMIT_DATA counts private memory, whatever maps it; RLIMIT_AS also counts what is mapped from files and shared.
    On macOS the kernel ignores both, so that only the CPU time is limited.
    """
    held = _held_memory()
    if held is not None:
        addresses, data = held
        _lower(resource.RLIMIT_DATA, data + cost.memory + _SLACK_DATA)
        _lower(resource.RLIMIT_AS, addresses + cost.memory + _SLACK_ADDRESSES)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime + cost.seconds) + 1)


def _held_memory() -> tuple[int, int] | None:
    """Return the bytes of address space and of data of this process, None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = file.read().split()
    except OSError:
        return None
    return int(pages[0]) * resource.getpagesize(), int(pages[5]) * resource.getpagesize()


def _lower(kind: int, limit: int) -> None:
    """Set the soft limit, which may be raised again up to the hard one."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


# A decoder


@contextmanager
def ending_with(channel: socket.socket) -> Iterator[None]:
    """Let the kernel end this process as soon as the server closes `channel`, whatever this process is busy with.

    The signal for an event on a socket does it, as nobody handles it. The server sends nothing meanwhile. macOS ignores
    this signal: there a process ends after the job, or at the limit of its CPU time.
    """
    fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(channel, fcntl.F_GETFL)
    fcntl.fcntl(channel, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        if _is_closed(channel):  # Since before the signal was requested.
            raise SystemExit
        yield
    finally:
        fcntl.fcntl(channel, fcntl.F_SETFL, flags)


def _is_closed(channel: socket.socket) -> bool:
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


def serve(
    channel: socket.socket,
    enforce: Callable[[Cost], object] = enforce_cost,
    ending: Callable[[socket.socket], AbstractContextManager[None]] = ending_with,
) -> None:
    """Do the jobs that arrive on `channel`, until the server closes it or a job exceeds its limits."""
    channel.sendall(READY)
    while (received := _receive(channel)) is not None:
        job, inputs, descriptors = received
        try:
            with ending(channel):
                reply = run_job(job, inputs, Output(descriptors[-1]), enforce)
        except Exception as error:  # noqa: BLE001  # reason: any file may be hostile; the server must get a reply
            reply = {"exceeded": f"{type(error).__name__}: {error}"[:_MAX_DETAIL]}
        for descriptor in descriptors:
            os.close(descriptor)
        message = orjson.dumps(reply)
        channel.sendall(len(message).to_bytes(PREFIX_SIZE) + message)
        if "exceeded" in reply:
            return


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[Source], list[int]] | None:
    """Return the next job with its inputs and all descriptors, or None if the server has closed the channel."""
    prefix, descriptors, _, _ = socket.recv_fds(channel, PREFIX_SIZE, _MAX_DESCRIPTORS)
    if not prefix:
        return None
    job = orjson.loads(_receive_exactly(channel, int.from_bytes(prefix)))
    files = iter(descriptors)
    inputs: list[Source] = [
        HeldBytes(_receive_exactly(channel, size)) if is_held else SharedFile(next(files), size)
        for size, is_held in job["inputs"]
    ]
    return job, inputs, descriptors


def _receive_exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        received = channel.recv(size - len(data))
        if not received:
            raise EOFError
        data += received
    return bytes(data)


# The template


def main(descriptor: int) -> None:
    """Run the template until the server closes the other end of the socket `descriptor`."""
    configure_process()
    gc.freeze()  # A collection in a decoder would otherwise copy the memory that it shares with the template.
    run_template(socket.socket(fileno=descriptor))


def configure_process() -> None:
    """Give this process, and all that it forks, the defaults that a server has changed, and the limits of all jobs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel forgets decoders that have ended.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, _MAX_FILE)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # Where memory runs out, a decoder ends and not the server.
    warnings.simplefilter("ignore")  # Pillow's quote the file. Nobody reads what a decoder prints.
    # The threads of an AVIF decoder would count as memory, and take the processors of other images.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    read_any_metadata()
    Image.preinit()


def run_template(control: socket.socket, serve: Callable[[socket.socket], None] = serve) -> None:
    """Fork a decoder for each socket that arrives on `control`."""
    while (received := socket.recv_fds(control, 1, 1))[0]:
        channel = socket.socket(fileno=received[1][0])
        with suppress(
            OSError
        ):  # The server sees that the socket was closed, and says that no process could be started.
            if os.fork() == 0:
                control.close()
                try:
                    serve(channel)
                finally:
                    os._exit(0)
        channel.close()
