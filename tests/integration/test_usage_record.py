"""Each request for images is reported at its end: in the ledger, the log, the metrics and the trace."""

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.access.auth import Caller
from app.jobs.usage_record import UsageRecorder
from app.observability import tracing as traces
from app.observability.logging import configure_logging
from app.observability.metrics import REGISTRY
from app.observability.tracing import OtlpTracing
from app.protocol.parameters import Operation
from tests.support.raw_http import build_request, connect
from tests.support.raw_http_lines import GENERATION, ListeningClient, limner_with_model, wait_for_jobs
from tests.support.sample_images import gradient, saved
from tests.support.servers import RunningDemo, RunningLimner

pytestmark = pytest.mark.usefixtures("demo_at_rest")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@dataclass(slots=True)
class Recording:
    """The ledger and the log of one server; complete when the server has stopped."""

    path: Path
    stream: io.StringIO = field(default_factory=io.StringIO)

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []

    @property
    def entry(self) -> dict[str, Any]:
        (entry,) = self.entries
        return entry

    @property
    def records(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.stream.getvalue().splitlines()]


@contextmanager
def recorded_limner(
    demo: RunningDemo, recording: Recording, model: str = "gpt-image-2-chat", **options: Any
) -> Iterator[RunningLimner]:
    with limner_with_model(demo, model, ledger=str(recording.path), **options) as limner:
        configure_logging("json", "info", recording.stream)
        yield limner


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    yield Recording(tmp_path / "ledger.jsonl")
    structlog.reset_defaults()


