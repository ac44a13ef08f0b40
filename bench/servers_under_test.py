"""The servers that are compared, and how each of them is started in front of the upstream."""

import compileall
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.process import Process, free_port, run

#: Seconds between two keep-alives while streams are measured; 15 in production.
KEEPALIVE_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class ServerUnderTest:
    """A server that can be measured.

    Attributes:
        command: Makes the command line from the server's port, the upstream's port and a temporary folder.
        environment: Makes additional environment variables from the upstream's port and that folder.
        installed: Says whether the program exists on this machine.
        headers: Makes the lines that each request's head has in addition, from the upstream's port.
    """

    name: str
    command: Callable[[int, int, Path], Sequence[str]]
    environment: Callable[[int, Path], dict[str, str]] = field(default=lambda _upstream_port, _folder: {})
    installed: Callable[[], bool] = field(default=lambda: True)
    headers: Callable[[int], tuple[str, ...]] = field(default=lambda _upstream_port: ())

    @contextmanager
    def start(self, upstream_port: int, core: int) -> Iterator[Process]:
        port = free_port()
        with TemporaryDirectory(prefix="bench-") as folder:
            command = self.command(port, upstream_port, Path(folder))
            environment = self.environment(upstream_port, Path(folder))
            if "LIMNER_UPSTREAM_BASE_URL" in environment:
                environment["LIMNER_PORT"] = str(port)
            with run(command, port, core, environment, self.headers(upstream_port)) as process:
                yield process


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _uvicorn(port: int, _upstream_port: int, _folder: Path) -> list[str]:
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    return _python("-m", "uvicorn", "bench.baseline_app:app", "--port", str(port), *options)


#: How the container image and the systemd unit set up the allocator.
MALLOC = {
    "PYTHONMALLOC": "malloc",
    "MALLOC_TRIM_THRESHOLD_": "67108864",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TOP_PAD_": "1048576",
}


def _limner_environment(upstream_port: int, folder: Path) -> dict[str, str]:
    """Configure Limner like a production server, with three exceptions.

    Images may be fetched from this machine, 10,000 requests may wait at a time, and input images of 20 MiB are sent
    unchanged.
    """
    return {
        "LIMNER_UPSTREAM_BASE_URL": f"http://127.0.0.1:{upstream_port}/v1",
        "LIMNER_UPSTREAM_API_KEY": "sk-upstream",
        "LIMNER_FETCH_ALLOW": f"127.0.0.1:{upstream_port}",
        "LIMNER_IMAGE_STORE": f"disk://{folder}",
        "LIMNER_MAX_CONCURRENCY": "10000",
        "LIMNER_MAX_REQUEST_BYTES": "512MiB",
        "LIMNER_SHRINK_INPUTS": "20MiB,4096",
        # As in the container image and in the systemd unit.
        **MALLOC,
    }


def _nginx(port: int, upstream_port: int, folder: Path) -> list[str]:
    """Configure nginx as one process that buffers nothing on disk and keeps its connections to the upstream."""
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
        daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; client_max_body_size 0; keepalive_requests 1000000;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            upstream chat {{ server 127.0.0.1:{upstream_port}; keepalive 64; keepalive_requests 1000000; }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://chat; proxy_http_version 1.1; proxy_set_header connection "";
                    proxy_request_buffering off; proxy_buffers 8 64k; proxy_max_temp_file_size 0;
                }}
            }}
        }}""")
    return ["nginx", "-e", "stderr", "-c", str(configuration)]


LIMNER = ServerUnderTest(
    "limner", lambda _port, _upstream_port, _folder: _python("-m", "app", "serve"), _limner_environment
)
LIMNER_WITH_FAST_KEEPALIVE = ServerUnderTest(
    "limner", lambda _port, _upstream_port, _folder: _python("-m", "bench.fast_keepalive_server"), _limner_environment
)
TRANSLATOR = ServerUnderTest(
    "translator",
    lambda port, upstream_port, _folder: _python("-m", "bench.translator", str(port), str(upstream_port)),
)
NGINX = ServerUnderTest("nginx", _nginx, installed=lambda: shutil.which("nginx") is not None)
BASELINE = ServerUnderTest("baseline", _uvicorn)


@contextmanager
def start_upstream(core: int) -> Iterator[Process]:
    """Start the upstream, after Limner was compiled as pip compiles what it installs: else each start might do it."""
    compileall.compile_dir(Path(__file__).parents[1] / "app", quiet=1)
    port = free_port()
    with run(_python("-m", "bench.upstream", str(port)), port, core, {}) as process:
        yield process
