"""As many requests at once as asked for, one after the other on each connection, and what they cost the server."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.process import Process
from bench.wire import Connection, connect
from bench.works import Work

#: Kept of an answer: enough to see an error.
KEEP = 512


@dataclass(frozen=True, slots=True)
class Sample:
    """`cpu` and `wall` in seconds for all `done` requests, `peak` in MiB over rest."""

    done: int
    failed: int
    cpu: float
    wall: float
    peak: float


async def measure(process: Process, upstream: int, work: Work, *, at_once: int, seconds: float, rest: float) -> Sample:
    """Each connection works for that long, and on until its request has been answered. `upstream` is its port."""
    request = work.request()
    await _count(upstream)
    connections = [await connect(process.port, KEEP) for _ in range(at_once)]
    process.forget_peak()
    cpu, began = process.cpu, time.perf_counter()
    tasks = [asyncio.create_task(_work(one, work, request, began + seconds)) for one in connections]
    outcomes = await asyncio.gather(*tasks)
    wall, cpu = time.perf_counter() - began, process.cpu - cpu
    for connection in connections:
        connection.close()
    done, failed = (sum(column) for column in zip(*outcomes, strict=True))
    if await _count(upstream) < (done - failed) * work.uploaded:
        # Answers came, but the pictures did not reach the upstream whole.
        failed = done
    return Sample(done, failed, cpu, wall, process.peak - rest)


async def _work(connection: Connection, work: Work, request: Sequence[bytes], until: float) -> tuple[int, int]:
    done = failed = 0
    while not done or time.perf_counter() < until:
        done += 1
        try:
            answer = await connection.ask(request)
        except OSError:
            return done, failed + 1
        failed += answer.status != 200 or not work.is_answered_by(answer.size)
    return done, failed


async def _count(upstream: int) -> int:
    """The bytes of all requests that have reached the upstream since the last call."""
    connection = await connect(upstream, KEEP)
    answer = await connection.ask([b"GET /count HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"])
    connection.close()
    return int(answer.body)


async def warm_up(process: Process, work: Work, requests: int) -> None:
    """Raises RuntimeError for an answer that is not the one that was asked for."""
    connection = await connect(process.port, KEEP)
    for _ in range(requests):
        answer = await connection.ask(work.request())
        if answer.status != 200 or not work.is_answered_by(answer.size):
            raise RuntimeError(f"{work.name}: {answer.status}, {answer.size} bytes: {answer.body!r}")
    connection.close()
