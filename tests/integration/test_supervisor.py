"""Several workers: in this process with workers that only obey, and as real processes with questions under way."""

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
from app.server import supervisor as workers
from app.server.draining import COUNT_DEATH, RELOAD_KEYS
from app.server.supervisor import Supervisor, bind, find_addresses
from tests.support import fake_workers as crew
from tests.support.processes import Process, serve
from tests.support.raw_http import RawConnection, build_request, connect
from tests.support.redis import RedisServer, run_redis
from tests.support.servers import RunningDemo, run_demo

Record = dict[str, Any]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor sets this variable; what it makes of the temporary folder is looked at."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


class Log:
    """What is logged in this process, one record after the other."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._new: asyncio.Queue[Record] = asyncio.Queue()

    def __call__(self, _: object, __: str, event: Any) -> Any:
        self.records.append(event)
        self._new.put_nowait(event)
        raise structlog.DropEvent

    async def hear(self, event: str) -> Record:
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
    """Two workers that do `work`, while `drive` happens to them."""
    pause = options.pop("pause", 0.001)
    settings = Settings(upstream_base_url="http://h", **{"port": 0, "workers": 2, **options})
    supervisor = Supervisor(settings, run_worker=partial(work, folder), restart_pause=pause)

    async def both() -> None:
        await asyncio.gather(supervisor._run(), drive(supervisor))

    asyncio.run(asyncio.wait_for(both(), 60))
    return supervisor


def folders_of_metrics() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("limner-metrics-*"))


def metrics_of(place: str) -> Path:
    """What a worker there holds at the moment: what it has counted outlives it."""
    (folder,) = folders_of_metrics()
    return folder / f"gauge_livesum_{place}.db"


def is_listened_to(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_it_is_ready_when_all_listen_and_ends_when_all_have_drained(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        ready = await log.hear("server_ready")
        port = int(ready["address"].removesuffix("/v1").rpartition(":")[2])
        assert (ready["workers"], log.count("worker_ready")) == (2, 2)
        assert len(folders_of_metrics()) == 1
        assert is_listened_to(port)
        supervisor.stop()

    assert not supervise(crew.obey, tmp_path, drive).force_exit
    assert not folders_of_metrics()
    assert log.count("worker_died") == 0


def test_a_server_that_is_stopped_while_it_starts_is_never_ready(tmp_path: Path, log: Log) -> None:
    settings = Settings(upstream_base_url="http://h", port=0, workers=1)
    supervisor = Supervisor(settings, run_worker=partial(crew.obey, tmp_path))

    def end(_: object, __: str, event: Any) -> Any:
        if event["event"] == "worker_ready":
            supervisor.stop()
        return event

    structlog.configure(processors=[end, log])
    supervisor.run()
    assert (log.count("worker_ready"), log.count("server_ready")) == (1, 0)


def test_one_that_dies_is_replaced_and_counted_by_one_that_serves(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.hear("server_ready")
        first, other = supervisor._serving
        assert first.process.pid is not None
        gauges = metrics_of(first.process.name)
        gauges.touch()
        os.kill(first.process.pid, signal.SIGKILL)
        died = await log.hear("worker_died")
        assert (died["pid"], died["exit_code"]) == (first.process.pid, -signal.SIGKILL)
        assert not gauges.exists()
        assert (await log.hear("worker_ready"))["pid"] not in {first.process.pid, other.process.pid}
        supervisor.stop()

    supervise(crew.obey, tmp_path, drive)
    heard = [file.read_bytes() for file in tmp_path.iterdir() if file.name.isdecimal()]
    assert sorted(heard) == [b"", b"", COUNT_DEATH + b"\n"]
    assert log.count("server_ready") == 1


def test_signals_are_passed_on(tmp_path: Path, log: Log) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("")

    async def drive(_: Supervisor) -> None:
        await log.hear("server_ready")
        os.kill(os.getpid(), signal.SIGHUP)
        # Python tells of a signal before of the next one of a larger number.
        os.kill(os.getpid(), signal.SIGTERM)

    assert not supervise(crew.obey, tmp_path, drive, keys_file=keys).force_exit
    assert [file.read_bytes() for file in tmp_path.iterdir() if file.name.isdecimal()] == [RELOAD_KEYS + b"\n"] * 2


def test_it_runs_until_a_signal(tmp_path: Path, log: Log) -> None:
    def end(_: object, __: str, event: Any) -> Any:
        if event["event"] == "server_ready":
            os.kill(os.getpid(), signal.SIGINT)
        return event

    structlog.configure(processors=[end, log])
    Supervisor(Settings(upstream_base_url="http://h", port=0, workers=1), run_worker=partial(crew.obey, tmp_path)).run()
    assert log.count("worker_died") == 0


def test_a_second_signal_waits_for_nobody(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.hear("server_ready")
        supervisor.stop()
        supervisor.stop()

    assert supervise(crew.refuse, tmp_path, drive).force_exit


def test_workers_that_never_start_end_the_server(tmp_path: Path, log: Log) -> None:
    settings = Settings(upstream_base_url="http://h", port=0, workers=2)
    with pytest.raises(SystemExit) as ended:
        Supervisor(settings, run_worker=partial(crew.fail, tmp_path), restart_pause=0.001).run()
    assert ended.value.code == 1
    assert log.count("worker_restarts_stopped") == 1
    assert {record["exit_code"] for record in log.records if record["event"] == "worker_died"} == {7}
    assert log.count("server_ready") == 0


def test_a_process_that_the_kernel_refuses_is_asked_for_again(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Supervisor._start
    refusals = iter([OSError(errno.EAGAIN, "no more processes")] * 2)

    def refuse(supervisor: Supervisor, place: str, sockets: list[socket.socket]) -> workers.WorkerHandle:
        for refusal in refusals:
            raise refusal
        return start(supervisor, place, sockets)

    monkeypatch.setattr(Supervisor, "_start", refuse)

    async def drive(supervisor: Supervisor) -> None:
        await log.hear("server_ready")
        supervisor.stop()

    supervise(crew.obey, tmp_path, drive, workers=1)
    assert [record["error"] for record in log.records if "error" in record] == [
        f"[Errno {errno.EAGAIN}] no more processes"
    ] * 2


def test_one_that_dies_twice_is_waited_with_unless_the_server_ends(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.hear("server_ready")
        for _ in range(2):
            victim = max(worker.process.pid or 0 for worker in supervisor._serving if worker.process.name == "worker-0")
            os.kill(victim, signal.SIGKILL)
            await log.hear("worker_died")
            if log.count("worker_died") == 1:
                await log.hear("worker_ready")
        assert [worker.process.name for worker in supervisor._serving] == ["worker-1"]
        supervisor.stop()

    # It would wait for longer than the test.
    supervise(crew.obey, tmp_path, drive, pause=1000)
    assert log.count("worker_died") == 2
    heard = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.name.isdecimal())
    assert heard.splitlines() == [COUNT_DEATH] * 2


def test_the_port_is_kept_while_nobody_listens(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        for _ in range(2):
            os.kill((await log.hear("worker_ready"))["pid"], signal.SIGKILL)
            await log.hear("worker_died")
        _, place = supervisor._addresses[0]
        assert not is_listened_to(place[1])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(place)
        supervisor.stop()

    supervise(crew.obey, tmp_path, drive, pause=1000, workers=1)


def test_signals_wait_until_a_worker_can_act_upon_them(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.hear("server_ready")
        supervisor.stop()

    supervise(crew.tell_mask, tmp_path, drive, workers=1)
    assert (tmp_path / "mask").read_text() == "SIGHUP SIGINT SIGTERM"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_whoever_has_served_long_is_replaced_at_once_each_time(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_STABLE_SECONDS", -1.0)

    async def drive(supervisor: Supervisor) -> None:
        for _ in range(5):
            pid = (await log.hear("worker_ready"))["pid"]
            os.kill(pid, signal.SIGKILL)
        await log.hear("worker_ready")
        supervisor.stop()

    supervise(crew.obey, tmp_path, drive, pause=1000, workers=1)
    assert log.count("worker_died") == 5


def test_nobody_waits_for_one_that_has_stopped_listening(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        port = int((await log.hear("server_ready"))["address"].removesuffix("/v1").rpartition(":")[2])
        while await asyncio.to_thread(is_listened_to, port):
            pass
        supervisor.stop()

    supervise(crew.leave, tmp_path, drive, workers=1)


def test_nobody_is_told_who_has_gone(tmp_path: Path, log: Log) -> None:
    async def drive(supervisor: Supervisor) -> None:
        await log.hear("server_ready")
        (worker,) = supervisor._serving
        worker.process.kill()
        worker.process.join()
        supervisor.stop()

    supervise(crew.obey, tmp_path, drive, workers=1)
    assert log.count("worker_died") == 0


def test_a_port_that_is_taken_is_told(log: Log) -> None:
    """Also where the other one would share it, as a second server of the same user would."""
    first = bind((socket.AF_INET, ("127.0.0.1", 0)))
    with first:
        first.listen()
        with pytest.raises(SystemExit) as ended:
            asyncio.run(find_addresses("127.0.0.1", first.getsockname()[1]))
    assert ended.value.code == 1
    assert log.records[0]["event"] == "server_bind_failed"
    assert "address already in use" in log.records[0]["error"]


def test_a_name_stands_for_all_its_addresses() -> None:
    found = asyncio.run(find_addresses("localhost", 0))
    assert (socket.AF_INET, "127.0.0.1") in [(family, place[0]) for family, place in found]
    for address in found:
        bind(address).close()


def test_the_next_version_of_ip() -> None:
    if not socket.has_ipv6:
        pytest.skip("IPv6")
    with bind((socket.AF_INET6, ("::1", 0))) as bound:
        assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


# From here on real processes.


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running


@contextmanager
def serve_two(demo: RunningDemo, folder: Path, **variables: str) -> Iterator[Process]:
    demo.state.reset()
    with serve(demo, folder / "store", LIMNER_WORKERS="2", TMPDIR=str(folder / "temporary"), **variables) as server:
        yield server
    demo.state.release()


QUESTION = build_request(
    "POST /v1/images/generations",
    "content-type: application/json",
    body=b'{"model": "gpt-image-2", "prompt": "a fox"}',
)


def who_answers(server: Process, wire: RawConnection) -> int:
    """The worker at the other end."""
    wire.send(build_request("GET /v1/models"))
    assert wire.read_response().status == 200
    while (record := server.listen("request"))["path"] != "/v1/models":
        pass
    return int(record["pid"])


@contextmanager
def a_line_to_each(server: Process) -> Iterator[dict[int, RawConnection]]:
    """Connections are spread by chance: so many are opened until both workers have one."""
    with ExitStack() as stack:
        lines: dict[int, RawConnection] = {}
        while len(lines) < 2:
            wire = stack.enter_context(connect(server.url))
            lines[who_answers(server, wire)] = wire
        yield lines


def scrape(server: Process) -> dict[str, float]:
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_one_that_is_killed_loses_only_its_own_questions(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, a_line_to_each(server) as lines:
        (victim, cut), (_, other) = lines.items()
        cut.send(QUESTION)
        other.send(QUESTION)
        assert demo.state.wait_for_calls(2)
        os.kill(victim, signal.SIGKILL)
        assert cut.read_to_end() == b""
        died = server.listen("worker_died")
        assert (died["pid"], died["exit_code"]) == (victim, -9)
        assert server.listen("worker_ready")["pid"] not in lines
        demo.state.release()
        assert other.read_response().status == 200
        with a_line_to_each(server) as again:
            for wire in again.values():
                wire.send(QUESTION)
                assert wire.read_response().status == 200
        told = scrape(server)
        assert told["limner_worker_deaths_total"] == 1
        assert told['limner_questions_total{operation="image_generation",outcome="ok"}'] == 3
        assert told["limner_turns_limit"] == 2 * 256
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


def test_all_drain_and_the_server_leaves_nothing_behind(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, a_line_to_each(server) as lines:
        for wire in lines.values():
            wire.send(QUESTION)
        assert demo.state.wait_for_calls(2)
        server.process.send_signal(signal.SIGTERM)
        assert [server.listen("server_draining").get("in_flight") for _ in range(3)] == [None, 1, 1]
        assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 503
        assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200
        demo.state.release()
        assert [wire.read_response().status for wire in lines.values()] == [200, 200]
        assert server.end() == 0
    assert not list((tmp_path / "temporary").iterdir())


def test_a_second_signal_ends_all(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, connect(server.url) as lost:
        lost.send(QUESTION)
        assert demo.state.wait_for_calls(1)
        server.process.send_signal(signal.SIGINT)
        server.listen("server_draining")
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 130
        assert lost.read_to_end() == b""


def test_without_their_supervisor_workers_answer_what_they_have_and_end(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, a_line_to_each(server) as lines:
        wire = next(iter(lines.values()))
        wire.send(QUESTION)
        assert demo.state.wait_for_calls(1)
        server.process.kill()
        assert {server.listen("server_draining")["pid"] for _ in range(2)} == set(lines)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz", trust_env=False)
        demo.state.release()
        assert wire.read_response().status == 200
        # The log ends when nobody is left who could write into it.
        assert server.end() == -9


def test_workers_whose_log_has_gone_with_their_supervisor_end_too(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, a_line_to_each(server) as lines, ExitStack() as stack:
        ends = [os.pidfd_open(pid) for pid in lines]
        for end in ends:
            stack.callback(os.close, end)
        assert server.process.stderr is not None
        server.process.stderr.close()
        server.process.kill()
        for end in ends:
            assert select.select([end], [], [], 20)[0]


def test_a_worker_that_is_asked_to_go_leaves_new_connections_to_the_others(demo: RunningDemo, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path) as server, a_line_to_each(server) as lines:
        leaver, wire = next(iter(lines.items()))
        wire.send(QUESTION)
        assert demo.state.wait_for_calls(1)
        os.kill(leaver, signal.SIGTERM)
        assert server.listen("server_draining")["pid"] == leaver
        for _ in range(20):
            assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200
        demo.state.release()
        assert wire.read_response().status == 200
        assert server.listen("worker_died")["exit_code"] == 0
        assert server.listen("worker_ready")["pid"] not in lines


def test_connections_that_a_dead_worker_had_not_accepted_are_answered_by_the_next(
    demo: RunningDemo, tmp_path: Path
) -> None:
    with serve_two(demo, tmp_path) as server, a_line_to_each(server) as lines, ExitStack() as stack:
        victim = next(iter(lines))
        os.kill(victim, signal.SIGSTOP)
        wires = [stack.enter_context(connect(server.url)) for _ in range(20)]
        for wire in wires:
            wire.send(build_request("GET /healthz"))
        os.kill(victim, signal.SIGKILL)
        assert [wire.read_response().status for wire in wires] == [200] * 20


def test_connections_are_spread_over_the_workers(demo: RunningDemo, tmp_path: Path) -> None:
    """64 to one of two at random: that one gets fewer than ten happens once in a hundred million."""
    with serve_two(demo, tmp_path) as server, ExitStack() as stack:
        pids = [who_answers(server, stack.enter_context(connect(server.url))) for _ in range(64)]
    assert min(pids.count(pid) for pid in set(pids)) >= 10
    assert len(set(pids)) == 2


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


def test_workers_share_what_servers_share(demo: RunningDemo, redis: RedisServer, tmp_path: Path) -> None:
    with serve_two(demo, tmp_path, LIMNER_SHARED_STATE=redis.url) as server, a_line_to_each(server) as lines:
        demo.state.release()
        answers = []
        for wire in lines.values():
            wire.send(QUESTION.replace(b"\r\n", b"\r\nidempotency-key: k\r\n", 1))
            answers.append(wire.read_response())
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].body == answers[1].body
        assert demo.state.calls == 1
        assert not [record for record in server.lines if record["event"] == "unshared_workers_warning"]


def test_keys_are_read_anew_by_all(demo: RunningDemo, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    with serve_two(demo, tmp_path, LIMNER_KEYS_FILE=str(keys)) as server:
        server.process.send_signal(signal.SIGHUP)
        assert len({server.listen("key_file_loaded")["pid"] for _ in range(2)}) == 2
