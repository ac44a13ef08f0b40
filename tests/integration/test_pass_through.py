"""A key that is passed through is shown to the upstream before the request is read and its links are downloaded."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.raw_http import build_request, connect
from tests.support.sample_images import gradient, saved
from tests.support.servers import RunningLimner, run_limner, serve

IMAGE = f"data:image/png;base64,{base64.b64encode(saved(gradient(size=(64, 64)), 'PNG')).decode()}"
REFUSAL = {"error": {"message": "Incorrect API key provided: sk-***.", "type": "invalid_request_error", "code": "invalid_api_key"}}  # fmt: skip


@dataclass(slots=True)
class Upstream:
    """Answers `GET /models` with this status, and every chat request with an image. `seen` holds what was requested."""

    models_status: int
    seen: list[str] = field(default_factory=list)

    async def models(self, request: Request) -> Response:
        self.seen.append(f"models {request.headers['authorization']}")
        return JSONResponse(REFUSAL if self.models_status == 401 else {}, self.models_status)

    async def completions(self, _: Request) -> Response:
        self.seen.append("completions")
        return JSONResponse({"choices": [{"message": {"content": f"![i]({IMAGE})"}, "finish_reason": "stop"}]})

    async def image(self, _: Request) -> Response:
        self.seen.append("image")
        return Response(status_code=404)


@contextmanager
def limner_with(upstream: Upstream, **options: Any) -> Iterator[RunningLimner]:
    routes = [
        Route("/v1/models", upstream.models),
        Route("/v1/chat/completions", upstream.completions, methods=["POST"]),
        Route("/image.png", upstream.image),
    ]
    with serve(Starlette(routes=routes)) as url, run_limner(url, **{"upstream_api_key": None, **options}) as limner:
        yield limner


def edit(limner: RunningLimner, upstream_url: str = "http://127.0.0.1:9") -> httpx.Response:
    body = {"prompt": "a hat", "images": [{"image_url": f"{upstream_url}/image.png"}]}
    headers = {"authorization": "Bearer sk-caller"}
    return httpx.post(f"{limner.url}/v1/images/edits", json=body, headers=headers, timeout=30, trust_env=False)


def generate(limner: RunningLimner, key: str = "sk-caller") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    body = {"prompt": "a fox"}
    return httpx.post(f"{limner.url}/v1/images/generations", json=body, headers=headers, timeout=30, trust_env=False)


def test_an_invented_key_gets_the_upstream_s_401_before_the_body_is_read_and_links_are_downloaded() -> None:
    upstream = Upstream(401)
    with limner_with(upstream) as limner:
        answers = [edit(limner), generate(limner)]
        with connect(limner.url) as wire:
            # The body never comes.
            wire.send(
                build_request(
                    "POST /v1/images/edits",
                    "authorization: Bearer sk-caller",
                    "content-type: application/json",
                    "content-length: 999999",
                )
            )
            unread = wire.read_response()
    assert [answer.status_code for answer in answers] == [401, 401]
    assert unread.status == 401
    assert "Incorrect API key" in answers[0].json()["error"]["message"]
    assert upstream.seen == ["models Bearer sk-caller"]


@pytest.mark.parametrize("status", [200, 403, 404, 405, 429, 500, 503])
def test_every_other_answer_lets_the_request_pass(status: int) -> None:
    upstream = Upstream(status)
    with limner_with(upstream) as limner:
        assert [generate(limner).status_code, generate(limner).status_code] == [200, 200]
    assert upstream.seen == ["models Bearer sk-caller", "completions", "completions"]


def test_an_upstream_that_cannot_be_reached_refuses_no_key() -> None:
    with run_limner("http://127.0.0.1:9", upstream_api_key=None) as limner:
        assert generate(limner).json()["error"]["code"] == "upstream_unreachable"


@pytest.mark.parametrize("options", [{"upstream_api_key": "sk-upstream"}, {"api_keys": "sk-caller"}])
def test_nothing_is_asked_about_callers_who_bring_no_key_of_the_upstream(options: dict[str, Any]) -> None:
    upstream = Upstream(401)
    with limner_with(upstream, **options) as limner:
        assert generate(limner).status_code == 200
    assert upstream.seen == ["completions"]
