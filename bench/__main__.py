"""Run the benchmark: `python -m bench [--quick] [--only NAME,…] [--rounds N]`."""

import argparse
import os
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from bench.load import Sample, measure, warm_up
from bench.process import Cores, Process, choose_cores
from bench.subjects import HURRIED, LIMNER, NGINX, PLAIN, SILENCE, TRANSLATOR, Subject, start_upstream
from bench.table import print_table, print_waits, row, wait_row
from bench.waiting import Crowd, Wait, wait
from bench.works import SMALL, WORKS, Work

_WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds` for one work of one subject at one number of connections; `at_once` None: what the work names."""

    rounds: int
    seconds: float
    crowds: tuple[tuple[Crowd, tuple[Subject, ...]], ...]
    at_once: int | None = None
    works: tuple[Work, ...] = WORKS


_PLAIN_CROWD = Crowd("plain JSON", 1000, arriving=5.0, hold=8.0)
_STREAMS = Crowd("streams", 500, arriving=2.5, hold=21 * SILENCE, stream=True)
_MANY_STREAMS = Crowd("streams", 1000, arriving=5.0, hold=21 * SILENCE, stream=True)
_FULL = Plan(3, 1.0, ((_PLAIN_CROWD, (LIMNER, TRANSLATOR)), (_STREAMS, (HURRIED,)), (_MANY_STREAMS, (HURRIED,))))
_QUICK = Plan(
    1,
    0.4,
    (
        (Crowd("plain JSON", 200, arriving=1.0, hold=2.0), (LIMNER,)),
        (Crowd("streams", 100, arriving=0.5, hold=2.0, stream=True), (HURRIED,)),
    ),
    at_once=8,
    works=tuple(work for work in WORKS if "2 MiB" not in work.name),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a request of Limner's failed."""
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round with 8 connections, under a minute")
    parser.add_argument("--only", default="", metavar="NAME,…", help="works whose names contain one of these")
    parser.add_argument("--rounds", type=int, help="how often all is measured; medians are printed")
    options = parser.parse_args(arguments)
    plan = _QUICK if options.quick else _FULL
    names = options.only.split(",")
    works = [work for work in plan.works if any(name in work.name for name in names)]
    crowds = [pair for pair in plan.crowds if any(name in f"waiting {pair[0].name}" for name in names)]
    return measure_all(works, crowds, plan, options.rounds or plan.rounds)


def measure_all(
    works: Sequence[Work], crowds: Sequence[tuple[Crowd, tuple[Subject, ...]]], plan: Plan, rounds: int
) -> int:
    cores = choose_cores()
    _open_many_files()
    os.sched_setaffinity(0, {cores.others})
    print(describe_machine(cores), file=sys.stdout)
    with start_upstream(cores.others) as upstream:
        starts = [_start(upstream, cores) for _ in range(rounds)]
        first, rest = (median(column) for column in zip(*starts, strict=True))
        print(f"\n`limner serve`: first answer after {first:.2f} s, {rest:.0f} MiB at rest\n")
        table = [line for work in works for line in _rows(work, upstream, cores, plan, rounds)]
        if table:
            print_table(table)
            print()
        waits = [
            wait_row(subject.name, crowd, [_wait(subject, crowd, upstream, cores) for _ in range(rounds)])
            for crowd, subjects in crowds
            for subject in subjects
        ]
        if waits:
            print_waits(waits)
    failed = sum(int(line[-1]) for line in (*table, *waits))
    return 1 if failed else 0


def _open_many_files() -> None:
    """A thousand clients need a thousand sockets here and two thousand in the server."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _start(upstream: Process, cores: Cores) -> tuple[float, float]:
    with LIMNER.start(upstream.port, cores.measured) as process:
        return process.first_answer, process.memory


def _rows(work: Work, upstream: Process, cores: Cores, plan: Plan, rounds: int) -> list[list[str]]:
    """Rounds go around all subjects, so that a busy minute of the machine hits them all."""
    subjects = [subject for subject in (LIMNER, TRANSLATOR, NGINX) if subject.installed()]
    subjects += [PLAIN] if work is SMALL else []
    at_once = [plan.at_once] if plan.at_once in work.at_once else work.at_once
    samples: dict[int, dict[str, list[Sample]]] = {
        number: {subject.name: [] for subject in subjects} for number in at_once
    }
    for _ in range(rounds):
        for subject in subjects:
            with subject.start(upstream.port, cores.measured) as process:
                rest = _rest(subject, process)
                for number in at_once:
                    sample = uvloop.run(
                        measure(process, upstream.port, work, at_once=number, seconds=plan.seconds, rest=rest)
                    )
                    samples[number][subject.name].append(sample)
    return [row(work, number, of_number) for number, of_number in samples.items()]


def _rest(subject: Subject, process: Process) -> float:
    """MiB of a server that has answered a while, so that only what the work itself needs counts."""
    if subject is not PLAIN:
        uvloop.run(warm_up(process, SMALL, _WARM_UP))
    return process.memory


def _wait(subject: Subject, crowd: Crowd, upstream: Process, cores: Cores) -> Wait:
    with subject.start(upstream.port, cores.measured) as process:
        return uvloop.run(wait(process, crowd, _rest(subject, process)))


def describe_machine(cores: Cores) -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    facts = [
        models[0].partition(": ")[2] if models else platform.machine(),
        f"{os.cpu_count()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    if cores.measured == cores.others:
        facts.append("everything on one core, so all figures are noisy")
    if not NGINX.installed():
        facts.append("nginx is not installed, its column stays empty")
    return ", ".join(facts)


if __name__ == "__main__":
    sys.exit(main())
