"""Several workers: with fake workers and a supervisor in this process, then as real processes with jobs in flight."""

import asyncio
import errno
import os
import select
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from app.config.settings import Settings
from app.server import supervisor as supervisor_module
from app.server.draining import COUNT_DEATH, RELOAD_KEYS
from app.server.supervisor import Supervisor, bind, find_addresses
from tests.support import fake_workers
from tests.support.processes import LimnerProcess, run_process
from tests.support.raw_http import RawConnection, build_request, connect
from tests.support.raw_http_lines import wait_until
from tests.support.redis import RedisServer, run_redis
from tests.support.servers import RunningDemo

Record = dict[str, Any]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the variable that the supervisor sets, and give it a temporary folder of its own to inspect."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


class Log:
    """Collects the log records of this process."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._new: asyncio.Queue[Record] = asyncio.Queue()

    def __call__(self, _: object, __: str, event: Any) -> Any:
        self.records.append(event)
        self._new.put_nowait(event)
        raise structlog.DropEvent

    async def wait_for(self, event: str) -> Record:
        while (record := await self._new.get())["event"] != event:
            pass
        return record

    def count(self, event: str) -> int:
        return sum(record["event"] == event for record in self.records)


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    structlog.configure(processors=[log])
    yield log
    structlog.reset_defaults()


def supervise(
    work: Callable[..., None], folder: Path, drive: Callable[[Supervisor], Awaitable[None]], **options: Any
) -> Supervisor:
    """Run a supervisor whose workers run `work`, concurrently with `drive`."""
    pause = options.pop("pause", 0.001)
    settings = Settings(upstream_base_url="http://h", **{"port": 0, "workers": 2, "allow_unshared": True, **options})
    supervisor = Supervisor(settings, run_worker=partial(work, folder), restart_pause=pause)

    async def run_both() -> None:
        await asyncio.gather(supervisor._run(), drive(supervisor))

    asyncio.run(asyncio.wait_for(run_both(), 60))
    return supervisor


def folders_of_metrics() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("limner-metrics-*"))


def gauges_of(name: str) -> Path:
    """Return the file with the gauges of a worker. Unlike counters, they are removed when it dies."""
    (folder,) = folders_of_metrics()
    return folder / f"gauge_livesum_{name}.db"


def accepts_connections(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_server_is_ready_when_all_workers_are_and_ends_when_all_have_drained(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        ready = await log.wait_for("server_ready")
        port = int(ready["address"].removesuffix("/v1").rpartition(":")[2])
        assert (ready["workers"], log.count("worker_ready")) == (2, 2)
        assert len(folders_of_metrics()) == 1
        assert accepts_connections(port)
        supervisor.stop()

    assert not supervise(fake_workers.record_messages, tmp_path, drive).force_exit
    assert not folders_of_metrics()
    assert log.count("worker_died") == 0


def test_a_server_that_is_stopped_while_it_starts_is_never_ready(tmp_path: Path, log: Log) -> None:
    settings = Settings(upstream_base_url="http://h", port=0, workers=1)
    supervisor = Supervisor(settings, run_worker=partial(fake_workers.record_messages, tmp_path))

    def end(_: object, __: str, event: Any) -> Any:
        if event["event"] == "worker_ready":
            supervisor.stop()
        return event

    structlog.configure(processors=[end, log])
    supervisor.run()
    assert (log.count("worker_ready"), log.count("server_ready")) == (1, 0)


def test_a_dead_worker_is_replaced_and_counted_by_a_living_one(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.wait_for("server_ready")
        first, other = supervisor._serving
        assert first.process.pid is not None
        gauges = gauges_of(first.process.name)
        gauges.touch()
        os.kill(first.process.pid, signal.SIGKILL)
        died = await log.wait_for("worker_died")
        assert (died["pid"], died["exit_code"]) == (first.process.pid, -signal.SIGKILL)
        assert not gauges.exists()
        assert (await log.wait_for("worker_ready"))["pid"] not in {first.process.pid, other.process.pid}
        supervisor.stop()

    supervise(fake_workers.record_messages, tmp_path, drive)
    messages = [file.read_bytes() for file in tmp_path.iterdir() if file.name.isdecimal()]
    assert sorted(messages) == [b"", b"", COUNT_DEATH + b"\n"]
    assert log.count("server_ready") == 1


def test_signals_are_passed_on(tmp_path: Path, log: Log) -> None:
    async def drive(_: Supervisor) -> None:
        await log.wait_for("server_ready")
        os.kill(os.getpid(), signal.SIGHUP)
        # Python handles pending signals in the order of their numbers.
        os.kill(os.getpid(), signal.SIGTERM)

    assert not supervise(fake_workers.record_messages, tmp_path, drive).force_exit
    assert [file.read_bytes() for file in tmp_path.iterdir() if file.name.isdecimal()] == [RELOAD_KEYS + b"\n"] * 2


def test_the_server_runs_until_a_signal(tmp_path: Path, log: Log) -> None:
    def end(_: object, __: str, event: Any) -> Any:
        if event["event"] == "server_ready":
            os.kill(os.getpid(), signal.SIGINT)
        return event

    structlog.configure(processors=[end, log])
    Supervisor(
        Settings(upstream_base_url="http://h", port=0, workers=1),
        run_worker=partial(fake_workers.record_messages, tmp_path),
    ).run()
    assert log.count("worker_died") == 0


def test_a_second_signal_kills_the_workers(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.wait_for("server_ready")
        supervisor.stop()
        supervisor.stop()

    assert supervise(fake_workers.ignore_messages, tmp_path, drive).force_exit


def test_the_server_ends_if_no_worker_can_start(tmp_path: Path, log: Log) -> None:
    settings = Settings(upstream_base_url="http://h", port=0, workers=2, allow_unshared=True)
    with pytest.raises(SystemExit) as ended:
        Supervisor(settings, run_worker=partial(fake_workers.exit_early, tmp_path), restart_pause=0.001).run()
    assert ended.value.code == 1
    assert log.count("worker_restarts_stopped") == 1
    assert {record["exit_code"] for record in log.records if record["event"] == "worker_died"} == {7}
    assert log.count("server_ready") == 0


def test_a_process_that_the_kernel_refuses_is_started_again_later(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Supervisor._start
    refusals = iter([OSError(errno.EAGAIN, "no more processes")] * 2)

    def refuse(supervisor: Supervisor, name: str, sockets: list[socket.socket]) -> supervisor_module.WorkerHandle:
        for refusal in refusals:
            raise refusal
        return start(supervisor, name, sockets)

    monkeypatch.setattr(Supervisor, "_start", refuse)

    async def drive(supervisor: Supervisor) -> None:
        await log.wait_for("server_ready")
        supervisor.stop()

    supervise(fake_workers.record_messages, tmp_path, drive, workers=1)
    assert [record["error"] for record in log.records if "error" in record] == [
        f"[Errno {errno.EAGAIN}] no more processes"
    ] * 2


def test_a_worker_that_dies_twice_is_restarted_after_a_pause_that_ends_with_the_server(
    tmp_path: Path, log: Log
) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.wait_for("server_ready")
        for _ in range(2):
            victim = max(worker.process.pid or 0 for worker in supervisor._serving if worker.process.name == "worker-0")
            os.kill(victim, signal.SIGKILL)
            await log.wait_for("worker_died")
            if log.count("worker_died") == 1:
                await log.wait_for("worker_ready")
        assert [worker.process.name for worker in supervisor._serving] == ["worker-1"]
        supervisor.stop()

    # The pause is longer than the test.
    supervise(fake_workers.record_messages, tmp_path, drive, pause=1000)
    assert log.count("worker_died") == 2
    messages = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.name.isdecimal())
    assert messages.splitlines() == [COUNT_DEATH] * 2


def test_the_port_stays_reserved_while_no_worker_listens(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        for _ in range(2):
            os.kill((await log.wait_for("worker_ready"))["pid"], signal.SIGKILL)
            await log.wait_for("worker_died")
        _, address = supervisor._addresses[0]
        assert not accepts_connections(address[1])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(address)
        supervisor.stop()

    supervise(fake_workers.record_messages, tmp_path, drive, pause=1000, workers=1)


def test_signals_are_blocked_until_a_worker_can_handle_them(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.wait_for("server_ready")
        supervisor.stop()

    supervise(fake_workers.record_signal_mask, tmp_path, drive, workers=1)
    assert (tmp_path / "mask").read_text() == "SIGHUP SIGINT SIGTERM"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_worker_that_has_served_long_is_replaced_without_a_pause(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_STABLE_SECONDS", -1.0)

    async def drive(supervisor: Supervisor) -> None:
        for _ in range(5):
            pid = (await log.wait_for("worker_ready"))["pid"]
            os.kill(pid, signal.SIGKILL)
        await log.wait_for("worker_ready")
        supervisor.stop()

    supervise(fake_workers.record_messages, tmp_path, drive, pause=1000, workers=1)
    assert log.count("worker_died") == 5


def test_the_sockets_of_a_worker_that_stopped_listening_are_closed(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        port = int((await log.wait_for("server_ready"))["address"].removesuffix("/v1").rpartition(":")[2])
        while await asyncio.to_thread(accepts_connections, port):
            pass
        supervisor.stop()

    supervise(fake_workers.stop_listening, tmp_path, drive, workers=1)


def test_a_message_to_a_dead_worker_is_ignored(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.wait_for("server_ready")
        (worker,) = supervisor._serving
        worker.process.kill()
        worker.process.join()
        supervisor.stop()

    supervise(fake_workers.record_messages, tmp_path, drive, workers=1)
    assert log.count("worker_died") == 0


def test_a_port_in_use_is_logged(log: Log) -> None:
    """Even if the other socket would share it, as that of a second server of the same user would."""
    first = bind((socket.AF_INET, ("127.0.0.1", 0)))
    with first:
        first.listen()
        with pytest.raises(SystemExit) as ended:
            asyncio.run(find_addresses("127.0.0.1", first.getsockname()[1]))
    assert ended.value.code == 1
    assert log.records[0]["event"] == "server_bind_failed"
    assert "address already in use" in log.records[0]["error"]
    assert log.records[0]["see"] == "LIMNER_HOST, LIMNER_PORT"


def test_a_host_name_means_all_its_addresses() -> None:
    found = asyncio.run(find_addresses("localhost", 0))
    assert (socket.AF_INET, "127.0.0.1") in [(family, address[0]) for family, address in found]
    for address in found:
        bind(address).close()


def test_a_socket_for_ipv6_takes_no_ipv4() -> None:
    if not socket.has_ipv6:
        pytest.skip("IPv6")
    with bind((socket.AF_INET6, ("::1", 0))) as bound:
        assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


# Real processes from here on.


@contextmanager
def serve_two(demo: RunningDemo, folder: Path, **variables: str) -> Iterator[LimnerProcess]:
    demo.state.reset()
    with run_process(
        demo,
        folder / "store",
        LIMNER_WORKERS="2",
        LIMNER_ALLOW_UNSHARED="true",
        TMPDIR=str(folder / "temporary"),
        **variables,
    ) as server:
        yield server
    demo.state.release()


REQUEST = build_request(
    "POST /v1/images/generations",
    "content-type: application/json",
    body=b'{"model": "gpt-image-2", "prompt": "a fox"}',
)


def responding_worker(server: LimnerProcess, wire: RawConnection) -> int:
    """Return the process id of the worker at the other end of the connection."""
    wire.send(build_request("GET /v1/models"))
    assert wire.read_response().status == 200
    while (record := server.wait_for_event("request"))["path"] != "/v1/models":
        pass
    return int(record["pid"])


@contextmanager
def connections_to_all_workers(server: LimnerProcess) -> Iterator[dict[int, RawConnection]]:
    """Open connections, which the kernel spreads at random, until both workers have one; yield them by pid."""
    with ExitStack() as stack:
        by_pid: dict[int, RawConnection] = {}
        while len(by_pid) < 2:
            wire = stack.enter_context(connect(server.url))
            by_pid[responding_worker(server, wire)] = wire
        yield by_pid


def scrape(server: LimnerProcess) -> dict[str, float]:
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_killed_worker_loses_only_its_own_jobs(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connections_to_all_workers(server) as by_pid:
        (victim, cut), (_, other) = by_pid.items()
        cut.send(REQUEST)
        other.send(REQUEST)
        assert demo.state.wait_for_calls(2)
        os.kill(victim, signal.SIGKILL)
        assert cut.read_to_end() == b""
        died = server.wait_for_event("worker_died")
        assert (died["pid"], died["exit_code"]) == (victim, -9)
        assert server.wait_for_event("worker_ready")["pid"] not in by_pid
        demo.state.release()
        assert other.read_response().status == 200
        with connections_to_all_workers(server) as again:
            for wire in again.values():
                wire.send(REQUEST)
                assert wire.read_response().status == 200
        # A request is counted once its client has acknowledged all of the response.
        wait_until(lambda: scrape(server)['limner_questions_total{operation="image_generation",outcome="ok"}'] == 3)
        metrics = scrape(server)
        assert metrics["limner_worker_deaths_total"] == 1
        assert metrics["limner_turns_limit"] == 2 * 256
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


def test_all_workers_drain_and_no_file_is_left_behind(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connections_to_all_workers(server) as by_pid:
        for wire in by_pid.values():
            wire.send(REQUEST)
        assert demo.state.wait_for_calls(2)
        server.process.send_signal(signal.SIGTERM)
        assert [server.wait_for_event("server_draining").get("in_flight") for _ in range(3)] == [None, 1, 1]
        assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 503
        assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200
        demo.state.release()
        assert [wire.read_response().status for wire in by_pid.values()] == [200, 200]
        assert server.end() == 0
    assert not list((tmp_path / "temporary").iterdir())


def test_a_second_signal_ends_all_processes(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connect(server.url) as lost:
        lost.send(REQUEST)
        assert demo.state.wait_for_calls(1)
        server.process.send_signal(signal.SIGINT)
        server.wait_for_event("server_draining")
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 130
        assert lost.read_to_end() == b""


def test_workers_without_a_supervisor_finish_their_jobs_and_end(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connections_to_all_workers(server) as by_pid:
        wire = next(iter(by_pid.values()))
        wire.send(REQUEST)
        assert demo.state.wait_for_calls(1)
        server.process.kill()
        assert {server.wait_for_event("server_draining")["pid"] for _ in range(2)} == set(by_pid)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz", trust_env=False)
        demo.state.release()
        assert wire.read_response().status == 200
        # The log ends when the last process that can write to it has ended.
        assert server.end() == -9


def test_workers_end_if_supervisor_and_log_are_gone(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connections_to_all_workers(server) as by_pid, ExitStack() as stack:
        ends = [os.pidfd_open(pid) for pid in by_pid]
        for end in ends:
            stack.callback(os.close, end)
        assert server.process.stderr is not None
        server.process.stderr.close()
        server.process.kill()
        for end in ends:
            assert select.select([end], [], [], 20)[0]


def test_new_connections_avoid_a_worker_that_drains(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connections_to_all_workers(server) as by_pid:
        leaver, wire = next(iter(by_pid.items()))
        wire.send(REQUEST)
        assert demo.state.wait_for_calls(1)
        os.kill(leaver, signal.SIGTERM)
        assert server.wait_for_event("server_draining")["pid"] == leaver
        for _ in range(20):
            assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200
        demo.state.release()
        assert wire.read_response().status == 200
        assert server.wait_for_event("worker_died")["exit_code"] == 0
        assert server.wait_for_event("worker_ready")["pid"] not in by_pid


def test_connections_that_a_dead_worker_had_not_accepted_go_to_its_successor(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connections_to_all_workers(server) as by_pid, ExitStack() as stack:
        victim = next(iter(by_pid))
        os.kill(victim, signal.SIGSTOP)
        wires = [stack.enter_context(connect(server.url)) for _ in range(20)]
        for wire in wires:
            wire.send(build_request("GET /healthz"))
        os.kill(victim, signal.SIGKILL)
        assert [wire.read_response().status for wire in wires] == [200] * 20


def test_connections_are_spread_over_the_workers(demo: RunningDemo, tmp_path: Path) -> None:
    """With 64 connections at random, one of two workers gets fewer than ten once in a hundred million runs."""
    with serve_two(demo, tmp_path) as server, ExitStack() as stack:
        pids = [responding_worker(server, stack.enter_context(connect(server.url))) for _ in range(64)]
    assert min(pids.count(pid) for pid in set(pids)) >= 10
    assert len(set(pids)) == 2


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


def test_workers_share_state_through_redis(demo: RunningDemo, redis: RedisServer, tmp_path: Path) -> None:
    with (
        serve_two(demo, tmp_path, LIMNER_SHARED_STATE=redis.url) as server,
        connections_to_all_workers(server) as by_pid,
    ):
        demo.state.release()
        answers = []
        for wire in by_pid.values():
            wire.send(REQUEST.replace(b"\r\n", b"\r\nidempotency-key: k\r\n", 1))
            answers.append(wire.read_response())
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].body == answers[1].body
        assert demo.state.calls == 1
        assert not [record for record in server.records if record["event"] == "unshared_workers_warning"]


def test_all_workers_survive_a_reload_without_a_key_file(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        assert len({server.wait_for_event("reload_ignored")["pid"] for _ in range(2)}) == 2


def test_all_workers_reload_the_key_file(demo: RunningDemo, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    with serve_two(demo, tmp_path, LIMNER_KEYS_FILE=str(keys)) as server:
        server.process.send_signal(signal.SIGHUP)
        assert len({server.wait_for_event("key_file_loaded")["pid"] for _ in range(2)}) == 2
