"""A real Caddy with deploy/Caddyfile in front of a real Limner: large bodies, slow responses and streams pass."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.caddy import CADDY, caddy_environment, run_caddy
from tests.support.helm import CHART
from tests.support.sample_images import chunk, gradient, saved
from tests.support.servers import RunningDemo, run_demo, run_limner

pytestmark = pytest.mark.skipif(CADDY is None, reason="caddy is not installed")

BODY: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a fox"}
URL = "/v1/images/generations"


@contextmanager
def client_of(model: str, **options: Any) -> Iterator[tuple[httpx.Client, RunningDemo]]:
    """Yield a client of Caddy, and the upstream with this behavior."""
    with (
        run_demo() as demo,
        run_limner(demo.url, upstream_model=model, shutdown_grace=1, keepalive_interval=0.02, **options) as limner,
        run_caddy(limner.url) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=20) as http,
    ):
        yield http, demo
        demo.state.release()


@pytest.mark.parametrize("command", [["validate", "--adapter", "caddyfile", "--config"], ["fmt", "--diff"]])
def test_caddy_accepts_the_file(command: list[str], tmp_path: Path) -> None:
    assert CADDY is not None
    file = str(CHART.parent / "Caddyfile")
    ended = subprocess.run(
        [CADDY, *command, file], capture_output=True, text=True, check=False, env=caddy_environment(tmp_path)
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not [line for line in ended.stdout.splitlines() if line.startswith(("+", "-"))]


def test_a_body_of_64_megabytes_passes() -> None:
    image = saved(gradient(), "PNG")
    large = image[:-12] + chunk(b"limN", bytes(63 * 2**20)) + image[-12:]
    with client_of("gpt-image-2-chat", shrink_inputs="never") as (http, demo):
        answer = http.post("/v1/images/edits", data=BODY, files={"image": ("large.png", large, "image/png")})
    assert answer.status_code == 200, answer.text
    assert demo.state.requests[-1].size > 4 / 3 * 63 * 2**20


def test_events_arrive_during_the_generation() -> None:
    with (
        client_of("holds") as (http, demo),
        http.stream("POST", URL, json=BODY | {"stream": True}) as answer,
    ):
        chunks = answer.iter_raw()
        received = b""
        while received.count(b": keep-alive\n\n") < 3:
            received += next(chunks)
        assert b"event:" not in received
        demo.state.release()
        received += b"".join(chunks)
    assert b"event: image_generation.completed\n" in received


def test_white_space_keeps_a_json_response_alive() -> None:
    with (
        client_of("holds", keepalive_after=0.02) as (http, demo),
        http.stream("POST", URL, json=BODY) as answer,
    ):
        chunks = answer.iter_raw()
        assert next(chunks).isspace()
        demo.state.release()
        assert b"".join(chunks).strip().startswith(b"{")


def test_a_stored_image_has_a_url_below_the_public_host() -> None:
    with client_of("data-url") as (http, _):
        url = http.post(URL, json=BODY | {"response_format": "url"}).json()["data"][0]["url"]
        assert url.startswith(f"{str(http.base_url).removesuffix('/')}/kept/")
        assert http.get(url).content.startswith(b"\x89PNG")


def test_metrics_are_not_public() -> None:
    with client_of("gpt-image-2-chat") as (http, _):
        assert [http.get(path).status_code for path in ("/metrics", "/healthz")] == [403, 200]


def test_a_missing_server_is_a_502() -> None:
    with run_demo() as demo, run_limner(demo.url) as limner:
        stopped = limner.url
    with run_caddy(stopped) as url:
        assert httpx.post(url + URL, json=BODY, trust_env=False).status_code == 502
