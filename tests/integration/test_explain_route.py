"""`POST /v1/explain` over real HTTP: its report, its key, its limits, and hostile text."""

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest
from starlette.responses import Response

from app.api import diagnostics
from app.api.diagnostics import MAX_CONCURRENT_EXPLAINS, MAX_REPLY_BYTES, MAX_WAITING_EXPLAINS
from app.images.blob import Blob
from tests.support.raw_http import RawConnection, build_request, connect, send_request
from tests.support.raw_http_lines import wait_until
from tests.support.sample_images import noise, saved
from tests.support.servers import RunningLimner, run_limner

KEY = {"authorization": "Bearer sk-client"}
NO_UPSTREAM = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_limner(NO_UPSTREAM, api_keys="sk-client") as running:
        yield running


def explain(limner: RunningLimner, reply: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{limner.url}/v1/explain", content=reply, headers={**KEY, **headers}, timeout=30, trust_env=False
    )


def test_the_report_has_the_images_and_why_other_candidates_were_rejected(limner: RunningLimner) -> None:
    image = "data:image/png;base64," + base64.b64encode(saved(noise((64, 48)), "PNG")).decode()
    answer = explain(limner, f"![a]({image})\n![logo](https://e.com/a.svg)".encode())
    assert answer.status_code == 200
    assert answer.json() == {
        "read_as": "plain words",
        "complete": True,
        "found": [{"form": "markdown-image", "url": image, "is_lesser": False, "mend": "markdown-image of FORMS in app/extraction/forms.py"}],
        "guessed": [],
        "dropped": [{"form": "markdown-image", "candidate": "https://e.com/a.svg", "reason": "it leads to a file that is not an image", "mend": "_OTHER_SUFFIXES in app/extraction/urls.py"}],
        "answer": None,
        "mend": None,
    }  # fmt: skip
    headers = [answer.headers[name] for name in ("content-type", "cache-control", "x-content-type-options")]
    assert headers == ["application/json", "no-store", "nosniff"]


def test_the_setting_that_an_error_is_about_is_named(limner: RunningLimner) -> None:
    error = b'{"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}'
    assert explain(limner, error).json()["mend"].startswith("LIMNER_UPSTREAM_API_KEY")
    assert explain(limner, b"upstream answered 404: no").json()["mend"].startswith("LIMNER_UPSTREAM_BASE_URL")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    reply: bytes
    read_as: str


CASES = [
    Case("nothing", b"", "plain words"),
    Case("bytes that are not text", bytes(range(256)) * 9, "plain words"),
    Case("half a character", b'{"content":"\\ud800 ![a](https://e.com/a.png)"}', "a body in JSON"),
    Case("markup", b"<script>alert(1)</script><img src=x onerror=alert(1)>", "plain words"),
    Case("JSON that nests too deeply", b'{"content":' + b"[" * 900 + b"]" * 900 + b"}", "a body in JSON"),
    Case("an error that nests too deeply", b'{"error":{"a":' + b"[" * 900 + b"]" * 900 + b"}}", "a body in JSON"),
    Case("a hundred thousand brackets", b"[" * 100_000, "plain words"),
    Case("three million NUL bytes", bytes(3_000_000), "plain words"),
    Case("four million brackets", b"[" * 4_200_000, "plain words"),
    Case("a hundred thousand unfinished images", b"![](" * 100_000, "plain words"),
    Case("a stream whose last event is cut off", b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 10_000 + b"data: {", "a stream of events"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_any_bytes_can_be_read(limner: RunningLimner, case: Case) -> None:
    answer = explain(limner, case.reply, **{"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["read_as"]) == (200, case.read_as)


def test_a_key_is_needed(limner: RunningLimner) -> None:
    for headers in ({"authorization": ""}, {"authorization": "Bearer sk-wrong"}):
        assert explain(limner, b"![a](https://e.com/a.png)", **headers).status_code == 401


def test_a_reply_that_is_too_large_is_rejected(limner: RunningLimner) -> None:
    head = build_request(
        "POST /v1/explain", "authorization: Bearer sk-client", f"content-length: {MAX_REPLY_BYTES + 1}"
    )
    assert send_request(limner.url, head).status == 413


def test_without_the_page_the_route_does_not_exist() -> None:
    with run_limner(NO_UPSTREAM, api_keys="sk-client", page=False) as limner:
        assert explain(limner, b"").status_code == 404


def stall(wire: RawConnection) -> None:
    """Send a part of a request, and nothing more."""
    wire.send(b"POST /v1/explain HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-client\r\n")
    wire.send(b"content-length: 9\r\n\r\n![a]")


def wait_for_uploads(limner: RunningLimner, count: int) -> None:
    uploads = limner.service.capacity._uploads
    wait_until(lambda: sum(uploads.values()) == 9 * count)


def test_clients_that_stall_or_leave_keep_no_place_from_others() -> None:
    with run_limner(NO_UPSTREAM, api_keys="sk-client") as limner, ExitStack() as open_connections:
        for _ in range(MAX_CONCURRENT_EXPLAINS + MAX_WAITING_EXPLAINS + 1):
            stall(open_connections.enter_context(connect(limner.url)))
        wait_for_uploads(limner, MAX_CONCURRENT_EXPLAINS + MAX_WAITING_EXPLAINS + 1)
        assert explain(limner, b"").status_code == 200
        open_connections.close()
        wait_for_uploads(limner, 0)


def test_bodies_count_among_the_uploads_of_their_caller() -> None:
    with run_limner(NO_UPSTREAM, api_keys="sk-client") as limner:
        limner.service.capacity.max_uploads = 100
        answers = [explain(limner, bytes(51)), explain(limner, bytes(50))]
    assert [answer.status_code for answer in answers] == [429, 200]


def test_only_a_few_replies_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, most = threading.Semaphore(MAX_CONCURRENT_EXPLAINS), threading.Event()
    go = threading.Event()

    def slowly(blob: Blob) -> Response:
        if not reading.acquire(blocking=False):
            most.set()
        go.wait(20)
        reading.release()
        return Response(b"{}")

    monkeypatch.setattr(diagnostics, "explain_reply", slowly)
    count = MAX_CONCURRENT_EXPLAINS + MAX_WAITING_EXPLAINS + 1
    with run_limner(NO_UPSTREAM, api_keys="sk-client") as limner, ThreadPoolExecutor(count) as clients:
        answers = [clients.submit(explain, limner, b"") for _ in range(count)]
        # Of one caller, only the request that finds the queue full is refused.
        done, _ = wait(answers, return_when=FIRST_COMPLETED)
        go.set()
        assert [answer.result().status_code for answer in done] == [429]
        assert sorted(answer.result().status_code for answer in answers) == [*[200] * (count - 1), 429]
    assert not most.is_set()
