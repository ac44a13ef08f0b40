"""The server as a real process: signals, draining, exit codes."""

import asyncio
import gc
import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, ClassVar

import httpx
import orjson
import pytest
import structlog

from app.api.diagnostics import MAX_SILENCES_OF_CALLER
from app.config.settings import Settings
from app.observability import metrics
from app.server.draining import (
    COUNT_DEATH,
    DRAIN,
    READY,
    RELOAD_KEYS,
    STOPPED_LISTENING,
    DrainingServer,
    WorkerServer,
    base_url,
    run_worker,
)
from tests.support.processes import run_process
from tests.support.raw_http import connect
from tests.support.raw_http_lines import wait_until
from tests.support.servers import RunningDemo

BODY = {"model": "gpt-image-2", "prompt": "a fox"}


def generate(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json=BODY, timeout=30, trust_env=False)


def test_sigterm_with_ten_jobs_in_flight_loses_none(demo: RunningDemo, tmp_path: Path) -> None:
    demo.state.reset()
    with run_process(demo, tmp_path) as server, ThreadPoolExecutor(10) as clients:
        answers = [clients.submit(generate, server.url) for _ in range(10)]
        assert demo.state.wait_for_calls(10)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_for_event("server_draining")["in_flight"] == 10
        ready = httpx.get(f"{server.url}/readyz", trust_env=False)
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200
        assert generate(server.url).status_code == 503
        demo.state.release()
        assert [answer.result().status_code for answer in answers] == [200] * 10
        assert server.end() == 0
    assert demo.state.calls == 10


def test_jobs_that_outlast_the_grace_period_get_an_error(demo: RunningDemo, tmp_path: Path) -> None:
    demo.state.reset()
    with run_process(demo, tmp_path, LIMNER_SHUTDOWN_GRACE="0.1") as server, ThreadPoolExecutor(1) as clients:
        answer = clients.submit(generate, server.url)
        assert demo.state.wait_for_calls(1)
        server.process.send_signal(signal.SIGINT)
        assert answer.result().status_code == 503
        assert "shutting down" in answer.result().json()["error"]["message"]
        assert server.end() == 0
    demo.state.release()


def test_draining_ends_silence_and_stalled_replies_at_once(demo: RunningDemo, tmp_path: Path) -> None:
    silence = b"GET /v1/silence/900 HTTP/1.1\r\nhost: localhost\r\n\r\n"
    reply = (
        b"POST /v1/explain HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\nexpect: 100-continue\r\n"
        b"content-length: 9\r\n\r\n"
    )
    requests = [*[silence] * MAX_SILENCES_OF_CALLER, reply]
    with run_process(demo, tmp_path) as server, ExitStack() as connections:
        wires = [connections.enter_context(connect(server.url)) for _ in requests]
        for wire, request in zip(wires, requests, strict=True):
            wire.send(request)
        assert wires[-1].read_response().status == 100
        wait_until(lambda: httpx.get(f"{server.url}/v1/silence/0", trust_env=False).status_code == 429)
        server.process.send_signal(signal.SIGTERM)
        answers = [wire.read_response() for wire in wires]
        assert {(answer.status, answer.json()["error"]["code"]) for answer in answers} == {
            (503, "server_is_overloaded")
        }
        assert server.end() == 0


