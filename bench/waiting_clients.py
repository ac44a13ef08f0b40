"""Measure many requests that wait at the same time: memory of each, and latency added to the upstream's own."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import MAX_KEPT_BODY
from bench.process import Process
from bench.wire import connect
from bench.workloads import SMALL, Workload, generation_request

#: A streamed image is returned as base64.
_STREAMED = Workload("streamed", output_bytes=64 * 1024)

#: Seconds before the first response at which the memory of all that wait is read.
_LEAD = 0.25


@dataclass(frozen=True, slots=True)
class ClientGroup:
    """`count` clients that arrive within `arrival_seconds`; the upstream answers each after `reply_delay` seconds."""

    name: str
    count: int
    arrival_seconds: float
    reply_delay: float
    stream: bool = False


@dataclass(frozen=True, slots=True)
class WaitingResult:
    """What a group of clients has cost the server.

    Attributes:
        failed: Number of requests without the correct response.
        waiting_memory: Peak of resident memory above that of the idle server while all of them wait, in MiB.
        added_memory: The same until all of them have been answered; it includes the results that are kept.
        added_seconds: 99th percentile of the latencies, less the upstream's own.
        cpu_seconds: Of all requests together.
        keepalives: The smallest number of keep-alive comments in a stream.
    """

    failed: int
    waiting_memory: float
    added_memory: float
    added_seconds: float
    cpu_seconds: float
    keepalives: int


@dataclass(frozen=True, slots=True)
class _ClientResult:
    is_correct: bool
    added_seconds: float = 0.0
    keepalives: int = 0


async def measure_waiting(process: Process, group: ClientGroup, idle_memory: float) -> WaitingResult:
    workload = _STREAMED if group.stream else SMALL
    request = generation_request(workload.prompt(group.reply_delay), workload.response_format, stream=group.stream)
    process.reset_peak()
    cpu_seconds = process.cpu_seconds
    interval = group.arrival_seconds / group.count
    tasks = [
        asyncio.create_task(_run_client(process.port, group, request, index * interval)) for index in range(group.count)
    ]
    await asyncio.sleep(group.reply_delay - _LEAD)
    waiting_memory = process.peak - idle_memory
    results = await asyncio.gather(*tasks)
    correct = [result for result in results if result.is_correct]
    added_seconds = sorted(result.added_seconds for result in correct)
    return WaitingResult(
        failed=group.count - len(correct),
        waiting_memory=waiting_memory,
        added_memory=process.peak - idle_memory,
        added_seconds=added_seconds[len(added_seconds) * 99 // 100] if added_seconds else 0.0,
        cpu_seconds=process.cpu_seconds - cpu_seconds,
        keepalives=min((result.keepalives for result in correct), default=0),
    )


async def _run_client(port: int, group: ClientGroup, request: Sequence[bytes], start_delay: float) -> _ClientResult:
    await asyncio.sleep(start_delay)
    try:
        connection = await connect(port, MAX_KEPT_BODY)
        started_at = time.perf_counter()
        response = await connection.send(request)
    except OSError:
        return _ClientResult(is_correct=False)
    added_seconds = time.perf_counter() - started_at - group.reply_delay
    connection.close()
    is_complete = not group.stream or response.size > _STREAMED.output_bytes
    return _ClientResult(response.status == 200 and is_complete, added_seconds, response.body.count(b": keep-alive"))
