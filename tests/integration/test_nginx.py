"""A real nginx with deploy/nginx.conf in front of a real Limner: what is large, slow or streamed gets through it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support.nginx import BARE, NEARLY_BARE, NGINX, OURS, run_nginx, trust
from tests.support.sample_images import chunk, gradient, saved
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

ASKED: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a fox"}
SITES = [
    pytest.param(OURS, id="our configuration"),
    pytest.param(NEARLY_BARE, id="an nginx that was told only HTTP/1.1"),
]


@pytest.fixture
def demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running
        running.state.release()


@contextmanager
def limner_over(demo: RunningDemo, model: str, **options: Any) -> Iterator[RunningLimner]:
    with run_limner(demo.url, upstream_model=model, shutdown_grace=1, keepalive_interval=0.02, **options) as limner:
        yield limner


@contextmanager
def client_of(limner: RunningLimner, site: str = OURS, timeout: float = 20) -> Iterator[httpx.Client]:
    with (
        run_nginx(limner.url, site) as url,
        httpx.Client(base_url=url, verify=trust(), trust_env=False, timeout=timeout) as http,
    ):
        yield http


def test_a_body_of_64_megabytes_passes(demo: RunningDemo) -> None:
    picture = saved(gradient(), "PNG")
    end = picture[-12:]
    large = picture[:-12] + chunk(b"limN", bytes(63 * 2**20)) + end
    large += bytes(64 * 2**20 - len(large))
    with limner_over(demo, "gpt-image-2-chat", shrink_inputs="never") as limner, client_of(limner) as http:
        answer = http.post("/v1/images/edits", data=ASKED, files={"image": ("large.png", large, "image/png")})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]
    assert demo.state.requests[-1].size > 4 / 3 * 2**26


def test_a_body_that_is_too_large_is_refused_by_limner(demo: RunningDemo) -> None:
    """nginx's own limit is 1 MB, and its answer a page of HTML."""
    with limner_over(demo, "gpt-image-2-chat", max_request_bytes="1MiB") as limner, client_of(limner) as http:
        answer = http.post("/v1/images/generations", json=ASKED | {"user": "x" * 2**20})
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("site", SITES)
def test_events_arrive_while_the_picture_is_painted(demo: RunningDemo, site: str) -> None:
    """Signs of life come before the upstream has said a word; the end comes after."""
    with (
        limner_over(demo, "holds") as limner,
        client_of(limner, site) as http,
        http.stream("POST", "/v1/images/generations", json=ASKED | {"stream": True}) as answer,
    ):
        pieces = answer.iter_raw()
        heard = b""
        while heard.count(b": keep-alive\n\n") < 3:
            heard += next(pieces)
        assert b"event:" not in heard
        demo.state.release()
        heard += b"".join(pieces)
    assert b"event: image_generation.completed\n" in heard


@pytest.mark.parametrize("site", SITES)
def test_a_plain_answer_shows_that_it_lives(demo: RunningDemo, site: str) -> None:
    """White space first, when `LIMNER_KEEPALIVE_AFTER` is over."""
    with (
        limner_over(demo, "holds", keepalive_after=0.02) as limner,
        client_of(limner, site) as http,
        http.stream("POST", "/v1/images/generations", json=ASKED) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces).isspace()
        demo.state.release()
        rest = b"".join(pieces)
    assert rest.strip().startswith(b"{")


@pytest.mark.parametrize("stream", [False, True])
def test_over_http_1_0_nothing_is_heard_until_the_end(demo: RunningDemo, stream: bool) -> None:
    """Why the version stands in our file: after a minute of this, nginx gives up."""
    with limner_over(demo, "holds", keepalive_after=0.02) as limner, client_of(limner, BARE, timeout=0.5) as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/images/generations", json=ASKED | {"stream": stream})
        demo.state.release()
        answer = http.post("/v1/images/generations", json=ASKED | {"stream": stream}, timeout=20)
    assert answer.status_code == 200
    assert answer.content


def test_a_request_keeps_one_id_all_the_way(demo: RunningDemo) -> None:
    with limner_over(demo, "gpt-image-2-chat") as limner, client_of(limner) as http:
        ids = [http.post("/v1/images/generations", json=ASKED).headers.get_list("x-request-id") for _ in range(2)]
    seen = [request.headers["x-request-id"] for request in demo.state.requests]
    assert ids == [[each] for each in seen]
    assert len(set(seen)) == 2


def test_a_kept_picture_has_the_address_that_clients_use(demo: RunningDemo) -> None:
    with limner_over(demo, "data-url") as limner, client_of(limner) as http:
        answer = http.post("/v1/images/generations", json=ASKED | {"response_format": "url"})
        url = answer.json()["data"][0]["url"]
        assert url.startswith(f"{str(http.base_url).removesuffix('/')}/kept/")
        picture = http.get(url)
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")


def test_metrics_are_not_for_everyone(demo: RunningDemo) -> None:
    with limner_over(demo, "gpt-image-2-chat") as limner, client_of(limner) as http:
        assert [http.get(path).status_code for path in ("/metrics", "/healthz")] == [403, 200]


def test_an_answer_without_a_server_is_no_picture(demo: RunningDemo) -> None:
    with limner_over(demo, "gpt-image-2-chat") as limner:
        away = limner.url
    with run_nginx(away) as url, httpx.Client(verify=trust(), trust_env=False) as http:
        assert http.post(f"{url}/v1/images/generations", json=ASKED).status_code == 502


@pytest.mark.parametrize(
    ("site", "version", "connection"),
    [
        pytest.param(OURS, b"HTTP/1.1", None, id="our configuration keeps connections"),
        pytest.param(BARE, b"HTTP/1.0", b"close", id="an nginx that was told nothing speaks the HTTP of 1996"),
    ],
)
def test_how_nginx_asks(site: str, version: bytes, connection: bytes | None) -> None:
    with (
        one_answer() as (server, heads),
        run_nginx(server, site) as url,
        httpx.Client(verify=trust(), trust_env=False) as http,
    ):
        assert http.get(f"{url}/healthz", headers={"host": "images.example.com:8443"}).text == "hello"
    line, *fields = heads[0].split(b"\r\n")
    headers = dict(field.lower().split(b": ", 1) for field in fields if field)
    assert line.endswith(version)
    assert headers.get(b"connection") == connection
    assert headers[b"x-forwarded-proto"] == b"https"
    assert headers[b"host"] == b"images.example.com:8443"


@contextmanager
def one_answer() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers one request, and the head that it got."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=answer_once, args=(listener, heads))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join()


def answer_once(listener: socket.socket, heads: list[bytes]) -> None:
    connection, _ = listener.accept()
    with connection:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        heads.append(head)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