def generate(limner: RunningLimner, parameters: dict[str, Any] = GENERATION, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{limner.url}/v1/images/generations", json=parameters, headers=named, timeout=20)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    expected: dict[str, Any]
    model: str = "gpt-image-2-chat"
    parameters: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


#: Fields that a rejected request does not have, since no job was started for it.
NO_COST = {"attempts": None, "usage": None, "images": None}
CASES = [
    Case("an image", {"operation": "image_generation", "model": "gpt-image-2", "outcome": "ok", "status": 200, "delivered": True, "attempts": 1, "images": 1, "failed": 0, "quality": None, "n": 1, "stream": False, "prompt": None, "joined": None}),
    Case("the requested and the measured size", {"size": "1536x1024", "sizes": ["1536x1024"]}, parameters={"size": "1536x1024"}),
    Case("no requested size", {"size": "auto", "sizes": ["1024x1024"]}),
    Case("a URL that was passed on has no size", {"sizes": [], "images": 1}, parameters={"response_format": "url"}, settings={"rehost": "never"}),
    Case("an exact size", {"size": "1920x1080", "sent": "1920x1088", "got": ["1920x1088"], "fitted": ["1920x1080"]}, parameters={"size": "1920x1080"}, settings={"size": "exact"}),
    Case("an image that was not fitted", {"sent": "auto", "got": ["1024x1024"], "fitted": None, "upscaled": None}),
    Case("quality", {"quality": "high"}, parameters={"quality": "high"}),
    Case("several images", {"n": 3, "attempts": 3, "images": 3}, parameters={"n": 3}),
    Case("several images, of which one failed", {"n": 3, "images": 2, "failed": 1, "outcome": "ok"}, "limited-1", {"n": 3}, {"upstream_attempts": 1}),
    Case("a retry by Limner", {"attempts": 2, "images": 1}, "limited-1"),
    Case("a stream", {"stream": True, "outcome": "ok", "images": 1}, parameters={"stream": True}),
    Case("a refusal", {"status": 400, "outcome": "moderation_blocked", "attempts": 1, "images": 0, "delivered": True}, "refuses"),
    Case("a reply without an image", {"status": 400, "outcome": "no_image_in_reply", "attempts": 1, "images": 0}, "text-only"),
    Case("a streamed reply that broke off", {"outcome": "upstream_broken", "images": 0}, "broken-json", {"stream": True}),
    Case("an invalid size, which is never submitted", {"status": 400, "outcome": "invalid_value", "model": None, "delivered": None, **NO_COST}, parameters={"size": "7x7"}),
    Case("a prompt, if the operator wants it", {"prompt": "a fox"}, settings={"log_prompts": True}),
    Case("the client's trace", {"trace": TRACE}, headers={"traceparent": TRACEPARENT}),
    Case("what the upstream has charged", {"cost": "0.04", "currency": "USD", "cost_source": "upstream"}, "costs"),
    Case("what it says at the end of a stream", {"cost": "0.5", "cost_source": "upstream"}, "costs-0.5", {"stream": True}),
    Case("what two images have cost", {"cost": "0.08", "cost_source": "upstream"}, "costs", {"n": 2}),
    Case("a retry cost nothing", {"attempts": 2, "cost": "0.04", "cost_source": "upstream"}, "costs+limited-1"),
    Case("what a refusal has cost", {"outcome": "moderation_blocked", "cost": "0.04"}, "costs+refuses"),
    Case("a failure that surely cost nothing", {"outcome": "upstream_auth", "cost": "0", "cost_source": "upstream"}, "error-401"),
    Case("a cost that nobody knows", {"cost": None, "currency": "EUR", "cost_source": "unknown"}, settings={"currency": "EUR"}),
    Case("no trace", {"trace": None}, headers={"traceparent": "my-trace"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ledger_and_log_have_the_same_fields(case: Case, demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording, case.model, **case.settings) as limner:
        response = generate(limner, {**GENERATION, **case.parameters}, **case.headers)
    entry, record = recording.entry, recording.records[-1]
    assert {name: entry.get(name) for name in case.expected} == case.expected
    assert entry["request_id"] == record["request_id"] == response.headers["x-request-id"]
    assert (entry["bytes_in"], entry["bytes_out"]) == (
        int(response.request.headers["content-length"]),
        len(response.content),
    )
    assert record["event"] == "request"
    fields = {name: value for name, value in entry.items() if name != "at"}
    assert {name: record[name] for name in fields} == fields


def test_no_line_holds_a_prompt_or_a_key(demo: RunningDemo, recording: Recording) -> None:
    parameters = {**GENERATION, "prompt": "an-unheard-of-fox"}
    with recorded_limner(demo, recording, api_keys="sk-client-secret") as limner:
        generate(limner, parameters, authorization="Bearer sk-client-secret", traceparent=TRACEPARENT)
    reported = recording.path.read_text() + recording.stream.getvalue()
    assert recording.entry["outcome"] == "ok"
    assert "unheard" not in reported
    assert "secret" not in reported


def test_a_caller_without_a_valid_key_is_not_in_the_ledger(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording, api_keys="sk-client") as limner:
        assert generate(limner).status_code == 401
        httpx.get(f"{limner.url}/v1/models", headers={"authorization": "Bearer sk-client"})
    assert recording.entries == []
    assert [record["status"] for record in recording.records if record["event"] == "request"] == [401, 200]


def test_usage_and_times_are_those_of_the_job(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording) as limner:
        response = generate(limner, {**GENERATION, "n": 2}).json()
    entry = recording.entry
    assert entry["usage"] == response["usage"]
    assert entry["usage"]["total_tokens"] > 0
    seconds = entry["seconds"]
    assert set(seconds) == {"total", "turn", "upstream", "download", "overhead", "send"}
    assert 0 < seconds["upstream"] < seconds["total"]
    assert 0 < seconds["download"] < seconds["total"]
    assert seconds["turn"] + seconds["upstream"] <= seconds["total"]


def test_a_disconnected_client_is_reported_when_the_job_ends(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording, "holds", keepalive_after=0.02) as limner:
        client = ListeningClient(limner, GENERATION)
        client.read_until(b"\r\n\r\n")
        demo.state.wait_for_calls(1)
        client.disconnect()
        first_id = wait_for_record(recording, "request")["request_id"]
        assert recording.entries == []
        demo.state.release()
        wait_for_jobs(limner, 0)
        joined = generate(limner)
    orphan, repeat = recording.entries
    paid = {name: orphan[name] for name in ("request_id", "outcome", "delivered", "images", "attempts", "status")}
    assert paid == {
        "request_id": first_id,
        "outcome": "ok",
        "delivered": False,
        "images": 1,
        "attempts": 1,
        "status": 200,
    }
    assert (repeat["request_id"], repeat["joined"]) == (joined.headers["x-request-id"], first_id)
    assert (repeat["outcome"], repeat["delivered"], repeat["model"]) == ("ok", True, "gpt-image-2")
    assert set(repeat["seconds"]) == {"total"}
    assert not {"usage", "images", "attempts"} & set(repeat)
    (reported,) = [record for record in recording.records if record["event"] == "job_finished"]
    assert (reported["request_id"], reported["images"]) == (first_id, 1)
    assert demo.state.calls == 1


def wait_for_record(recording: Recording, event: str) -> dict[str, Any]:
    """Wait for a record of the log, which the thread of the server writes."""
    wait_until(lambda: any(f'"event":"{event}"' in line for line in recording.stream.getvalue().split("\n")[:-1]))
    return next(record for record in recording.records if record["event"] == event)


def wait_until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(2000):
        if condition():
            return
        done.wait(0.005)
    raise AssertionError


def test_a_client_that_disconnects_before_submission_has_cost_nothing(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording, "holds", max_concurrency=1) as limner:
        first, second = ListeningClient(limner, GENERATION), None
        demo.state.wait_for_calls(1)
        second = ListeningClient(limner, {**GENERATION, "prompt": "second"})
        wait_for_jobs(limner, 2)
        second.disconnect()
        wait_for_jobs(limner, 1)
        demo.state.release()
        first.read_until(b"b64_json")
        first.disconnect()
    gone, paid = recording.entries
    assert (gone["outcome"], gone["status"], gone["attempts"], gone["images"]) == ("client_gone", 499, 0, 0)
    assert (paid["outcome"], paid["attempts"]) == ("ok", 1)


def test_a_retry_that_disconnects_is_reported_as_disconnected(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording, "holds") as limner:
        first = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        second = ListeningClient(limner, GENERATION, x_stainless_retry_count="1")
        wait_until(lambda: readers(limner) == 2)
        second.disconnect()
        wait_until(lambda: readers(limner) == 1)
        demo.state.release()
        first.read_until(b"b64_json")
        first.disconnect()
    repeat, paid = recording.entries
    assert (repeat["outcome"], repeat["status"], repeat["joined"]) == ("client_gone", 499, paid["request_id"])


def readers(limner: RunningLimner) -> int:
    return sum(job.readers for job in limner.service.registry.active())


def test_an_incomplete_body_is_reported(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording) as limner:
        with connect(limner.url) as connection:
            connection.send(
                build_request("POST /v1/images/generations", "content-type: application/json", "content-length: 999"),
                b'{"prompt":',
            )
        wait_for_record(recording, "request")
    assert (recording.entry["outcome"], recording.entry["status"], recording.entry["bytes_in"]) == (
        "client_gone",
        499,
        10,
    )


def test_a_redelivery_costs_nothing(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording, "missing-image-3", fetch_timeout=0.3) as limner:
        failed = generate(limner)
        assert failed.json()["error"]["code"] == "image_download_failed"
        generate(limner)
    first, second = recording.entries
    assert (first["outcome"], first["attempts"]) == ("image_download_failed", 1)
    assert (second["joined"], second["attempts"]) == (first["request_id"], 0)
    assert first["usage"]["total_tokens"] > 0 == second["usage"]["total_tokens"]
    assert demo.state.calls == 1


def test_an_asynchronous_request_is_reported_at_the_end(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording, "holds") as limner:
        accepted = generate(limner, prefer="respond-async")
        assert accepted.status_code == 202
        demo.state.wait_for_calls(1)
        demo.state.release()
        wait_for_jobs(limner, 0)
    assert (recording.entry["outcome"], recording.entry["status"], recording.entry["delivered"]) == ("ok", 202, False)


def test_a_bug_is_an_outcome(demo: RunningDemo, recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded_limner(demo, recording) as limner:
        monkeypatch.setattr(limner.service.registry, "find_joinable", lambda _: 1 / 0)
        assert generate(limner).status_code == 500
    assert (recording.entry["outcome"], recording.entry["status"]) == ("server_error", 500)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"limner_{name}", labels) or 0.0


def test_a_request_is_counted_in_all_metrics(demo: RunningDemo, recording: Recording) -> None:
    def figures() -> list[float]:
        return [
            metric("questions_total", operation="image_generation", outcome="ok"),
            metric("questions_total", operation="image_generation", outcome="moderation_blocked"),
            metric("images_total"),
            metric("tokens_total", direction="in") > 0,
            metric("client_bytes_total", direction="in"),
            metric("client_bytes_total", direction="out"),
            *(metric("step_seconds_count", step=step) for step in ("read", "turn", "ask", "fetch", "send", "total")),
        ]

    before = figures()
    with recorded_limner(demo, recording) as limner:
        response = generate(limner, {**GENERATION, "n": 2})
    parameters, answered = int(response.request.headers["content-length"]), len(response.content)
    after = figures()
    increase = [new - old for new, old in zip(after, before, strict=True)]
    assert increase == [1, 0, 2, increase[3], parameters, answered, 1, 1, 2, 2, 1, 1]
    assert metric("downloaded_bytes_total") > 0


def test_attempts_are_counted_by_upstream(demo: RunningDemo, recording: Recording) -> None:
    name = "upstream"
    with recorded_limner(demo, recording, "limited-1") as limner:
        (name,) = limner.services.pool.public_circuits()
        before = [
            metric("upstream_attempts_total", upstream=name, outcome=outcome)
            for outcome in ("ok", "rate_limit_exceeded")
        ]
        generate(limner)
    after = [
        metric("upstream_attempts_total", upstream=name, outcome=outcome) for outcome in ("ok", "rate_limit_exceeded")
    ]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
    assert recording.entry["upstream"] == limner.services.pool.members[0].spec.name


def test_each_step_is_a_span_and_the_trace_goes_upstream(
    demo: RunningDemo, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(
        "app.services.callers.OtlpTracing", lambda address, version: OtlpTracing(address, version, exporter)
    )
    edit: Any = {"files": {"image": ("a", saved(gradient(size=(5000, 20)), "PNG"))}, "timeout": 20}
    with recorded_limner(demo, recording, traces="http://127.0.0.1:9", log_prompts=True) as limner:
        form = {"prompt": "a hat", "output_format": "webp", "response_format": "url"}
        response = httpx.post(f"{limner.url}/v1/images/edits", data=form, headers={"traceparent": TRACEPARENT}, **edit)
    assert response.status_code == 200
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert list(spans) == ["read", "turn", "prepare", "ask", "fetch", "convert", "keep", "image_edit"]
    root = spans["image_edit"]
    assert root.attributes is not None
    reported = {
        name: root.attributes[f"limner.{name}"] for name in ("request_id", "outcome", "status", "images", "upstream")
    }
    assert reported == {name: recording.entry[name] for name in reported}
    assert not any("a hat" in str(value) for value in root.attributes.values())
    assert demo.state.requests[-1].headers["traceparent"] == f"00-{TRACE}-{spans['ask'].context.span_id:016x}-01"
    assert recording.entry["trace"] == TRACE


def test_without_tracing_the_trace_of_the_client_goes_upstream(demo: RunningDemo, recording: Recording) -> None:
    with recorded_limner(demo, recording) as limner:
        generate(limner, traceparent=TRACEPARENT)
        assert demo.state.requests[-1].headers["traceparent"] == TRACEPARENT
        generate(limner, traceparent="nonsense")
        assert "traceparent" not in demo.state.requests[-1].headers


def test_a_recorder_without_a_ledger_cost_nothing_to_close() -> None:
    recorder = UsageRecorder()
    asyncio.run(recorder.close())
    record = recorder.start("req_1", Caller("me", None), Operation.EDIT, None)
    assert record.finish({"status": 200, "bytes_in": 1, "bytes_out": 2})["outcome"] == "ok"
    assert traces.RequestTrace().id is None


def test_a_collector_needs_no_ledger() -> None:
    exporter = InMemorySpanExporter()
    recorder = UsageRecorder(tracing=OtlpTracing("http://127.0.0.1:9", "1.2.3", exporter))
    record = recorder.start("req_1", Caller("me", None), Operation.EDIT, None)
    record.finish({"status": 499, "bytes_in": 1, "bytes_out": 0})
    asyncio.run(recorder.close())
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert (span.attributes["limner.request_id"], span.attributes["limner.outcome"]) == ("req_1", "client_gone")
