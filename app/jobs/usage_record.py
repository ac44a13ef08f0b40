"""What one request has cost: the same fields for the log, the ledger, metrics and traces."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.access.auth import Caller
from app.jobs.job import Job, summarize_request
from app.jobs.job_run import JobRun
from app.observability.hourly import HourlySummary, name_hour
from app.observability.ledger import Ledger
from app.observability.logging import log
from app.observability.metrics import (
    BYTES_IN,
    BYTES_OUT,
    COST,
    IMAGES,
    REQUESTS,
    STEP_SECONDS,
    TOKENS_IN,
    TOKENS_OUT,
    UNKNOWN_COSTS,
)
from app.observability.tracing import OtlpTracing, RequestTrace
from app.protocol.attempt_costs import Charge, CostSource, total_cost
from app.protocol.image_response import size_facts
from app.protocol.parameters import Operation
from app.protocol.usage import NO_USAGE


@dataclass(frozen=True, slots=True)
class UsageRecorder:
    """Where usage records are written.

    `log_prompts`: with the prompts; `hourly`: sums of the records written here; `currency`: of all costs.
    """

    ledger: Ledger | None = None
    tracing: OtlpTracing | None = None
    log_prompts: bool = False
    hourly: HourlySummary | None = None
    currency: str = "USD"

    def start(self, request_id: str, caller: Caller, operation: Operation, traceparent: str | None) -> "UsageRecord":
        """Begin the record of a request whose client key has just been accepted."""
        start_span = None if self.tracing is None else self.tracing.start_span
        return UsageRecord(self, request_id, caller, operation, RequestTrace(operation, traceparent, start_span))

    async def close(self) -> None:
        """Close the ledger, and send the last spans, in a thread since that may take long."""
        if self.ledger is not None:
            self.ledger.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


@dataclass(slots=True, eq=False)
class UsageRecord:
    """One request for images, from its client key to its last byte; if the client leaves, to the end of the run.

    Written once. Only the request that has started a run has the run's cost: a request that joined another one's job
    has none. If the replica of that other request dies and this one takes the job over after its request has ended, the
    record is written once more, with the cost of that run.
    """

    recorder: UsageRecorder
    request_id: str
    caller: Caller
    operation: Operation
    trace: RequestTrace
    started_at: float = field(default_factory=time.perf_counter)
    job: Job | None = None
    run: JobRun | None = None
    _paid_before: int = 0
    _run_ended_at: float | None = None
    _log_fields: Mapping[str, Any] | None = None

    def attach(self, job: Job) -> None:
        """Note the job that the request has joined."""
        self.job = job

    def start_run(self, job: Job) -> None:
        """Note that the request has started the present run of a job, perhaps for redelivery."""
        self.job, self.run = job, job.run
        self._paid_before = len(job.paid_replies)

    def end_run(self, run: JobRun) -> None:
        """Note the end of a run, if it is the one that the request has started.

        If the request has ended already, this writes the record.
        """
        if run is not self.run:
            return
        self._run_ended_at = time.perf_counter()
        if self._log_fields is not None:
            # The request's own log line was written when its client left.
            log.info("job_finished", **self._write(self._log_fields))

    def finish(self, log_fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Note the end of the request.

        Returns:
            Further fields of its log line; none while the run goes on.
        """
        if self.run is not None and self.run.is_done:
            return self._write(log_fields)
        self._log_fields = log_fields
        return self._write(log_fields) if self.run is None else {}

    def _write(self, log_fields: Mapping[str, Any]) -> Mapping[str, Any]:
        attempts = () if self.run is None else self.run.telemetry.attempt_records
        costs = [attempt.cost for attempt in attempts]
        fields = self._fields(log_fields, costs)
        observe(fields)
        observe_costs(costs)
        recorder = self.recorder
        now = time.time()
        if recorder.ledger is not None or recorder.tracing is not None:
            at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
            entry = {"at": at, "request_id": self.request_id, "status": log_fields["status"], **fields}
            self.trace.end(None if fields["outcome"] == "ok" else fields["outcome"], entry)
            if recorder.ledger is not None:
                recorder.ledger.write(entry)
        if recorder.hourly is not None:
            recorder.hourly.add(fields, hour=name_hour(int(now) // 3600))
        return fields

    def _fields(self, log_fields: Mapping[str, Any], costs: Sequence[Charge]) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "key": self.caller.name or self.caller.id,
            "operation": str(self.operation),
            "outcome": self._outcome(log_fields),
            "bytes_in": log_fields["bytes_in"],
            "bytes_out": log_fields["bytes_out"],
        }
        if self.trace.id is not None:
            fields["trace"] = self.trace.id
        job, run, total = self.job, self.run, time.perf_counter() - self.started_at
        if job is None:
            return fields | {"seconds": _rounded({"total": total})}
        fields |= {"model": job.request.model, **summarize_request(job.request), "delivered": job.delivered}
        if self.recorder.log_prompts:
            fields["prompt"] = job.request.prompt
        if job.id != self.request_id:
            fields["joined"] = job.id
        if run is None:
            return fields | {"seconds": _rounded({"total": total})}
        return fields | self._cost_fields(job, run, total, costs)

    def _cost_fields(self, job: Job, run: JobRun, total: float, costs: Sequence[Charge]) -> dict[str, Any]:
        telemetry, result = run.telemetry, run.result
        images = () if result is None else result.images
        usage = sum([reply.usage for reply in job.paid_replies[self._paid_before :]], NO_USAGE)
        now = time.perf_counter()
        run_ended_at = now if self._run_ended_at is None else self._run_ended_at
        seconds = {
            "total": total,
            "turn": telemetry.queue_seconds,
            "upstream": telemetry.upstream.seconds,
            "download": telemetry.download.seconds,
            "overhead": telemetry.overhead(run_ended_at),
            "send": 0.0 if self._log_fields is not None else now - run_ended_at,
        }
        return {
            "upstream": ", ".join(telemetry.upstreams) or None,
            "attempts": telemetry.attempts,
            "images": len(images),
            "failed": 0 if result is None else result.failed,
            **size_facts(job.request, images),
            "sizes": [image.info.size for image in images if image.info is not None],
            "credentials": list(dict.fromkeys([image.credentials for image in images if image.credentials])),
            "forms": list(dict.fromkeys([image.form for image in images])),
            "usage": usage.as_images_api(),
            **total_cost(costs, self.recorder.currency).as_fields(),
            "upstream_attempts": [
                attempt.as_fields(cost) for attempt, cost in zip(telemetry.attempt_records, costs, strict=True)
            ],
            "seconds": _rounded(seconds),
        }

    def _outcome(self, log_fields: Mapping[str, Any]) -> str:
        """Return `ok` or an error code. The run's error counts, whatever status was sent before."""
        if self.run is None:
            if log_fields["status"] == 499:
                return "client_gone"
            return str(log_fields.get("error") or ("server_error" if log_fields["status"] >= 500 else "ok"))
        if self.run.was_canceled:
            return "client_gone"
        error = self.run.error
        return "ok" if error is None else error.code or error.type


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the times rounded to microseconds."""
    # Four times as fast as round(value, 6).
    return {name: round(value * 1e6) / 1e6 for name, value in seconds.items()}


def observe(fields: Mapping[str, Any]) -> None:
    """Count a record in the metrics."""
    REQUESTS.labels(fields["operation"], fields["outcome"]).inc()
    BYTES_IN.inc(fields["bytes_in"])
    BYTES_OUT.inc(fields["bytes_out"])
    for step in ("total", "overhead", "send"):
        if step in fields["seconds"]:
            STEP_SECONDS[step].observe(fields["seconds"][step])
    if "usage" in fields:
        IMAGES.inc(fields["images"])
        TOKENS_IN.inc(fields["usage"]["input_tokens"])
        TOKENS_OUT.inc(fields["usage"]["output_tokens"])


def observe_costs(costs: Sequence[Charge]) -> None:
    """Count in the metrics what attempts have cost."""
    for cost in costs:
        if cost.source is CostSource.UNKNOWN:
            UNKNOWN_COSTS.inc()
        elif cost.amount:
            COST.labels(cost.currency, str(cost.source)).inc(float(cost.amount))
