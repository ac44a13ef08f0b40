"""The benchmark measures right answers and prints them; its simulation of a day obeys the laws of queues."""

import asyncio
import hashlib
import io
import shutil
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from PIL import Image
from redis import Redis

from app.config.settings import Settings
from app.demo.drawing import Scene
from app.images.blob import MAX_IN_MEMORY
from app.images.ssrf import block_reason, host_of
from app.protocol.image_format import sniff
from app.state.timings import SharingTimings
from bench import fleet, load, task_fleet, workloads
from bench.crowd import CrowdResult, crowd_of, crowd_rows, measure_crowd
from bench.instrumented_server import create_instrumented_app
from bench.latency import LatencyResult, latency_row, measure_latency
from bench.lateness import Lateness
from bench.load import Sample
from bench.padded_png import padded_png
from bench.process import choose_cores, free_port
from bench.replicas import draw_label
from bench.servers_under_test import LIMNER, TRANSLATOR, ServerUnderTest, start_upstream
from bench.simulation import DAY, GENERATION_SECONDS, QUANTITIES, REDIS_COMMANDS, DayResult, Fleet, Period, simulate
from bench.table import print_crowds, print_table, row, waiting_row
from bench.upstream import content
from bench.waiting_clients import ClientGroup, WaitingResult, measure_waiting
from bench.workloads import SMALL, Workload
from tests.support.redis import RedisServer
from tests.support.servers import run_demo, run_limner

KIB = 1024
KIND = fleet.RequestKind("slow-0.5", 0.5)
ROOT = Path(__file__).parents[2]
WORKLOAD_KINDS = (
    SMALL,
    Workload("base64", output_bytes=300 * KIB),
    Workload("data URL", output_bytes=300 * KIB, form="data"),
    Workload("edit", input_bytes=300 * KIB, input_images=2),
)


@pytest.mark.parametrize("server", [LIMNER, TRANSLATOR], ids=lambda server: server.name)
def test_every_workload_gets_the_right_responses(server: ServerUnderTest) -> None:
    core = choose_cores().others
    with start_upstream(core) as upstream, server.start(upstream.port, core) as process:
        for workload in WORKLOAD_KINDS:
            asyncio.run(load.warm_up(process, workload, 1))
            sample = asyncio.run(
                load.measure_load(
                    process, upstream.port, workload, concurrency=2, seconds=0, idle_memory=process.memory
                )
            )
            assert (sample.done, sample.failed) == (2, 0), workload.name
        waiting = asyncio.run(
            measure_waiting(process, ClientGroup("few", 3, arrival_seconds=0.02, reply_delay=0.05), process.memory)
        )
        assert waiting.failed == 0
        assert waiting.added_seconds < 1


@pytest.mark.parametrize("form", ["link", "paced"])
def test_the_latency_is_that_of_the_right_responses(form: Any) -> None:
    core, workload = choose_cores().others, Workload("large", output_bytes=600 * KIB, form=form)
    with start_upstream(core) as upstream, LIMNER.start(upstream.port, core) as process:
        result = asyncio.run(measure_latency(process, upstream.port, workload, 2))
    assert (len(result.direct), len(result.through), result.failed) == (2, 2, 0)
    row = latency_row(workload, LatencyResult((0.2, 0.4, 0.2), (0.3, 0.25), 1))
    assert row == ["large", "200.0", "275.0", "75.0", "38", "1"]


def test_only_images_with_bytes_are_behind_links_that_limner_downloads() -> None:
    links = [content(8000, size, "link").partition(":")[2] for size in (0, 300 * KIB)]
    hosts = [host_of(link) for link in links]
    assert [isinstance(host, IPv4Address) and block_reason(host) is None for host in hosts] == [True, False]


@pytest.mark.parametrize("size", [1200, 64 * KIB])
def test_a_padded_image_has_the_requested_size(size: int) -> None:
    assert len(padded_png(size)) == size
    info = sniff(padded_png(size))
    assert info is not None
    assert (info.width, info.height) == (1024, 1024)


@dataclass(frozen=True, slots=True)
class Case:
    """`size`: bytes of a response body."""

    name: str
    workload: Workload
    size: int
    is_accepted: bool


