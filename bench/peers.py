"""Measure Limner and the programs that are picked in its place in one run.

Run it with `python -m bench.peers [--peers NAME,…] [--only NAME,…] [--rounds N] [--seconds S]`.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import uvloop

from bench.__main__ import describe_machine
from bench.load import Sample, measure_load, warm_up
from bench.peer_servers import CONTENDERS, PEERS, Contender, InstallationFailed, install
from bench.process import Cores, Process, choose_cores
from bench.servers_under_test import BASELINE, LIMNER, start_upstream
from bench.table import summarize, write_table
from bench.workloads import SMALL, WORKLOADS, Workload

#: Small requests before the memory of an idle server is read, as in `bench.__main__`.
_WARM_UP = 200

#: Connections with which each workload is measured.
_CONNECTIONS = {
    "url": (1, 8, 32),
    "base64 2 MiB": (1, 8),
    "base64 20 MiB": (8,),
    "data URL 2 MiB": (8,),
    "edit 2 MiB": (8,),
    "edit 20 MiB": (8,),
}
PEER_WORKLOADS = [
    replace(workload, concurrency=_CONNECTIONS[workload.name])
    for workload in WORKLOADS
    if workload.name in _CONNECTIONS
]

SERVER_COLUMNS = ("server", "version", "does", "first response s", "MiB when idle", "settings")
COLUMNS = ("workload", "connections", "server", "does", "CPU ms", "× Limner", "MB/s", "MiB over idle", "failed")


@dataclass(frozen=True, slots=True)
class Extent:
    """Extent of a run.

    Attributes:
        rounds: Number of times that everything is measured.
        seconds: Duration of one workload on one server with one number of connections.
        warm_up_seconds: Of each workload before it is measured. Compilers that work while a program runs are done then.
    """

    rounds: int
    seconds: float
    warm_up_seconds: float = 3.0


#: What each contender has cost with a number of connections.
Samples = Mapping[tuple[int, Contender], Sequence[Sample]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a peer cannot be installed, or a request to Limner failed."""
    parser = argparse.ArgumentParser("bench.peers", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), metavar="NAME,…", help="of litellm and portkey")
    parser.add_argument("--only", default="", metavar="NAME,…", help="workloads whose names contain one of these")
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements; medians are printed")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of one measurement")
    options = parser.parse_args(arguments)
    chosen = [name for name in options.peers.split(",") if name]
    if unknown := sorted(set(chosen) - set(PEERS)):
        parser.error(f"unknown peers: {', '.join(unknown)}; known are {', '.join(PEERS)}")
    try:
        install(PEERS[name] for name in chosen)
    except InstallationFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    contenders = choose_contenders(chosen)
    workloads = [each for each in PEER_WORKLOADS if any(name in each.name for name in options.only.split(","))]
    return measure_all(contenders, workloads, Extent(options.rounds, options.seconds))


def choose_contenders(peers: Sequence[str]) -> list[Contender]:
    """Return the contenders that are on this machine, of the peers only those that were chosen."""
    return [each for each in CONTENDERS if each.server.installed() and (each.peer is None or each.peer in peers)]


def measure_all(contenders: Sequence[Contender], workloads: Sequence[Workload], extent: Extent) -> int:
    cores = choose_cores()
    os.sched_setaffinity(0, {cores.others})
    print(describe_machine(cores), end="\n\n")
    with start_upstream(cores.others) as upstream:
        starts = [(each, [_start(each, upstream, cores) for _ in range(extent.rounds)]) for each in contenders]
        write_table(SERVER_COLUMNS, [server_row(each, times) for each, times in starts], print)
        print()
        rows = [
            cells
            for workload in workloads
            for cells in peer_rows(workload, _measure(workload, contenders, upstream, cores, extent))
        ]
        write_table(COLUMNS, rows, print)
    return 1 if any(int(cells[-1]) for cells in rows if cells[2] == LIMNER.name) else 0


def _start(contender: Contender, upstream: Process, cores: Cores) -> tuple[float, float]:
    with contender.server.start(upstream.port, cores.measured) as process:
        return process.startup_seconds, process.memory


def _measure(
    workload: Workload, contenders: Sequence[Contender], upstream: Process, cores: Cores, extent: Extent
) -> Samples:
    """Measure one workload. Each round goes through all servers, so that a busy minute affects all of them."""
    serving = [each for each in contenders if each.serves(workload)]
    samples: dict[tuple[int, Contender], list[Sample]] = {
        (connections, each): [] for connections in workload.concurrency for each in serving
    }
    for _ in range(extent.rounds):
        for contender in serving:
            with contender.server.start(upstream.port, cores.measured) as process:
                for connections, sample in _measure_server(workload, contender, process, upstream, extent):
                    samples[connections, contender].append(sample)
    return samples


def _measure_server(
    workload: Workload, contender: Contender, process: Process, upstream: Process, extent: Extent
) -> Iterator[tuple[int, Sample]]:
    """Warm a server up, and yield a sample for each number of connections."""
    if contender.server is not BASELINE:
        uvloop.run(warm_up(process, SMALL, _WARM_UP))
    idle_memory = process.memory

    def run(connections: int, seconds: float) -> Sample:
        load = measure_load(
            process, upstream.port, workload, concurrency=connections, seconds=seconds, idle_memory=idle_memory
        )
        return uvloop.run(load)

    run(workload.concurrency[-1], extent.warm_up_seconds)
    for connections in workload.concurrency:
        yield connections, run(connections, extent.seconds)


def server_row(contender: Contender, starts: Sequence[tuple[float, float]]) -> list[str]:
    """Return the cells of a server: how long it starts, and what it holds then."""
    seconds, memory = (median(column) for column in zip(*starts, strict=True))
    server = contender.server.name
    return [server, contender.version or "-", contender.does, f"{seconds:.2f}", f"{memory:.0f}", contender.settings]


def peer_rows(workload: Workload, samples: Samples) -> list[list[str]]:
    """Return the cells of one line for each contender, after each number of connections' line of Limner.

    Where requests failed, their cost is not that of the work, and no ratio is shown.
    """
    rows = []
    limner = 0.0
    for (connections, contender), of_one in samples.items():
        summary = summarize(workload, of_one)
        if contender.server is LIMNER:
            limner = summary.cpu
        is_comparable = limner and not summary.failed
        rows.append(
            [
                workload.name,
                str(connections),
                contender.server.name,
                contender.does,
                f"{summary.cpu:.2f}",
                f"{summary.cpu / limner:.2f}" if is_comparable else "-",
                f"{summary.speed:.0f}" if workload.transferred_bytes else "-",
                f"{summary.peak:.0f}",
                str(summary.failed),
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
