"""What is known of one question at its end: the same facts for the log, the ledger and the counters."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.access.auth import Caller
from app.jobs.job import Errand, Exchange, answer_of, outline
from app.observability.ledger import Ledger
from app.observability.logging import log
from app.observability.metrics import BYTES_IN, BYTES_OUT, IMAGES, REQUESTS, STEP_SECONDS, TOKENS_IN, TOKENS_OUT
from app.observability.tracing import OtlpTracing, RequestTrace
from app.protocol.image_request import Operation
from app.protocol.usage import NO_USAGE


@dataclass(frozen=True, slots=True)
class Books:
    """Where questions are written down. `log_prompts`: with what they say."""

    ledger: Ledger | None = None
    tracing: OtlpTracing | None = None
    log_prompts: bool = False

    def open(self, request_id: str, caller: Caller, operation: Operation, traceparent: str | None) -> "Account":
        begin = None if self.tracing is None else self.tracing.start_span
        return Account(self, request_id, caller, operation, RequestTrace(operation, traceparent, begin))

    async def close(self) -> None:
        """What is still to be sent to a collector is sent beside the event loop."""
        if self.ledger is not None:
            self.ledger.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


@dataclass(slots=True, eq=False)
class Account:
    """One request for pictures, from its key to its last byte; where its client leaves, to the end of the work.

    It is settled once. The `exchange` is that of the work it started: a request that joined another's has none, so what
    that one cost is counted there and nowhere else. Where the other's replica dies, and the work is started here after
    the request has ended, it is settled once more with what that cost.
    """

    books: Books
    request_id: str
    caller: Caller
    operation: Operation
    trace: RequestTrace
    began: float = field(default_factory=time.perf_counter)
    errand: Errand | None = None
    exchange: Exchange | None = None
    _task: asyncio.Task[None] | None = None
    _paid_before: int = 0
    _worked: float | None = None
    _record: Mapping[str, Any] | None = None

    def join(self, errand: Errand) -> None:
        self.errand = errand

    def start(self, errand: Errand) -> None:
        """The work has just been started, perhaps for another try at an answer that is paid for."""
        self.errand, self.exchange, self._task = errand, errand.exchange, errand.job.task
        self._paid_before = len(errand.replies)
        self._task.add_done_callback(self._end)

    def close(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request has ended, with that record. What joins it: all facts, or none while the work goes on."""
        if self._task is not None and self._task.done():
            return self._settle(record)
        self._record = record
        return self._settle(record) if self._task is None else {}

    def _end(self, _: object) -> None:
        self._worked = time.perf_counter()
        if self._record is not None:
            # Nobody waits any more, so there is no record that the facts could join.
            log.info("job_finished", **self._settle(self._record))

    def _settle(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        facts = self._facts(record)
        count(facts)
        if self.books.ledger is not None or self.books.tracing is not None:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = {"at": at, "request_id": self.request_id, "status": record["status"], **facts}
            self.trace.end(None if facts["outcome"] == "ok" else facts["outcome"], entry)
            if self.books.ledger is not None:
                self.books.ledger.write(entry)
        return facts

    def _facts(self, record: Mapping[str, Any]) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "key": self.caller.name or self.caller.id,
            "operation": self.operation.value,
            "outcome": self._outcome(record),
            "bytes_in": record["bytes_in"],
            "bytes_out": record["bytes_out"],
        }
        if self.trace.id is not None:
            facts["trace"] = self.trace.id
        errand, exchange, total = self.errand, self.exchange, time.perf_counter() - self.began
        if errand is None:
            return facts | {"seconds": {"total": round(total, 6)}}
        request = errand.exchange.request
        facts |= {"model": request.model, **outline(request), "delivered": errand.delivered}
        if self.books.log_prompts:
            facts["prompt"] = request.prompt
        if errand.id != self.request_id:
            facts["joined"] = errand.id
        if exchange is None:
            return facts | {"seconds": {"total": round(total, 6)}}
        return facts | self._work(errand, exchange, total)

    def _work(self, errand: Errand, exchange: Exchange, total: float) -> dict[str, Any]:
        """What the work has cost and brought."""
        answer = answer_of(errand.job)
        painted = () if answer is None else answer.painted
        usage = sum((reply.usage for reply in errand.replies[self._paid_before :]), NO_USAGE)
        now = time.perf_counter()
        worked = now if self._worked is None else self._worked
        seconds = {
            "total": total,
            "turn": exchange.turn,
            "upstream": exchange.upstream.seconds,
            "download": exchange.download.seconds,
            "overhead": exchange.overhead(worked),
            "send": 0.0 if self._record is not None else now - worked,
        }
        return {
            "upstream": ", ".join(exchange.heard) or None,
            "attempts": exchange.attempts,
            "images": len(painted),
            "failed": 0 if answer is None else answer.failed,
            "sizes": [picture.info.size for picture in painted if picture.info is not None],
            "forms": list(dict.fromkeys(picture.form for picture in painted)),
            "usage": usage.as_images_api(),
            "seconds": {name: round(value, 6) for name, value in seconds.items()},
        }

    def _outcome(self, record: Mapping[str, Any]) -> str:
        """`ok`, or the code of an error. That of the work counts, whatever status had gone out before."""
        if self.exchange is None or self.errand is None or self._task is None:
            if record["status"] == 499:
                return "client_gone"
            return str(record.get("error") or ("server_error" if record["status"] >= 500 else "ok"))
        if self._task.cancelled() and not self.exchange.unsettled:
            return "client_gone"
        fault = self.errand.job.fault
        return "ok" if fault is None else fault.code or fault.type


def count(facts: Mapping[str, Any]) -> None:
    REQUESTS.labels(facts["operation"], facts["outcome"]).inc()
    BYTES_IN.inc(facts["bytes_in"])
    BYTES_OUT.inc(facts["bytes_out"])
    for step in ("total", "overhead", "send"):
        if step in facts["seconds"]:
            STEP_SECONDS[step].observe(facts["seconds"][step])
    if "usage" in facts:
        IMAGES.inc(facts["images"])
        TOKENS_IN.inc(facts["usage"]["input_tokens"])
        TOKENS_OUT.inc(facts["usage"]["output_tokens"])
