"""Run servers on real sockets: any app, the demo upstream, and Limner in front of an upstream."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI

from app.config.settings import Settings
from app.demo.app import create_demo
from app.demo.server import serve
from app.demo.state import DemoState
from app.jobs.service import Studio
from app.main import create_app
from app.server.http_protocol import protocol_class

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
    app: FastAPI

    @property
    def studio(self) -> Studio:
        studio: Studio = self.app.state.studio
        return studio


@contextmanager
def run_limner(upstream: str, **options: Any) -> Iterator[RunningLimner]:
    """Run Limner in front of the upstream with this URL, from which it may fetch images. `options` are settings."""
    with TemporaryDirectory() as folder:
        defaults = {
            "upstream_base_url": f"{upstream}/v1",
            "upstream_api_key": "sk-upstream",
            "fetch_allow": upstream.removeprefix("http://"),
            "image_store": f"disk://{folder}",
        }
        settings = Settings(**{**defaults, **options})
        app = create_app(settings)
        http = protocol_class(settings.client_header_timeout, settings.client_body_timeout)
        with serve(app, http=http) as url:
            yield RunningLimner(url, app)
