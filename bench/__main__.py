"""Run the benchmark: `python -m bench [--quick] [--only NAME,…] [--rounds N]`."""

import argparse
import os
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import uvloop

from bench.crowd import crowd_of, crowd_rows, measure_crowd
from bench.latency import LATENCY_WORKLOADS, latency_row, measure_latency
from bench.load import Sample, measure_load, warm_up
from bench.process import Cores, Process, choose_cores
from bench.servers_under_test import (
    BASELINE,
    KEEPALIVE_INTERVAL,
    LIMNER,
    LIMNER_WITH_FAST_KEEPALIVE,
    NGINX,
    TRANSLATOR,
    ServerUnderTest,
    start_upstream,
)
from bench.table import print_crowds, print_latency, print_table, print_waiting, row, waiting_row
from bench.waiting_clients import ClientGroup, WaitingResult, measure_waiting
from bench.workloads import SMALL, WORKLOADS, Workload

_WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """Extent of a benchmark.

    Attributes:
        rounds: Number of times that everything is measured.
        seconds: Duration of one workload on one server with one number of connections.
        groups: Waiting clients, each with the servers on which they are measured.
        crowds: Numbers of requests that wait while others are measured.
        crowd_seconds: How long a crowd waits after its last client has arrived.
        latencies: Images whose latency is measured, each with `latency_requests`.
        concurrency: Restricts the workloads that list this number to it; None measures all numbers that they list.
    """

    rounds: int
    seconds: float
    groups: tuple[tuple[ClientGroup, tuple[ServerUnderTest, ...]], ...]
    crowds: tuple[int, ...]
    crowd_seconds: float
    concurrency: int | None = None
    workloads: tuple[Workload, ...] = WORKLOADS
    latencies: tuple[Workload, ...] = LATENCY_WORKLOADS
    latency_requests: int = 30


