"""A real Caddy with deploy/Caddyfile in front of a real Limner: what is large, slow or streamed gets through it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.caddy import CADDY, own, run_caddy
from tests.support.helm import CHART
from tests.support.sample_images import chunk, gradient, saved
from tests.support.servers import RunningDemo, run_demo, run_limner

pytestmark = pytest.mark.skipif(CADDY is None, reason="caddy is not installed")

ASKED: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a fox"}
URL = "/v1/images/generations"


@contextmanager
def client_of(model: str, **options: Any) -> Iterator[tuple[httpx.Client, RunningDemo]]:
    """A client of Caddy, and the upstream, which behaves as its `model` says."""
    with (
        run_demo() as demo,
        run_limner(demo.url, upstream_model=model, shutdown_grace=1, keepalive_interval=0.02, **options) as limner,
        run_caddy(limner.url) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=20) as http,
    ):
        yield http, demo
        demo.state.release()


@pytest.mark.parametrize("command", [["validate", "--adapter", "caddyfile", "--config"], ["fmt", "--diff"]])
def test_caddy_finds_nothing_wrong_in_the_file(command: list[str], tmp_path: Path) -> None:
    assert CADDY is not None
    file = str(CHART.parent / "Caddyfile")
    done = subprocess.run([CADDY, *command, file], capture_output=True, text=True, check=False, env=own(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith(("+", "-"))]


def test_a_body_of_64_megabytes_passes() -> None:
    picture = saved(gradient(), "PNG")
    large = picture[:-12] + chunk(b"limN", bytes(63 * 2**20)) + picture[-12:]
    with client_of("gpt-image-2-chat", shrink_inputs="never") as (http, demo):
        answer = http.post("/v1/images/edits", data=ASKED, files={"image": ("large.png", large, "image/png")})
    assert answer.status_code == 200, answer.text
    assert demo.state.requests[-1].size > 4 / 3 * 63 * 2**20


def test_events_arrive_while_the_picture_is_painted() -> None:
    with (
        client_of("holds") as (http, demo),
        http.stream("POST", URL, json=ASKED | {"stream": True}) as answer,
    ):
        pieces = answer.iter_raw()
        heard = b""
        while heard.count(b": keep-alive\n\n") < 3:
            heard += next(pieces)
        assert b"event:" not in heard
        demo.state.release()
        heard += b"".join(pieces)
    assert b"event: image_generation.completed\n" in heard


def test_a_plain_answer_shows_that_it_lives() -> None:
    with (
        client_of("holds", keepalive_after=0.02) as (http, demo),
        http.stream("POST", URL, json=ASKED) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces).isspace()
        demo.state.release()
        assert b"".join(pieces).strip().startswith(b"{")


def test_a_kept_picture_has_the_address_that_clients_use() -> None:
    with client_of("data-url") as (http, _):
        url = http.post(URL, json=ASKED | {"response_format": "url"}).json()["data"][0]["url"]
        assert url.startswith(f"{str(http.base_url).removesuffix('/')}/kept/")
        assert http.get(url).content.startswith(b"\x89PNG")


def test_metrics_are_not_for_everyone() -> None:
    with client_of("gpt-image-2-chat") as (http, _):
        assert [http.get(path).status_code for path in ("/metrics", "/healthz")] == [403, 200]


def test_an_answer_without_a_server_is_no_picture() -> None:
    with run_demo() as demo, run_limner(demo.url) as limner:
        away = limner.url
    with run_caddy(away) as url:
        assert httpx.post(url + URL, json=ASKED, trust_env=False).status_code == 502
