"""One question to an upstream that fails in every way there is: what comes of it, and how often it was asked."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import orjson
import pytest
import respx
from pydantic import SecretStr

from app.errors import (
    ApiError,
    InvalidRequest,
    ModerationBlocked,
    RateLimited,
    TooLarge,
    Unauthorized,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.pure.chat import ChatReply
from app.pure.json_holes import HoleyJson
from app.upstream import Question, Upstream, UpstreamConfig, open_client
from tests.chaos import Act, Chaos, Script, run_chaos

KEY = "sk-limner-test-upstream"
CALLERS_KEY = "sk-limner-test-caller"
URL = "https://example.com/generated-image.png"
SMALL = HoleyJson({"model": "gpt-image-2-chat", "messages": [{"role": "user", "content": "auto 'a cat'"}]})

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


QUICK = UpstreamConfig(base_url="", api_key=SecretStr(KEY), timeout=60, idle_timeout=30, connect_timeout=5)


def build(config: UpstreamConfig, client: httpx.AsyncClient, clock: Clock | None = None) -> Upstream:
    clock = clock or Clock()
    return Upstream(
        config, client, sleep=clock.sleep, monotonic=clock.read, now=lambda: 1_795_341_600.0, chance=lambda: 0.5
    )


def ask_chaos(
    *scripts: Script, config: UpstreamConfig = QUICK, question: Question | None = None, times: int = 1
) -> tuple[Outcome, Chaos]:
    async def run() -> tuple[Outcome, Chaos]:
        async with run_chaos(*scripts) as chaos:
            asked = build(replace(config, base_url=chaos.url), open_client())
            try:
                for _ in range(times):
                    outcome = await collect(asked.ask(question or Question(SMALL)))
            finally:
                await asked.close()
            return outcome, chaos

    return asyncio.run(run())


# What an upstream does to the connection.


@dataclass(frozen=True, slots=True)
class Fault:
    """`calls` is the number of requests that reached the upstream."""

    name: str
    scripts: tuple[Script, ...]
    kind: type[ApiError] | None = None
    code: str | None = None
    calls: int = 1
    text: str = ""
    config: UpstreamConfig = QUICK


OK: Script = (answer(REPLY),)
IMPATIENT = replace(QUICK, timeout=0.15)
IDLE = replace(QUICK, idle_timeout=0.1)
TINY = replace(QUICK, max_reply_bytes=200_000)
BROKEN, LATE = "upstream_broken", "upstream_timeout"
HALF = STREAM[: STREAM.index(b"generated")]

FAULTS = (
    Fault("a whole reply", (OK,), text=URL),
    Fault("a reply without a length, until the connection closes", ((b"HTTP/1.1 200 OK\r\n\r\n" + REPLY, Act.CLOSE),), text=URL),
    Fault("a stream in chunks", (chunked(*(STREAM[i : i + 7] for i in range(0, len(STREAM), 7))),), text=f"Painting … {URL} done"),
    Fault("a stream where JSON was asked for, called JSON", ((answer(STREAM),),), text=f"Painting … {URL} done"),
    Fault("a reset after the request", ((Act.RESET,),), UpstreamBroken, BROKEN),
    Fault("a close after the request", ((Act.CLOSE,),), UpstreamBroken, BROKEN),
    Fault("a reset before the body was read", ((Act.DEAF, Act.RESET),), UpstreamBroken, BROKEN),
    Fault("a reset inside the head", ((b"HTTP/1.1 200 OK\r\ncontent-", Act.RESET),), UpstreamBroken, BROKEN),
    Fault("a reset inside the body", ((answer(REPLY)[:-9], Act.RESET),), UpstreamBroken, BROKEN),
    Fault("a close inside the body", ((answer(REPLY)[:-9], Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("a close after the head", ((answer(b"", length=9), Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("a reset after the body", ((answer(REPLY), Act.RESET),), text=URL),
    Fault("no word at all", ((Act.HANG,),), UpstreamTimeout, LATE, config=IMPATIENT),
    Fault("half a head, then silence", ((b"HTTP/1.1 200 OK\r\n", Act.HANG),), UpstreamTimeout, LATE, config=IMPATIENT),
    Fault("a head, then silence, is a picture in the making", ((answer(b"", length=9), Act.HANG),), UpstreamTimeout, LATE, config=replace(IDLE, timeout=0.2)),
    Fault("half a body, then silence", ((answer(REPLY)[:-9], Act.HANG),), UpstreamTimeout, LATE, config=IDLE),
    Fault("a body of one byte now and then", ((answer(b"", length=99), *([b"{", 0.02] * 30)),), UpstreamTimeout, LATE, config=replace(IDLE, timeout=0.2)),
    Fault("less than its length says", ((answer(REPLY, length=len(REPLY) + 5), Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("more than its length says", ((answer(REPLY, length=len(REPLY) - 5), Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("a length that is no number", ((b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("chunks with a senseless size", ((chunked()[0] + b"zz\r\n", Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("a stream of chunks that just ends", ((*chunked(delta("Painting "), end=False), Act.CLOSE),), UpstreamBroken, BROKEN, text="Painting "),
    Fault("a stream that ends inside the URL", ((*chunked(HALF, end=False), Act.CLOSE),), UpstreamBroken, BROKEN, text="Painting … "),
    Fault("a stream that falls silent after the URL", ((*chunked(delta(URL), end=False), Act.HANG),), UpstreamTimeout, LATE, text=URL, config=IDLE),
    Fault("not HTTP", ((b"SSH-2.0-OpenSSH_9.6\r\n", Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("a flood of headers", ((b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 20_000 + b"\r\n", Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("one endless header", ((b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * 900_000, Act.CLOSE),), UpstreamBroken, BROKEN),
    Fault("a body that is too long", ((answer(b" " * 300_000),),), UpstreamBroken, BROKEN, config=TINY),
    Fault("a body without end", (chunked(*[b" " * 50_000] * 9, end=False),), UpstreamBroken, BROKEN, config=TINY),
    Fault("a reply in gzip", ((answer(gzip.compress(REPLY), headers="content-encoding: gzip\r\n"),),), text=URL),
    Fault("a gzip bomb", ((answer(gzip.compress(bytes(50_000_000)), headers="content-encoding: gzip\r\n"),),), UpstreamBroken, BROKEN, config=TINY),
    Fault("a cut gzip body", ((answer(gzip.compress(REPLY)[:-9], headers="content-encoding: gzip\r\n"),),), UpstreamBroken, BROKEN),
    Fault("an unknown compression", ((answer(REPLY, headers="content-encoding: br\r\n"),),), UpstreamBroken, BROKEN),
    Fault("HTML with status 200", ((answer(b"<html>hello</html>", kind="text/html"),),), UpstreamBroken, BROKEN),
    Fault("broken JSON", ((answer(REPLY[:-4]),),), UpstreamBroken, BROKEN),
    Fault("nothing with status 200", ((answer(b""),),), UpstreamBroken, BROKEN),
    Fault("nothing with status 204", ((b"HTTP/1.1 204 No Content\r\n\r\n",),), UpstreamBroken, BROKEN),
    Fault("a refusal before the body was read", ((Act.DEAF, answer(b"", "413 Too Large", headers="connection: close\r\n"), Act.CLOSE),), TooLarge, "request_too_large"),
    Fault("an error whose body never comes", ((answer(b"", "503 Busy", length=9), Act.CLOSE), OK), text=URL, calls=2),
    Fault("an error whose body never ends", ((answer(b"x" * 100_000, "503 Busy", length=10**9), Act.HANG), OK), text=URL, calls=2),
    Fault("an error after a fault that is free", ((answer(b"", "429 Slow"),), (Act.RESET,)), UpstreamBroken, BROKEN, calls=2),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_faults_of_the_connection(fault: Fault) -> None:
    outcome, chaos = ask_chaos(*fault.scripts, config=fault.config)
    assert len(chaos.calls) == fault.calls
    assert outcome.text == fault.text
    if fault.kind is None:
        assert outcome.error is None
        assert outcome.replies[-1].complete
    else:
        assert (type(outcome.error), outcome.error and outcome.error.code) == (fault.kind, fault.code)
        assert not any(reply.complete for reply in outcome.replies)
        assert outcome.error is not None
        assert "127.0.0.1" not in outcome.error.message
        assert outcome.error.headers["x-should-retry"] == "false"


# What keeps a question from reaching an upstream.


def ask_address(base_url: str, *, config: UpstreamConfig = QUICK) -> tuple[Outcome, Clock]:
    clock = Clock()

    async def run() -> Outcome:
        asked = build(replace(config, base_url=base_url), open_client(), clock)
        try:
            return await collect(asked.ask(Question(SMALL)))
        finally:
            await asked.close()

    return asyncio.run(run()), clock


def assert_unreachable(outcome: Outcome) -> None:
    assert isinstance(outcome.error, UpstreamUnreachable)
    assert outcome.error.message == "The upstream cannot be reached."
    assert outcome.error.headers["x-should-retry"] == "false"
    assert outcome.replies == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection_is_tried_again(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    outcome, clock = ask_address(f"{scheme}://127.0.0.1:{port}/v1")
    assert_unreachable(outcome)
    assert clock.waits == [0.25, 0.5]


def test_a_name_that_does_not_exist_is_tried_again() -> None:
    outcome, clock = ask_address("https://upstream.invalid/v1")
    assert_unreachable(outcome)
    assert clock.waits == [0.25, 0.5]


def test_a_connection_that_takes_too_long_is_tried_again() -> None:
    """A full backlog answers no SYN."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with socket.create_connection(deaf.getsockname()):
            address = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
            outcome, clock = ask_address(address, config=replace(QUICK, connect_timeout=0.05))
    assert_unreachable(outcome)
    assert clock.waits == [0.25, 0.5]


