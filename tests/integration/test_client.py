"""One question to an upstream that fails in every way there is: what comes of it, and how often it was asked."""

import asyncio
import gzip
import os
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import aiohttp
import httpx
import orjson
import pytest
import respx
from httpx_aiohttp import AiohttpTransport
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.errors import (
    ApiError,
    InvalidRequest,
    ModerationBlocked,
    RateLimited,
    RequestTooLarge,
    Unauthorized,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalidReply,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.images.blob import Blob
from app.protocol.chat_reply import ChatReply
from app.protocol.json_stream import Base64String, StreamingJson
from app.upstream import client as upstream
from app.upstream.client import Question, Upstream, open_transport
from app.upstream.pool import Member, Upstreams
from app.upstream.spec import UpstreamSpec
from tests.support.faulty_upstream import FaultyUpstream, Script, SocketFault, run_faulty_upstream, run_server

KEY = "sk-limner-test-upstream"
CALLERS_KEY = "sk-limner-test-caller"
URL = "https://example.com/generated-image.png"
SMALL = StreamingJson({"model": "gpt-image-2-chat", "messages": [{"role": "user", "content": "auto 'a cat'"}]})

REPLY = orjson.dumps(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": URL}, "finish_reason": "stop"}],
    }
)


def delta(text: str, **more: object) -> bytes:
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}} | more]}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


STREAM = delta("Painting ") + delta("… ") + delta(URL) + delta(" done", finish_reason="stop") + b"data: [DONE]\n\n"