CASES = (
    Case("a response with a URL is small", SMALL, 300, is_accepted=True),
    Case(
        "a response with an image is a little longer than its base64",
        Workload("", output_bytes=3000),
        4100,
        is_accepted=True,
    ),
    Case("an image that lacks bytes is wrong", Workload("", output_bytes=3000), 3999, is_accepted=False),
    Case("a large response with a URL is wrong", SMALL, 5000, is_accepted=False),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_responses_are_recognized_by_their_length(case: Case) -> None:
    assert case.workload.accepts_body_of(case.size) == case.is_accepted


def test_the_table_has_medians_of_times_and_maxima_of_memory() -> None:
    workload = workloads.WORKLOADS[3]
    limner = [Sample(10, failed, cpu, 1.0, peak) for failed, cpu, peak in ((0, 0.4, 5.0), (1, 0.2, 8.0), (0, 0.3, 6.0))]
    line = row(workload, 8, {"limner": limner, "translator": [Sample(10, 0, 0.6, 1.0, 400.0)]})
    assert line == ["base64 20 MiB", "8", "33", "30.00", "-", "-", "0.5", "210", "8.0", "1.00", "400", "1"]
    lines: list[str] = []
    print_table([line], lines.append)
    assert len({len(text) for text in lines}) == 1


def test_waiting_is_reported_per_request() -> None:
    result = WaitingResult(
        0, waiting_memory=10.0, added_memory=42.0, added_seconds=0.004, cpu_seconds=1.024, keepalives=0
    )
    line = waiting_row("limner", ClientGroup("plain JSON", 512, 1.0, 1.0), [result])
    assert line == ["plain JSON", "limner", "512", "10.0", "20", "42.0", "4.0", "2.00", "0", "0"]


def test_a_request_amid_a_crowd_is_compared_with_one_amid_the_first_crowd() -> None:
    def result(cpu: float, peak: float, rest: float | None) -> CrowdResult:
        return CrowdResult(Sample(10, 1, cpu, 1.0, 0.0), WaitingResult(2, 0.0, peak, 0.004, 1.0, 0), 1.5, rest)

    rows = crowd_rows([(crowd_of(10, 1.0), result(0.02, 1.0, None)), (crowd_of(1024, 1.0), result(0.03, 50.0, 0.7))])
    assert rows == [
        ["10", "2.00", "1.00", "102", "4.0", "1.5", "-", "3"],
        ["1024", "3.00", "1.50", "50", "4.0", "1.5", "0.7", "3"],
    ]
    lines: list[str] = []
    print_crowds(rows, lines.append)
    assert len({len(text) for text in lines}) == 1


def test_requests_are_answered_while_a_crowd_waits() -> None:
    core = choose_cores().others
    with start_upstream(core) as upstream, LIMNER.start(upstream.port, core) as process:
        group = ClientGroup("crowd", 3, arrival_seconds=0.03, reply_delay=0.3)
        result = measure_crowd(process, upstream.port, group, 0, process.memory)
    assert (result.sample.done, result.sample.failed, result.waiting.failed) == (8, 0, 0)


def flat(images_per_hour: float, hours: float) -> tuple[Period, ...]:
    """Return a day of so many hours with a constant rate of arrivals."""
    return (Period(3600 * hours, images_per_hour),)


#: A fleet that is too small for the load of the tests.
SMALL_FLEET = Fleet("small", 1.0, workers=3, slots=8, queue=4)


def run(**changes: Any) -> DayResult:
    return simulate(replace(SMALL_FLEET, **changes), flat(900, 12))


def test_every_simulated_request_is_served_or_rejected() -> None:
    day = run()
    assert day.requests == day.served + day.rejected
    assert min(day.served, day.rejected, len(day.waits)) > 0
    assert day.peak_in_flight == 3 * 8
    assert day.peak_per_worker == 8 + 4
    assert sum(day.seconds_by_in_flight.values()) == pytest.approx(day.seconds)


def test_littles_law_holds_for_requests_in_flight_and_for_waiting_ones() -> None:
    """The mean number in a system is the rate of arrivals times the mean time that each stays."""
    day = run()
    assert day.in_flight_seconds == pytest.approx(day.generation_seconds)
    assert day.waiting_seconds == pytest.approx(sum(day.waits))
    assert day.in_flight_seconds == pytest.approx(
        sum(level * seconds for level, seconds in day.seconds_by_in_flight.items())
    )


def test_without_a_queue_erlangs_formula_gives_the_share_of_rejected_requests() -> None:
    """The formula depends on the mean of the service times only, not on their distribution."""
    slots, load = 10, 250 / 3600 * sum(GENERATION_SECONDS) / 3
    blocked = 1.0
    for number in range(1, slots + 1):
        blocked = load * blocked / (number + load * blocked)
    day = simulate(Fleet("Erlang", 1.0, slots=slots, queue=0), flat(250, 200))
    assert day.rejected / day.requests == pytest.approx(blocked, rel=0.05)


@pytest.mark.parametrize("field", ["workers", "slots", "queue"])
def test_more_resources_never_reject_more(field: str) -> None:
    rejected = [run(**{field: value}).rejected for value in (1, 2, 4, 8, 32)]
    assert rejected == sorted(rejected, reverse=True)
    assert rejected[0] > rejected[-1]


def test_more_requests_are_more_in_flight_and_in_the_spool() -> None:
    fleet = Fleet("wide", 1.0, slots=10_000)
    days = [simulate(fleet, flat(images, 6)) for images in (50, 200, 800)]
    for name in ("in_flight_seconds", "peak_in_flight", "peak_per_worker", "peak_spooled_bytes", "image_bytes"):
        values = [getattr(day, name) for day in days]
        assert values == sorted(set(values))
    assert all(day.rejected == len(day.waits) == 0 for day in days)


def test_upstreams_limit_the_requests_in_flight() -> None:
    """As in Limner, which has no more slots than its upstreams accept together."""
    assert run(upstream_limit=5) == run(slots=5)
    assert run(upstream_limit=50) == run()


def test_the_same_seed_is_the_same_day() -> None:
    assert simulate(SMALL_FLEET, flat(300, 2), seed=7) == simulate(SMALL_FLEET, flat(300, 2), seed=7)
    assert simulate(SMALL_FLEET, flat(300, 2), seed=7) != simulate(SMALL_FLEET, flat(300, 2), seed=8)


def test_the_busiest_hour_has_the_load_of_the_fleet() -> None:
    hours = [period.share * period.seconds / 3600 for period in DAY]
    assert sum(period.seconds for period in DAY) == 86_400
    assert sum(hours[10:13]) == pytest.approx(1)
    assert max(hours[:10] + hours[13:]) < 1


def test_redis_gets_as_many_commands_as_the_simulation_says(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    limits = 'requests = ["100/minute", "100/day"]\nimages = ["100/minute", "100/day"]\nmonthly_images = 100\n'
    digest = hashlib.sha256(b"sk-a").hexdigest()
    (tmp_path / "keys.toml").write_text(f'[[keys]]\nname = "a"\nsha256 = "{digest}"\n{limits}')
    redis = RedisServer(tmp_path)
    redis.start()
    try:
        calls = []
        with (
            Redis.from_url(redis.url) as observer,
            run_demo() as demo,
            # Without heartbeats, which belong to no request.
            run_limner(
                demo.url,
                shared_state=redis.url,
                keys_file=tmp_path / "keys.toml",
                timings=SharingTimings(heartbeat=600, suspect_after=1200, dead_after=2400),
            ) as limner,
            httpx.Client(base_url=limner.url, headers={"authorization": "Bearer sk-a"}, trust_env=False) as http,
        ):
            for number in range(10):
                response = http.post("/v1/images/generations", json={"prompt": f"{number}", "response_format": "url"})
                assert response.status_code == 200
                # A script is one command; the commands that it runs inside Redis do not count.
                calls.append(observer.info("commandstats")["cmdstat_evalsha"]["calls"])
    finally:
        redis.kill()
    # The last command of a request may fall into the next, and one of a lease that is renewed into any.
    assert median(after - before for before, after in pairwise(calls)) == REDIS_COMMANDS


def test_the_table_of_the_documentation_is_what_the_simulation_prints() -> None:
    """Run in a process of its own, since a debugger or coverage would make it five times as slow."""
    command = [sys.executable, "-m", "bench.simulation"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.count("\n| ") == 1 + len(QUANTITIES)
    assert printed in (ROOT / "docs" / "scaling.md").read_text(), "docs/scaling.md is behind what the simulation prints"


# The fleet test: nothing is paid for twice, and if something were, the test would fail.


def test_the_server_of_the_soak_test_tells_what_it_holds(tmp_path: Path) -> None:
    settings = Settings(upstream_base_url="http://127.0.0.1:9/v1", image_store=f"disk://{tmp_path}")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_instrumented_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/gauges")

    gauges = asyncio.run(ask()).json()
    assert (gauges["jobs"], gauges["slots"]) == (0, 0)
    assert gauges["tasks"] > 0


def test_a_fleet_whose_replicas_are_killed_pays_for_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    arguments = ["--seconds", "5", "--rate", "6", "--seed", "3", "--kill-every", "2.5", "--outage-every", "60"]
    code, output = fleet.main(arguments), capsys.readouterr().out
    assert code == 0, output
    assert "\n0 replicas killed" not in output


def test_no_task_is_lost_in_silence_or_paid_twice_when_replicas_are_killed(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    arguments = ["--tasks", "60", "--rate", "15", "--seed", "3", "--replicas", "2", "--kill-every", "2"]
    code, output = task_fleet.main(arguments), capsys.readouterr().out
    assert code == 0, output
    assert ", 0 replicas killed" not in output


def test_the_upstream_of_a_fleet_draws_images_that_cost_nothing_and_name_their_prompts() -> None:
    """Drawn by the demo, they would take all of a processor, and clients would end as nothing for want of time."""
    one, other = (draw_label(Scene(prompt, 1024, 640), "PNG") for prompt in ("fleet 000001", "fleet 000002"))
    assert (b"fleet 000001" in one, b"fleet 000001" in other) == (True, False)
    with Image.open(io.BytesIO(one)) as image:
        image.load()
    assert (image.size, len(one) > MAX_IN_MEMORY) == ((1024, 640), True)


@pytest.mark.parametrize(
    ("name", "body", "unexpected"),
    [
        ("its own image", b'{"data":[{"b64_json":"%s"}]}' % b64encode(b"a fleet 000001"), ""),
        ("the image of another client", b'{"data":[{"b64_json":"%s"}]}' % b64encode(b"a fleet 000002"), "slow-0.5: the image of another client"),
        ("a link", b'{"data":[{"url":"http://127.0.0.1/kept/a.png"}]}', ""),
    ],
)  # fmt: skip
def test_a_client_knows_its_own_image(name: str, body: bytes, unexpected: str) -> None:
    wanted = fleet.WantedImage("fleet 000001", KIND, "key", 0.0)
    assert fleet.check_response(wanted, 200, body)
    assert wanted.unexpected == unexpected, name


def test_a_late_machine_takes_an_early_503_for_a_late_one() -> None:
    body = b'{"error":{"code":"upstream_overloaded"}}'
    wanted = fleet.WantedImage("p", KIND, "key", 0.0)
    assert not fleet.check_response(wanted, 500, body, lateness=3.0)
    assert (wanted.reported_lost, wanted.unexpected) == (1, "")
    assert fleet.check_response(wanted, 500, body, lateness=0.1)
    assert wanted.unexpected


@pytest.mark.parametrize(
    ("name", "met_fault_at", "last_fault_at", "deadline"),
    [
        ("no fault", 0.0, 90.0, 70.0),
        ("a fault while replicas are killed", 50.0, 90.0, 110.0),
        ("a fault when no replica is killed any more", 95.0, 90.0, 150.0),
        ("a fault where none was ever killed", 95.0, 0.0, 70.0),
    ],
)
def test_a_client_gives_up_in_time(name: str, met_fault_at: float, last_fault_at: float, deadline: float) -> None:
    wanted = fleet.WantedImage("p", KIND, "key", 10.0, met_fault_at=met_fault_at)
    assert wanted.deadline(last_fault_at) == deadline, name
    wanted.disconnects += [20.0, 120.0]
    assert wanted.deadline(last_fault_at) == max(deadline, 180.0), name


def test_a_server_that_is_late_makes_the_machine_late() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock[0] += 3.0 if len(rounds) < 5 else 0.1
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def sleep(seconds: float) -> None:
        rounds.append(lateness.recent)
        if len(rounds) == 20:
            raise asyncio.CancelledError
        clock[0] += seconds + 0.5

    async def measure() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            # The second server is away.
            await lateness.watch([server.sockets[0].getsockname()[1], free_port()])

    clock = [100.0]
    rounds: list[float] = []
    lateness = Lateness(now=lambda: clock[0], sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(measure())
    assert (list(lateness.by_port.values()), lateness.seconds) == ([3.0], 3.0)
    # It is no longer late when it was not for a while.
    assert (rounds[0], rounds[4], rounds[-1]) == (0.0, 3.0, 0.5)


@pytest.mark.parametrize(
    ("outcome", "calls", "failure"),
    [
        pytest.param("completed", 1, "", id="completed, paid once"),
        pytest.param("completed", 2, "1 x completed: 2 calls, 1 to 1 allowed", id="completed, paid twice"),
        pytest.param("question_lost", 1, "", id="lost, paid once"),
        pytest.param("question_lost", 2, "1 x question_lost: 2 calls, 0 to 1 allowed", id="lost, paid twice"),
        pytest.param(
            "server_is_overloaded", 1, "1 x server_is_overloaded: 1 calls, 0 to 0 allowed", id="refused, but paid"
        ),
        pytest.param("", 1, "1 x ended as nothing after 1 calls", id="without an end"),
        pytest.param("404 result_not_found", 1, "1 x ended as 404 result_not_found after 1 calls", id="forgotten"),
    ],
)
def test_a_task_that_is_lost_or_paid_twice_is_found(outcome: str, calls: int, failure: str) -> None:
    wanted = fleet.WantedImage("p", task_fleet.KIND, "key", 0.0)
    found = task_fleet.find_failures([task_fleet.SubmittedTask(wanted, outcome)], {"p": [1.0] * calls})
    assert found == ([failure] if failure else [])


FLEET_CASES: list[tuple[str, dict[str, Any], list[float], str]] = [
    ("one call", {}, [1.0], ""),
    ("two calls", {}, [1.0, 2.0], "1 x slow-0.5, plain: 2 calls, 1 allowed"),
    ("two calls, the client was told of the first", {"reported_lost": 1}, [1.0, 2.0], ""),
    ("two calls, the first result may have been on its way", {"disconnects": [1.6]}, [1.0, 3.0], ""),
    ("two calls, the client had disconnected long before", {"disconnects": [0.2]}, [1.0, 3.0], "1 x slow-0.5, plain: 2 calls, 1 allowed"),
    ("two calls with an idempotency key", {"disconnects": [1.6], "retry_style": "key"}, [1.0, 3.0], "1 x slow-0.5, key: 2 calls, 1 allowed"),
    ("no image", {"finished_at": None}, [1.0], "1 x slow-0.5, plain: no image after 1 attempts"),
    ("two calls while Redis was stopped", {"started_at": 90.0, "finished_at": 95.0}, [91.0, 92.0], ""),
    ("an unexpected response", {"unexpected": "500 oh"}, [1.0], "1 x 500 oh"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "calls", "failure"), FLEET_CASES, ids=[row[0] for row in FLEET_CASES])
def test_an_image_that_is_paid_for_twice_is_found(
    name: str, changes: dict[str, Any], calls: list[float], failure: str
) -> None:
    wanted = fleet.WantedImage(**{"prompt": "p", "kind": KIND, "retry_style": "plain", "started_at": 0.0, "finished_at": 5.0, "attempts": 1, **changes})  # fmt: skip
    assert fleet.find_failures([wanted], {"p": calls}, [(80.0, 100.0)]) == ([failure] if failure else [])
