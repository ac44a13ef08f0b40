"""The server as a real process whose log or ledger nobody reads: `limner serve | less`, or a log driver that hangs."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import cast

import httpx
import orjson
import pytest

from tests.support.ports import free_ports
from tests.support.processes import LimnerProcess, run_process
from tests.support.servers import RunningDemo

BODY = {"model": "gpt-image-2", "prompt": "a fox", "response_format": "url"}
ROOT = Path(__file__).parents[2]

CRASH = """
from app.observability.logging import configure_logging, log, unblock_standard_error
unblock_standard_error()
configure_logging("json", "info")
log.info("request")
raise KeyError("a bug")
"""


def fill(process: "subprocess.Popen[str]", descriptor: int) -> None:
    """Leave no room for a single byte in a pipe to which the process writes."""
    pipe = os.open(f"/proc/{process.pid}/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    for filling in (b"\n" * 4096, b"\n"):
        with suppress(BlockingIOError):
            while True:
                os.write(pipe, filling)
    os.close(pipe)


def events(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stderr is not None
    return [orjson.loads(line)["event"] for line in process.stderr if line.strip()]


def ask(server: LimnerProcess, count: int) -> None:
    """Let requests be answered, some with an image and some with an error."""
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        for number in range(count):
            assert client.post("/v1/images/generations", json=BODY | {"n": 1 - number % 2 * 2}).status_code < 500
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_that_nobody_reads_stops_neither_requests_nor_the_end(
    demo: RunningDemo, tmp_path: Path, workers: int
) -> None:
    more = {"LIMNER_WORKERS": str(workers), "LIMNER_ALLOW_UNSHARED": "true"}
    with run_process(demo, tmp_path, LIMNER_UPSTREAM_MODEL="gpt-image-2-chat", **more) as server:
        fill(server.process, 2)
        ask(server, 6)
        server.process.send_signal(signal.SIGHUP)
        ask(server, 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_that_is_read_late_is_complete(demo: RunningDemo, tmp_path: Path, workers: int) -> None:
    more = {"LIMNER_WORKERS": str(workers), "LIMNER_ALLOW_UNSHARED": "true"}
    with run_process(demo, tmp_path, LIMNER_UPSTREAM_MODEL="gpt-image-2-chat", **more) as server:
        fill(server.process, 2)
        ask(server, 6)
        with ThreadPoolExecutor(1) as threads:
            read = threads.submit(events, server.process)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
        assert read.result().count("request") == 6
        assert sum(event.startswith("Finished server process") for event in read.result()) == workers


def test_a_ledger_that_nobody_reads_stops_neither_requests_nor_the_end(demo: RunningDemo, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    more = {"LIMNER_UPSTREAM_MODEL": "gpt-image-2-chat", "LIMNER_LEDGER": str(path)}
    with run_process(demo, tmp_path / "store", **more) as server:
        ask(server, 1)
        assert orjson.loads(os.read(reader, 4096))["outcome"] == "ok"
        status = httpx.get(f"{server.url}/v1/status", timeout=30, trust_env=False)
        assert status.status_code == 200
        os.close(reader)
        ask(server, 2)
        assert server.wait_for_event("ledger_write_failed")["reason"] == "[Errno 32] Broken pipe"
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


@pytest.mark.parametrize("is_read", [True, False])
def test_a_crash_is_written_if_somebody_reads_it_and_ends_the_process_in_any_case(*, is_read: bool) -> None:
    reader, end = os.pipe()
    if not is_read:
        os.set_blocking(end, False)
        with suppress(BlockingIOError):
            while True:
                os.write(end, b"\n" * 4096)
        os.set_blocking(end, True)
    done = subprocess.run([sys.executable, "-c", CRASH], cwd=ROOT, stderr=end, check=False, timeout=30)
    os.close(end)
    with open(reader, "rb") as file:
        lines = file.read().splitlines()
    assert done.returncode == 1
    assert (lines[-1] == b"KeyError: 'a bug'") is is_read
    if is_read:
        assert orjson.loads(lines[0])["event"] == "request"


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_are_no_connections(demo: RunningDemo, tmp_path: Path, closed: str) -> None:
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        "LIMNER_UPSTREAM_BASE_URL": f"{demo.url}/v1",
        "LIMNER_UPSTREAM_API_KEY": "sk-upstream",
        "LIMNER_FETCH_ALLOW": demo.url.removeprefix("http://"),
        "LIMNER_IMAGE_STORE": f"disk://{tmp_path}",
        "LIMNER_PORT": str(port),
        "LIMNER_LEDGER": "-",
    }
    command = ["sh", "-c", f'exec "$0" -m app serve {closed}', sys.executable]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        server = LimnerProcess(cast("subprocess.Popen[str]", process), [])
        server.url = f"http://127.0.0.1:{port}"
        wait_until_served(server.url)
        ask(server, 4)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def wait_until_served(url: str) -> None:
    """Wait for a server that cannot say that it is ready, for at most a minute."""
    pause = threading.Event()
    for _ in range(1200):
        with suppress(httpx.TransportError):
            assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
            return
        pause.wait(0.05)
    raise AssertionError("the server does not answer")
