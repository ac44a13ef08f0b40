"""Measure the time that Limner adds to the download of a large image: one client, one request at a time.

The same client downloads the image directly from the upstream, in turns with requests through the server.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.load import MAX_KEPT_BODY
from bench.process import MIB, Process
from bench.wire import connect
from bench.workloads import Workload

#: As fast as this machine goes, and as fast as a good connection to a CDN.
LATENCY_WORKLOADS = (
    Workload("20 MiB", output_bytes=20 * MIB),
    Workload("20 MiB at 50 MiB/s", output_bytes=20 * MIB, form="paced"),
)


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """Seconds until the last byte, one number for each request. `failed`: requests without the correct response."""

    direct: Sequence[float]
    through: Sequence[float]
    failed: int = 0


async def measure_latency(process: Process, upstream_port: int, workload: Workload, requests: int) -> LatencyResult:
    """Send `requests` to the upstream and as many to the server, in turns on two persistent connections."""
    to_upstream = await connect(upstream_port, MAX_KEPT_BODY)
    to_server = await connect(process.port, MAX_KEPT_BODY)
    download = [f"GET {workload.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()]
    times: tuple[list[float], list[float]] = [], []
    ways = (to_upstream, download), (to_server, workload.request())
    failed = 0
    for _ in range(requests):
        for (connection, request), seconds in zip(ways, times, strict=True):
            started_at = time.perf_counter()
            response = await connection.send(request)
            seconds.append(time.perf_counter() - started_at)
            is_right = workload.accepts_body_of(response.size) or response.size == workload.output_bytes
            failed += response.status != 200 or not is_right
    to_upstream.close()
    to_server.close()
    return LatencyResult(*times, failed)


def latency_row(workload: Workload, result: LatencyResult) -> list[str]:
    """Return the cells of one line, in milliseconds."""
    direct, through = (median(seconds) * 1000 for seconds in (result.direct, result.through))
    added = through - direct
    return [
        workload.name,
        f"{direct:.1f}",
        f"{through:.1f}",
        f"{added:.1f}",
        f"{added / direct * 100:.0f}",
        str(result.failed),
    ]
