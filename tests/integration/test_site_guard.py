"""Pages of other sites cannot use a server that needs no key, on any route that spends or tells something."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.raw_http import RawResponse, build_request, send_request
from tests.support.servers import RunningDemo, RunningLimner, run_limner

EVIL, REBOUND, IMAGE = "origin: https://evil.example", "host: evil.example", "sec-fetch-site: cross-site"
LOCAL_APP = "origin: http://localhost:3000"
JSON = "content-type: application/json"
BODY = b'{"prompt":"a fox","response_format":"b64_json"}'
GENERATION = "POST /v1/images/generations"


@pytest.fixture(scope="module")
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(demo.url) as running:
        yield running


def send(limner: RunningLimner, line: str, *headers: str, body: bytes = b"") -> RawResponse:
    """Send a request. A host among the headers replaces the server's own."""
    request = build_request(line, *headers, body=body)
    if any(header.startswith("host:") for header in headers):
        request = request.replace(b"host: HOST\r\n", b"")
    return send_request(limner.url, request)


GUARDED = [
    GENERATION,
    "POST /images/generations",
    "POST /v1//images/generations/",
    "POST /v1/v1/images/generations",
    "POST /v1/images/edits",
    "POST /v1/images/variations",
    "POST /openai/deployments/gpt-image-2/images/generations",
    "GET /v1/images/results/req_1",
    "GET /v1/models",
    "GET /models/gpt-image-2",
    "GET /v1/silence/0",
    "POST /v1/explain",
    "GET /v1/status",
    "GET /metrics",
    "GET /openapi.json",
    "GET /web/server.json",
    "GET /v1/nothing",
]


@pytest.mark.parametrize("line", GUARDED)
@pytest.mark.parametrize("header", [EVIL, REBOUND, "origin: null"])
def test_a_page_of_another_site_is_refused(limner: RunningLimner, demo: RunningDemo, line: str, header: str) -> None:
    demo.state.reset()
    body = BODY if line.startswith("POST") else b""
    answer = send(limner, line, header, JSON, body=body)
    assert answer.status == 403
    assert demo.state.calls == 0
    assert "needs no key" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("target", "header", "status"),
    [
        pytest.param("http://evil.example/v1/models", "host: localhost", 403, id="another host in the target"),
        pytest.param(
            "HTTP://evil.example:80/v1/models", "host: 127.0.0.1", 403, id="another host in capitals, with a port"
        ),
        pytest.param(
            "http://localhost/v1/models",
            "host: evil.example",
            200,
            id="this host in the target, another one in the header",
        ),
        pytest.param(
            "http://[::1]:8000/v1/models?a=http://evil.example",
            "host: localhost",
            200,
            id="an address in the target, another host in the query",
        ),
        pytest.param(
            "/v1/models?a=http://evil.example", "host: localhost", 200, id="a path with another host in the query"
        ),
    ],
)
def test_the_host_in_the_target_replaces_the_header(
    limner: RunningLimner, target: str, header: str, status: int
) -> None:
    assert send(limner, f"GET {target}", header).status == status


def test_an_image_element_of_another_site_s_page_is_refused(limner: RunningLimner) -> None:
    assert [send(limner, line, IMAGE).status for line in ("GET /v1/silence/0", "GET /v1/status", "GET /")] == [
        403,
        403,
        200,
    ]


def test_the_refusal_comes_before_the_body(limner: RunningLimner) -> None:
    head = build_request(GENERATION, EVIL, JSON, "content-length: 99999")
    assert send_request(limner.url, head).status == 403


def test_the_page_that_is_refused_can_read_why(limner: RunningLimner) -> None:
    answer = send(limner, GENERATION, EVIL, JSON, body=BODY)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "LIMNER_CORS_ORIGINS" in answer.json()["error"]["message"]


@pytest.mark.parametrize("line", ["GET /healthz", "GET /readyz", "GET /kept/nothing.png"])
@pytest.mark.parametrize("header", [EVIL, REBOUND, IMAGE])
def test_probes_and_stored_images_are_open(limner: RunningLimner, line: str, header: str) -> None:
    assert send(limner, line, header).status == (404 if "kept" in line else 200)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    settings: dict[str, Any]
    line: str
    headers: tuple[str, ...]
    status: int
    body: bytes = field(default=b"")


KEYS = {"api_keys": "sk-client"}
PASS_THROUGH: dict[str, Any] = {"upstream_api_key": None}
OPEN = {"host": "0.0.0.0", "allow_anonymous": True}
KEY = "authorization: Bearer sk-client"
CASES = [
    Case("an app of this machine", {}, GENERATION, (LOCAL_APP, JSON), 200, BODY),
    Case("an app of this machine reads the status", {}, "GET /v1/status", (LOCAL_APP,), 200),
    Case("a body without a type", {}, GENERATION, (), 400, BODY),
    Case("keys: a page of another site", KEYS, GENERATION, (KEY, EVIL, REBOUND, JSON), 200, BODY),
    Case("keys: a body without a type", KEYS, GENERATION, (KEY,), 200, BODY),
    Case("keys: the metrics", KEYS, "GET /metrics", (EVIL, REBOUND), 200),
    Case("keys: the status", KEYS, "GET /v1/status", (KEY, EVIL), 200),
    Case("a status key: images still need none", {"status_key": "sk-op"}, GENERATION, (EVIL, JSON), 403, BODY),
    Case("a status key: the status needs it", {"status_key": "sk-op"}, "GET /v1/status", ("authorization: Bearer sk-op", EVIL), 200),
    Case("pass-through: a page of another site with a key", PASS_THROUGH, GENERATION, (KEY, EVIL, JSON), 200, BODY),
    Case("pass-through: the status", PASS_THROUGH, "GET /v1/status", (EVIL,), 403),
    Case("pass-through: the metrics", PASS_THROUGH, "GET /metrics", (REBOUND,), 403),
    Case("a named origin", {"cors_origins": "https://evil.example"}, GENERATION, (EVIL, JSON), 200, BODY),
    Case("a named host", {"allowed_hosts": "Evil.Example."}, GENERATION, (REBOUND, JSON), 200, BODY),
    Case("any host", {"allowed_hosts": "*"}, GENERATION, (REBOUND, JSON), 200, BODY),
    Case("the host of the public address", {"public_url": "https://limner.invalid:8443"}, GENERATION, ("host: limner.invalid", "origin: https://limner.invalid", JSON), 200, BODY),
    Case("open: an address", OPEN, GENERATION, ("host: 192.168.1.5:8000", JSON), 200, BODY),
    Case("open: a name", OPEN, GENERATION, (REBOUND, JSON), 403, BODY),
    Case("open: a page of another site", OPEN, GENERATION, (EVIL, JSON), 403, BODY),
    Case("open: the metrics under a name of the network", OPEN, "GET /metrics", (REBOUND,), 200),
    Case("open: the name that it listens to", {"host": "limner.lan", "allow_anonymous": True}, GENERATION, ("host: limner.lan:8000", JSON), 200, BODY),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_settings_decide_what_is_refused(demo: RunningDemo, case: Case) -> None:
    demo.state.reset()
    with run_limner(demo.url, **case.settings) as limner:
        answer = send(limner, case.line, *case.headers, body=case.body)
    assert answer.status == case.status
    assert demo.state.calls == (case.status == 200 and case.line == GENERATION)