_PLAIN_CLIENTS = ClientGroup("plain JSON", 1000, arrival_seconds=5.0, reply_delay=8.0)
_STREAMS = ClientGroup("streams", 500, arrival_seconds=2.5, reply_delay=21 * KEEPALIVE_INTERVAL, stream=True)
_MANY_STREAMS = ClientGroup("streams", 1000, arrival_seconds=5.0, reply_delay=21 * KEEPALIVE_INTERVAL, stream=True)
_FULL = Plan(
    3,
    1.0,
    (
        (_PLAIN_CLIENTS, (LIMNER, TRANSLATOR)),
        (_STREAMS, (LIMNER_WITH_FAST_KEEPALIVE,)),
        (_MANY_STREAMS, (LIMNER_WITH_FAST_KEEPALIVE,)),
    ),
    crowds=(10, 1000, 8000),
    crowd_seconds=30.0,
)
_QUICK = Plan(
    1,
    0.4,
    (
        (ClientGroup("plain JSON", 200, arrival_seconds=1.0, reply_delay=2.0), (LIMNER,)),
        (ClientGroup("streams", 100, arrival_seconds=0.5, reply_delay=2.0, stream=True), (LIMNER_WITH_FAST_KEEPALIVE,)),
    ),
    crowds=(10, 200),
    crowd_seconds=2.0,
    concurrency=8,
    latency_requests=5,
    workloads=tuple(workload for workload in WORKLOADS if "2 MiB" not in workload.name),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a request to Limner failed."""
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round with 8 connections, under a minute")
    parser.add_argument("--only", default="", metavar="NAME,…", help="workloads whose names contain one of these")
    parser.add_argument("--rounds", type=int, help="number of measurements; medians are printed")
    options = parser.parse_args(arguments)
    plan = _QUICK if options.quick else _FULL
    names = options.only.split(",")
    workloads = [workload for workload in plan.workloads if any(name in workload.name for name in names)]
    groups = [pair for pair in plan.groups if any(name in f"waiting {pair[0].name}" for name in names)]
    if not any(name in "under way" for name in names):
        plan = replace(plan, crowds=())
    if not any(name in "latency" for name in names):
        plan = replace(plan, latencies=())
    return measure_all(workloads, groups, plan, options.rounds or plan.rounds)


def measure_all(
    workloads: Sequence[Workload],
    groups: Sequence[tuple[ClientGroup, tuple[ServerUnderTest, ...]]],
    plan: Plan,
    rounds: int,
) -> int:
    cores = choose_cores()
    _open_many_files()
    os.sched_setaffinity(0, {cores.others})
    print(describe_machine(cores), file=sys.stdout)
    with start_upstream(cores.others) as upstream:
        starts = [_start(upstream, cores) for _ in range(rounds)]
        startup, idle_memory = (median(column) for column in zip(*starts, strict=True))
        print(f"\n`limner serve`: first response after {startup:.2f} s, {idle_memory:.0f} MiB when idle\n")
        rows = [cells for workload in workloads for cells in _rows(workload, upstream, cores, plan, rounds)]
        if rows:
            print_table(rows)
            print()
        waiting_rows = [
            waiting_row(server.name, group, [_measure_waiting(server, group, upstream, cores) for _ in range(rounds)])
            for group, servers in groups
            for server in servers
        ]
        if waiting_rows:
            print_waiting(waiting_rows)
        latencies = [_latency_row(workload, upstream, cores, plan) for workload in plan.latencies]
        if latencies:
            print()
            print_latency(latencies)
        crowds = _crowd_rows(upstream, cores, plan)
        if crowds:
            print()
            print_crowds(crowds)
    failed = sum(int(cells[-1]) for cells in (*rows, *waiting_rows, *latencies, *crowds))
    return 1 if failed else 0


def _open_many_files() -> None:
    """Raise the limit of open files: a thousand clients need a thousand sockets here and two thousand in the server."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def _start(upstream: Process, cores: Cores) -> tuple[float, float]:
    with LIMNER.start(upstream.port, cores.measured) as process:
        return process.startup_seconds, process.memory


def _rows(workload: Workload, upstream: Process, cores: Cores, plan: Plan, rounds: int) -> list[list[str]]:
    """Measure one workload on all servers.

    Each round goes through all servers, so that a busy minute of the machine affects all of them.
    """
    servers = [server for server in (LIMNER, TRANSLATOR, NGINX) if server.installed()]
    servers += [BASELINE] if workload is SMALL else []
    concurrency = [plan.concurrency] if plan.concurrency in workload.concurrency else workload.concurrency
    samples: dict[int, dict[str, list[Sample]]] = {
        connections: {server.name: [] for server in servers} for connections in concurrency
    }
    for _ in range(rounds):
        for server in servers:
            with server.start(upstream.port, cores.measured) as process:
                idle_memory = _idle_memory(server, process)
                for connections in concurrency:
                    sample = uvloop.run(
                        measure_load(
                            process,
                            upstream.port,
                            workload,
                            concurrency=connections,
                            seconds=plan.seconds,
                            idle_memory=idle_memory,
                        )
                    )
                    samples[connections][server.name].append(sample)
    return [row(workload, connections, by_server) for connections, by_server in samples.items()]


def _idle_memory(server: ServerUnderTest, process: Process) -> float:
    """Return the memory of a server in MiB after some requests, so that later growth belongs to the workload."""
    if server is not BASELINE:
        uvloop.run(warm_up(process, SMALL, _WARM_UP))
    return process.memory


def _measure_waiting(server: ServerUnderTest, group: ClientGroup, upstream: Process, cores: Cores) -> WaitingResult:
    with server.start(upstream.port, cores.measured) as process:
        return uvloop.run(measure_waiting(process, group, _idle_memory(server, process)))


def _latency_row(workload: Workload, upstream: Process, cores: Cores, plan: Plan) -> list[str]:
    with LIMNER.start(upstream.port, cores.measured) as process:
        uvloop.run(warm_up(process, workload, 2))
        result = uvloop.run(measure_latency(process, upstream.port, workload, plan.latency_requests))
        return latency_row(workload, result)


def _crowd_rows(upstream: Process, cores: Cores, plan: Plan) -> list[list[str]]:
    """Measure crowds once, each on a server of its own: they take minutes, and are compared with each other only."""
    results = []
    for count in plan.crowds:
        with LIMNER.start(upstream.port, cores.measured) as process:
            group, idle_memory = crowd_of(count, plan.crowd_seconds), _idle_memory(LIMNER, process)
            results.append((group, measure_crowd(process, upstream.port, group, plan.seconds, idle_memory)))
    return crowd_rows(results)


def describe_machine(cores: Cores) -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    parts = [
        models[0].partition(": ")[2] if models else platform.machine(),
        f"{os.cpu_count()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    if cores.measured == cores.others:
        parts.append("everything runs on one core, so all figures are noisy")
    if not NGINX.installed():
        parts.append("nginx is not installed, so its column is empty")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
