"""Requests to an upstream that fails in every way there is: the outcome of each, and how many attempts it took."""

import asyncio
import gzip
import os
import socket
import threading
import time
import tracemalloc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import aiohttp
import httpx
import orjson
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app import loop_turns
from app.errors import (
    ApiError,
    InvalidRequest,
    ModerationBlocked,
    RateLimited,
    RequestTooLarge,
    RetrySafety,
    Unauthorized,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalidReply,
    UpstreamNeedsOperator,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.images.blob import Blob
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest
from app.protocol.dialects import DIALECTS
from app.protocol.image_request import ImagesRequest
from app.protocol.inline_images import placeholder_png
from app.protocol.json_stream import Base64String, ByteSource, StreamingJson
from app.protocol.parameters import Operation
from app.protocol.reply_accumulator import ReplyAccumulator
from app.upstream import response_body
from app.upstream.client import PendingReply, UpstreamClient, UpstreamRequest
from app.upstream.error_mapping import UpstreamFailure
from app.upstream.pool import PoolMember, UpstreamPool
from app.upstream.spec import DEFAULT_MODEL, UpstreamSpec
from app.upstream.transport import AiohttpTransport, ResponseStream, open_transport
from tests.support.faulty_upstream import FaultyUpstream, Script, SocketFault, run_faulty_upstream, run_server

KEY = "sk-limner-test-upstream"
CALLERS_KEY = "sk-limner-test-caller"
URL = "https://example.com/generated-image.png"
CAT = ImagesRequest(operation=Operation.GENERATION, prompt="a cat")
SMALL = ChatRequest(CAT)

PNG = placeholder_png(1)

REPLY = orjson.dumps(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": URL}, "finish_reason": "stop"}],
    }
)


def body_of(chat: ChatRequest) -> StreamingJson:
    """Return the body that the upstream gets: its spec names no other dialect and no other model."""
    return chat.body(DIALECTS[DEFAULT_MODEL], DEFAULT_MODEL)


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
    """Waiting for a retry ends at once, but the clock moves on as if it had not."""

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
        """The text of the last snapshot."""
        messages = self.replies[-1].messages if self.replies else ()
        return "".join(str(message["content"]) for message in messages)


@dataclass(frozen=True, slots=True)
class Config(UpstreamSpec):
    """The upstream's spec, and the settings of the pool."""

    attempts: int = 3
    ambiguous: bool = False


QUICK = Config(name="alone", base_url="", api_key=SecretStr(KEY), timeout=60, idle_timeout=30, connect_timeout=5)


def build(config: Config, transport: httpx.AsyncBaseTransport, clock: Clock | None = None) -> UpstreamPool:
    """Return a pool of one upstream. Pools of several are tested in test_pool.py."""
    clock = clock or Clock()
    alone = UpstreamClient(config, transport, monotonic=clock.read, now=lambda: 1_795_341_600.0)
    return UpstreamPool(
        [PoolMember(config, alone)],
        timeout=config.timeout,
        attempts=config.attempts,
        retry_ambiguous=config.ambiguous,
        sleep=clock.sleep,
        monotonic=clock.read,
        chance=lambda: 0.5,
    )


async def send(
    pool: UpstreamPool, request: UpstreamRequest, on_reply: Callable[[ChatReply], None] = lambda _: None
) -> Outcome:
    outcome = Outcome()

    async def take(name: str, reply: ChatReply) -> None:
        assert name == "alone"
        outcome.replies.append(reply)
        on_reply(reply)

    try:
        await pool.request(replace(request, on_reply=take), None)
    except ApiError as error:
        outcome.error = error
    return outcome


@asynccontextmanager
async def open_pool(config: Config, clock: Clock | None = None) -> AsyncGenerator[UpstreamPool, None]:
    pool = build(config, open_transport(), clock)
    try:
        yield pool
    finally:
        await pool.close()


def at(chaos: FaultyUpstream, config: Config = QUICK) -> Config:
    return replace(config, base_url=chaos.url)


def send_to_chaos(
    *scripts: Script, config: Config = QUICK, request: UpstreamRequest | None = None, times: int = 1
) -> tuple[Outcome, FaultyUpstream]:
    async def run() -> tuple[Outcome, FaultyUpstream]:
        async with run_faulty_upstream(*scripts) as chaos, open_pool(at(chaos, config)) as pool:
            for _ in range(times - 1):
                await send(pool, request or UpstreamRequest(SMALL))
            return await send(pool, request or UpstreamRequest(SMALL)), chaos

    return asyncio.run(run())


# What an upstream does to the connection.


@dataclass(frozen=True, slots=True)
class Fault:
    """`text` is the text of the last snapshot; `calls` is the number of requests that reached the upstream."""

    name: str
    script: Script
    kind: type[ApiError] | None = None
    text: str = ""
    calls: int = 1
    then: Script = ()
    config: Config = QUICK


OK: Script = (answer(REPLY),)
CUT: Script = (answer(REPLY)[:-9],)
HEAD: Script = (answer(b"", length=9),)
DRIP: Script = (answer(b"", length=99), *(step for _ in range(30) for step in (b"{", 0.02)))
GZIP = "content-encoding: gzip\r\n"
ZIPPED, BOMB = gzip.compress(REPLY), gzip.compress(bytes(50_000_000))
WHOLE_TEXT = f"Painting … {URL} done"
IN_PIECES = chunked(*(STREAM[at : at + 7] for at in range(0, len(STREAM), 7)))
HALF = STREAM[: STREAM.index(b"generated")]
FLOOD = b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 20_000 + b"\r\n"
RETRY = "retry-after: 0\r\n"
BUSY = answer(b"", "503 Busy", headers=RETRY)
ENDLESS = answer(b"x" * 100_000, "429 Slow", headers=RETRY, length=10**9)

