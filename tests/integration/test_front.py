"""Requests for images are answered in front of Starlette, with the same errors and headers as behind it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.applications import Starlette

from app.api.images import ImageEndpoints
from app.main import LimnerApp
from tests.support.raw_http import RawResponse, build_request, send_request
from tests.support.servers import RunningLimner, run_demo, run_limner

KEY, JSON = "authorization: Bearer sk-client", "content-type: application/json"
BODY = b'{"prompt":"a fox","response_format":"url"}'


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_demo() as demo, run_limner(demo.url, api_keys="sk-client") as running:
        yield running


@pytest.fixture
def behind_front(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of all requests that Starlette gets."""
    paths: list[str] = []
    serve = Starlette.__call__

    async def noted(self: Starlette, scope: Any, receive: Any, send: Any) -> None:
        if isinstance(self, LimnerApp):  # The demo upstream runs in this process, too.
            paths.append(scope["path"])
        await serve(self, scope, receive, send)

    monkeypatch.setattr(Starlette, "__call__", noted)
    return paths


def send(limner: RunningLimner, line: str, *headers: str, body: bytes = BODY) -> RawResponse:
    return send_request(limner.url, build_request(line, *headers, body=body))


OWN = [
    "/v1/images/generations",
    "/images/generations",
    "/v1/v1/images//generations/",
    "/v1/images/edits",
    "/v1/images/generations/async",
    "/v1/images/edits/async",
    "/v1/images/variations",
]


@pytest.mark.parametrize("path", OWN)
def test_a_request_for_images_does_not_reach_starlette(
    limner: RunningLimner, behind_front: list[str], path: str
) -> None:
    # Refused: a task would still run when the server has stopped.
    assert send(limner, f"POST {path}", KEY, JSON, body=b'{"n":99}').status in {400, 404}
    assert behind_front == []


OTHERS = [
    ("GET /v1/images/generations", ""),
    ("OPTIONS /v1/images/generations", "origin: https://page.example"),
    ("POST /v1/images/generations", "origin: https://page.example"),
    ("GET /v1/models", ""),
    ("POST /v1/images/tasks/1", ""),
]


@pytest.mark.parametrize(("line", "header"), OTHERS)
def test_all_other_requests_do(limner: RunningLimner, behind_front: list[str], line: str, header: str) -> None:
    send(limner, line, KEY, *filter(None, (header,)))
    assert behind_front == [line.partition(" ")[2]]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    headers: tuple[str, ...]
    body: bytes
    status: int
    path: str = "/v1/images/generations"


CASES = [
    Case("an image", (KEY, JSON), BODY, 200),
    Case("a stream", (KEY, JSON), b'{"prompt":"a fox","stream":true}', 200),
    Case("no key", (JSON,), BODY, 401),
    Case("a wrong value", (KEY, JSON), b'{"prompt":"a fox","n":99}', 400),
    Case("no JSON", (KEY, JSON), b"{", 400),
    Case("another content type", (KEY, "content-type: text/csv"), BODY, 400),
    Case("an endpoint that has been retired", (KEY, JSON), BODY, 404, "/v1/images/variations"),
]


def comparable(response: RawResponse) -> tuple[int, set[str], object]:
    """Return what must be equal: status, names of headers but those of CORS, and the body of an error."""
    names = {name for name in response.headers if not name.startswith("access-control-")}
    return response.status, names, response.body if response.status >= 400 else response.headers["vary"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_answers_are_the_same_in_front_of_starlette_and_behind_it(limner: RunningLimner, case: Case) -> None:
    line = f"POST {case.path}"
    in_front = send(limner, line, *case.headers, body=case.body)
    behind = send(limner, line, "origin: https://page.example", *case.headers, body=case.body)
    assert in_front.status == case.status
    assert comparable(in_front) == comparable(behind)
    assert ("access-control-allow-origin" in in_front.headers, "access-control-allow-origin" in behind.headers) == (
        False,
        True,
    )


def test_a_bug_is_a_500_in_both(limner: RunningLimner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(ImageEndpoints, "handle", fail)
    line = "POST /v1/images/generations"
    in_front, behind = send(limner, line, KEY, JSON), send(limner, line, "origin: https://page.example", KEY, JSON)
    assert in_front.status == 500
    assert b"secret" not in in_front.body
    assert comparable(in_front) == comparable(behind)
