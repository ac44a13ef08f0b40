"""What runs in the decoder's processes: jobs, limits, and the template that forks them."""

import errno
import gc
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import AvifImagePlugin, PngImagePlugin

from app.images import decoder
from app.images.blob import Blob
from app.images.decode_cost import Cost
from app.images.decoder import HeldBytes, Output, SharedFile, ending_with, enforce_cost, run_template, serve
from app.images.decoder_messages import PREFIX_SIZE, READY
from tests.support.decoders import restore_pillow_afterwards
from tests.support.sample_images import as_blob, as_bytes, as_image, gradient, saved
from tests.support.signing import credentials, read_manifest

ROOT = Path(__file__).parents[3]
PNG, JPEG = (saved(gradient(), name) for name in ("PNG", "JPEG"))
MASK = saved(gradient("RGBA"), "PNG")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has these limits")


class Client:
    """The server's end of a channel. Jobs are sent before the decoder runs: they fit into the socket's buffer."""

    def __init__(self) -> None:
        self.socket, self.decoder = socket.socketpair()
        self.output = Blob()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.decoder.close()
        self.output.close()

    def send(self, operation: str, options: Any, *inputs: Blob, granted: int = 1 << 30) -> None:
        files = [blob.file_descriptor for blob in inputs]
        held = [blob for blob, file in zip(inputs, files, strict=True) if file is None]
        job = {
            "operation": operation,
            "options": options,
            "max_pixels": 1 << 16,
            "granted": granted,
            "inputs": [(blob.size, file is None) for blob, file in zip(inputs, files, strict=True)],
        }
        message = orjson.dumps(job)
        descriptors = [*(file for file in files if file is not None), self.output.lend_file()]
        socket.send_fds(self.socket, [len(message).to_bytes(4)], descriptors)
        self.socket.sendall(b"".join((message, *map(as_bytes, held))))

    def run(self, enforce: Callable[[Cost], object] = id) -> list[dict[str, Any]]:
        """Let a decoder do the jobs, and return its replies."""
        self.socket.shutdown(socket.SHUT_WR)
        serve(self.decoder, enforce, lambda _: nullcontext())
        self.decoder.shutdown(socket.SHUT_WR)
        replies = []
        with self.socket.makefile("rb") as file:
            assert file.read(1) == READY
            while prefix := file.read(PREFIX_SIZE):
                replies.append(orjson.loads(file.read(int.from_bytes(prefix))))
        return replies


def in_file(data: bytes) -> Blob:
    blob = Blob(in_memory=0)
    blob.write(data)
    return blob


@pytest.mark.parametrize("hold", [as_blob, in_file], ids=["held in memory", "in a file"])
def test_a_result_is_converted(hold: Callable[[bytes], Blob]) -> None:
    with Client() as client, hold(PNG) as blob:
        client.send("convert", ("jpeg", 90, (12, 12), "native", False), blob)
        (reply,) = client.run()
        client.output.take_back(reply["written"])
        image = as_image(client.output)
        assert (image.format, image.size) == ("JPEG", (12, 8))


def test_inputs_are_prepared_one_after_the_other() -> None:
    with Client() as client, as_blob(PNG) as blob, in_file(JPEG) as other:
        client.send("prepare", (0, (None, None), None), blob)
        client.send("prepare", (1, (None, 12), None), other)
        client.send("prepare", (2, (None, None), (5, 4)), blob)
        assert [(reply["pixels"], reply["shrunk"]) for reply in client.run()] == [
            ([24, 16], None),
            ([12, 8], "image[1] 24x16->12x8"),
            ([5, 4], "image[2] 24x16->5x4"),
        ]


def test_masks_are_checked_and_applied() -> None:
    with Client() as client, as_blob(PNG) as image, in_file(MASK) as mask, as_blob(JPEG) as result:
        client.send("check_mask", None, mask, image)
        client.send("apply_mask", None, result, image, mask)
        checked, applied = client.run()
        assert checked == {"written": None}
        client.output.take_back(applied["written"])
        assert as_image(client.output).size == (24, 16)


def test_an_image_is_signed() -> None:
    who = credentials()
    with Client() as client, as_blob(JPEG) as image, in_file(PNG) as original:
        client.send("sign", (who.chain, who.pem(), "es256", None, "1.2.3", False, False), image, original)
        (signed,) = client.run()
        client.output.take_back(signed["written"])
        assert read_manifest(as_bytes(client.output), "jpeg").state == "Valid"


