"""Send requests over a number of parallel connections and measure what they cost the server."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.process import Process
from bench.wire import Connection, connect
from bench.workloads import Workload

#: Bytes of a response body that are kept: enough to show an error.
MAX_KEPT_BODY = 512


@dataclass(frozen=True, slots=True)
class Sample:
    """What `done` requests have cost: `cpu` and `wall` in seconds, `peak` in MiB above the idle server."""

    done: int
    failed: int
    cpu: float
    wall: float
    peak: float


async def measure_load(
    process: Process, upstream_port: int, workload: Workload, *, concurrency: int, seconds: float, idle_memory: float
) -> Sample:
    """Send requests on each connection for `seconds`, and wait for the response to the last one.

    `idle_memory` is the memory of the idle server in MiB.
    """
    request = workload.request(process.headers)
    await _received_bytes(upstream_port)
    connections = [await connect(process.port, MAX_KEPT_BODY) for _ in range(concurrency)]
    process.reset_peak()
    cpu, started_at = process.cpu_seconds, time.perf_counter()
    tasks = [
        asyncio.create_task(_send_until(connection, workload, request, started_at + seconds))
        for connection in connections
    ]
    results = await asyncio.gather(*tasks)
    wall, cpu = time.perf_counter() - started_at, process.cpu_seconds - cpu
    for connection in connections:
        connection.close()
    done, failed = (sum(column) for column in zip(*results, strict=True))
    if await _received_bytes(upstream_port) < (done - failed) * workload.uploaded_bytes:
        # The responses look right, but not all bytes of the input images have reached the upstream.
        failed = done
    return Sample(done, failed, cpu, wall, process.peak - idle_memory)


async def _send_until(
    connection: Connection, workload: Workload, request: Sequence[bytes], deadline: float
) -> tuple[int, int]:
    done = failed = 0
    while not done or time.perf_counter() < deadline:
        done += 1
        try:
            response = await connection.send(request)
        except OSError:
            return done, failed + 1
        failed += response.status != 200 or not workload.accepts_body_of(response.size)
    return done, failed


async def _received_bytes(upstream_port: int) -> int:
    """Return how many bytes of requests the upstream has received since the last call."""
    connection = await connect(upstream_port, MAX_KEPT_BODY)
    response = await connection.send([b"GET /count HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"])
    connection.close()
    return int(response.body)


async def warm_up(process: Process, workload: Workload, requests: int) -> None:
    """Send requests one after the other.

    Raises:
        RuntimeError: A response is not the expected one.
    """
    connection = await connect(process.port, MAX_KEPT_BODY)
    for _ in range(requests):
        response = await connection.send(workload.request(process.headers))
        if response.status != 200 or not workload.accepts_body_of(response.size):
            raise RuntimeError(f"{workload.name}: {response.status}, {response.size} bytes: {response.body!r}")
    connection.close()
