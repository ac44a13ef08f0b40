"""A real Prometheus with samples that a test has prepared, or with servers that it scrapes."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families

from tests.support.ports import free_ports

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")


def samples(exposition: str, at: float, **labels: str) -> Iterator[str]:
    """Yield OpenMetrics lines for a scrape at that time. `labels` are those that Prometheus would add."""
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            pairs = ",".join(
                f"{name}={orjson.dumps(value).decode()}" for name, value in (sample.labels | labels).items()
            )
            yield f"{sample.name}{{{pairs}}} {sample.value} {at}"


@contextmanager
def run_prometheus(folder: Path, lines: Sequence[str] = (), config: str = "") -> Iterator["Prometheus"]:
    """Run Prometheus with these OpenMetrics lines as its past. Without `config` it scrapes nothing."""
    assert PROMETHEUS is not None
    assert PROMTOOL is not None
    if lines:
        (folder / "samples").write_text("\n".join([*lines, "# EOF\n"]))
        command = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", f"{folder}/samples", f"{folder}/data"]
        subprocess.run(command, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text(config)
    (port,) = free_ports(1)
    command = [
        PROMETHEUS,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        try:
            wait(process, http, folder / "log")
            yield Prometheus(http)
        finally:
            process.terminate()


def wait(process: subprocess.Popen[bytes], http: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if http.get("/-/ready").status_code == 200:
                return
        # A pause that ends early if the process dies.
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError(log.read_text())


class Prometheus:
    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def query(self, query: str, at: float) -> list[dict[str, Any]]:
        """Return for each series its labels (`metric`) and its `value`: the time, and a number as text."""
        return self._ask("/api/v1/query", query=query, time=at)

    def range(self, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return for each series its labels (`metric`) and its `values`."""
        return self._ask("/api/v1/query_range", query=query, start=start, end=end, step=step)

    def _ask(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        answer = orjson.loads(self._http.post(path, data=parameters).content)
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found