def test_an_error_is_sent_with_its_fields() -> None:
    with Client() as client, as_blob(PNG[:60]) as blob:
        client.send("prepare", (1, (1, None), None), blob)
        assert client.run() == [
            {
                "error": "UserError",
                "fields": {
                    "message": "Invalid image file or mode for image 2, please check your image file.",
                    "param": None,
                    "code": "invalid_image_file",
                    "detail": "OSError: image file is truncated",
                },
            }
        ]


def test_an_image_that_is_too_complex_is_not_called_damaged() -> None:
    with Client() as client, as_blob(saved(gradient(size=(257, 256)), "PNG")) as blob:
        client.send("prepare", (0, (None, None), None), blob)
        assert client.run() == [{"too_complex": "257x256 is more than 65536 pixels"}]


def test_a_full_disk_has_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with Client() as client, as_blob(PNG) as blob:
        client.send("convert", ("jpeg", None, None, "native", False), blob)
        (reply,) = client.run()
        assert (reply["error"], reply["fields"]["code"]) == ("SpoolFull", "spool_full")


def test_what_needs_more_memory_than_was_granted_says_how_much() -> None:
    with Client() as client, as_blob(PNG) as blob:
        client.send("convert", ("jpeg", None, None, "native", False), blob, granted=1)
        (reply,) = client.run()
        assert list(reply) == ["needs"]
        assert reply["needs"] > 1 << 20


def test_a_decoder_ends_after_a_job_that_exceeds_its_limits() -> None:
    def enforce(_: Cost) -> None:
        raise MemoryError("none left" * 100)

    with Client() as client, as_blob(PNG) as blob:
        client.send("convert", ("jpeg", None, None, "native", False), blob)
        client.send("convert", ("jpeg", None, None, "native", False), blob)
        (reply,) = client.run(enforce)
        assert reply["exceeded"].startswith("MemoryError: none left")
        assert len(reply["exceeded"]) == 300


def test_a_decoder_ends_if_a_job_is_cut_off() -> None:
    with Client() as client:
        client.socket.sendall((100).to_bytes(4) + b"{")
        with pytest.raises(EOFError):
            client.run()


@LINUX
def test_a_job_leaves_no_descriptor_open() -> None:
    with Client() as client, in_file(PNG) as blob:
        client.send("convert", ("jpeg", None, None, "native", False), blob)
        before = len(os.listdir("/proc/self/fd"))
        client.run()
        assert len(os.listdir("/proc/self/fd")) == before


# Files


def test_an_input_is_read_without_moving_the_position_of_its_file() -> None:
    with in_file(b"0123456789") as blob:
        descriptor = blob.lend_file()
        file = SharedFile(descriptor, blob.size)
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        held = HeldBytes(b"0123456789")
        assert (file.read_at(8, 5), held.read_at(8, 5), file.size, held.size) == (b"89", b"89", 10, 10)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == before


def test_an_output_is_emptied_for_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with Blob() as blob:
        output = Output(blob.lend_file())
        output.write(b"the first attempt")
        output.close()
        output.write(memoryview(b"the second"))
        blob.take_back(output.size)
        assert as_bytes(blob) == b"the second"


# Limits


@LINUX
def test_the_limits_are_set_around_what_the_process_holds_already(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[int, int] = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: limits.update({kind: values[0]}))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, resource.RLIM_INFINITY))
    enforce_cost(Cost(1 << 40, 100))
    assert 1 << 40 < limits[resource.RLIMIT_DATA] < limits[resource.RLIMIT_AS] < 1 << 41
    usage = resource.getrusage(resource.RUSAGE_SELF)
    assert 100 < limits[resource.RLIMIT_CPU] <= usage.ru_utime + usage.ru_stime + 101


def test_a_hard_limit_of_the_operator_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: limits.update({kind: values}))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (7, 7))
    enforce_cost(Cost(1 << 40, 100))
    assert set(limits.values()) == {(7, 7)}


def test_without_proc_only_the_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FileNotFoundError

    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: limits.update({kind: values}))
    monkeypatch.setattr(decoder, "open", missing, raising=False)
    enforce_cost(Cost(1, 1))
    assert list(limits) == [resource.RLIMIT_CPU]


def run_python(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=False, **options
    )


