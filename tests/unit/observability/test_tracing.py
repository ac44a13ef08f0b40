"""Steps are timed, spans have the right parents, and a client's trace id is passed on."""

import asyncio
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.observability.metrics import REGISTRY
from app.observability.tracing import OtlpTracing, RequestTrace, span_attributes

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@dataclass(frozen=True, slots=True)
class Given:
    name: str
    traceparent: str | None
    is_valid: bool = False


TRACEPARENTS = [
    Given("as in the W3C document", GIVEN, is_valid=True),
    Given("of a later version", f"01-{TRACE}-{SPAN}-00", is_valid=True),
    Given("none", None),
    Given("an invalid version", f"ff-{TRACE}-{SPAN}-01"),
    Given("a trace of zeros", f"00-{'0' * 32}-{SPAN}-01"),
    Given("a span of zeros", f"00-{TRACE}-{'0' * 16}-01"),
    Given("in capitals", GIVEN.upper()),
    Given("too short", GIVEN[:-1]),
    Given("with a line break", GIVEN + "\r\nauthorization: x"),
]


@pytest.mark.parametrize("case", TRACEPARENTS, ids=lambda case: case.name)
def test_without_a_collector_a_valid_traceparent_is_passed_on(case: Given) -> None:
    trace = RequestTrace("image_edit", case.traceparent)
    step = trace.step("ask")
    trace.end(None, {})
    assert trace.id == (None if not case.is_valid else TRACE)
    assert step.headers == ({"traceparent": case.traceparent} if case.is_valid else {})


def timed(step: str) -> tuple[float, float]:
    found = [REGISTRY.get_sample_value(f"limner_step_seconds_{what}", {"step": step}) for what in ("count", "sum")]
    return found[0] or 0.0, found[1] or 0.0


def test_a_step_is_timed_once() -> None:
    before = timed("turn")
    with RequestTrace().step("turn") as step:
        first = step.stop()
        assert step.stop() == first
    after = timed("turn")
    assert after[0] - before[0] == 1
    assert after[1] - before[1] == pytest.approx(first)


def test_a_step_that_fails_is_timed_too() -> None:
    before = timed("fetch")
    with pytest.raises(ValueError, match="secret"), RequestTrace().step("fetch"):
        raise ValueError("secret")
    assert timed("fetch")[0] - before[0] == 1


def record(traceparent: str | None) -> tuple[dict[str, ReadableSpan], str]:
    """Return the spans of one request by name, and the `traceparent` that its upstream got."""
    exporter = InMemorySpanExporter()
    tracing = OtlpTracing("http://127.0.0.1:9", "1.2.3", exporter)
    trace = RequestTrace("image_edit", traceparent, tracing.start_span)
    with trace.step("turn"):
        pass
    with trace.step("ask") as ask, pytest.raises(ValueError, match="secret"), trace.step("fetch"):
        raise ValueError("secret")
    trace.end("upstream_broken", {"images": 0, "model": "gpt-image-2"})
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}, ask.headers["traceparent"]


def test_each_step_is_a_child_of_the_span_of_its_request() -> None:
    spans, upstream_traceparent = record(GIVEN)
    root = spans["image_edit"]
    assert list(spans) == ["turn", "fetch", "ask", "image_edit"]
    assert (root.kind, root.parent and f"{root.parent.span_id:016x}") == (SpanKind.SERVER, SPAN)
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    parents = {name: span.parent for name, span in spans.items() if name != "image_edit"}
    assert {parent and parent.span_id for parent in parents.values()} == {root.context.span_id}
    assert upstream_traceparent == f"00-{TRACE}-{spans['ask'].context.span_id:016x}-01"
    assert root.resource.attributes["service.name"] == "limner"
    assert root.attributes == {"limner.images": 0, "limner.model": "gpt-image-2"}


def test_only_the_class_of_an_error_is_recorded() -> None:
    spans, _ = record(None)
    statuses = {name: (span.status.status_code, span.status.description) for name, span in spans.items()}
    assert statuses == {
        "turn": (StatusCode.UNSET, None),
        "ask": (StatusCode.UNSET, None),
        "fetch": (StatusCode.ERROR, "ValueError"),
        "image_edit": (StatusCode.ERROR, "upstream_broken"),
    }
    assert not any(span.events for span in spans.values())


def test_without_a_traceparent_a_trace_is_started() -> None:
    spans, upstream_traceparent = record(None)
    assert spans["image_edit"].parent is None
    assert upstream_traceparent[3:35] == f"{spans['ask'].context.trace_id:032x}"


def test_a_trace_that_the_client_does_not_sample_is_not_sent() -> None:
    spans, upstream_traceparent = record(GIVEN[:-1] + "0")
    assert (spans, upstream_traceparent[3:35], upstream_traceparent[-2:]) == ({}, TRACE, "00")


def test_spans_of_concurrent_requests_keep_their_parents() -> None:
    exporter = InMemorySpanExporter()
    tracing = OtlpTracing("http://127.0.0.1:9", "1.2.3", exporter)

    async def run(name: str) -> None:
        trace = RequestTrace(name, None, tracing.start_span)
        with trace.step("ask"):
            await asyncio.sleep(0)
        trace.end(None, {})

    async def run_both() -> None:
        await asyncio.gather(run("a"), run("b"))

    asyncio.run(run_both())
    tracing.close()
    spans = exporter.get_finished_spans()
    roots = {span.context.span_id for span in spans if span.name in "ab"}
    assert {span.parent.span_id for span in spans if span.name == "ask" and span.parent} == roots


def test_a_span_holds_plain_values_but_no_prompt() -> None:
    fields = {"n": 2, "model": "m", "stream": True, "quality": None, "sizes": ["1x1"], "prompt": "secret"}
    assert span_attributes(fields) == {"n": 2, "model": "m", "stream": True}


def test_spans_are_sent_to_a_collector() -> None:
    seen: list[tuple[str, str | None, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, self.headers["content-type"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        tracing = OtlpTracing(f"http://127.0.0.1:{server.server_port}", "1.2.3")
        RequestTrace("image_edit", None, tracing.start_span).end(None, {})
        tracing.close()
        server.shutdown()
        thread.join()
    ((path, kind, body),) = seen
    assert (path, kind) == ("/v1/traces", "application/x-protobuf")
    assert b"image_edit" in body