IMPATIENT = replace(QUICK, timeout=0.15)
IDLE = replace(QUICK, idle_timeout=0.1)
BOTH = replace(QUICK, idle_timeout=0.1, timeout=0.2)
TINY = replace(QUICK, max_reply_bytes=200_000)

FAULTS = (
    Fault("a whole reply", OK, text=URL),
    Fault("no length: until it closes", (b"HTTP/1.1 200 OK\r\n\r\n" + REPLY, SocketFault.CLOSE), text=URL),
    Fault("a stream in small chunks", IN_PIECES, text=WHOLE_TEXT),
    Fault("a stream where JSON was asked for", (answer(STREAM),), text=WHOLE_TEXT),
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
    Fault(
        "a head, then silence: an image in the making",
        (*HEAD, 0.15, REPLY[:9]),
        UpstreamInvalidReply,
        REPLY[:9].decode(),
        config=IDLE,
    ),
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
    Fault("a stream reset after its last word", (*chunked(STREAM, end=False), SocketFault.RESET), text=WHOLE_TEXT),
    Fault("a body that is too long", (answer(b" " * 300_000),), UpstreamInvalidReply, config=TINY),
    Fault("a body without end", chunked(*[b" " * 50_000] * 9, end=False), UpstreamInvalidReply, config=TINY),
    Fault("gzip", (answer(ZIPPED, headers=GZIP),), text=URL),
    Fault("a gzip bomb", (answer(BOMB, headers=GZIP),), UpstreamInvalidReply, config=TINY),
    Fault("cut gzip", (answer(ZIPPED[:-9], headers=GZIP),), UpstreamInvalidReply),
    Fault("a label of compression on a plain reply", (answer(REPLY, headers="content-encoding: br\r\n"),), text=URL),
    Fault("a label that is a charset", (answer(REPLY, headers="content-encoding: utf-8\r\n"),), text=URL),
    Fault("gzip without a label", (answer(ZIPPED),), text=URL),
    Fault("an unknown compression", (answer(ZIPPED[3:], headers="content-encoding: br\r\n"),), UpstreamInvalidReply),
    Fault("HTML with status 200", (answer(b"<html>hello</html>"),), UpstreamInvalidReply, "hello"),
    Fault("JSON whose end is missing, behind the image", (answer(REPLY[:-4]),), text=REPLY[:-4].decode()),
    Fault(
        "JSON whose end is missing, within the image",
        (answer(REPLY[:110]),),
        UpstreamInvalidReply,
        REPLY[:110].decode(),
    ),
    Fault("nothing with status 200", (answer(b""),), UpstreamInvalidReply),
    Fault("nothing with status 204", (b"HTTP/1.1 204 No Content\r\n\r\n",), UpstreamInvalidReply),
    Fault(
        "an error without its body",
        (answer(b"", "503 Busy", headers=RETRY, length=9), SocketFault.CLOSE),
        None,
        URL,
        2,
        OK,
    ),
    Fault("an error with an endless body", (ENDLESS, SocketFault.HANG), None, URL, 2, OK),
    Fault("a reset on the second call", (answer(b"", "429 Slow"),), UpstreamInvalidReply, "", 2, (SocketFault.RESET,)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_faults_of_the_connection(fault: Fault) -> None:
    outcome, chaos = send_to_chaos(fault.script, fault.then or fault.script, config=fault.config)
    assert type(outcome.error) is (fault.kind or type(None))
    assert len(chaos.calls) == fault.calls
    assert outcome.text == fault.text
    if fault.kind:
        assert_final(outcome.error)
        assert not any(reply.complete and not reply.is_doubtful for reply in outcome.replies)
    else:
        assert outcome.replies[-1].complete


def test_the_log_of_a_reply_that_is_too_large_names_the_limit_to_raise() -> None:
    error = send_to_chaos((answer(b" " * 300_000),), config=TINY)[0].error
    assert isinstance(error, UpstreamInvalidReply)
    assert error.detail == "more than 200000 bytes: four times LIMNER_MAX_IMAGE_BYTES, in base64"


def test_an_error_beside_words_may_have_cost_something_whatever_it_says() -> None:
    """A wrong size alone costs nothing. Words beside it show that the model was at work."""
    alone = {"error": {"message": "Invalid size", "type": "invalid_request_error", "code": "invalid_value"}}
    beside = alone | {"choices": [{"message": {"content": "Painting …"}}]}
    safeties = []
    for document in (alone, beside):
        error = send_to_chaos((answer(orjson.dumps(document)),))[0].error
        assert isinstance(error, InvalidRequest)
        safeties.append(error.retry_safety)
    assert safeties == [RetrySafety.FUTILE, RetrySafety.UNSAFE]


AFTER_DONE = (*chunked(STREAM, end=False), *(step for _ in range(3) for step in (chunked(delta("more"))[1], 0.01)))


@pytest.mark.parametrize("end", [SocketFault.HANG, SocketFault.RESET, SocketFault.CLOSE], ids=lambda end: end.name)
@pytest.mark.parametrize("script", [AFTER_DONE, AFTER_DONE[:5]], ids=["more events", "silence"])
def test_a_stream_ends_at_its_last_mark_whatever_follows(script: Script, end: SocketFault) -> None:
    outcome, _ = send_to_chaos((*script, end))
    assert outcome.error is None
    assert outcome.text == WHOLE_TEXT


FLOOD_OF_TEXT = orjson.dumps({"choices": [{"message": {"content": "fox " * 900_000 + URL}, "finish_reason": "stop"}]})
FLOOD_OF_EVENTS = b"".join(delta("fox " * 90) for _ in range(9_000)) + STREAM


@pytest.mark.parametrize("body", [FLOOD_OF_TEXT, FLOOD_OF_EVENTS], ids=["JSON", "events"])
def test_others_have_their_turns_while_a_long_reply_is_read(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of the event loop are counted, not seconds: a busy machine does not disturb that."""
    monkeypatch.setattr(loop_turns, "MAX_SECONDS", -1.0)

    async def run() -> tuple[Outcome, int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with (
            run_faulty_upstream((answer(gzip.compress(body), headers=GZIP),)) as chaos,
            open_pool(at(chaos)) as pool,
        ):
            task = asyncio.create_task(others())
            outcome = await send(pool, UpstreamRequest(SMALL))
            task.cancel()
            return outcome, turns

    outcome, turns = asyncio.run(run())
    assert outcome.text.endswith((URL, WHOLE_TEXT))
    assert turns > len(body) / 20_000


@pytest.mark.parametrize(("is_waited_for", "pauses"), [(True, 0), (False, 9)], ids=["waited for", "there already"])
def test_a_reply_is_not_paused_where_its_chunks_are_waited_for(
    is_waited_for: bool, pauses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their turns then, and a pause would hold a chunk for longer."""
    chunks = [b" " * 16] * 17 + [orjson.dumps({"choices": [{"message": {"content": URL}}]})]
    looks = 0
    paused = list[float]()

    def clock() -> float:
        """Let a chunk take 9 ms."""
        nonlocal looks
        looks += 1
        return looks * 0.009

    async def noted_sleep(seconds: float) -> None:
        paused.append(seconds)
        await asyncio.sleep(0)

    class Stream(ResponseStream):
        def arrived(self) -> bytes:
            return b"" if is_waited_for or not chunks else chunks.pop(0)

        async def __anext__(self) -> bytes:
            if not chunks:
                raise StopAsyncIteration
            return chunks.pop(0)

        async def aclose(self) -> None:
            pass

    async def run() -> str:
        async with open_transport() as transport:
            spec = replace(QUICK, base_url="https://upstream.example/v1")
            replies: list[ChatReply] = []

            async def take(_: str, reply: ChatReply) -> None:
                replies.append(reply)

            pending = PendingReply(httpx.Response(200, stream=Stream(Mock())), 0.0)
            # Not `asyncio.sleep` itself: threads of servers in other tests sleep too.
            monkeypatch.setattr(loop_turns, "asyncio", SimpleNamespace(sleep=noted_sleep))
            request = UpstreamRequest(SMALL, on_reply=take)
            await UpstreamClient(spec, transport).read_reply(
                pending, request, time.monotonic(), AttemptRecord("a", "m")
            )
            return str(replies[-1].messages[0]["content"])

    monkeypatch.setattr(loop_turns, "time", SimpleNamespace(perf_counter=clock))
    assert asyncio.run(run()) == URL
    assert paused == [0] * pauses


LONG_EVENT = b"data: " + orjson.dumps({"choices": [], **{f"key {number}": number for number in range(20_000)}})
LONG_EVENTS: dict[str, Script] = {
    "whole": chunked(LONG_EVENT, b"\n\n", STREAM),
    "without its end": chunked(LONG_EVENT),
    "in lines": chunked(LONG_EVENT.replace(b",", b",\ndata: "), b"\n\n", STREAM),
    "broken off": (*chunked(LONG_EVENT, b"\n\n" + LONG_EVENT, end=False), SocketFault.CLOSE),
}


@pytest.mark.parametrize("script", LONG_EVENTS.values(), ids=LONG_EVENTS)
def test_a_long_event_is_parsed_in_a_thread(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[bool, list[int]] = {False: [], True: []}
    add = ReplyAccumulator.add

    def watched_add(accumulator: ReplyAccumulator, document: Mapping[str, Any], size: int = 0) -> bool:
        sizes[threading.current_thread() is threading.main_thread()].append(size)
        return add(accumulator, document, size)

    monkeypatch.setattr(ReplyAccumulator, "add", watched_add)
    send_to_chaos(script)
    assert max(sizes[False]) > 100_000
    assert max(sizes[True], default=0) < 100_000


@pytest.mark.parametrize("length", [10, 100_000])
def test_an_error_with_a_long_text_is_one(length: int) -> None:
    body = orjson.dumps({"error": {"message": "overloaded " + "x" * length, "code": 503}})
    outcome, chaos = send_to_chaos((answer(body),), OK)
    assert outcome.error is not None or outcome.text == URL
    assert len(chaos.calls) <= 2


def test_an_endless_reply_is_disconnected() -> None:
    outcome, _ = send_to_chaos((*chunked(*[b": wait\n\n" * 20_000] * 40, end=False), SocketFault.HANG))
    assert isinstance(outcome.error, UpstreamInvalidReply)
    assert "larger" in outcome.error.message


def assert_final(error: ApiError | None) -> None:
    """Check that the message for the client names nothing internal, and that the client is asked not to retry."""
    assert error is not None
    assert not any(word in error.message for word in ("127.0.0.1", "upstream.test", "evil", "sk-"))
    if not isinstance(error, RateLimited):
        assert error.headers["x-should-retry"] == "false"


# What keeps a request from reaching an upstream.


def send_to_address(base_url: str, *, config: Config = QUICK) -> tuple[Outcome, Clock]:
    clock = Clock()

    async def run() -> Outcome:
        async with open_pool(replace(config, base_url=base_url), clock) as pool:
            return await send(pool, UpstreamRequest(SMALL))

    return asyncio.run(run()), clock


def assert_unreachable(outcome: Outcome) -> None:
    assert isinstance(outcome.error, UpstreamUnreachable)
    assert_final(outcome.error)
    assert outcome.replies == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection_is_retried(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    outcome, clock = send_to_address(f"{scheme}://127.0.0.1:{port}/v1")
    assert_unreachable(outcome)
    assert clock.waits == pytest.approx([0.25, 0.5])


def test_a_name_that_does_not_exist_is_retried() -> None:
    outcome, clock = send_to_address("https://upstream.invalid/v1")
    assert_unreachable(outcome)
    assert clock.waits == pytest.approx([0.25, 0.5])


def test_a_connection_that_takes_too_long_is_retried() -> None:
    """A full backlog answers no SYN."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with socket.create_connection(deaf.getsockname()):
            address = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
            outcome, clock = send_to_address(address, config=replace(QUICK, connect_timeout=0.05))
    assert_unreachable(outcome)
    assert clock.waits == pytest.approx([0.25, 0.5])


def test_a_server_that_speaks_no_tls_is_retried() -> None:
    connections = 0

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def run() -> Outcome:
        async with run_server(refuse, "https") as url, open_pool(replace(QUICK, base_url=url)) as pool:
            return await send(pool, UpstreamRequest(SMALL))

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
    config: Config = QUICK


def status(code: int, error: Mapping[str, Any] | str | None = None, **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if error is None:
        return httpx.Response(code, headers=fields, html="<html>no</html>")
    return httpx.Response(code, headers=fields, json={"error": error})


def broken(reply: str) -> httpx.Response:
    return httpx.Response(200, text=reply)


GOOD = httpx.Response(200, content=REPLY)
ONCE, TWICE = (0.25,), (0.25, 0.5)
PASS_THROUGH = replace(QUICK, api_key=None)
AMBIGUOUS = replace(QUICK, ambiguous=True)
SINGLE = replace(QUICK, attempts=1)
SOON = status(429, retry_after="7")
AT_TEN = status(429, retry_after="Sun, 22 Nov 2026 10:00:09 GMT")
NO_ROUTE = (httpx.ConnectError("x"), httpx.ConnectTimeout("x"), GOOD)
NO_CREDIT = status(429, {"message": "x", "code": "insufficient_quota"})
WRONG_SIZE = status(429, {"message": "Invalid size 'x'."})
BLOCKED = {"message": "No.", "code": "moderation_blocked"}
DOWN = status(503, {"message": "The server is overloaded."})
OVERLOADED = status(200, {"message": "upstream overloaded", "code": 503})
LATE = broken(': keep-alive\n\ndata: {"error": {"message": "overloaded", "code": 503}}\n\n')
CRASHED = status(200, {"message": "crash", "code": 500})
AWAY = "https://evil.invalid/v1/chat/completions"

ANSWERS = (
    Answer("an image", (GOOD,)),
    Answer("busy, then an image", (status(429), GOOD), None, ONCE),
    Answer("down, then busy, then an image", (DOWN, status(429), GOOD), None, TWICE),
    Answer("busy for ever", (status(429),), RateLimited, TWICE),
    Answer("down for ever", (DOWN,), UpstreamError, TWICE),
    Answer("one attempt only", (DOWN, GOOD), UpstreamError, config=SINGLE),
    Answer("down, says a page", (status(503), GOOD), UpstreamError),
    Answer("down, says a page, ambiguous failures are retried", (status(503), GOOD), None, ONCE, AMBIGUOUS),
    Answer("a middle box that lost its patience", (status(503, "upstream connect error"), GOOD), UpstreamError),
    Answer("busy for some seconds", (SOON, GOOD), None, (7.25,)),
    Answer("busy until a date", (AT_TEN, GOOD), None, (9.25,)),
    Answer("busy for longer than the time limit", (status(429, retry_after="60"), GOOD), RateLimited),
    Answer("busy for an absurd time", (status(503, retry_after="999999999999"), GOOD), UpstreamError),
    Answer("busy for a negative time", (status(429, retry_after="-9"), GOOD), None, ONCE),
    Answer("busy and no credit", (NO_CREDIT, GOOD), UpstreamNeedsOperator),
    Answer("a wrong size as 429", (WRONG_SIZE, GOOD), InvalidRequest),
    Answer("a crash", (status(500), GOOD), UpstreamError),
    Answer("a bad gateway", (status(502), GOOD), UpstreamError),
    Answer("a crash, ambiguous failures are retried", (status(500), GOOD), None, ONCE, AMBIGUOUS),
    Answer("bad gateways, ambiguous failures are retried", (status(502),), UpstreamError, TWICE, AMBIGUOUS),
    Answer("408, ambiguous failures are retried", (status(408), GOOD), UpstreamTimeout, config=AMBIGUOUS),
    Answer("504, ambiguous failures are retried", (status(504), GOOD), UpstreamTimeout, config=AMBIGUOUS),
    Answer("520, ambiguous failures are retried", (status(520), GOOD), UpstreamTimeout, config=AMBIGUOUS),
    Answer("524, ambiguous failures are retried", (status(524), GOOD), UpstreamTimeout, config=AMBIGUOUS),
    Answer(
        "a broken reply, ambiguous failures are retried", (broken("{"), GOOD), UpstreamInvalidReply, config=AMBIGUOUS
    ),
    Answer(
        "a lost answer, ambiguous failures are retried",
        (httpx.ReadError("x"), GOOD),
        UpstreamInvalidReply,
        config=AMBIGUOUS,
    ),
    Answer(
        "a late answer, ambiguous failures are retried",
        (httpx.ReadTimeout("x"), GOOD),
        UpstreamInvalidReply,
        config=AMBIGUOUS,
    ),
    Answer("no connection, reported by another transport", NO_ROUTE, None, TWICE),
    Answer("our key refused", (status(401), GOOD), UpstreamAuth),
    Answer("the caller's key refused", (status(401), GOOD), Unauthorized, config=PASS_THROUGH),
    Answer("a refusal", (status(400, BLOCKED), GOOD), ModerationBlocked),
    Answer("too large", (status(413), GOOD), RequestTooLarge),
    Answer("an error inside a 200", (OVERLOADED, GOOD), None, ONCE),
    Answer("an error inside a 200, behind a keep-alive", (LATE, GOOD), UpstreamError, config=AMBIGUOUS),
    Answer("a crash inside a 200, ambiguous failures are retried", (CRASHED, GOOD), UpstreamError, config=AMBIGUOUS),
    Answer(
        "no credit inside a 200",
        (status(200, {"message": "x", "code": "insufficient_quota"}), GOOD),
        UpstreamNeedsOperator,
    ),
    Answer("an error as text inside a 200", (status(200, "boom"), GOOD), InvalidRequest, config=AMBIGUOUS),
    Answer("a refusal inside a 200", (status(200, BLOCKED), GOOD), ModerationBlocked),
    Answer("a redirect for good", (status(301, location=AWAY), GOOD), UpstreamNeedsOperator),
    Answer("a redirect that would send the body again", (status(307, location=AWAY), GOOD), UpstreamNeedsOperator),
    Answer("a redirect to nowhere", (status(308, location="https://[::1"), GOOD), UpstreamNeedsOperator),
    Answer("a redirect without an address", (status(302), GOOD), UpstreamNeedsOperator),
)


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
def test_an_answer_becomes_a_reply_or_an_error(case: Answer) -> None:
    clock = Clock()
    router = respx.MockRouter(assert_all_mocked=True)
    route = router.post("https://upstream.test/v1/chat/completions")
    route.side_effect = [*case.answers, *[case.answers[-1]] * 3]

    async def run() -> Outcome:
        async with httpx.MockTransport(router.async_handler) as transport:
            pool = build(replace(case.config, base_url="https://upstream.test/v1/"), transport, clock)
            return await send(pool, UpstreamRequest(SMALL, api_key=CALLERS_KEY))

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
        pytest.param(status(401), "see LIMNER_UPSTREAM_API_KEY: upstream answered 401", id="a refused key"),
        pytest.param(
            status(200, {"message": "x", "code": "insufficient_quota"}),
            "see LIMNER_UPSTREAM_API_KEY: upstream answered 200",
            id="an account without credit, inside a 200",
        ),
        pytest.param(status(404), "upstream answered 404", id="a wrong address"),
        pytest.param(status(499), "upstream answered 499", id="a status that is about no setting"),
    ],
)
def test_the_log_names_the_setting_to_look_at(answer: httpx.Response, detail: str) -> None:
    origin = {"api_key": "LIMNER_UPSTREAM_API_KEY"}

    async def run() -> Outcome:
        async with httpx.MockTransport(lambda _: answer) as transport:
            pool = build(replace(QUICK, base_url="https://upstream.test/v1/", origin=origin), transport)
            return await send(pool, UpstreamRequest(SMALL))

    error = asyncio.run(run()).error
    assert error is not None
    assert (error.detail or "").startswith(detail)
    assert "LIMNER" not in error.message


def test_the_retry_budget_is_shared_by_all_requests() -> None:
    """The budget is ten and grows by one with every five requests, but the first request finds it full."""

    async def run() -> int:
        async with run_faulty_upstream((BUSY,)) as chaos, open_pool(at(chaos)) as pool:
            for _ in range(40):
                await send(pool, UpstreamRequest(SMALL))
            return len(chaos.calls)

    retries = asyncio.run(run()) - 40
    assert retries == 10 + 39 // 5


def test_one_deadline_holds_for_all_attempts() -> None:
    """The pause before the retry takes a quarter of a second, the wait for its answer what is left."""
    config = replace(QUICK, timeout=0.4)
    outcome, chaos = send_to_chaos((BUSY,), (SocketFault.HANG,), config=config)
    assert isinstance(outcome.error, UpstreamTimeout)
    assert len(chaos.calls) == 2


@dataclass(frozen=True, slots=True)
class Late:
    """`work` is the time of the upstream until it answers, by the client's clock; `sending` that of the body."""

    name: str
    answer: httpx.Response
    work: float
    calls: int
    sending: float = 0.0


LATES = (
    Late("an API at once", DOWN, 1.9, 2),
    Late("an API after 2 s", DOWN, 2.0, 1),
    Late("a body that took long to send does not count", DOWN, 1.9, 2, sending=30),
    Late("a slow answer to a body that took long to send", DOWN, 2.0, 1, sending=30),
    Late("an error inside a 200 at once", OVERLOADED, 1.9, 2),
    Late("an error inside a 200 after 2 s", OVERLOADED, 2.0, 1),
    Late("too many requests, whenever", status(429), 60.0, 2),
)


@pytest.mark.parametrize("late", LATES, ids=lambda late: late.name)
def test_a_503_is_repeated_only_if_it_came_fast(late: Late) -> None:
    now, calls, elapsed = 1000.0, 0, []

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal now, calls
            calls += 1
            now += late.sending
            await request.aread()
            now += late.work
            return late.answer if calls == 1 else GOOD

    class Timed(UpstreamClient):
        async def send(
            self, request: UpstreamRequest, body: StreamingJson, started_at: float
        ) -> PendingReply | UpstreamFailure:
            outcome = await super().send(request, body, started_at)
            if isinstance(outcome, UpstreamFailure):
                elapsed.append(outcome.elapsed)
            return outcome

    async def run() -> None:
        config = replace(QUICK, base_url="https://upstream.test/v1")
        async with Slow() as transport:
            client = Timed(config, transport, monotonic=lambda: now)
            pool = UpstreamPool([PoolMember(config, client)], sleep=Clock().sleep, monotonic=lambda: now)
            with Blob() as image:
                image.write(bytes(100_000))
                await send(pool, UpstreamRequest(chat_with(image) if late.sending else SMALL))

    asyncio.run(run())
    assert calls == late.calls
    assert elapsed == pytest.approx([late.work] if late.answer.status_code >= 400 else [])


@pytest.mark.parametrize("body", ["", "Your key sk-limner-test-upstream is odd"])
def test_a_slow_error_is_not_waited_for(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_body, "_ERROR_BODY_TIMEOUT", 0.05)
    slow = (answer(body.encode(), "400 Bad Request", length=999), SocketFault.HANG)
    outcome, _ = send_to_chaos(slow)
    assert isinstance(outcome.error, InvalidRequest)
    assert outcome.error.message == (body.replace(KEY, "[key]") or "The upstream refused the request (status 400).")


def test_keys_stay_out_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    busy = answer(f"busy, Bearer {KEY}!".encode(), "503 Busy", headers=RETRY)
    send_to_chaos((busy,), OK)
    printed = capsys.readouterr()
    assert "upstream_retry" in printed.out + printed.err
    assert KEY not in printed.out + printed.err
    assert CALLERS_KEY not in repr(UpstreamRequest(SMALL, api_key=CALLERS_KEY))


# What goes over the wire.


@dataclass(frozen=True, slots=True)
class Sent:
    """`expected`: the headers, besides those in `PLAIN` and the content length."""

    name: str
    request: UpstreamRequest
    expected: dict[str, str]
    config: Config = QUICK


PLAIN = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
PLAIN |= {"user-agent": "limner"}
SENT = (
    Sent("the upstream key, whoever the caller is", UpstreamRequest(SMALL, api_key=CALLERS_KEY), {"authorization": f"Bearer {KEY}"}),
    Sent("the caller's key", UpstreamRequest(SMALL, api_key="ключ"), {"authorization": "Bearer ключ"}, PASS_THROUGH),
    Sent("no key at all", UpstreamRequest(SMALL), {}, PASS_THROUGH),
    Sent(
        "a stream, with an id",
        UpstreamRequest(ChatRequest(CAT, stream=True), headers={"x-request-id": "req_1"}),
        {"accept": "text/event-stream, application/json", "x-request-id": "req_1"},
        PASS_THROUGH,
    ),
)  # fmt: skip


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.name)
def test_nothing_else_is_sent(sent: Sent) -> None:
    _, chaos = send_to_chaos(OK, config=sent.config, request=sent.request)
    head, _, body = chaos.calls[0].partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    expected = PLAIN | sent.expected | {"content-length": str(body_of(sent.request.chat).length)}
    assert request == "POST /v1/chat/completions HTTP/1.1"
    assert headers.pop("host") in chaos.url
    assert headers == {name: value.lower() for name, value in expected.items()}
    assert body == b"".join(body_of(sent.request.chat).chunks())
    assert orjson.loads(body)["stream"] is sent.request.chat.stream


def chat_with(image: ByteSource) -> ChatRequest:
    return ChatRequest(CAT, (Base64String(image, "data:image/png;base64,"),))


def test_a_large_body_is_sent_whole_on_each_attempt() -> None:
    with Blob() as image:
        image.write(os.urandom(700_001))
        chat = chat_with(image)
        _, chaos = send_to_chaos((BUSY,), OK, request=UpstreamRequest(chat))
        body = body_of(chat)
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

    async def run(chat: ChatRequest) -> int:
        async with run_server(swallow) as url, open_pool(replace(QUICK, base_url=url)) as pool:
            tracemalloc.start()
            outcome = await send(pool, UpstreamRequest(chat))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert outcome.text == URL
        return peak

    with Blob() as image:
        image.write(os.urandom(20 * 1024 * 1024))
        assert asyncio.run(run(chat_with(image))) < 3 * 1024 * 1024


def test_a_body_that_cannot_be_read_is_no_success() -> None:
    class Gone:
        size = 300_000

        def chunks(self, size: int) -> Iterator[bytes]:
            yield bytes(size)
            raise OSError(5, "Input/output error")

    outcome, chaos = send_to_chaos(OK, request=UpstreamRequest(chat_with(Gone())))
    assert isinstance(outcome.error, UpstreamInvalidReply)
    assert_final(outcome.error)
    assert chaos.connections == 1


# Connections.


def test_a_connection_is_used_again() -> None:
    outcome, chaos = send_to_chaos(OK, times=3)
    assert outcome.text == URL
    assert (chaos.connections, len(chaos.calls)) == (1, 3)


def test_a_connection_is_used_again_after_a_stream() -> None:
    outcome, chaos = send_to_chaos((*chunked(STREAM, end=False), 0.01, b"0\r\n\r\n"), times=3)
    assert outcome.text == WHOLE_TEXT
    assert (chaos.connections, len(chaos.calls)) == (1, 3)


def test_a_used_connection_that_was_closed_is_replaced() -> None:
    async def run() -> tuple[Outcome, FaultyUpstream]:
        async with run_faulty_upstream((*OK, SocketFault.CLOSE), OK) as chaos, open_pool(at(chaos)) as pool:
            await send(pool, UpstreamRequest(SMALL))
            await asyncio.gather(*chaos.handlers)
            for _ in range(9):
                await asyncio.sleep(0)  # until the close is noticed
            return await send(pool, UpstreamRequest(SMALL)), chaos

    outcome, chaos = asyncio.run(run())
    assert outcome.text == URL
    assert (chaos.connections, len(chaos.calls)) == (2, 2)


def test_a_request_on_a_used_connection_that_breaks_is_not_sent_again() -> None:
    """Some HTTP clients retry by themselves then, although the upstream may have read the request."""
    outcome, chaos = send_to_chaos(OK, (SocketFault.RESET,), OK, times=2)
    assert isinstance(outcome.error, UpstreamInvalidReply)
    assert len(chaos.calls) == 2


def test_cookies_are_not_kept() -> None:
    _, chaos = send_to_chaos((answer(REPLY, headers="set-cookie: a=b; path=/\r\n"),), times=2)
    assert b"cookie" not in chaos.calls[1].lower()


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    outcome, chaos = send_to_chaos(OK)
    assert outcome.text == URL
    assert len(chaos.calls) == 1


def test_more_than_a_hundred_requests_wait_at_once() -> None:
    """The server answers none of them before all have come: with a limit of 100 connections this would never end."""
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
        async with run_server(gather_all) as url, open_pool(replace(QUICK, base_url=url)) as pool:
            return await asyncio.gather(*(send(pool, UpstreamRequest(SMALL)) for _ in range(230)))

    assert {outcome.text for outcome in asyncio.run(run())} == {URL}


def test_a_request_is_not_held_while_its_upstream_works() -> None:
    """Thousands wait at the same time."""

    async def run() -> bool:
        async with run_faulty_upstream((SocketFault.HANG,)) as chaos:
            transport = open_transport()
            options = {"timeout": {"connect": 5, "pool": 5}}
            request = httpx.Request("POST", chaos.url, content=b"a cat", extensions=options)
            is_held, sending = weakref.ref(request), asyncio.create_task(transport.handle_async_request(request))
            del request
            await chaos.was_called.wait()
            try:
                return is_held() is not None
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                await transport.aclose()

    assert not asyncio.run(run())


def test_requests_share_the_names_of_their_headers() -> None:
    """Else aiohttp makes names of its own type for each of them."""
    transport = AiohttpTransport(context=True)
    first, second = (
        transport._options(httpx.Request("POST", "http://h", headers={"x-request-id": value})) for value in ("a", "b")
    )
    assert [*map(id, first["headers"])] == [*map(id, second["headers"])]
    assert {type(name) for name in first["headers"]} == {type(aiohttp.hdrs.ACCEPT)}
    assert (first["headers"]["x-request-id"], second["headers"]["x-request-id"]) == ("a", "b")


@pytest.mark.parametrize("script", [(SocketFault.HANG,), (answer(b"", length=9), SocketFault.HANG)])
def test_a_request_that_is_cancelled_leaves_nothing_behind(script: Script) -> None:
    async def run() -> None:
        async with run_faulty_upstream(script) as chaos, open_pool(at(chaos)) as pool:
            sending = asyncio.create_task(send(pool, UpstreamRequest(SMALL)))
            await chaos.was_called.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await chaos.client_disconnected.wait()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_the_connection_of_a_reply_that_is_not_read_to_its_end_is_closed() -> None:
    async def run() -> None:
        script: Script = (*chunked(delta(URL), end=False), SocketFault.HANG)
        async with run_faulty_upstream(script) as chaos, open_pool(at(chaos)) as pool:
            first = asyncio.get_running_loop().create_future()
            reading = asyncio.create_task(send(pool, UpstreamRequest(SMALL), first.set_result))
            assert not (await first).complete
            reading.cancel()
            await chaos.client_disconnected.wait()

    asyncio.run(run())


def test_certificates_are_checked() -> None:
    async def run() -> object:
        async with open_transport() as transport:
            assert isinstance(transport, AiohttpTransport)
            async with transport.new_session() as session:
                assert isinstance(session.connector, aiohttp.TCPConnector)
                return session.connector._ssl

    # Which stands for a context that checks certificates and names, as `test_connections.py` sees.
    assert asyncio.run(run()) is True


# Streams.


def read_stream(*chunks: bytes) -> Outcome:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def run() -> Outcome:
        async with httpx.MockTransport(lambda _: httpx.Response(200, content=stream())) as transport:
            pool = build(replace(QUICK, base_url="https://upstream.test/v1"), transport)
            return await send(pool, UpstreamRequest(ChatRequest(CAT, stream=True)))

    return asyncio.run(run())


def test_a_reply_of_known_length_needs_two_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Mock(wraps=asyncio.timeout)
    monkeypatch.setattr(asyncio, "timeout", timers)

    async def run() -> Outcome:
        async with httpx.MockTransport(lambda _: httpx.Response(200, content=REPLY)) as transport:
            pool = build(replace(QUICK, base_url="https://upstream.test/v1"), transport)
            return await send(pool, UpstreamRequest(ChatRequest(CAT)))

    outcome = asyncio.run(run())
    assert outcome.replies[-1].complete
    # One until the head has come, and one until the body has.
    assert timers.call_count == 2


def test_a_reply_that_comes_with_its_head_needs_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Mock(wraps=asyncio.timeout)

    async def run() -> Outcome:
        async with run_faulty_upstream((answer(REPLY),)) as chaos, open_pool(at(chaos)) as pool:
            monkeypatch.setattr(asyncio, "timeout", timers)
            return await send(pool, UpstreamRequest(SMALL))

    assert asyncio.run(run()).text == URL
    assert timers.call_count == 1


@pytest.mark.parametrize(
    "length",
    [
        pytest.param("", id="an empty text"),
        pytest.param("x", id="a word"),
        pytest.param("-1", id="a negative number"),
        pytest.param("9" * 5000, id="more digits than Python reads"),
    ],
)
def test_a_length_that_is_none_is_left_to_the_connection(length: str) -> None:
    async def run() -> Outcome:
        answer = httpx.Response(200, headers={"content-length": length}, stream=httpx.ByteStream(REPLY))
        async with httpx.MockTransport(lambda _: answer) as transport:
            pool = build(replace(QUICK, base_url="https://upstream.test/v1"), transport)
            return await send(pool, UpstreamRequest(ChatRequest(CAT)))

    assert asyncio.run(run()).replies[-1].complete


def test_snapshots_come_when_an_image_may_have() -> None:
    progress = [delta(f"{percent} % ") for percent in range(100)]
    outcome = read_stream(*progress, delta(URL), *progress, delta("end", finish_reason="stop"))
    complete = [reply.complete for reply in outcome.replies]
    assert sum(complete) == complete[-1] == 1
    assert len(outcome.replies) < 40
    assert any(str(reply.messages[0]["content"]).endswith(URL) for reply in outcome.replies)
    # The text of each may be shown to clients, so each names what must not be.
    assert {reply.secrets for reply in outcome.replies} == {(KEY,)}


@dataclass(frozen=True, slots=True)
class OddBody:
    """A body of 200 that is no JSON. `is_good`: it is the upstream's reply; `counts`: the upstream counts as failing."""

    name: str
    kind: str
    body: bytes
    text: str = ""
    is_good: bool = True
    counts: bool = False


ODD_BODIES = [
    OddBody("a sentence with a link to an image", "text/plain", f"Done: {URL}".encode(), f"Done: {URL}"),
    OddBody("an image in a fragment of HTML", "text/html", b"<img src='%s'>" % URL.encode(), f"<img src='{URL}'>"),
    OddBody(
        "a model that declines",
        "text/plain",
        b"I'm sorry, I can't help with that.",
        "I'm sorry, I can't help with that.",
    ),
    OddBody("JSON in UTF-16", "application/json", REPLY.decode().encode("utf-16"), URL),
    OddBody(
        "JSON in a charset", "application/json; charset=gbk", REPLY.replace(b"https", b"\xba\xfc https"), f"狐 {URL}"
    ),
    OddBody("a sentence with an address", "text/plain", b"See https://e.example/x7", "See https://e.example/x7", False),
    OddBody("a sentence", "text/plain", b"upstream connect error", "upstream connect error", False, True),
    OddBody("a page with an icon", "text/html", b"<title>502</title><img src='%s'>" % URL.encode(), "", False, True),
    OddBody("an image whose end is missing", "image/png", b"\x89PNG\r\n\x1a\n" + bytes(90), "", False, True),
]


@pytest.mark.parametrize("case", ODD_BODIES, ids=lambda case: case.name)
def test_a_body_that_is_no_chat_is_judged_by_the_images_in_it(case: OddBody) -> None:
    outcome, _ = send_to_chaos((answer(case.body, kind=case.kind),))
    assert (outcome.error is None, outcome.text) == (case.is_good, case.text)
    if outcome.error is not None:
        assert isinstance(outcome.error, UpstreamInvalidReply)
        assert outcome.error.counts_against_upstream is case.counts


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/json"])
def test_a_body_that_is_an_image_goes_into_a_blob_in_pieces(kind: str) -> None:
    piece, count = os.urandom(64 * 1024), 128
    start = PNG[:-12] + (count * len(piece)).to_bytes(4, "big") + b"tEXt"
    size = len(start) + count * len(piece) + 4 + 12
    script = (answer(start, kind=kind, length=size), *[piece] * count, bytes(4) + PNG[-12:])

    async def run(blob: Blob) -> tuple[Outcome, int]:
        async with run_faulty_upstream(script) as chaos, open_pool(at(chaos)) as pool:
            tracemalloc.start()
            outcome = await send(pool, UpstreamRequest(SMALL, new_blob=lambda: blob))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return outcome, peak

    with Blob() as blob:
        outcome, peak = asyncio.run(run(blob))
        assert outcome.error is None
        assert list(outcome.replies[-1].spooled_images.values()) == [blob]
        assert (blob.size, blob.read_at(size - 12, 12)) == (size, PNG[-12:])
        assert peak < 3 * 1024 * 1024


@given(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
def test_a_stream_cut_anywhere_reads_the_same(cuts: list[int]) -> None:
    edges = pairwise([0, *cuts, len(STREAM)])
    outcome = read_stream(*(STREAM[start:end] for start, end in edges))
    assert outcome.error is None
    assert (outcome.text, outcome.replies[-1].complete) == (WHOLE_TEXT, True)


@pytest.mark.parametrize("end", range(len(STREAM)))
def test_a_stream_that_stops_anywhere_is_a_success_or_an_upstream_error(end: int) -> None:
    outcome = read_stream(STREAM[:end])
    assert outcome.error is None or isinstance(outcome.error, UpstreamError)


def test_an_error_in_a_stream_is_raised_after_the_reply_so_far() -> None:
    outcome = read_stream(delta(URL), b'data: {"error":{"message":"x","code":"server_is_overloaded"}}\n\n')
    assert outcome.text == URL
    assert isinstance(outcome.error, UpstreamError)
    assert outcome.error.code == "upstream_overloaded"


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
NO_QUOTA = b'data: {"error":{"message":"x","code":"insufficient_quota"}}\n\n'


@dataclass(frozen=True, slots=True)
class ErrorIn200:
    """What an upstream sends after a status of 200; `is_free`: the error alone is reported, so a failover is possible."""

    name: str
    chunks: tuple[bytes, ...]
    is_free: bool


ERRORS_IN_200 = [
    ErrorIn200("an error as the first event", (NO_QUOTA,), True),
    ErrorIn200("an error after signs of life", (b": PING\n\n", b"data: working\n\n", NO_QUOTA), True),
    ErrorIn200("an error after a role", (ROLE, NO_QUOTA), True),
    ErrorIn200("an error and an end", (NO_QUOTA, b"data: [DONE]\n\n"), True),
    ErrorIn200("an error as JSON", (NO_QUOTA.removeprefix(b"data: "),), True),
    ErrorIn200("an error in a list", (b'[{"error":{"code":401,"message":"API key not valid"}}]',), True),
    ErrorIn200("a relay's error", (b'{"code":"insufficient_user_quota","msg":"x","request_id":"1"}',), True),
    ErrorIn200(
        "an error that only its event calls an error",
        (b'event: error\ndata: {"message":"Insufficient balance"}\n\n',),
        True,
    ),
    ErrorIn200("an error as a status in JSON", (b'{"status":402,"message":"Payment required"}',), True),
    ErrorIn200("an error after a word", (delta("P"), NO_QUOTA), False),
    ErrorIn200("an error after an event that was cut", (b'data: {"choices":[{"delta"\n\n', NO_QUOTA), False),
    ErrorIn200(
        "an error beside an image", (b'{"error":{"code":"insufficient_quota"},"url":"https://h/a.png"}',), False
    ),
    ErrorIn200("an error beside tokens", (b'{"error":{"code":401},"usage":{"completion_tokens":9}}',), False),
]


@pytest.mark.parametrize("case", ERRORS_IN_200, ids=lambda case: case.name)
def test_an_error_inside_a_200_is_a_failure_while_no_work_may_have_been_done(case: ErrorIn200) -> None:
    outcome = read_stream(*case.chunks)
    assert isinstance(outcome.error, UpstreamError)
    assert bool(outcome.replies) is not case.is_free
