"""The servers that are compared, and how each is started in front of the upstream."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.process import Process, free_port, run

#: For the row of streams: a sign of life every half second, not every 15.
SILENCE = 0.5


@dataclass(frozen=True, slots=True)
class Subject:
    """`command` of its port, the upstream's port and a folder of its own; `environment` of the last two."""

    name: str
    command: Callable[[int, int, Path], Sequence[str]]
    environment: Callable[[int, Path], dict[str, str]] = field(default=lambda _upstream, _folder: {})
    installed: Callable[[], bool] = field(default=lambda: True)

    @contextmanager
    def start(self, upstream: int, core: int) -> Iterator[Process]:
        port = free_port()
        with TemporaryDirectory(prefix="bench-") as folder:
            command = self.command(port, upstream, Path(folder))
            environment = self.environment(upstream, Path(folder))
            if "LIMNER_UPSTREAM_BASE_URL" in environment:
                environment["LIMNER_PORT"] = str(port)
            with run(command, port, core, environment) as process:
                yield process


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _uvicorn(port: int, _upstream: int, _folder: Path) -> list[str]:
    fast = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    return _python("-m", "uvicorn", "bench.plain:app", "--port", str(port), *fast)


def _settings(upstream: int, folder: Path) -> dict[str, str]:
    """As an operator would run it, but that pictures come from this machine, 1,000 requests may wait, and pictures of
    20 MiB go up as they are."""
    return {
        "LIMNER_UPSTREAM_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
        "LIMNER_UPSTREAM_API_KEY": "sk-upstream",
        "LIMNER_FETCH_ALLOW": f"127.0.0.1:{upstream}",
        "LIMNER_IMAGE_STORE": f"disk://{folder}",
        "LIMNER_MAX_CONCURRENCY": "2000",
        "LIMNER_MAX_REQUEST_BYTES": "512MiB",
        "LIMNER_SHRINK_INPUTS": "20MiB,4096",
    }


def _nginx(port: int, upstream: int, folder: Path) -> list[str]:
    """One process, nothing buffered on disk, connections to the upstream kept."""
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
        daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; client_max_body_size 0; keepalive_requests 1000000;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            upstream chat {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000; }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://chat; proxy_http_version 1.1; proxy_set_header connection "";
                    proxy_request_buffering off; proxy_buffers 8 64k; proxy_max_temp_file_size 0;
                }}
            }}
        }}""")
    return ["nginx", "-e", "stderr", "-c", str(configuration)]


LIMNER = Subject("limner", lambda _port, _upstream, _folder: _python("-m", "app", "serve"), _settings)
HURRIED = Subject("limner", lambda _port, _upstream, _folder: _python("-m", "bench.hurried"), _settings)
TRANSLATOR = Subject(
    "translator",
    lambda port, upstream, _folder: _python("-m", "bench.translator", str(port), str(upstream)),
)
NGINX = Subject("nginx", _nginx, installed=lambda: shutil.which("nginx") is not None)
PLAIN = Subject("plain", _uvicorn)


@contextmanager
def start_upstream(core: int) -> Iterator[Process]:
    port = free_port()
    with run(_python("-m", "bench.upstream", str(port)), port, core, {}) as process:
        yield process
