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


class Process:
    def __init__(self, process: "subprocess.Popen[str]", lines: "list[dict[str, Any]]") -> None:
        self.process = process
        self.lines = lines
        self.url = ""

    def listen(self, event: str) -> dict[str, Any]:
        """Reads the log up to a record of this event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(orjson.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no {event} in {self.lines}")

    def end(self) -> int:
        assert self.process.stderr is not None
        self.lines += [orjson.loads(line) for line in self.process.stderr]
        return self.process.wait(20)


@contextmanager
def serve(demo: RunningDemo, folder: Path, **variables: str) -> Iterator[Process]:
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
        running = Process(process, [])
        try:
            running.url = running.listen("server_ready")["address"].removesuffix("/v1")
            yield running
        finally:
            if process.poll() is None:
                process.kill()
