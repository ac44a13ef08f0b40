"""Run replicas of `limner serve` over one Redis and one folder, and kill and restart them.

`python -m bench.replicas` is one replica. It considers others dead after four seconds, so that
they can be killed often.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson

from app.config.settings import Settings
from app.demo.drawing import Scene
from app.main import create_app
from app.observability.logging import configure_logging
from app.server.draining import DrainingServer
from app.state.timings import SharingTimings
from bench.padded_png import labeled_png
from bench.process import Process, choose_cores, free_port, run
from bench.soak import open_files
from tests.support.redis import RedisServer
from tests.support.servers import RunningDemo, run_demo

#: About a quarter of the usual times.
TIMINGS = SharingTimings(heartbeat=0.5, suspect_after=1.25, dead_after=4.0)

#: Seconds without a heartbeat after which a replica may be dead.
SILENCE = TIMINGS.suspect_after

#: Seconds for which results are retained, without and with an idempotency key: on a busy machine a retry may come late.
RETENTION, RETENTION_WITH_KEY = 8, 20

#: Bytes of an image: more than Limner holds in memory.
_IMAGE_SIZE = 300 * 1024


def draw_label(scene: Scene, _encoding: str) -> bytes:
    """Return an image that names its prompt, and costs next to no processor time.

    The demo's own images take 70 ms of a processor each. Two cores draw fewer than the clients of a fleet test want,
    who then wait ever longer for the upstream, until the death of a replica loses all that are in flight.
    """
    return labeled_png(scene.width, scene.height, scene.prompt, _IMAGE_SIZE)


class Fleet:
    """Replicas over one Redis and one folder.

    Attributes, in seconds of the monotonic clock:
        outages: When Redis was stopped and started.
        last_fault_at: When the last outage ended, of Redis or of a replica.
    """

    def __init__(
        self,
        demo: RunningDemo,
        redis: RedisServer,
        folder: Path,
        count: int,
        models: Iterable[str],
        **settings: str,
    ) -> None:
        self.redis = redis
        self.ports = [free_port() for _ in range(count)]
        self.outages: list[tuple[float, float]] = []
        self.last_fault_at = 0.0
        self.kills = 0
        self._replicas: dict[int, ExitStack] = {}
        self._processes: dict[int, Process] = {}
        named = {model: model for model in models}
        upstream = {"name": "demo", "base_url": f"{demo.url}/v1", "api_key": "sk-upstream", "models": named}
        self._environment = {
            "LIMNER_UPSTREAMS": orjson.dumps([upstream]).decode(),
            "LIMNER_FETCH_ALLOW": demo.url.removeprefix("http://"),
            "LIMNER_SHARED_STATE": redis.url,
            "LIMNER_IMAGE_STORE": f"disk://{folder}",
            "LIMNER_ANSWER_TTL": str(RETENTION),
            "LIMNER_IDEMPOTENCY_TTL": str(RETENTION_WITH_KEY),
            "LIMNER_LOG_LEVEL": "error",
            **settings,
        }

    def start(self, port: int) -> None:
        command = [sys.executable, "-m", "bench.replicas"]
        self._replicas[port] = stack = ExitStack()
        environment = {**self._environment, "LIMNER_PORT": str(port)}
        self._processes[port] = stack.enter_context(run(command, port, choose_cores().measured, environment))

    def kill(self, port: int) -> None:
        self.kills += 1
        os.kill(self._processes.pop(port).pid, signal.SIGKILL)
        self._replicas.pop(port).close()

    def stop(self) -> None:
        for stack in self._replicas.values():
            stack.close()

    def open_spool_files(self) -> int:
        """Return the number of open temporary files. Descriptors 0 to 2 are standard input and output."""
        files = [file for process in self._processes.values() for file in open_files(process.pid).items()]
        return sum("(deleted)" in target for descriptor, target in files if descriptor > 2)


@contextmanager
def run_fleet(folder: Path, count: int, models: Iterable[str], **settings: str) -> Iterator[tuple[Fleet, RunningDemo]]:
    """Start replicas in front of a demo upstream in this process. `settings` are variables of theirs."""
    redis = RedisServer(folder)
    images = folder / "images"
    images.mkdir()
    redis.start()
    with run_demo(chunk_pause=0.0, draw=draw_label) as demo:
        fleet = Fleet(demo, redis, images, count, models, **settings)
        try:
            for port in fleet.ports:
                fleet.start(port)
            yield fleet, demo
        finally:
            fleet.stop()
            redis.kill()


def main() -> int:
    settings = Settings()
    configure_logging(settings.log_format, settings.log_level)
    DrainingServer(settings, create_app(settings, timings=TIMINGS)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