def test_what_speaks_no_tls_is_tried_again() -> None:
    async def run() -> tuple[Outcome, Chaos]:
        async with run_chaos(OK) as chaos:
            asked = build(replace(QUICK, base_url=chaos.url.replace("http:", "https:")), open_client())
            outcome = await collect(asked.ask(Question(SMALL)))
            await asked.close()
            return outcome, chaos

    outcome, chaos = asyncio.run(run())
    assert_unreachable(outcome)
    assert (chaos.connections, chaos.calls) == (3, [])


# What an upstream answers.


@dataclass(frozen=True, slots=True)
class Answer:
    """`answers` in turn, the last one for ever; `waits` are the pauses between the calls."""

    name: str
    answers: tuple[httpx.Response | Exception, ...]
    kind: type[ApiError] | None = None
    calls: int = 1
    waits: tuple[float, ...] = ()
    config: UpstreamConfig = QUICK
    key: str | None = None


def status(code: int, error: Mapping[str, Any] | str | None = None, **headers: str) -> httpx.Response:
    spelt = {name.replace("_", "-"): value for name, value in headers.items()}
    if error is None:
        return httpx.Response(code, headers=spelt, html="<html>no</html>")
    return httpx.Response(code, headers=spelt, json={"error": error})


GOOD = httpx.Response(200, content=REPLY)
WAITS = (0.25, 0.5)
PASS_THROUGH = replace(QUICK, api_key=None)
DARING = replace(QUICK, retry_ambiguous=True)

