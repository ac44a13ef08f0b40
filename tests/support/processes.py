"""Limner as a process of its own, with its log."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.support.servers import RunningDemo


class LimnerProcess:
    def __init__(self, process: "subprocess.Popen[str]", lines: "list[dict[str, Any]]") -> None:
        self.process = process
        self.records = lines
        self.url = ""

    def wait_for_event(self, event: str) -> dict[str, Any]:
        """Read the log up to the next record of this event, and return this record."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.records.append(orjson.loads(line))
            if self.records[-1]["event"] == event:
                return self.records[-1]
        raise AssertionError(f"no {event} in {self.records}")

    def end(self) -> int:
        assert self.process.stderr is not None
        self.records += [orjson.loads(line) for line in self.process.stderr]
        return self.process.wait(20)


@contextmanager
def run_process(demo: RunningDemo, folder: Path, **variables: str) -> Iterator[LimnerProcess]:
    environment = {
        **os.environ,
        "LIMNER_UPSTREAM_BASE_URL": f"{demo.url}/v1",
        "LIMNER_UPSTREAM_API_KEY": "sk-upstream",
        "LIMNER_UPSTREAM_MODEL": "holds",
        "LIMNER_FETCH_ALLOW": demo.url.removeprefix("http://"),
        "LIMNER_IMAGE_STORE": f"disk://{folder}",
        "LIMNER_PORT": "0",
        "LIMNER_LOG_FORMAT": "json",
        "PYTHONWARNINGS": "error",
        **variables,
    }
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-m", "app", "serve"], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        running = LimnerProcess(process, [])
        try:
            running.url = running.wait_for_event("server_ready")["address"].removesuffix("/v1")
            yield running
        finally:
            if process.poll() is None:
                process.kill()
