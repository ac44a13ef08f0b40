"""Run servers on real sockets: any app, the demo upstream, and Limner in front of an upstream."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from starlette.applications import Starlette

from app.config.settings import Settings
from app.demo.app import create_demo
from app.demo.server import serve
from app.demo.state import DemoState
from app.jobs.service import ImageService
from app.main import create_app, services_of
from app.server.http_protocol import protocol_class
from app.services.lifecycle import Services

__all__ = ["RunningDemo", "RunningLimner", "run_demo", "run_limner", "serve"]


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """`url` has no path; the API is under `url + "/v1"`."""

    url: str
    state: DemoState


@contextmanager
def run_demo(**options: Any) -> Iterator[RunningDemo]:
    """Run the demo upstream; `options` are those of `create_demo`."""
    app = create_demo(**options)
    with serve(app) as url:
        yield RunningDemo(url, app.state.demo)


@dataclass(frozen=True, slots=True)
class RunningLimner:
    """`url` has no path; the API is under `url + "/v1"`."""

    url: str
    app: Starlette

    @property
    def services(self) -> Services:
        """The server's parts."""
        return services_of(self.app)

    @property
    def service(self) -> ImageService:
        """The server's jobs."""
        return self.services.service


@contextmanager
def run_limner(upstream: str, **options: Any) -> Iterator[RunningLimner]:
    """Run Limner in front of the upstream with this URL, from which it may fetch images.

    `options` are settings, and those of `create_app` that are none: `keepalive_interval` and `timings`.
    """
    with TemporaryDirectory() as folder:
        defaults = {
            "upstream_base_url": f"{upstream}/v1",
            "upstream_api_key": "sk-upstream",
            "fetch_allow": upstream.removeprefix("http://"),
            "image_store": f"disk://{folder}",
        }
        given = {name: options.pop(name) for name in ("keepalive_interval", "timings") if name in options}
        settings = Settings(**{**defaults, **options})
        app = create_app(settings, **given)
        http = protocol_class(settings.client_header_timeout, settings.client_body_timeout)
        with serve(app, http=http) as url:
            yield RunningLimner(url, app)