ANSWERS = (
    Answer("a picture", (GOOD,)),
    Answer("busy, then a picture", (status(429), GOOD), calls=2, waits=(0.25,)),
    Answer("down, then busy, then a picture", (status(503), status(429), GOOD), calls=3, waits=WAITS),
    Answer("busy for ever", (status(429),), RateLimited, 3, WAITS),
    Answer("down for ever", (status(503),), UpstreamError, 3, WAITS),
    Answer("one attempt only", (status(503),), UpstreamError, config=replace(QUICK, attempts=1)),
    Answer("busy for some seconds", (status(429, retry_after="7"), GOOD), calls=2, waits=(7.25,)),
    Answer("busy until a date", (status(429, retry_after="Sun, 22 Nov 2026 10:00:09 GMT"), GOOD), None, 2, (9.25,)),
    Answer("busy for longer than we have", (status(429, retry_after="60"), GOOD), RateLimited),
    Answer("busy for an absurd time", (status(503, retry_after="999999999999"),), UpstreamError),
    Answer("busy for a negative time", (status(429, retry_after="-9"), GOOD), calls=2, waits=(0.25,)),
    Answer("busy and no credit", (status(429, {"message": "x", "code": "insufficient_quota"}),), UpstreamError),
    Answer("a wrong size as 429", (status(429, {"message": "Invalid size 'x'."}),), InvalidRequest),
    Answer("a crash", (status(500), GOOD), UpstreamError),
    Answer("a bad gateway", (status(502), GOOD), UpstreamError),
    Answer("a crash, with leave to repeat", (status(500), GOOD), calls=2, waits=(0.25,), config=DARING),
    Answer("a bad gateway, with leave to repeat", (status(502),), UpstreamError, 3, WAITS, config=DARING),
    *(Answer(f"{code}, with leave to repeat", (status(code), GOOD), UpstreamTimeout, config=DARING) for code in (408, 504, 520, 524)),
    Answer("a broken reply, with leave to repeat", (httpx.Response(200, text="{"), GOOD), UpstreamBroken, config=DARING),
    Answer("a lost answer, with leave to repeat", (httpx.ReadError("x"), GOOD), UpstreamBroken, config=DARING),
    Answer("a late answer, with leave to repeat", (httpx.ReadTimeout("x"), GOOD), UpstreamTimeout, config=DARING),
    Answer("no connection, from any transport", (httpx.ConnectError("x"), httpx.ConnectTimeout("x"), GOOD), None, 3, WAITS),
    Answer("our key refused", (status(401),), UpstreamAuth),
    Answer("the caller's key refused", (status(401),), Unauthorized, config=PASS_THROUGH, key=CALLERS_KEY),
    Answer("a refusal", (status(400, {"message": "No.", "code": "moderation_blocked"}),), ModerationBlocked),
    Answer("an error inside a 200", (status(200, {"message": "overloaded", "code": 503}), GOOD), UpstreamError, config=DARING),
    Answer("an error as text inside a 200", (status(200, "boom"), GOOD), UpstreamError, config=DARING),
    Answer("a refusal inside a 200", (status(200, {"message": "x", "code": "content_filter"}),), ModerationBlocked),
    *(Answer(f"a redirect with {code}", (status(code, location="https://evil.invalid/"), GOOD), UpstreamBroken) for code in (301, 302, 303, 307, 308)),
    Answer("a redirect to nowhere", (status(307, location="https://[::1"),), UpstreamBroken),
    Answer("a redirect without an address", (status(302),), UpstreamBroken),
)  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
def test_answers(case: Answer) -> None:
    clock = Clock()
    router = respx.MockRouter(assert_all_mocked=True)
    route = router.post("https://upstream.test/v1/chat/completions")
    route.side_effect = [*case.answers, *[case.answers[-1]] * 3]

    async def run() -> Outcome:
        async with httpx.AsyncClient(transport=httpx.MockTransport(router.async_handler)) as client:
            asked = build(replace(case.config, base_url="https://upstream.test/v1/"), client, clock)
            return await collect(asked.ask(Question(SMALL, key=case.key)))

    outcome = asyncio.run(run())
    assert type(outcome.error) is (case.kind or type(None))
    assert route.call_count == case.calls
    assert clock.waits == pytest.approx(case.waits)
    assert (outcome.text == URL) == (case.kind is None)
    for call in route.calls:
        assert call.request.headers["authorization"] == f"Bearer {case.key or KEY}"
    assert not any(word in str(outcome.error and outcome.error.body) for word in ("upstream.test", "sk-", "evil"))
