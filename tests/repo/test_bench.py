"""The benchmark measures right answers and prints them; its simulation of a day obeys the laws of queues."""

import asyncio
import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from app.protocol.image_format import sniff
from bench import fleet, load, works
from bench.load import Sample
from bench.pictures import picture
from bench.process import choose_cores
from bench.simulation import COMMANDS, DAY, PAINTING, QUANTITIES, Fleet, Run, Slot, simulate
from bench.subjects import LIMNER, TRANSLATOR, Subject, start_upstream
from bench.table import print_table, row, wait_row
from bench.waiting import Crowd, Wait, wait
from bench.works import SMALL, Work
from tests.support.redis import RedisServer
from tests.support.servers import run_demo, run_limner

KIB = 1024
ROOT = Path(__file__).parents[2]
KINDS = (
    SMALL,
    Work("base64", answer=300 * KIB),
    Work("data URL", answer=300 * KIB, form="data"),
    Work("edit", upload=300 * KIB, pictures=2),
)


@pytest.mark.parametrize("subject", [LIMNER, TRANSLATOR], ids=lambda subject: subject.name)
def test_every_kind_of_work_is_answered_rightly(subject: Subject) -> None:
    core = choose_cores().others
    with start_upstream(core) as upstream, subject.start(upstream.port, core) as process:
        for work in KINDS:
            asyncio.run(load.warm_up(process, work, 1))
            sample = asyncio.run(load.measure(process, upstream.port, work, at_once=2, seconds=0, rest=process.memory))
            assert (sample.done, sample.failed) == (2, 0), work.name
        waited = asyncio.run(wait(process, Crowd("few", 3, arriving=0.02, hold=0.05), process.memory))
        assert waited.failed == 0
        assert waited.added < 1


@pytest.mark.parametrize("size", [1200, 64 * KIB])
def test_a_picture_has_the_asked_weight(size: int) -> None:
    assert len(picture(size)) == size
    info = sniff(picture(size))
    assert info is not None
    assert (info.width, info.height) == (1024, 1024)


@dataclass(frozen=True, slots=True)
class Case:
    """`size`: bytes of an answer's body."""

    says: str
    work: Work
    size: int
    right: bool


CASES = (
    Case("a link is a small answer", SMALL, 300, right=True),
    Case("a picture is as long as its base64 and a little more", Work("", answer=3000), 4100, right=True),
    Case("a picture that lacks bytes is wrong", Work("", answer=3000), 3999, right=False),
    Case("a small answer that is large is wrong", SMALL, 5000, right=False),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_answers_are_told_by_their_length(case: Case) -> None:
    assert case.work.is_answered_by(case.size) == case.right


def test_the_table_has_medians_of_time_and_the_worst_of_memory() -> None:
    work = works.WORKS[3]
    limner = [Sample(10, failed, cpu, 1.0, peak) for failed, cpu, peak in ((0, 0.4, 5.0), (1, 0.2, 8.0), (0, 0.3, 6.0))]
    line = row(work, 8, {"limner": limner, "translator": [Sample(10, 0, 0.6, 1.0, 400.0)]})
    assert line == ["base64 20 MiB", "8", "33", "30.00", "-", "-", "0.5", "210", "8.0", "1.00", "400", "1"]
    lines: list[str] = []
    print_table([line], lines.append)
    assert len({len(text) for text in lines}) == 1


def test_waiting_is_told_per_request() -> None:
    line = wait_row("limner", Crowd("plain JSON", 512, 1.0, 1.0), [Wait(0, 10.0, 0.004, 1.024, 0)])
    assert line == ["plain JSON", "limner", "512", "10.0", "20", "4.0", "2.00", "0", "0"]


def flat(pictures: float, hours: float) -> tuple[Slot, ...]:
    """`pictures` come in each of so many hours."""
    return (Slot(3600 * hours, pictures),)


#: A fleet that is too small for the day of a test.
NARROW = Fleet("narrow", 1.0, workers=3, turns=8, queue=4)


def run(**changes: Any) -> Run:
    return simulate(replace(NARROW, **changes), flat(900, 12))


def test_nothing_is_lost_in_the_simulation() -> None:
    day = run()
    assert day.asked == day.served + day.refused
    assert min(day.served, day.refused, len(day.waited)) > 0
    assert day.most == 3 * 8
    assert day.held == 8 + 4
    assert sum(day.levels.values()) == pytest.approx(day.seconds)


def test_littles_law_holds_for_questions_under_way_and_for_those_that_wait() -> None:
    """The number that are there on average is the rate times the time that each stays."""
    day = run()
    assert day.under_way == pytest.approx(day.painted)
    assert day.waiting == pytest.approx(sum(day.waited))
    assert day.under_way == pytest.approx(sum(level * seconds for level, seconds in day.levels.items()))


def test_without_a_queue_erlangs_formula_tells_how_many_are_turned_away() -> None:
    """Whatever the spread of the times is: the formula knows their mean alone."""
    places, load = 10, 250 / 3600 * sum(PAINTING) / 3
    blocked = 1.0
    for place in range(1, places + 1):
        blocked = load * blocked / (place + load * blocked)
    day = simulate(Fleet("Erlang", 1.0, turns=places, queue=0), flat(250, 200))
    assert day.refused / day.asked == pytest.approx(blocked, rel=0.05)


@pytest.mark.parametrize("knob", ["workers", "turns", "queue"])
def test_more_of_anything_never_refuses_more(knob: str) -> None:
    refused = [run(**{knob: amount}).refused for amount in (1, 2, 4, 8, 32)]
    assert refused == sorted(refused, reverse=True)
    assert refused[0] > refused[-1]


def test_more_requests_are_more_under_way_and_in_the_spool() -> None:
    fleet = Fleet("wide", 1.0, turns=10_000)
    days = [simulate(fleet, flat(pictures, 6)) for pictures in (50, 200, 800)]
    for told in ("under_way", "most", "held", "spooled", "bytes"):
        values = [getattr(day, told) for day in days]
        assert values == sorted(set(values))
    assert all(day.refused == len(day.waited) == 0 for day in days)


def test_upstreams_bound_what_is_under_way() -> None:
    """As in Limner, which has no more turns than its upstreams take together."""
    assert run(upstreams=5) == run(turns=5)
    assert run(upstreams=50) == run()


def test_the_same_seed_is_the_same_day() -> None:
    assert simulate(NARROW, flat(300, 2), seed=7) == simulate(NARROW, flat(300, 2), seed=7)
    assert simulate(NARROW, flat(300, 2), seed=7) != simulate(NARROW, flat(300, 2), seed=8)


def test_the_busiest_hour_of_the_day_has_what_the_fleet_is_named_for() -> None:
    hours = [slot.share * slot.seconds / 3600 for slot in DAY]
    assert sum(slot.seconds for slot in DAY) == 86_400
    assert sum(hours[10:13]) == pytest.approx(1)
    assert max(hours[:10] + hours[13:]) < 1


def test_redis_is_asked_as_often_as_the_simulation_says(tmp_path: Path) -> None:
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
            run_limner(demo.url, shared_state=redis.url, keys_file=tmp_path / "keys.toml") as limner,
            httpx.Client(base_url=limner.url, headers={"authorization": "Bearer sk-a"}, trust_env=False) as http,
        ):
            for number in range(6):
                asked = http.post("/v1/images/generations", json={"prompt": f"{number}", "response_format": "url"})
                assert asked.status_code == 200
                # Scripts, each a command; what they do within Redis is none.
                calls.append(observer.info("commandstats")["cmdstat_evalsha"]["calls"])
    finally:
        redis.kill()
    # A sign of life may fall into one of them, or the last word on one into the next.
    assert round((calls[-1] - calls[0]) / 5) == COMMANDS


