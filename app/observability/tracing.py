"""Time the steps of one request, and report them as OpenTelemetry spans if the operator wants traces."""

import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from app.observability.metrics import STEP_SECONDS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

#: W3C Trace Context: version, trace id, span id, flags. Ids of zeros and version ff are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Span(Protocol):
    """A span that has been started. `traceparent` is the header that makes a request to another server its child."""

    traceparent: str

    def child(self, name: str) -> "Span": ...

    def end(self, error: str | None, attributes: Mapping[str, Any]) -> None: ...


#: Starts the span of a request, given its name and the `traceparent` header of the client, which becomes its parent.
StartSpan = Callable[[str, str | None], Span]


class TraceStep:
    """One step of a request, timed from construction until `stop` or the end of its `with` block.

    `headers` go with the HTTP requests that this step makes.
    """

    __slots__ = ("_name", "_seconds", "_span", "_started_at", "headers")

    def __init__(self, name: str, span: Span | None, traceparent: str | None) -> None:
        self._name = name
        self._span = span
        self._seconds: float | None = None
        traceparent = traceparent if span is None else span.traceparent
        self.headers = {} if traceparent is None else {"traceparent": traceparent}
        self._started_at = time.perf_counter()

    def stop(self, error: str | None = None) -> float:
        """Return the seconds that the step took. Only the first call ends it."""
        if self._seconds is None:
            self._seconds = time.perf_counter() - self._started_at
            STEP_SECONDS[self._name].observe(self._seconds)
            if self._span is not None:
                self._span.end(error, {})
        return self._seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Only the class: the error's message may hold a secret or a prompt.
        self.stop(None if kind is None else kind.__name__)


class RequestTrace:
    """The trace of one request.

    Without `start_span` the steps are only timed, and the client's `traceparent` goes to the upstream unchanged.
    """

    __slots__ = ("_root", "_traceparent")

    def __init__(self, name: str = "", traceparent: str | None = None, start_span: StartSpan | None = None) -> None:
        valid = traceparent if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) else None
        self._root = None if start_span is None else start_span(name, valid)
        self._traceparent = valid if self._root is None else self._root.traceparent

    @property
    def id(self) -> str | None:
        return None if self._traceparent is None else self._traceparent[3:35]

    def step(self, name: str) -> TraceStep:
        return TraceStep(name, None if self._root is None else self._root.child(name), self._traceparent)

    def end(self, error: str | None, attributes: Mapping[str, Any]) -> None:
        if self._root is not None:
            self._root.end(error, attributes)


class OtlpTracing:
    """Send spans to a collector that speaks OTLP over HTTP, from a thread of its own, until closed.

    Needs the extra `limner[otel]`; therefore OpenTelemetry is imported inside the methods. `exporter` replaces the
    OTLP exporter.
    """

    def __init__(self, address: str, version: str, exporter: "SpanExporter | None" = None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        resource = Resource.create({"service.name": "limner", "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = exporter or OTLPSpanExporter(f"{address}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("limner", version)

    def start_span(self, name: str, traceparent: str | None) -> Span:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        carrier = {} if traceparent is None else {"traceparent": traceparent}
        context = TraceContextTextMapPropagator().extract(carrier)
        return OtelSpan(self._tracer, self._tracer.start_span(name, context, SpanKind.SERVER))

    def close(self) -> None:
        """Send the remaining spans, and block until they are sent."""
        self._provider.shutdown()


class OtelSpan:
    """A span whose children name it as their parent. The current context cannot: steps of one request run at once."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child(self, name: str) -> "OtelSpan":
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        return OtelSpan(self._tracer, self._tracer.start_span(name, set_span_in_context(self._span)))

    def end(self, error: str | None, attributes: Mapping[str, Any]) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        self._span.set_attributes({f"limner.{name}": value for name, value in span_attributes(attributes).items()})
        if error is not None:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end()


def span_attributes(fields: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the fields that a span can hold. Prompts go to the log and the ledger only."""
    return {name: value for name, value in fields.items() if isinstance(value, str | int) and name != "prompt"}
