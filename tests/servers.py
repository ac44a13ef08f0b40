"""The servers that tests talk to, on real sockets: any app, and the demo upstream."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.demo.server import serve
from app.demo.state import DemoState
from app.demo.upstream import create_demo

__all__ = ["RunningDemo", "run_demo", "serve"]


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """`url` has no path; the API is under `url + "/v1"`."""

    url: str
    state: DemoState


@contextmanager
def run_demo(**options: Any) -> Iterator[RunningDemo]:
    """`options` as of `create_demo`."""
    app = create_demo(**options)
    with serve(app) as url:
        yield RunningDemo(url, app.state.demo)
