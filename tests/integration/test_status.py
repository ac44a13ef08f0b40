"""`GET /v1/status` over real HTTP, with jobs in flight."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.raw_http_lines import GENERATION, ListeningClient, wait_for_jobs
from tests.support.servers import RunningDemo, RunningLimner, run_limner

KEY = {"authorization": "Bearer sk-client"}


@pytest.fixture
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(demo.url, api_keys="sk-client", max_concurrency=1, max_queue=7) as running:
        yield running


def status(limner: RunningLimner, headers: dict[str, str] = KEY) -> httpx.Response:
    return httpx.get(f"{limner.url}/v1/status", headers=headers, trust_env=False)


def generate(limner: RunningLimner, **body: Any) -> httpx.Response:
    headers = {**KEY, "content-type": "application/json"}
    return httpx.post(
        f"{limner.url}/v1/images/generations", headers=headers, json={**GENERATION, **body}, trust_env=False
    )


@dataclass(frozen=True, slots=True)
class Access:
    name: str
    settings: dict[str, Any]
    token: str | None
    expected: tuple[int, str | None]


LOOPBACK, OPEN = {"host": "127.0.0.1"}, {"host": "0.0.0.0", "allow_anonymous": True}
ACCESS = [
    Access("a client key is accepted", {"api_keys": "sk-client"}, "sk-client", (200, None)),
    Access("another key is not", {"api_keys": "sk-client"}, "sk-other", (401, "invalid_api_key")),
    Access("a key is needed", {"api_keys": "sk-client"}, None, (401, None)),
    Access("the status key is accepted", {"api_keys": "sk-client", "status_key": "sk-operator"}, "sk-operator", (200, None)),
    Access("a client key is not accepted if there is a status key", {"api_keys": "sk-client", "status_key": "sk-operator"}, "sk-client", (401, "invalid_api_key")),
    Access("the status key is needed even if clients need no key", {"status_key": "sk-operator"}, None, (401, None)),
    Access("without any keys none is needed on loopback", LOOPBACK, None, (200, None)),
    Access("without any keys each one is accepted on loopback", LOOPBACK, "sk-other", (200, None)),
    Access("a public server without keys shows no status", OPEN, "sk-other", (403, "status_key_not_set")),
    Access("a public server with a status key accepts it", {**OPEN, "status_key": "sk-operator"}, "sk-operator", (200, None)),
    Access("a key that is passed through is not an operator's", {"upstream_api_key": None, "host": "0.0.0.0"}, "sk-other", (403, "status_key_not_set")),
]  # fmt: skip


def test_a_key_of_the_key_file_is_not_an_operator_s(demo: RunningDemo, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'[[keys]]\nname = "guest"\nsha256 = "{sha256(b"sk-guest").hexdigest()}"\n')
    headers = {"authorization": "Bearer sk-guest"}
    with run_limner(demo.url, keys_file=file) as limner:
        assert httpx.get(f"{limner.url}/v1/models", headers=headers, trust_env=False).status_code == 200
        assert status(limner, headers).json()["error"]["code"] == "status_key_not_set"
        assert httpx.get(f"{limner.url}/web/server.json", trust_env=False).json()["key"] == "client"
    with run_limner(demo.url, keys_file=file, status_key="sk-operator") as limner:
        assert status(limner, headers).status_code == 401
        assert status(limner, {"authorization": "Bearer sk-operator"}).status_code == 200


@pytest.mark.parametrize("case", ACCESS, ids=lambda case: case.name)
def test_which_key_is_accepted(demo: RunningDemo, case: Access) -> None:
    with run_limner(demo.url, **case.settings) as limner:
        answer = status(limner, {"authorization": f"Bearer {case.token}"} if case.token else {})
    code, error = case.expected
    assert answer.status_code == code
    assert answer.json().get("error", {}).get("code") == error


def test_the_path_without_v1_is_the_page(limner: RunningLimner) -> None:
    answer = httpx.get(f"{limner.url}/status", trust_env=False)
    assert answer.headers["content-type"].startswith("text/html")


def test_the_status_of_an_idle_server(limner: RunningLimner, demo: RunningDemo) -> None:
    answer = status(limner)
    report = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert report["turns"] == {"used": 0, "limit": 1, "waiting": 0, "queue": 7}
    assert (report["under_way"], report["outcomes"], report["closing"]) == ([], [], False)
    assert report["pid"] == os.getpid()
    (upstream,) = report["upstreams"]
    assert upstream.items() >= {"host": demo.url.removeprefix("http://"), "model": "gpt-image-2-chat", "circuit": "closed", "under_way": 0}.items()  # fmt: skip
    assert report["settings"].items() >= {"LIMNER_MAX_IMAGE_BYTES": 64 * 2**20, "LIMNER_MAX_QUEUE": 7, "LIMNER_MASK": "guide", "LIMNER_RETRY_AMBIGUOUS": False}.items()  # fmt: skip


def test_a_job_in_flight_and_one_that_waits(demo: RunningDemo) -> None:
    with run_limner(demo.url, upstream_model="holds", max_concurrency=1) as limner:
        lines = []
        demo.state.reset()
        for size in ("1536x1024", "1024x1536"):
            lines.append(ListeningClient(limner, {**GENERATION, "size": size, "stream": True}))
            wait_for_jobs(limner, len(lines))
            assert demo.state.wait_for_calls(1)
        report = status(limner).json()
        demo.state.release()
        for line in lines:
            line.read_until(b"event: image_generation.completed")
            line.disconnect()
    assert report["turns"] == {"used": 1, "limit": 1, "waiting": 1, "queue": 256}
    first, second = report["under_way"]
    assert first["id"].startswith("req_")
    shown = ("operation", "n", "size", "stream", "asked", "readers")
    assert [first[name] for name in shown] == ["image_generation", 1, "1536x1024", True, True, 1]
    assert [second[name] for name in shown] == ["image_generation", 1, "1024x1536", True, False, 1]
    assert first["seconds"] >= second["seconds"] >= 0
    assert report["upstreams"][0]["under_way"] == 1


@dataclass(frozen=True, slots=True)
class Ended:
    name: str
    body: dict[str, Any]
    expected: dict[str, Any] = field(default_factory=dict)
    model: str = "gpt-image-2-chat"


ENDED = [
    Ended("an image", {"size": "1536x1024"}, {"status": 200, "operation": "image_generation", "n": 1, "size": "1536x1024", "stream": False, "error": None}),
    Ended("three images", {"n": 3}, {"status": 200, "n": 3, "size": "auto"}),
    Ended("a wrong size", {"size": "1x1"}, {"status": 400, "error": "invalid_value"}),
    Ended("a refusal", {}, {"status": 400, "operation": "image_generation", "error": "moderation_blocked"}, "refuses"),
    Ended("a refusal before the stream has started", {"stream": True}, {"status": 400, "stream": True, "error": "moderation_blocked"}, "refuses"),
    Ended("a stream that ends in an error, although its status is 200", {"stream": True, "partial_images": 1}, {"status": 200, "stream": True, "error": "upstream_broken"}, "previews+breaks-mid-stream"),
]  # fmt: skip


@pytest.mark.parametrize("case", ENDED, ids=lambda case: case.name)
def test_the_record_of_a_request(demo: RunningDemo, case: Ended) -> None:
    with run_limner(demo.url, upstream_model=case.model, api_keys="sk-client") as limner:
        answer = generate(limner, **case.body)
        (record,) = status(limner).json()["outcomes"]
    assert record["id"] == answer.headers["x-request-id"]
    assert (record["method"], record["path"]) == ("POST", "/v1/images/generations")
    assert record.items() >= case.expected.items()
    assert record["ms"] > 0
    assert "detail" not in record


def test_the_newest_request_comes_first_and_only_image_requests_are_listed(limner: RunningLimner) -> None:
    ids = [generate(limner, n=number).headers["x-request-id"] for number in (1, 2)]
    httpx.get(f"{limner.url}/v1/models", headers=KEY, trust_env=False)
    httpx.options(f"{limner.url}/v1/images/generations", trust_env=False)
    outcomes = status(limner).json()["outcomes"]
    assert [record["id"] for record in outcomes] == [*reversed(ids)]


def test_the_status_holds_neither_prompts_nor_keys(demo: RunningDemo) -> None:
    with run_limner(demo.url, upstream_model="refuses", api_keys="sk-client", upstream_api_key="sk-upstream") as limner:
        generate(limner, prompt="a secret wish")
        text = status(limner).text
    assert "sk-" not in text
    assert "secret wish" not in text
    assert "disk:" not in text