@LINUX
def test_the_kernel_refuses_memory_beyond_the_limit() -> None:
    code = """
from app.images.decode_cost import Cost
from app.images.decoder import enforce_cost
enforce_cost(Cost(64 << 20, 100))
held = bytearray(60 << 20)
try:
    bytearray(60 << 20)
except MemoryError:
    print("refused")
enforce_cost(Cost(64 << 20, 100))
bytearray(60 << 20)
print("granted")
"""
    done = run_python(code)
    assert done.stdout.split() == [b"refused", b"granted"], done.stderr


@LINUX
def test_the_kernel_ends_a_process_beyond_its_time() -> None:
    code = """
from app.images.decode_cost import Cost
from app.images.decoder import enforce_cost
enforce_cost(Cost(1, -1))
while True:
    pass
"""
    assert run_python(code).returncode == -signal.SIGXCPU


@LINUX
def test_the_kernel_ends_a_busy_process_whose_server_has_closed_the_channel() -> None:
    ours, theirs = socket.socketpair()
    code = f"""
import socket
from app.images.decoder import ending_with
with ending_with(socket.socket(fileno={theirs.fileno()})):
    print("busy", flush=True)
    while True:
        pass
"""
    with (
        theirs,
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        ours.close()
        assert process.wait(60) == -signal.SIGIO


def test_a_job_whose_server_has_closed_the_channel_before_is_not_begun() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ending_with(theirs):
            assert theirs.gettimeout() is None
        ours.close()
        with pytest.raises(SystemExit), ending_with(theirs):
            pytest.fail("begun")


# The template


class Ended(BaseException):
    pass


def test_the_template_forks_a_decoder_for_each_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on if the system refuses a process, and ends with its control socket."""
    pids: Iterator[int | OSError] = iter([77, OSError("no process left"), 77])

    def fork() -> int:
        pid = next(pids)
        if isinstance(pid, OSError):
            raise pid
        return pid

    monkeypatch.setattr(os, "fork", fork)
    ours, control = socket.socketpair()
    ends = []
    with ours, control:
        for _ in range(3):
            end, channel = socket.socketpair()
            ends.append(end)
            with channel:
                socket.send_fds(ours, [b"\0"], [channel.fileno()])
        ours.shutdown(socket.SHUT_WR)
        run_template(control, lambda _: pytest.fail("served by the template"))
    for end in ends:
        with end:
            assert end.recv(1) == b"", "the template has kept a channel open"


def test_a_forked_process_serves_its_channel_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(status: int) -> None:
        raise Ended(status)

    served: list[bytes] = []
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "_exit", leave)
    ours, control = socket.socketpair()
    end, channel = socket.socketpair()
    with ours, control, end:
        with channel:
            socket.send_fds(ours, [b"\0"], [channel.fileno()])
        end.sendall(b"a job")

        def serve_once(channel: socket.socket) -> None:
            assert control.fileno() == -1
            with channel:
                served.append(channel.recv(9))

        with pytest.raises(Ended):
            run_template(control, serve_once)
    assert served == [b"a job"]


def test_the_template_undoes_what_the_server_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, object] = {}
    limits: dict[int, tuple[int, int]] = {}
    written: dict[str, io.StringIO] = {}

    class Kept(io.StringIO):
        def __init__(self, path: str, _mode: str) -> None:
            super().__init__()
            written[path] = self

        def close(self) -> None:
            """Keep what was written."""

    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.update({number: handler}))
    monkeypatch.setattr(signal, "pthread_sigmask", lambda how, mask: handlers.update({-1: (how, mask)}))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: limits.update({kind: values}))
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 8)
    restore_pillow_afterwards(monkeypatch)
    monkeypatch.setattr(decoder, "open", Kept, raising=False)
    served: list[socket.socket] = []
    monkeypatch.setattr(decoder, "run_template", served.append)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    ours, theirs = socket.socketpair()
    with ours, warnings.catch_warnings():
        decoder.main(theirs.detach())
        warnings.warn("as Pillow does", UserWarning, stacklevel=1)
        served[0].close()
    assert handlers[signal.SIGTERM] is handlers[signal.SIGINT] is handlers[signal.SIGHUP] is signal.SIG_DFL
    assert handlers[signal.SIGCHLD] is signal.SIG_IGN
    assert handlers[-1] == (signal.SIG_SETMASK, ())
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    assert limits[resource.RLIMIT_FSIZE][0] <= 1 << 30
    assert written["/proc/self/oom_score_adj"].getvalue() == "1000"
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1
    assert PngImagePlugin.MAX_TEXT_CHUNK == 8 << 20
