"""A real nginx with deploy/nginx.conf in front of a real Limner: large bodies, slow responses and streams pass."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support.nginx import DEPLOY_CONFIG, HTTP_1_1_CONFIG, MINIMAL_CONFIG, NGINX, run_nginx, tls_context
from tests.support.sample_images import chunk, gradient, saved
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

BODY: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a fox"}
SITES = [
    pytest.param(DEPLOY_CONFIG, id="our configuration"),
    pytest.param(HTTP_1_1_CONFIG, id="a configuration with only HTTP/1.1"),
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
def client_of(limner: RunningLimner, site: str = DEPLOY_CONFIG, timeout: float = 20) -> Iterator[httpx.Client]:
    with (
        run_nginx(limner.url, site) as url,
        httpx.Client(base_url=url, verify=tls_context(), trust_env=False, timeout=timeout) as http,
    ):
        yield http


def test_a_body_of_64_megabytes_passes(demo: RunningDemo) -> None:
    image = saved(gradient(), "PNG")
    end = image[-12:]
    large = image[:-12] + chunk(b"limN", bytes(63 * 2**20)) + end
    large += bytes(64 * 2**20 - len(large))
    with limner_over(demo, "gpt-image-2-chat", shrink_inputs="never") as limner, client_of(limner) as http:
        answer = http.post("/v1/images/edits", data=BODY, files={"image": ("large.png", large, "image/png")})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]
    assert demo.state.requests[-1].size > 4 / 3 * 2**26


def test_a_body_that_is_too_large_is_rejected_by_limner(demo: RunningDemo) -> None:
    """The own limit of nginx is 1 MB, and its error is an HTML page."""
    with limner_over(demo, "gpt-image-2-chat", max_request_bytes="1MiB") as limner, client_of(limner) as http:
        answer = http.post("/v1/images/generations", json=BODY | {"user": "x" * 2**20})
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("site", SITES)
def test_events_arrive_during_the_generation(demo: RunningDemo, site: str) -> None:
    """Keep-alive comments arrive before the upstream has responded, the result after it."""
    with (
        limner_over(demo, "holds") as limner,
        client_of(limner, site) as http,
        http.stream("POST", "/v1/images/generations", json=BODY | {"stream": True}) as answer,
    ):
        chunks = answer.iter_raw()
        received = b""
        while received.count(b": keep-alive\n\n") < 3:
            received += next(chunks)
        assert b"event:" not in received
        demo.state.release()
        received += b"".join(chunks)
    assert b"event: image_generation.completed\n" in received


@pytest.mark.parametrize("site", SITES)
def test_white_space_keeps_a_json_response_alive(demo: RunningDemo, site: str) -> None:
    """The white space arrives after `LIMNER_KEEPALIVE_AFTER`."""
    with (
        limner_over(demo, "holds", keepalive_after=0.02) as limner,
        client_of(limner, site) as http,
        http.stream("POST", "/v1/images/generations", json=BODY) as answer,
    ):
        chunks = answer.iter_raw()
        assert next(chunks).isspace()
        demo.state.release()
        rest = b"".join(chunks)
    assert rest.strip().startswith(b"{")


@pytest.mark.parametrize("stream", [False, True])
def test_over_http_1_0_nothing_arrives_until_the_end(demo: RunningDemo, stream: bool) -> None:
    """This is why our configuration sets the version: after a minute without bytes, nginx gives up."""
    with (
        limner_over(demo, "holds", keepalive_after=0.02) as limner,
        client_of(limner, MINIMAL_CONFIG, timeout=0.5) as http,
    ):
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/images/generations", json=BODY | {"stream": stream})
        demo.state.release()
        answer = http.post("/v1/images/generations", json=BODY | {"stream": stream}, timeout=20)
    assert answer.status_code == 200
    assert answer.content


def test_the_request_id_is_the_same_at_nginx_limner_and_upstream(demo: RunningDemo) -> None:
    with limner_over(demo, "gpt-image-2-chat") as limner, client_of(limner) as http:
        ids = [http.post("/v1/images/generations", json=BODY).headers.get_list("x-request-id") for _ in range(2)]
    seen = [request.headers["x-request-id"] for request in demo.state.requests]
    assert ids == [[each] for each in seen]
    assert len(set(seen)) == 2


def test_a_stored_image_has_a_url_below_the_public_host(demo: RunningDemo) -> None:
    with limner_over(demo, "data-url") as limner, client_of(limner) as http:
        answer = http.post("/v1/images/generations", json=BODY | {"response_format": "url"})
        url = answer.json()["data"][0]["url"]
        assert url.startswith(f"{str(http.base_url).removesuffix('/')}/kept/")
        image = http.get(url)
    assert image.headers["content-type"] == "image/png"
    assert image.content.startswith(b"\x89PNG")


def test_metrics_are_not_public(demo: RunningDemo) -> None:
    with limner_over(demo, "gpt-image-2-chat") as limner, client_of(limner) as http:
        assert [http.get(path).status_code for path in ("/metrics", "/healthz")] == [403, 200]


def test_a_missing_server_is_a_502(demo: RunningDemo) -> None:
    with limner_over(demo, "gpt-image-2-chat") as limner:
        stopped = limner.url
    with run_nginx(stopped) as url, httpx.Client(verify=tls_context(), trust_env=False) as http:
        assert http.post(f"{url}/v1/images/generations", json=BODY).status_code == 502


@pytest.mark.parametrize(
    ("site", "version", "connection"),
    [
        pytest.param(DEPLOY_CONFIG, b"HTTP/1.1", None, id="our configuration keeps connections"),
        pytest.param(MINIMAL_CONFIG, b"HTTP/1.0", b"close", id="nginx without our settings uses HTTP/1.0"),
    ],
)
def test_the_requests_of_nginx(site: str, version: bytes, connection: bytes | None) -> None:
    with (
        one_response_server() as (server, heads),
        run_nginx(server, site) as url,
        httpx.Client(verify=tls_context(), trust_env=False) as http,
    ):
        assert http.get(f"{url}/healthz", headers={"host": "images.example.com:8443"}).text == "hello"
    line, *fields = heads[0].split(b"\r\n")
    headers = dict(field.lower().split(b": ", 1) for field in fields if field)
    assert line.endswith(version)
    assert headers.get(b"connection") == connection
    assert headers[b"x-forwarded-proto"] == b"https"
    assert headers[b"host"] == b"images.example.com:8443"


@contextmanager
def one_response_server() -> Iterator[tuple[str, list[bytes]]]:
    """Run a server that responds to one request; yield its URL and the list of request heads."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=respond_once, args=(listener, heads))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join()


def respond_once(listener: socket.socket, heads: list[bytes]) -> None:
    connection, _ = listener.accept()
    with connection:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        heads.append(head)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