def test_a_second_signal_stops_the_server_at_once(demo: RunningDemo, tmp_path: Path) -> None:
    demo.state.reset()
    with (
        run_process(demo, tmp_path) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client,
    ):
        body = orjson.dumps(BODY)
        client.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert demo.state.wait_for_calls(1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_event("server_draining")
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 130
    demo.state.release()


def test_sighup_reloads_the_key_file(demo: RunningDemo, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("")
    with run_process(demo, tmp_path, LIMNER_KEYS_FILE=str(file)) as server:
        models = f"{server.url}/v1/models"
        assert httpx.get(models, headers={"authorization": "Bearer sk-alice"}, trust_env=False).status_code == 401
        file.write_text(f'[[keys]]\nname = "alice"\nsha256 = "{hashlib.sha256(b"sk-alice").hexdigest()}"')
        server.process.send_signal(signal.SIGHUP)
        assert server.wait_for_event("key_file_loaded")["keys"] == 1
        assert httpx.get(models, headers={"authorization": "Bearer sk-alice"}, trust_env=False).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


def test_a_pipe_in_place_of_the_key_file_holds_up_neither_requests_nor_the_end(
    demo: RunningDemo, tmp_path: Path
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'[[keys]]\nname = "alice"\nsha256 = "{hashlib.sha256(b"sk-alice").hexdigest()}"')
    with run_process(demo, tmp_path, LIMNER_KEYS_FILE=str(file)) as server:
        file.unlink()
        os.mkfifo(file)
        server.process.send_signal(signal.SIGHUP)
        assert "regular file" in server.wait_for_event("key_file_rejected")["reason"]
        headers = {"authorization": "Bearer sk-alice"}
        assert httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


def test_sighup_without_a_key_file_changes_nothing(demo: RunningDemo, tmp_path: Path) -> None:
    with run_process(demo, tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        assert "LIMNER_KEYS_FILE" in server.wait_for_event("reload_ignored")["reason"]
        assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


def test_a_port_in_use_is_an_error_message(demo: RunningDemo, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {**os.environ, "LIMNER_UPSTREAM_BASE_URL": "http://127.0.0.1:9", "LIMNER_PORT": str(taken.getsockname()[1]), "LIMNER_IMAGE_STORE": f"disk://{tmp_path}"}  # fmt: skip
        ended = subprocess.run([sys.executable, "-m", "app", "serve"], cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=20, check=False)  # fmt: skip
    assert ended.returncode != 0
    assert "address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


class InProcess:
    """The same server in a thread of this process; its signal handlers are called directly."""

    def __init__(
        self,
        demo: RunningDemo,
        folder: Path,
        make: Callable[[Settings], DrainingServer] = DrainingServer,
        sockets: list[socket.socket] | None = None,
        **options: Any,
    ) -> None:
        keys = folder / "keys.toml"
        keys.write_text("")
        settings = Settings(
            upstream_base_url=f"{demo.url}/v1",
            upstream_model="holds",
            image_store=f"disk://{folder}",
            port=0,
            keys_file=keys,
            **options,
        )
        self.server = make(settings)
        self.thread = threading.Thread(target=self.server.run, args=(sockets,))

    def __enter__(self) -> "InProcess":
        self.thread.start()
        for _ in range(2000):
            if self.server._loop is not None:
                return self
            threading.Event().wait(0.005)
        raise AssertionError("the server did not start")

    def __exit__(self, *_: object) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        gc.unfreeze()
        gc.set_threshold(700, 10, 10)
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


def test_the_first_signal_drains_the_server(demo: RunningDemo, tmp_path: Path) -> None:
    with InProcess(demo, tmp_path) as running:
        running.server.handle_exit(signal.SIGTERM, None)
    assert running.server.started
    assert not running.server.force_exit


def test_the_second_signal_forces_the_exit(demo: RunningDemo, tmp_path: Path) -> None:
    with InProcess(demo, tmp_path) as running:
        running.server._start_draining = lambda: None  # type: ignore[method-assign]
        running.server._draining = asyncio.Future(loop=running.server._loop)  # type: ignore[assignment]
        running.server.handle_exit(signal.SIGINT, None)
    assert running.server.force_exit


def test_a_server_that_cannot_listen_is_not_ready(demo: RunningDemo, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(
            upstream_base_url=f"{demo.url}/v1", image_store=f"disk://{tmp_path}", port=taken.getsockname()[1]
        )
        server = DrainingServer(settings)
        with structlog.testing.capture_logs() as records, pytest.raises(SystemExit):
            server.run()
    assert server._loop is None
    assert {"event": "server_bind_failed", "log_level": "error", "see": "LIMNER_HOST, LIMNER_PORT"} in records


def test_a_server_whose_services_do_not_open_does_not_start(demo: RunningDemo, tmp_path: Path) -> None:
    def fail(_: object) -> AbstractAsyncContextManager[None]:
        raise OSError("no room")

    server = DrainingServer(Settings(upstream_base_url=f"{demo.url}/v1", image_store=f"disk://{tmp_path}", port=0))
    server.config.app.router.lifespan_context = fail  # type: ignore[union-attr]
    with structlog.testing.capture_logs() as records, pytest.raises(SystemExit):
        server.run()
    assert not server.started
    assert "server_bind_failed" not in [record["event"] for record in records]


@pytest.mark.parametrize(("has_file", "event"), [(True, "key_file_loaded"), (False, "reload_ignored")])
def test_the_handler_of_sighup_reloads_a_key_file(
    demo: RunningDemo, tmp_path: Path, has_file: bool, event: str
) -> None:
    class Loop:
        handlers: ClassVar[dict[int, Any]] = {}

        def add_signal_handler(self, sig: int, handler: Any) -> None:
            self.handlers[sig] = handler

    keys = tmp_path / "keys.toml"
    keys.write_text("")
    keys_file = keys if has_file else None
    settings = Settings(upstream_base_url=f"{demo.url}/v1", image_store=f"disk://{tmp_path}", keys_file=keys_file)
    server = DrainingServer(settings)
    server._reload_keys_on_sighup(Loop())  # type: ignore[arg-type]
    with structlog.testing.capture_logs() as records:
        Loop.handlers[signal.SIGHUP]()
        if server._services.key_file is not None:
            server._services.key_file.look()
    assert [record["event"] for record in records] == [event]


class WorkerInProcess(InProcess):
    """One worker in a thread of this process; the test plays its supervisor."""

    def __init__(self, demo: RunningDemo, folder: Path) -> None:
        self.pipe, theirs = Pipe()
        self.theirs = theirs
        bound = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = bound.getsockname()
        super().__init__(demo, folder, lambda settings: WorkerServer(settings, theirs), [bound])

    def __enter__(self) -> "WorkerInProcess":
        super().__enter__()
        assert self.pipe.recv_bytes() == READY
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.pipe.close()
        self.theirs.close()


def test_a_worker_obeys_its_supervisor(demo: RunningDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = metrics.WORKER_DEATHS._value.get()
    with WorkerInProcess(demo, tmp_path) as worker:
        reloaded = threading.Event()
        monkeypatch.setattr(worker.server._services.key_file, "reload", reloaded.set)
        for message in (RELOAD_KEYS, COUNT_DEATH, b"a message of a later version", DRAIN):
            worker.pipe.send_bytes(message)
        assert reloaded.wait(20)
    assert metrics.WORKER_DEATHS._value.get() == deaths + 1


def test_a_worker_without_a_supervisor_stops_listening_and_ends(demo: RunningDemo, tmp_path: Path) -> None:
    with WorkerInProcess(demo, tmp_path) as worker:
        worker.pipe.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(worker.address)


def test_a_worker_that_gets_sigterm_reports_that_it_stops_listening(
    demo: RunningDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkerInProcess(demo, tmp_path) as worker:
        reloaded = threading.Event()
        monkeypatch.setattr(worker.server._services.key_file, "reload", reloaded.set)
        worker.server.handle_exit(signal.SIGINT, None)
        worker.pipe.send_bytes(RELOAD_KEYS)
        assert reloaded.wait(20)
        assert not worker.pipe.poll(0)
        worker.server.handle_exit(signal.SIGTERM, None)
        assert worker.pipe.recv_bytes() == STOPPED_LISTENING


@dataclass(frozen=True, slots=True)
class Broken:
    name: str
    settings: dict[str, Any]
    error: str


BROKEN = [
    Broken("an invalid key file", {"keys_file": __file__}, "Expected '=' after a key"),
    Broken("a store that cannot be created", {"image_store": "disk:///dev/null/images"}, "Not a directory"),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_worker_that_cannot_start_logs_the_reason(case: Broken, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = Pipe()
    settings = Settings(upstream_base_url="http://h", log_format="json", **case.settings)
    with ours, theirs, pytest.raises(SystemExit) as ended:
        run_worker(settings, [], theirs)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    record = orjson.loads(capsys.readouterr().err)
    assert (ended.value.code, record["event"], record["pid"]) == (2, "worker_start_failed", os.getpid())
    assert case.error in record["error"]


def test_the_main_function_of_a_worker_runs_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []
    monkeypatch.setattr(WorkerServer, "run", lambda _, sockets: runs.append(sockets))
    ours, theirs = Pipe()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as bound:
        run_worker(Settings(upstream_base_url="http://h", image_store="memory:"), [bound], theirs)
        assert runs == [[bound]]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize(("address", "url"), [(("127.0.0.1", 80), "http://127.0.0.1:80/v1"), (("::1", 80, 0, 0), "http://[::1]:80/v1")])  # fmt: skip
def test_the_base_url_of_an_address(address: tuple[str, int], url: str) -> None:
    assert base_url(address) == url