def test_the_table_of_the_documentation_is_what_the_simulation_prints() -> None:
    """In a process of its own, since a debugger or a measurement of coverage would make it five times as slow."""
    command = [sys.executable, "-m", "bench.simulation"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.count("\n| ") == 1 + len(QUANTITIES)
    assert printed in (ROOT / "docs" / "scaling.md").read_text(), "docs/scaling.md is behind what the simulation prints"


# The fleet: that nothing is paid for twice, and that it would be seen.


def test_a_fleet_that_is_killed_again_and_again_pays_for_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    said = ["--seconds", "5", "--rate", "6", "--seed", "3", "--kill-every", "2.5", "--outage-every", "60"]
    code, out = fleet.main(said), capsys.readouterr().out
    assert code == 0, out
    assert "\n0 replicas killed" not in out


KIND = fleet.Kind("slow-0.5", 0.5)
TWICE: list[tuple[str, dict[str, Any], list[float], str]] = [
    ("asked once", {}, [1.0], ""),
    ("asked twice", {}, [1.0, 2.0], "1 x slow-0.5, plain: 2 calls, 1 allowed"),
    ("asked twice, knowingly", {"lost": 1}, [1.0, 2.0], ""),
    ("asked again, the answer may have been on its way", {"left": [1.6]}, [1.0, 3.0], ""),
    ("asked again, the client had left long before", {"left": [0.2]}, [1.0, 3.0], "1 x slow-0.5, plain: 2 calls, 1 allowed"),
    ("asked again, under a key", {"left": [1.6], "manner": "key"}, [1.0, 3.0], "1 x slow-0.5, key: 2 calls, 1 allowed"),
    ("no picture", {"ended": None}, [1.0], "1 x slow-0.5, plain: no picture after 1 attempts"),
    ("asked twice while Redis was away", {"began": 90.0, "ended": 95.0}, [91.0, 92.0], ""),
    ("something else than a picture", {"wrong": "500 oh"}, [1.0], "1 x 500 oh"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "said", "asked", "found"), TWICE, ids=[row[0] for row in TWICE])
def test_what_is_paid_for_twice_is_seen(name: str, said: dict[str, Any], asked: list[float], found: str) -> None:
    question = fleet.Question(**{"prompt": "p", "kind": KIND, "manner": "plain", "began": 0.0, "ended": 5.0, "attempts": 1, **said})  # fmt: skip
    assert fleet.judge([question], {"p": asked}, [(80.0, 100.0)]) == ([found] if found else [])
