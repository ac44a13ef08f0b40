"""An upstream on the virtual clock: everything that its table of errors knows, and what it costs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
import httpx
import orjson
import pybase64
from aiohttp.client_reqrep import ConnectionKey

from simulate.clock import Clock, ReplicaLoop
from simulate.images import image_of, link

#: Seconds on the wire.
_WIRE = 0.002

#: Seconds until a reply that took work, and until a refusal.
_WORK, _REFUSAL = (0.1, 8.0), (0.005, 0.4)


@dataclass(frozen=True, slots=True)
class Behavior:
    """What an upstream does with one request.

    Attributes:
        is_paid: It did the work, and wants money for it, whatever the answer was.
        has_image: An image is in what it sent.
        status: Of the answer; 0 for none.
        body: Of the answer; `CALL` and `DATA` stand for a link to the image and for the image.
        before: Sent ahead of the body, while the work goes on.
        cut: The connection breaks after the body.
        seconds: The range of the time until the answer.
        failure: What the transport raises in place of an answer.
        weight: How often it is chosen.
    """

    name: str
    is_paid: bool = True
    has_image: bool = False
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    before: bytes = b""
    cut: bool = False
    seconds: tuple[float, float] = _WORK
    failure: Callable[[], Exception] | None = None
    weight: float = 1.0


def _refused() -> Exception:
    return _because(httpx.ConnectError("refused"), aiohttp.ClientConnectorError(_KEY, OSError(111, "refused")))


def _reset() -> Exception:
    return _because(httpx.ReadError("reset"), aiohttp.ServerDisconnectedError())


def _because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


_KEY = ConnectionKey("upstream.example", 443, True, True, None, None, None)


def _chat(content: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return orjson.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})


def _event(content: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"


def _error(message: str, **more: Any) -> bytes:
    return orjson.dumps({"error": {"message": message, **more}})


_JSON, _SSE, _HTML = ({"content-type": kind} for kind in ("application/json", "text/event-stream", "text/html"))
_LINK, _DATA = "![image](CALL)", "![image](DATA)"
_EVENTS = _event(_LINK) + _event("", "stop") + b"data: [DONE]\n\n"
_ENVOY = b"upstream connect error or disconnect/reset before headers. reset reason: connection timeout"
_PAGE = b"<html><head><title>503 Backend fetch failed</title></head></html>"

#: Answers with an image, and failures that cost nothing, and failures after the work.
BEHAVIORS = (
    Behavior("a link", has_image=True, body=_chat(_LINK), headers=_JSON, weight=20),
    Behavior("the bytes", has_image=True, body=_chat(_DATA), headers=_JSON, weight=12),
    Behavior("events with a link", has_image=True, body=_EVENTS, headers=_SSE, before=b": working\n\n", weight=8),
    Behavior("a link, then cut", has_image=True, body=_event(_LINK + "\n"), headers=_SSE, cut=True, weight=3),
    Behavior("refused", is_paid=False, status=0, failure=_refused, seconds=_REFUSAL, weight=4),
    Behavior("429", is_paid=False, status=429, body=_error("Too many requests"), headers=_JSON, seconds=_REFUSAL, weight=3),
    Behavior("429, later", is_paid=False, status=429, body=_error("Slow down"), headers={"retry-after": "2"}, seconds=_REFUSAL, weight=2),
    Behavior("503 at once", is_paid=False, status=503, body=_error("The server is overloaded"), headers=_JSON, seconds=_REFUSAL, weight=4),
    Behavior("an error in a 200", is_paid=False, body=_error("Rate limit", code="rate_limit_exceeded"), headers=_JSON, seconds=_REFUSAL, weight=2),
    Behavior("our key", is_paid=False, status=401, body=_error("Incorrect API key"), headers=_JSON, seconds=_REFUSAL),
    Behavior("our credit", is_paid=False, status=402, body=_error("insufficient_quota"), headers=_JSON, seconds=_REFUSAL),
    Behavior("no such path", is_paid=False, status=404, body=b"<html>", headers=_HTML, seconds=_REFUSAL),
    Behavior("a redirect", is_paid=False, status=302, headers={"location": "https://elsewhere.example"}, seconds=_REFUSAL),
    Behavior("a bad value", is_paid=False, status=400, body=_error("Invalid size"), headers=_JSON, seconds=_REFUSAL),
    Behavior("503 after the work", status=503, body=_error("upstream overloaded"), headers=_JSON, seconds=(2.2, 8.0), weight=3),
    Behavior("503 of a proxy", status=503, body=_ENVOY, headers={"content-type": "text/plain"}, weight=3),
    Behavior("503 as a page", status=503, body=_PAGE, headers=_HTML, weight=2),
    Behavior("503 in a 200", body=b'data: {"error": {"message": "overloaded", "code": 503}}\n\n', headers=_SSE, before=b": working\n\n", seconds=(0.5, 8.0), weight=2),
    Behavior("a crash", status=500, body=_error("internal error"), headers=_JSON, weight=2),
    Behavior("a bad gateway", status=502, body=b"<html>", headers=_HTML, weight=2),
    Behavior("insufficient storage", status=507, body=_error("no space"), headers=_JSON),
    Behavior("529", status=529, body=_error("overloaded"), headers=_JSON),
    Behavior("425", status=425, body=_error("too early"), headers=_JSON),
    Behavior("gateway timeout", status=504, body=b"<html>", headers=_HTML, weight=2),
    Behavior("524", status=524, body=b"<html>", headers=_HTML),
    Behavior("408", status=408, body=_error("timeout"), headers=_JSON),
    Behavior("reset", status=0, failure=_reset, weight=3),
    Behavior("never", status=0, seconds=(900, 900), weight=2),
    Behavior("a refusal", status=400, body=_error("content_policy_violation"), headers=_JSON),
    Behavior("only words", body=_chat("I cannot draw today."), headers=_JSON, weight=2),
    Behavior("no JSON", body=b"<html>oops</html>", headers=_HTML),
    Behavior("cut before the link", body=_event("Here it"), headers=_SSE, cut=True, weight=2),
    Behavior("silent in the middle", body=_event("Here it"), headers=_SSE, before=b": working\n\n", seconds=(900, 900)),
)  # fmt: skip

_BY_NAME = {behavior.name: behavior for behavior in BEHAVIORS}
GOOD = tuple(behavior for behavior in BEHAVIORS if behavior.has_image and not behavior.cut)


@dataclass(slots=True, eq=False)
class Call:
    """One request that reached an upstream.

    Attributes:
        number: From 1, in order of arrival.
        job_id: The id of the job that asked.
        replica: Who asked.
        is_received: The image has reached the replica.
        received_at: When it has.
        over_at: When the exchange ended, well or not.
    """

    number: int
    prompt: str
    job_id: str
    replica: int
    behavior: Behavior
    at: float
    is_received: bool = False
    received_at: float = 0.0
    over_at: float | None = None

    @property
    def is_wasted(self) -> bool:
        """Whether it was paid for and has ended without an image."""
        return self.over_at is not None and self.behavior.is_paid and not self.is_received


@dataclass(slots=True)
class SimulatedUpstream:
    """All upstreams together. `plan`: for each prompt, what the first requests meet; later ones meet `GOOD`."""

    clock: Clock
    chance: Random
    plan: dict[str, list[Behavior]]
    on_call: Callable[[Call], None]
    calls: list[Call] = field(default_factory=list)

    def receive(self, prompt: str, job_id: str, replica: int) -> Call:
        planned = self.plan.get(prompt)
        behavior = planned.pop(0) if planned else GOOD[int(self.chance.random() * len(GOOD))]
        call = Call(len(self.calls) + 1, prompt, job_id, replica, behavior, self.clock.now)
        self.calls.append(call)
        self.on_call(call)
        return call


class SimulatedTransport(httpx.AsyncBaseTransport):
    """The connection of one replica to the upstreams."""

    def __init__(self, upstream: SimulatedUpstream, loop: ReplicaLoop, replica: int) -> None:
        self._upstream, self._loop, self._replica = upstream, loop, replica

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        upstream, clock = self._upstream, self._upstream.clock
        arrived: asyncio.Future[Call] = self._loop.create_future()
        content = b"".join(request.stream).decode() if isinstance(request.stream, httpx.ByteStream) else ""
        prompt = content[(at := content.index("question ")) : at + 12]
        job_id = request.headers["x-request-id"]

        def arrive() -> None:
            call = upstream.receive(prompt, job_id, self._replica)
            self._loop.deliver(_settle, arrived, call)

        clock.after(_WIRE * upstream.chance.random(), arrive)
        call = await arrived
        behavior = call.behavior
        low, high = behavior.seconds
        seconds = low + (high - low) * upstream.chance.random()
        try:
            if not behavior.before:
                await asyncio.sleep(seconds)
                seconds = 0.0
            if behavior.failure is not None:
                raise behavior.failure()
        except BaseException:
            call.over_at = clock.now
            raise
        return httpx.Response(behavior.status, headers=behavior.headers, stream=_Body(call, seconds, clock))


def _settle(future: asyncio.Future[Call], call: Call) -> None:
    if not future.done():
        future.set_result(call)


class _Body(httpx.AsyncByteStream):
    """The body of an answer: what comes before the work is done, and the rest after it."""

    def __init__(self, call: Call, seconds: float, clock: Clock) -> None:
        self._call, self._seconds, self._clock = call, seconds, clock

    async def aclose(self) -> None:
        self._call.over_at = self._clock.now

    async def __aiter__(self) -> AsyncIterator[bytes]:
        behavior = self._call.behavior
        if behavior.before:
            yield behavior.before
            await asyncio.sleep(self._seconds)
        body = behavior.body
        if behavior.has_image:
            number = self._call.number
            data = b"data:image/png;base64," + pybase64.b64encode(image_of(number))
            self._call.is_received, self._call.received_at = True, self._clock.now
            body = body.replace(b"CALL", link(number).encode()).replace(b"DATA", data)
        if body:
            yield body
        if behavior.cut:
            raise _because(httpx.ReadError("cut"), aiohttp.ClientPayloadError("cut"))
