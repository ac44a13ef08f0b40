"""Measure what a request costs while many others wait for their images, and the memory that is kept afterwards."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import uvloop

from bench.load import Sample, measure_load
from bench.process import Process
from bench.waiting_clients import ClientGroup, WaitingResult, measure_waiting
from bench.workloads import SMALL

#: Clients that arrive in a second, and connections of the requests that are measured.
_ARRIVALS, _CONNECTIONS = 250, 8

#: Seconds until the server has returned what was freed, and until the results have expired that nobody asks for again.
_PAUSE, _REST = 2.0, 80.0

#: Clients that leave so much memory behind that it is worth waiting for its return.
_LARGE = 1000


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """What one crowd has cost.

    Attributes:
        sample: The requests that were answered at once while the crowd waited.
        waiting: The crowd itself; its CPU time includes that of the sample.
        kept_memory: Resident memory above that of the idle server two seconds after the crowd has gone, in MiB.
        rest_memory: The same when the retained results have expired, too; None where that was not awaited.
    """

    sample: Sample
    waiting: WaitingResult
    kept_memory: float
    rest_memory: float | None = None


def crowd_of(count: int, seconds: float) -> ClientGroup:
    """Return clients with one and the same prompt. The first one is answered `seconds` after the last one's arrival."""
    arrival_seconds = count / _ARRIVALS
    return ClientGroup("crowd", count, arrival_seconds, reply_delay=arrival_seconds + seconds)


def measure_crowd(
    process: Process, upstream_port: int, group: ClientGroup, seconds: float, idle_memory: float
) -> CrowdResult:
    return uvloop.run(_measure(process, upstream_port, group, seconds, idle_memory))


async def _measure(
    process: Process, upstream_port: int, group: ClientGroup, seconds: float, idle_memory: float
) -> CrowdResult:
    crowd = asyncio.create_task(measure_waiting(process, group, idle_memory))
    # When the last client has arrived, and its request has reached the upstream.
    await asyncio.sleep(group.arrival_seconds + (group.reply_delay - group.arrival_seconds) / 3)
    sample = await measure_load(
        process, upstream_port, SMALL, concurrency=_CONNECTIONS, seconds=seconds, idle_memory=idle_memory
    )
    waiting = await crowd
    # The peak was begun anew by the sample, so the crowd's is the higher of both.
    waiting = replace(waiting, added_memory=max(waiting.added_memory, sample.peak))
    await asyncio.sleep(_PAUSE)
    kept_memory = process.memory - idle_memory
    if group.count < _LARGE:
        return CrowdResult(sample, waiting, kept_memory)
    await asyncio.sleep(_REST)
    return CrowdResult(sample, waiting, kept_memory, process.memory - idle_memory)


def crowd_rows(results: Sequence[tuple[ClientGroup, CrowdResult]]) -> list[list[str]]:
    """Return the cells of one line for each crowd. The first one is what the others are compared with."""
    milliseconds = [result.sample.cpu / result.sample.done * 1000 for _, result in results]
    return [
        [
            str(group.count),
            f"{cpu:.2f}",
            f"{cpu / milliseconds[0]:.2f}" if milliseconds[0] else "-",
            f"{result.waiting.added_memory * 1024 / group.count:.0f}",
            f"{result.waiting.added_seconds * 1000:.1f}",
            f"{result.kept_memory:.1f}",
            "-" if result.rest_memory is None else f"{result.rest_memory:.1f}",
            str(result.sample.failed + result.waiting.failed),
        ]
        for cpu, (group, result) in zip(milliseconds, results, strict=True)
    ]