def answer(
    body: bytes, status: str = "200 OK", kind: str = "application/json", *, headers: str = "", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n{headers}\r\n"
    return head.encode() + body


def chunked(*chunks: bytes, end: bool = True) -> tuple[bytes, ...]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    framed = tuple(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return (head, *framed, *((b"0\r\n\r\n",) if end else ()))


@dataclass(slots=True)
class Clock:
    """Waiting for a repeat takes no time, and yet it passes."""

    waits: list[float] = field(default_factory=list)

    def read(self) -> float:
        return time.monotonic() + sum(self.waits)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@dataclass(slots=True)
class Outcome:
    replies: list[ChatReply] = field(default_factory=list)
    error: ApiError | None = None

    @property
    def text(self) -> str:
        """What the last snapshot says."""
        messages = self.replies[-1].messages if self.replies else ()
        return "".join(str(message["content"]) for message in messages)


async def collect(asked: AsyncGenerator[ChatReply, None]) -> Outcome:
    outcome = Outcome()
    async with aclosing(asked) as snapshots:
        try:
            async for reply in snapshots:
                outcome.replies.append(reply)
        except ApiError as error:
            outcome.error = error
    return outcome


@dataclass(frozen=True, slots=True)
class Manner(UpstreamSpec):
    """With what belongs to the whole way of a question."""

    attempts: int = 3
    ambiguous: bool = False


QUICK = Manner(name="alone", base_url="", api_key=SecretStr(KEY), timeout=60, idle_timeout=30, connect_timeout=5)


def build(config: Manner, client: httpx.AsyncBaseTransport, clock: Clock | None = None) -> Upstreams:
    """It alone: how several work together is in test_upstreams.py."""
    clock = clock or Clock()
    alone = Upstream(config, client, monotonic=clock.read, now=lambda: 1_795_341_600.0)
    return Upstreams(
        [Member(config, alone)],
        timeout=config.timeout,
        attempts=config.attempts,
        ambiguous=config.ambiguous,
        sleep=clock.sleep,
        monotonic=clock.read,
        chance=lambda: 0.5,
    )


async def asking(upstreams: Upstreams, question: Question) -> AsyncGenerator[ChatReply, None]:
    async with aclosing(upstreams.ask(lambda *_: question, None)) as replies:
        async for name, reply in replies:
            assert name == "alone"
            yield reply


@asynccontextmanager
async def open_upstream(config: Manner, clock: Clock | None = None) -> AsyncGenerator[Upstreams, None]:
    asked = build(config, open_transport(), clock)
    try:
        yield asked
    finally:
        await asked.close()


def at(chaos: FaultyUpstream, config: Manner = QUICK) -> Manner:
    return replace(config, base_url=chaos.url)


def ask_chaos(
    *scripts: Script, config: Manner = QUICK, question: Question | None = None, times: int = 1
) -> tuple[Outcome, FaultyUpstream]:
    async def run() -> tuple[Outcome, FaultyUpstream]:
        async with run_faulty_upstream(*scripts) as chaos, open_upstream(at(chaos, config)) as asked:
            for _ in range(times - 1):
                await collect(asking(asked, question or Question(SMALL)))
            return await collect(asking(asked, question or Question(SMALL))), chaos

    return asyncio.run(run())


# What an upstream does to the connection.


@dataclass(frozen=True, slots=True)
class Fault:
    """`text` is what the last snapshot says; `calls` is the number of requests that reached the upstream."""

    name: str
    script: Script
    kind: type[ApiError] | None = None
    text: str = ""
    calls: int = 1
    then: Script = ()
    config: Manner = QUICK


OK: Script = (answer(REPLY),)
CUT: Script = (answer(REPLY)[:-9],)
HEAD: Script = (answer(b"", length=9),)
DRIP: Script = (answer(b"", length=99), *(step for _ in range(30) for step in (b"{", 0.02)))
GZIP = "content-encoding: gzip\r\n"
ZIPPED, BOMB = gzip.compress(REPLY), gzip.compress(bytes(50_000_000))
SAID = f"Painting … {URL} done"
IN_PIECES = chunked(*(STREAM[at : at + 7] for at in range(0, len(STREAM), 7)))
HALF = STREAM[: STREAM.index(b"generated")]
FLOOD = b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 20_000 + b"\r\n"
ENDLESS = answer(b"x" * 100_000, "503 Busy", length=10**9)

IMPATIENT = replace(QUICK, timeout=0.15)
IDLE = replace(QUICK, idle_timeout=0.1)
BOTH = replace(QUICK, idle_timeout=0.1, timeout=0.2)
TINY = replace(QUICK, max_reply_bytes=200_000)

FAULTS = (
    Fault("a whole reply", OK, text=URL),
    Fault("no length: until it closes", (b"HTTP/1.1 200 OK\r\n\r\n" + REPLY, SocketFault.CLOSE), text=URL),
    Fault("a stream in small chunks", IN_PIECES, text=SAID),
    Fault("a stream where JSON was asked for", (answer(STREAM),), text=SAID),
    Fault("a reset after the request", (SocketFault.RESET,), UpstreamInvalidReply),
    Fault("a close after the request", (SocketFault.CLOSE,), UpstreamInvalidReply),
    Fault("a reset before the body was read", (SocketFault.DEAF, SocketFault.RESET), UpstreamInvalidReply),
    Fault("a reset inside the head", (b"HTTP/1.1 200 OK\r\ncontent-", SocketFault.RESET), UpstreamInvalidReply),
    Fault("a reset after the head", (*HEAD, SocketFault.RESET), UpstreamInvalidReply),
    Fault("a close after the head", (*HEAD, SocketFault.CLOSE), UpstreamInvalidReply),
    Fault("a reset inside the body", (*CUT, SocketFault.RESET), UpstreamInvalidReply),
    Fault("a close inside the body", (*CUT, SocketFault.CLOSE), UpstreamInvalidReply),
    Fault("a reset after the body", (*OK, SocketFault.RESET), text=URL),
    Fault("no word at all", (SocketFault.HANG,), UpstreamTimeout, config=IMPATIENT),
    Fault("half a head, then silence", (b"HTTP/1.1 200 OK\r\n", SocketFault.HANG), UpstreamTimeout, config=IMPATIENT),
    Fault("a head, then silence: a picture in the making", (*HEAD, 0.15, REPLY[:9]), UpstreamInvalidReply, config=IDLE),
    Fault("a head, then silence for ever", (*HEAD, SocketFault.HANG), UpstreamTimeout, config=BOTH),
    Fault("half a body, then silence", (*CUT, SocketFault.HANG), UpstreamTimeout, config=IDLE),
    Fault("a byte now and then", DRIP, UpstreamTimeout, config=BOTH),
    Fault("less than its length says", (answer(REPLY, length=len(REPLY) + 5), SocketFault.CLOSE), text=URL),
    Fault("a whole document without its last chunk", (*chunked(REPLY, end=False), SocketFault.CLOSE), text=URL),
    Fault(
        "half a document without its last chunk",
        (*chunked(REPLY[:-4], end=False), SocketFault.RESET),
        UpstreamInvalidReply,
    ),
    Fault("more than its length says", (answer(REPLY, length=len(REPLY) - 5), SocketFault.CLOSE), UpstreamInvalidReply),
    Fault(
        "a length that is no number",
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", SocketFault.CLOSE),
        UpstreamInvalidReply,
    ),
    Fault("chunks with a senseless size", (chunked()[0] + b"zz\r\n", SocketFault.CLOSE), UpstreamInvalidReply),
    Fault("not HTTP", (b"SSH-2.0-OpenSSH_9.6\r\n", SocketFault.CLOSE), UpstreamInvalidReply),
    Fault("a flood of headers", (FLOOD, SocketFault.CLOSE), UpstreamInvalidReply),
    Fault("an endless header", (b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * 900_000, SocketFault.CLOSE), UpstreamInvalidReply),
    Fault(
        "a stream that just ends", (*chunked(delta("One "), end=False), SocketFault.CLOSE), UpstreamInvalidReply, "One "
    ),
    Fault(
        "a stream that ends inside a URL",
        (*chunked(HALF, end=False), SocketFault.CLOSE),
        UpstreamInvalidReply,
        "Painting … ",
    ),
    Fault(
        "a stream silent after it",
        (*chunked(delta(URL), end=False), SocketFault.HANG),
        UpstreamTimeout,
        URL,
        config=IDLE,
    ),
    Fault("a stream reset after its last word", (*chunked(STREAM, end=False), SocketFault.RESET), text=SAID),
    Fault("a body that is too long", (answer(b" " * 300_000),), UpstreamInvalidReply, config=TINY),
    Fault("a body without end", chunked(*[b" " * 50_000] * 9, end=False), UpstreamInvalidReply, config=TINY),
    Fault("gzip", (answer(ZIPPED, headers=GZIP),), text=URL),
    Fault("a gzip bomb", (answer(BOMB, headers=GZIP),), UpstreamInvalidReply, config=TINY),
    Fault("cut gzip", (answer(ZIPPED[:-9], headers=GZIP),), UpstreamInvalidReply),
    Fault("an unknown compression", (answer(REPLY, headers="content-encoding: br\r\n"),), UpstreamInvalidReply),
    Fault("HTML with status 200", (answer(b"<html>hello</html>"),), UpstreamInvalidReply),
    Fault("broken JSON", (answer(REPLY[:-4]),), UpstreamInvalidReply),
    Fault("nothing with status 200", (answer(b""),), UpstreamInvalidReply),
    Fault("nothing with status 204", (b"HTTP/1.1 204 No Content\r\n\r\n",), UpstreamInvalidReply),
    Fault("an error without its body", (answer(b"", "503 Busy", length=9), SocketFault.CLOSE), None, URL, 2, OK),
    Fault("an error with an endless body", (ENDLESS, SocketFault.HANG), None, URL, 2, OK),
    Fault("a reset on the second call", (answer(b"", "429 Slow"),), UpstreamInvalidReply, "", 2, (SocketFault.RESET,)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_faults_of_the_connection(fault: Fault) -> None:
    outcome, chaos = ask_chaos(fault.script, fault.then or fault.script, config=fault.config)
    assert type(outcome.error) is (fault.kind or type(None))
    assert len(chaos.calls) == fault.calls
    assert outcome.text == fault.text
    if fault.kind:
        assert_final(outcome.error)
        assert not any(reply.complete for reply in outcome.replies)
    else:
        assert outcome.replies[-1].complete


def assert_final(error: ApiError | None) -> None:
    """What a client is told names nothing of ours and is not repeated."""
    assert error is not None
    assert not any(word in error.message for word in ("127.0.0.1", "upstream.test", "evil", "sk-"))
    if not isinstance(error, RateLimited):
        assert error.headers["x-should-retry"] == "false"


# What keeps a question from reaching an upstream.


def ask_address(base_url: str, *, config: Manner = QUICK) -> tuple[Outcome, Clock]:
    clock = Clock()

    async def run() -> Outcome:
        async with open_upstream(replace(config, base_url=base_url), clock) as asked:
            return await collect(asking(asked, Question(SMALL)))

    return asyncio.run(run()), clock


def assert_unreachable(outcome: Outcome) -> None:
    assert isinstance(outcome.error, UpstreamUnreachable)
    assert_final(outcome.error)
    assert outcome.replies == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection_is_tried_again(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    outcome, clock = ask_address(f"{scheme}://127.0.0.1:{port}/v1")
    assert_unreachable(outcome)
    assert clock.waits == pytest.approx([0.25, 0.5])


def test_a_name_that_does_not_exist_is_tried_again() -> None:
    outcome, clock = ask_address("https://upstream.invalid/v1")
    assert_unreachable(outcome)
    assert clock.waits == pytest.approx([0.25, 0.5])


def test_a_connection_that_takes_too_long_is_tried_again() -> None:
    """A full backlog answers no SYN."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with socket.create_connection(deaf.getsockname()):
            address = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
            outcome, clock = ask_address(address, config=replace(QUICK, connect_timeout=0.05))
    assert_unreachable(outcome)
    assert clock.waits == pytest.approx([0.25, 0.5])


def test_what_speaks_no_tls_is_tried_again() -> None:
    connections = 0

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def run() -> Outcome:
        async with run_server(refuse, "https") as url, open_upstream(replace(QUICK, base_url=url)) as asked:
            return await collect(asking(asked, Question(SMALL)))

    assert_unreachable(asyncio.run(run()))
    assert connections == 3


# What an upstream answers.


@dataclass(frozen=True, slots=True)
class Answer:
    """`answers` in turn, the last one for ever; `waits` are the pauses, each followed by one more call."""

    name: str
    answers: tuple[httpx.Response | Exception, ...]
    kind: type[ApiError] | None = None
    waits: tuple[float, ...] = ()
    config: Manner = QUICK


def status(code: int, error: Mapping[str, Any] | str | None = None, **headers: str) -> httpx.Response:
    spelt = {name.replace("_", "-"): value for name, value in headers.items()}
    if error is None:
        return httpx.Response(code, headers=spelt, html="<html>no</html>")
    return httpx.Response(code, headers=spelt, json={"error": error})


def broken(reply: str) -> httpx.Response:
    return httpx.Response(200, text=reply)


GOOD = httpx.Response(200, content=REPLY)
ONCE, TWICE = (0.25,), (0.25, 0.5)
PASS_THROUGH = replace(QUICK, api_key=None)
DARING = replace(QUICK, ambiguous=True)
SINGLE = replace(QUICK, attempts=1)
SOON = status(429, retry_after="7")
AT_TEN = status(429, retry_after="Sun, 22 Nov 2026 10:00:09 GMT")
NO_ROUTE = (httpx.ConnectError("x"), httpx.ConnectTimeout("x"), GOOD)
NO_CREDIT = status(429, {"message": "x", "code": "insufficient_quota"})
WRONG_SIZE = status(429, {"message": "Invalid size 'x'."})
BLOCKED = {"message": "No.", "code": "moderation_blocked"}
OVERLOADED = status(200, {"message": "upstream overloaded", "code": 503})
CRASHED = status(200, {"message": "crash", "code": 500})
AWAY = "https://evil.invalid/v1/chat/completions"

ANSWERS = (
    Answer("a picture", (GOOD,)),
    Answer("busy, then a picture", (status(429), GOOD), None, ONCE),
    Answer("down, then busy, then a picture", (status(503), status(429), GOOD), None, TWICE),
    Answer("busy for ever", (status(429),), RateLimited, TWICE),
    Answer("down for ever", (status(503),), UpstreamError, TWICE),
    Answer("one attempt only", (status(503), GOOD), UpstreamError, config=SINGLE),
    Answer("busy for some seconds", (SOON, GOOD), None, (7.25,)),
    Answer("busy until a date", (AT_TEN, GOOD), None, (9.25,)),
    Answer("busy for longer than we have", (status(429, retry_after="60"), GOOD), RateLimited),
    Answer("busy for an absurd time", (status(503, retry_after="999999999999"), GOOD), UpstreamError),
    Answer("busy for a negative time", (status(429, retry_after="-9"), GOOD), None, ONCE),
    Answer("busy and no credit", (NO_CREDIT, GOOD), UpstreamError),
    Answer("a wrong size as 429", (WRONG_SIZE, GOOD), InvalidRequest),
    Answer("a crash", (status(500), GOOD), UpstreamError),
    Answer("a bad gateway", (status(502), GOOD), UpstreamError),
    Answer("a crash, with leave to repeat", (status(500), GOOD), None, ONCE, DARING),
    Answer("bad gateways, with leave to repeat", (status(502),), UpstreamError, TWICE, DARING),
    Answer("408, with leave to repeat", (status(408), GOOD), UpstreamTimeout, config=DARING),
    Answer("504, with leave to repeat", (status(504), GOOD), UpstreamTimeout, config=DARING),
    Answer("520, with leave to repeat", (status(520), GOOD), UpstreamTimeout, config=DARING),
    Answer("524, with leave to repeat", (status(524), GOOD), UpstreamTimeout, config=DARING),
    Answer("a broken reply, with leave to repeat", (broken("{"), GOOD), UpstreamInvalidReply, config=DARING),
    Answer("a lost answer, with leave to repeat", (httpx.ReadError("x"), GOOD), UpstreamInvalidReply, config=DARING),
    Answer("a late answer, with leave to repeat", (httpx.ReadTimeout("x"), GOOD), UpstreamInvalidReply, config=DARING),
    Answer("no connection, says another transport", NO_ROUTE, None, TWICE),
    Answer("our key refused", (status(401), GOOD), UpstreamAuth),
    Answer("the caller's key refused", (status(401), GOOD), Unauthorized, config=PASS_THROUGH),
    Answer("a refusal", (status(400, BLOCKED), GOOD), ModerationBlocked),
    Answer("too large", (status(413), GOOD), RequestTooLarge),
    Answer("an error inside a 200", (OVERLOADED, GOOD), None, ONCE),
    Answer("a crash inside a 200, with leave to repeat", (CRASHED, GOOD), UpstreamError, config=DARING),
    Answer(
        "no credit inside a 200", (status(200, {"message": "x", "code": "insufficient_quota"}), GOOD), UpstreamError
    ),
    Answer("an error as text inside a 200", (status(200, "boom"), GOOD), UpstreamError, config=DARING),
    Answer("a refusal inside a 200", (status(200, BLOCKED), GOOD), ModerationBlocked),
    Answer("a redirect for good", (status(301, location=AWAY), GOOD), UpstreamInvalidReply),
    Answer("a redirect that repeats the body", (status(307, location=AWAY), GOOD), UpstreamInvalidReply),
    Answer("a redirect to nowhere", (status(308, location="https://[::1"), GOOD), UpstreamInvalidReply),
    Answer("a redirect without an address", (status(302), GOOD), UpstreamInvalidReply),
)


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
def test_answers(case: Answer) -> None:
    clock = Clock()
    router = respx.MockRouter(assert_all_mocked=True)
    route = router.post("https://upstream.test/v1/chat/completions")
    route.side_effect = [*case.answers, *[case.answers[-1]] * 3]

    async def run() -> Outcome:
        async with httpx.MockTransport(router.async_handler) as client:
            asked = build(replace(case.config, base_url="https://upstream.test/v1/"), client, clock)
            return await collect(asking(asked, Question(SMALL, key=CALLERS_KEY)))

    outcome = asyncio.run(run())
    assert type(outcome.error) is (case.kind or type(None))
    assert clock.waits == pytest.approx(case.waits)
    assert route.call_count == len(case.waits) + 1
    assert (outcome.text == URL) == (case.kind is None)
    if case.kind:
        assert_final(outcome.error)
    key = KEY if case.config.api_key else CALLERS_KEY
    assert {call.request.headers["authorization"] for call in route.calls} == {f"Bearer {key}"}


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (status(401), "see LIMNER_UPSTREAM_API_KEY: upstream answered 401"),
        (
            status(200, {"message": "x", "code": "insufficient_quota"}),
            "see LIMNER_UPSTREAM_API_KEY: upstream answered 200",
        ),
        (status(404), "upstream answered 404"),
        (status(499), "upstream answered 499"),
    ],
)
def test_the_log_names_the_setting_to_look_at(answer: httpx.Response, detail: str) -> None:
    origin = {"api_key": "LIMNER_UPSTREAM_API_KEY"}

    async def run() -> Outcome:
        async with httpx.MockTransport(lambda _: answer) as client:
            asked = build(replace(QUICK, base_url="https://upstream.test/v1/", origin=origin), client)
            return await collect(asking(asked, Question(SMALL)))

    error = asyncio.run(run()).error
    assert error is not None
    assert (error.detail or "").startswith(detail)
    assert "LIMNER" not in error.message


def test_the_budget_ends_repeats_for_everyone() -> None:
    """Ten in reserve and one for every five questions, but the first finds the reserve full and earns nothing."""

    async def run() -> int:
        async with run_faulty_upstream((answer(b"", "503 Busy"),)) as chaos, open_upstream(at(chaos)) as asked:
            for _ in range(40):
                await collect(asking(asked, Question(SMALL)))
            return len(chaos.calls)

    repeats = asyncio.run(run()) - 40
    assert repeats == 10 + 39 // 5


def test_one_deadline_is_around_all_attempts() -> None:
    """A quarter of a second is waited for the repeat, what is left for its answer."""
    config = replace(QUICK, timeout=0.4)
    outcome, chaos = ask_chaos((answer(b"", "503 Busy"),), (SocketFault.HANG,), config=config)
    assert isinstance(outcome.error, UpstreamTimeout)
    assert len(chaos.calls) == 2


@pytest.mark.parametrize("body", ["", "Your key sk-limner-test-upstream is odd"])
def test_a_slow_error_is_not_waited_for(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_COMPLAINT_SECONDS", 0.05)
    slow = (answer(body.encode(), "400 Bad Request", length=999), SocketFault.HANG)
    outcome, _ = ask_chaos(slow)
    assert isinstance(outcome.error, InvalidRequest)
    assert outcome.error.message == (body.replace(KEY, "[key]") or "The upstream refused the request (status 400).")


def test_keys_stay_out_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(f"busy, Bearer {KEY}!".encode(), "503 Busy")
    ask_chaos((said,), OK)
    printed = capsys.readouterr()
    assert "upstream_retry" in printed.out + printed.err
    assert KEY not in printed.out + printed.err
    assert CALLERS_KEY not in repr(Question(SMALL, key=CALLERS_KEY))


# What goes over the wire.


@dataclass(frozen=True, slots=True)
class Sent:
    name: str
    question: Question
    expected: dict[str, str]
    config: Manner = QUICK


PLAIN = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
PLAIN |= {"content-length": str(SMALL.length), "user-agent": "limner"}
SENT = (
    Sent("our key, whoever asks", Question(SMALL, key=CALLERS_KEY), PLAIN | {"authorization": f"Bearer {KEY}"}),
    Sent("the caller's key", Question(SMALL, key="ключ"), PLAIN | {"authorization": "Bearer ключ"}, PASS_THROUGH),
    Sent("no key at all", Question(SMALL), PLAIN, PASS_THROUGH),
    Sent(
        "a stream, with an id",
        Question(SMALL, stream=True, headers={"x-request-id": "req_1"}),
        PLAIN | {"accept": "text/event-stream, application/json", "x-request-id": "req_1"},
        PASS_THROUGH,
    ),
)


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.name)
def test_nothing_else_is_sent(sent: Sent) -> None:
    _, chaos = ask_chaos(OK, config=sent.config, question=sent.question)
    head, _, body = chaos.calls[0].partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert request == "POST /v1/chat/completions HTTP/1.1"
    assert headers.pop("host") in chaos.url
    assert headers == {name: value.lower() for name, value in sent.expected.items()}
    assert body == b"".join(SMALL.chunks())


def large_body(picture: Blob, size: int) -> StreamingJson:
    picture.write(os.urandom(size))
    return StreamingJson({"messages": [{"image_url": {"url": Base64String(picture, "data:image/png;base64,")}}]})


def test_a_large_body_is_sent_whole_on_each_attempt() -> None:
    with Blob() as picture:
        body = large_body(picture, 700_001)
        _, chaos = ask_chaos((answer(b"", "503 Busy"),), OK, question=Question(body))
        whole = b"".join(body.chunks())
    heads = [call[: -len(whole)].lower() for call in chaos.calls]
    assert [call[-len(whole) :] == whole for call in chaos.calls] == [True, True]
    assert all(f"content-length: {body.length}".encode() in head for head in heads)
    assert not any(b"transfer-encoding" in head for head in heads)


def test_a_large_body_is_never_held() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while left:
            left -= len(await reader.read(min(left, 65_536)))
        writer.write(answer(REPLY))
        writer.close()

    async def run(body: StreamingJson) -> int:
        async with run_server(swallow) as url, open_upstream(replace(QUICK, base_url=url)) as asked:
            tracemalloc.start()
            outcome = await collect(asking(asked, Question(body)))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert outcome.text == URL
        return peak

    with Blob() as picture:
        body = large_body(picture, 20 * 1024 * 1024)
        assert asyncio.run(run(body)) < 3 * 1024 * 1024


def test_a_body_that_cannot_be_read_is_no_success() -> None:
    class Gone:
        size = 300_000

        def chunks(self, size: int) -> Iterator[bytes]:
            yield bytes(size)
            raise OSError(5, "Input/output error")

    outcome, chaos = ask_chaos(OK, question=Question(StreamingJson({"image": Base64String(Gone())})))
    assert isinstance(outcome.error, UpstreamInvalidReply)
    assert_final(outcome.error)
    assert chaos.connections == 1


# Connections.


def test_a_connection_is_used_again() -> None:
    outcome, chaos = ask_chaos(OK, times=3)
    assert outcome.text == URL
    assert (chaos.connections, len(chaos.calls)) == (1, 3)


def test_a_used_connection_that_was_closed_is_replaced() -> None:
    async def run() -> tuple[Outcome, FaultyUpstream]:
        async with run_faulty_upstream((*OK, SocketFault.CLOSE), OK) as chaos, open_upstream(at(chaos)) as asked:
            await collect(asking(asked, Question(SMALL)))
            await asyncio.gather(*chaos.handlers)
            for _ in range(9):
                await asyncio.sleep(0)  # for the news to arrive
            return await collect(asking(asked, Question(SMALL))), chaos

    outcome, chaos = asyncio.run(run())
    assert outcome.text == URL
    assert (chaos.connections, len(chaos.calls)) == (2, 2)


def test_a_used_connection_that_breaks_is_not_asked_again() -> None:
    """Some clients repeat by themselves then, although the first question may have been read."""
    outcome, chaos = ask_chaos(OK, (SocketFault.RESET,), OK, times=2)
    assert isinstance(outcome.error, UpstreamInvalidReply)
    assert len(chaos.calls) == 2


def test_cookies_are_not_kept() -> None:
    _, chaos = ask_chaos((answer(REPLY, headers="set-cookie: a=b; path=/\r\n"),), times=2)
    assert b"cookie" not in chaos.calls[1].lower()


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    outcome, chaos = ask_chaos(OK)
    assert outcome.text == URL
    assert len(chaos.calls) == 1


def test_more_than_a_hundred_questions_wait_at_once() -> None:
    """The server answers nobody before all have asked: with a limit of 100 this would never end."""
    waiting, everyone = 0, asyncio.Event()

    async def gather_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        await reader.readuntil(b"\r\n\r\n")
        waiting += 1
        if waiting == 230:
            everyone.set()
        await everyone.wait()
        writer.write(answer(REPLY, headers="connection: close\r\n"))
        writer.close()

    async def run() -> list[Outcome]:
        async with run_server(gather_all) as url, open_upstream(replace(QUICK, base_url=url)) as asked:
            return await asyncio.gather(*(collect(asking(asked, Question(SMALL))) for _ in range(230)))

    assert {outcome.text for outcome in asyncio.run(run())} == {URL}


@pytest.mark.parametrize("script", [(SocketFault.HANG,), (answer(b"", length=9), SocketFault.HANG)])
def test_a_question_that_is_called_off_leaves_nothing_behind(script: Script) -> None:
    async def run() -> None:
        async with run_faulty_upstream(script) as chaos, open_upstream(at(chaos)) as asked:
            question = asyncio.create_task(collect(asking(asked, Question(SMALL))))
            await chaos.was_called.wait()
            question.cancel()
            with pytest.raises(asyncio.CancelledError):
                await question
            await chaos.client_disconnected.wait()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_reply_that_nobody_wants_any_more_is_let_go() -> None:
    async def run() -> None:
        script: Script = (*chunked(delta(URL), end=False), SocketFault.HANG)
        async with run_faulty_upstream(script) as chaos, open_upstream(at(chaos)) as asked:
            async with aclosing(asking(asked, Question(SMALL))) as snapshots:
                assert not (await anext(snapshots)).complete
            await chaos.client_disconnected.wait()

    asyncio.run(run())


def test_certificates_are_checked() -> None:
    async def run() -> ssl.SSLContext:
        async with open_transport() as client:
            transport = client
            assert isinstance(transport, AiohttpTransport)
            async with transport.get_client() as session:
                assert isinstance(session.connector, aiohttp.TCPConnector)
                context = session.connector._ssl
            assert isinstance(context, ssl.SSLContext)
            return context

    context = asyncio.run(run())
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


# Streams.


def ask_stream(*pieces: bytes) -> Outcome:
    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def run() -> Outcome:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=stream()))
        async with transport as client:
            asked = build(replace(QUICK, base_url="https://upstream.test/v1"), client)
            return await collect(asking(asked, Question(SMALL, stream=True)))

    return asyncio.run(run())


def test_snapshots_come_when_a_picture_may_have() -> None:
    progress = [delta(f"{percent} % ") for percent in range(100)]
    outcome = ask_stream(*progress, delta(URL), *progress, delta("end", finish_reason="stop"))
    complete = [reply.complete for reply in outcome.replies]
    assert sum(complete) == complete[-1] == 1
    assert len(outcome.replies) < 40
    assert any(str(reply.messages[0]["content"]).endswith(URL) for reply in outcome.replies)
    # Each is shown to somebody, so each says what must not be.
    assert {reply.secrets for reply in outcome.replies} == {(KEY,)}


@given(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
def test_a_stream_cut_anywhere_says_the_same(cuts: list[int]) -> None:
    edges = pairwise([0, *cuts, len(STREAM)])
    outcome = ask_stream(*(STREAM[start:end] for start, end in edges))
    assert outcome.error is None
    assert (outcome.text, outcome.replies[-1].complete) == (SAID, True)


@pytest.mark.parametrize("end", range(len(STREAM)))
def test_a_stream_that_stops_anywhere_says_so(end: int) -> None:
    outcome = ask_stream(STREAM[:end])
    assert outcome.error is None or isinstance(outcome.error, UpstreamError)


def test_an_error_in_a_stream_comes_after_what_was_there() -> None:
    outcome = ask_stream(delta(URL), b'data: {"error":{"message":"x","code":"server_is_overloaded"}}\n\n')
    assert outcome.text == URL
    assert isinstance(outcome.error, UpstreamError)
    assert outcome.error.code == "upstream_overloaded"


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
NO_QUOTA = b'data: {"error":{"message":"x","code":"insufficient_quota"}}\n\n'


@dataclass(frozen=True, slots=True)
class Told:
    """What an upstream does after it has said 200; `elsewhere`: whether another upstream may be asked."""

    name: str
    pieces: tuple[bytes, ...]
    elsewhere: bool


TOLD = [
    Told("a complaint as the first event", (NO_QUOTA,), True),
    Told("a complaint after signs of life", (b": PING\n\n", b"data: working\n\n", NO_QUOTA), True),
    Told("a complaint after a role", (ROLE, NO_QUOTA), True),
    Told("a complaint and an end", (NO_QUOTA, b"data: [DONE]\n\n"), True),
    Told("a complaint as JSON", (NO_QUOTA.removeprefix(b"data: "),), True),
    Told("a complaint in a list", (b'[{"error":{"code":401,"message":"API key not valid"}}]',), True),
    Told("a relay's complaint", (b'{"code":"insufficient_user_quota","msg":"x","request_id":"1"}',), True),
    Told(
        "a complaint that only its event calls an error",
        (b'event: error\ndata: {"message":"Insufficient balance"}\n\n',),
        True,
    ),
    Told("a complaint as a status in JSON", (b'{"status":402,"message":"Payment required"}',), True),
    Told("a complaint after a word", (delta("P"), NO_QUOTA), False),
    Told("a complaint after an event that was cut", (b'data: {"choices":[{"delta"\n\n', NO_QUOTA), False),
    Told("a complaint beside a picture", (b'{"error":{"code":"insufficient_quota"},"url":"https://h/a.png"}',), False),
    Told("a complaint beside tokens", (b'{"error":{"code":401},"usage":{"completion_tokens":9}}',), False),
]


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.name)
def test_a_complaint_inside_a_200_is_a_fault_while_no_work_may_have_been_done(case: Told) -> None:
    outcome = ask_stream(*case.pieces)
    assert isinstance(outcome.error, UpstreamError)
    assert bool(outcome.replies) is not case.elsewhere
