"""Send one request to one upstream and read its reply. The only file that talks to upstreams."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import httpx
import orjson

from app.errors import ApiError, RetrySafety, UpstreamError, UpstreamInvalidReply, UpstreamTimeout, UpstreamUnreachable
from app.extraction.forms import find_images
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.chat_reply import ChatReply, ReplyParser
from app.protocol.chat_request import ChatQuestion, client_fields
from app.protocol.inline_images import ByteSink
from app.protocol.json_stream import StreamingJson
from app.protocol.pace import Pace
from app.protocol.redaction import loggable_text
from app.protocol.snapshot_throttle import SnapshotThrottle, split_events
from app.upstream.decoding import ContentDecoder, is_plain
from app.upstream.error_body import AttemptFacts
from app.upstream.error_mapping import UpstreamFailure, classify
from app.upstream.spec import UpstreamSpec
from app.upstream.transport import NothingSent, PlainRequest, ResponseStream, Transport
from app.upstream.work_evidence import error_came_first

#: A body up to this size is sent in one piece; a larger one is encoded while it is being sent.
_MAX_SENT_WHOLE = 64 * 1024

#: What is read of an error answer: bytes, and seconds for all of it.
_MAX_ERROR_BODY, _ERROR_BODY_TIMEOUT = 64 * 1024, 5.0

#: Seconds that a stream may take to end after its last mark.
_LAST_WAIT = 0.1

#: Bytes of a reply that are parsed and searched without letting other requests pass, and seconds that this may last.
_LONG, _MAX_BUSY = 64 * 1024, 0.01

#: Seconds for the answer whether a caller's key is good. Until then the caller waits.
_TOKEN_TIMEOUT = 5.0

#: Characters of a header below which its value is a name or a switch, and not a secret.
_LEAST_SECRET = 8

#: Failures that surely came before the request was sent. The cause of the exception is looked at, not the exception of
#: httpx: its transport calls every lost connection a ConnectTimeout.
_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    # A proxy that does not let this server through to the upstream.
    aiohttp.ClientHttpProxyError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
)
_CONNECTION_LOST = (httpx.HTTPError, aiohttp.ClientError)


async def _unobserved(*_: object) -> None:
    return


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What is sent to whichever upstream is chosen.

    Attributes:
        api_key: The caller's own key, used only where the upstream's spec has none.
        new_blob: Makes the blobs that take large inline images; None leaves these in the text of the reply.
        before_send: Awaited before each attempt, when its upstream has been chosen and has capacity: from then on the
            request may cost something.
        after_free_failure: Called when an attempt has failed in a way that surely cost nothing.
        on_attempt: Called with the record of each attempt before it is sent. The pool goes on writing into the record.
        on_reply: Awaited with the upstream's name and a snapshot of its reply, each time that the reply has grown, and
            at its end. An error may follow. No generator: each layer of these costs nearly 1 % of a small request.
    """

    question: ChatQuestion
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    new_blob: Callable[[], ByteSink] | None = None
    before_send: Callable[[], Awaitable[None]] = _unobserved
    after_free_failure: Callable[[], None] = lambda: None
    on_attempt: Callable[[AttemptRecord], None] = lambda _: None
    on_reply: Callable[[str, ChatReply], Awaitable[None]] = _unobserved


@dataclass(frozen=True, slots=True)
class PendingReply:
    """A reply of which only the head has been read. `sent_at`: when the request had been sent.

    `headers`: those of the response by their names in lower case, among which a name is found at once.
    """

    response: httpx.Response
    sent_at: float
    headers: Mapping[str, str] = field(default_factory=dict)


class UpstreamClient:
    """One upstream. A request's time limit counts from `started_at`, by `monotonic`, over all its attempts."""

    def __init__(
        self,
        spec: UpstreamSpec,
        transport: Transport,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now` returns seconds since 1970, for dates in error answers. The client closes the transport."""
        self._spec = spec
        self._transport = transport
        self._monotonic, self._now = monotonic, now
        self._url = httpx.URL(f"{spec.base_url.rstrip('/')}/chat/completions")
        self._headers = {name.lower(): value.get_secret_value() for name, value in spec.headers.items()}
        self._headers["user-agent"] = spec.user_agent
        self._own_secrets = tuple(_secrets_of(spec))
        self._api_key = None if spec.api_key is None else spec.api_key.get_secret_value()
        # Not the transport's "read" limit: silence before the answer means that an image is being made.
        self._extensions = {"timeout": {"connect": spec.connect_timeout, "pool": spec.connect_timeout}}

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    @property
    def pass_through(self) -> bool:
        """Whether callers bring the upstream's keys, so that a refused key is theirs."""
        return self._spec.api_key is None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown of the configuration: the upstream key, headers, the password of the proxy."""
        return self._own_secrets if self._api_key is None else (self._api_key, *self._own_secrets)

    async def check_token(self, token: str) -> ApiError | None:
        """Return the error of a key that the upstream refuses; None if it accepts the key, or does not say.

        Only a 401 is a refusal: many upstreams have no list of models, or show it to some keys only.
        """
        headers = {**self._headers, "authorization": f"Bearer {token}"}
        url = f"{self._spec.base_url.rstrip('/')}/models"
        fields = httpx.Headers(headers, encoding="utf-8")
        request = httpx.Request("GET", url, headers=fields, extensions=self._extensions)
        started_at, body = self._monotonic(), b""
        try:
            async with asyncio.timeout(_TOKEN_TIMEOUT):
                response = await self._transport.handle_async_request(request)
                try:
                    if response.status_code == 401:
                        body = await self._read_error_body(response, started_at)
                finally:
                    await _close(response)
        except (TimeoutError, *_CONNECTION_LOST):
            return None
        if response.status_code != 401:
            return None
        facts = AttemptFacts(now=self._now(), pass_through=True, secrets=(token, *self._own_secrets))
        return classify(401, response.headers, body, facts).error

    async def send(
        self, request: UpstreamRequest, body: StreamingJson, started_at: float
    ) -> PendingReply | UpstreamFailure:
        """Return a reply of which only the head has been read; `read_reply` reads and closes it."""
        stopwatch = _Stopwatch(self._monotonic)
        try:
            async with asyncio.timeout(self._time_left(started_at)):
                response = await self._transport.handle_async_request(self._build(request, body, stopwatch))
        except TimeoutError:
            return UpstreamFailure(self._timeout_error(), elapsed=stopwatch.elapsed)
        except _CONNECTION_LOST as error:
            return _connection_failure(error, stopwatch.elapsed, self._secrets(request))
        if response.is_success:
            return PendingReply(response, stopwatch.sent_at, _fields_of(response))
        elapsed = stopwatch.elapsed
        try:
            error_body = await self._read_error_body(response, started_at)
        finally:
            await _close(response)
        return self._classify(response, error_body, request, elapsed)

    async def read_reply(
        self, pending: PendingReply, request: UpstreamRequest, started_at: float, record: AttemptRecord
    ) -> UpstreamFailure | None:
        """Report snapshots of the reply to `request.on_reply` while it grows, and the last one when it has ended.

        A reply that is nothing but an error object is not reported but returned as a failure, as if the error had come
        as a status. A stream that breaks off is reported as far as it had come (`complete` is false) before the error
        is raised: an image that was named by then was paid for and is good.

        Raises:
            UpstreamError: The reply could not be read, broke off or took too long.
            ApiError: What the upstream's error object means.
        """
        parser = ReplyParser(request.new_blob, secrets=self._secrets(request), attempt=record)
        response = pending.response
        try:
            await self._parse(parser, pending, request, started_at, record)
            reply, end = await _read(parser, ended=True), _broke_off("in the middle of an event")
        except UpstreamError as error:
            parser.end()
            reply, end = await _read(parser), error
        finally:
            await _close(response)
        failure = None
        if reply.error is not None:
            elapsed, came_first = self._monotonic() - pending.sent_at, error_came_first(reply.raw)
            error_body = orjson.dumps({"error": reply.error})
            failure = self._classify(response, error_body, request, elapsed, came_first=came_first)
        if failure is not None and not reply.has_content and not await _has_images(reply):
            return failure
        await self._report(reply, request, record)
        if failure is not None:
            failure.error.retry_safety = RetrySafety.UNSAFE
            raise failure.error
        if not reply.complete:
            raise end
        return None

    async def _parse(
        self,
        parser: ReplyParser,
        pending: PendingReply,
        request: UpstreamRequest,
        started_at: float,
        record: AttemptRecord,
    ) -> None:
        """Give the body to the parser, and report snapshots on the way."""
        throttle, pace = SnapshotThrottle(), Pace()
        paused_at = time.perf_counter()

        async def take(chunk: bytes, is_all: bool) -> bool:
            nonlocal paused_at
            if is_all and len(chunk) < _LONG and chunk.startswith(b"{"):
                parser.feed_all(chunk)
                return True
            for piece in split_events(chunk, lambda: pace.size if parser.is_in_image else 0):
                began_at = time.perf_counter()
                grown = parser.feed(piece)
                pace.note(len(piece), time.perf_counter() - began_at)
                if throttle.should_snapshot(piece, parser.size, grown=grown):
                    reply = parser.reply()
                    if reply.has_content:
                        await self._report(reply, request, record)
                # Data that is there already is read without a pause, and decompressed data may be endless.
                if time.perf_counter() - paused_at > _MAX_BUSY:
                    await asyncio.sleep(0)
                    paused_at = time.perf_counter()
            return parser.is_done

        await self._read_body(pending.response, pending.headers, started_at, take)

    async def _report(self, reply: ChatReply, request: UpstreamRequest, record: AttemptRecord) -> None:
        record.read_reply(reply.id, reply.usage, reply.cost)
        await request.on_reply(self._spec.name, reply)

    def _build(self, request: UpstreamRequest, body: StreamingJson, stopwatch: "_Stopwatch") -> httpx.Request:
        streams = request.question.streams(self._spec.stream)
        headers = {
            **self._headers,
            "content-type": "application/json",
            "accept": "text/event-stream, application/json" if streams else "application/json",
            "accept-encoding": "identity",
            "content-length": str(body.length),
            **request.headers,
        }
        if key := self._key_for(request):
            headers["authorization"] = f"Bearer {key}"
        is_small = body.length <= _MAX_SENT_WHOLE
        # Not as `content`, for which httpx looks through the headers and adds its own.
        stream = httpx.ByteStream(b"".join(body.chunks())) if is_small else _EncodedBody(body, stopwatch)
        return PlainRequest(self._url, headers, stream, self._extensions)

    def _key_for(self, request: UpstreamRequest) -> str | None:
        return request.api_key if self._api_key is None else self._api_key

    def _time_left(self, started_at: float) -> float:
        return started_at + self._spec.timeout - self._monotonic()

    async def _read_body(
        self,
        response: httpx.Response,
        headers: Mapping[str, str],
        started_at: float,
        take: Callable[[bytes, bool], Awaitable[bool]],
    ) -> None:
        """Give the decompressed body to `take`, chunk by chunk, until that returns that it needs no more.

        The second argument of `take` says whether the chunk is all of the body.

        Raises `UpstreamTimeout` and `UpstreamInvalidReply`.
        """
        encoding = headers.get("content-encoding", "")
        decoder = ContentDecoder(encoding)
        received = decoded = 0
        idle_timeout, length = math.inf, _length_of(headers)
        # The stream itself, which is declared to be of either kind: `aiter_raw` costs one more generator a chunk.
        stream: Any = response.stream
        async with aclosing(aiter(stream)) as chunks:
            # Behind the last byte, nothing is waited for: each wait needs a timer.
            while received != length:
                data = await self._next_chunk(chunks, idle_timeout, self._time_left(started_at))
                if data is None:
                    break
                received += len(data)
                if len(data) == length and is_plain(data, encoding):
                    self._check_size(length)
                    await take(data, True)
                    return
                for chunk in decoder.feed(data):
                    decoded += len(chunk)
                    self._check_size(max(received, decoded))
                    if await take(chunk, False):
                        await _await_end(chunks)
                        return
                idle_timeout = self._spec.idle_timeout
        for chunk in decoder.finish():
            self._check_size(decoded + len(chunk))
            await take(chunk, False)

    async def _next_chunk(self, chunks: AsyncIterator[bytes], idle_timeout: float, time_left: float) -> bytes | None:
        # What is there already needs no timer.
        if time_left > 0 and isinstance(chunks, ResponseStream) and (data := chunks.arrived()):
            return data
        try:
            async with asyncio.timeout(min(idle_timeout, time_left)):
                return await anext(chunks, None)
        except TimeoutError:
            raise self._timeout_error(idle=idle_timeout < time_left) from None
        except _CONNECTION_LOST as error:
            message = "The upstream broke off in the middle of its reply. The image may have been made."
            raise UpstreamInvalidReply(message, detail=_describe(error)) from None

    def _check_size(self, size: int) -> None:
        if size > self._spec.max_reply_bytes:
            raise UpstreamInvalidReply("The upstream's reply is larger than this server takes.")

    async def _read_error_body(self, response: httpx.Response, started_at: float) -> bytes:
        """Return as much as comes: the status says enough where the body is endless, slow or damaged."""
        body = bytearray()

        async def take(chunk: bytes, _: bool) -> bool:
            body.extend(chunk)
            return len(body) >= _MAX_ERROR_BODY

        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(_ERROR_BODY_TIMEOUT):
                await self._read_body(response, _fields_of(response), started_at, take)
        return bytes(body[:_MAX_ERROR_BODY])

    def _classify(
        self,
        response: httpx.Response,
        error_body: bytes,
        request: UpstreamRequest,
        elapsed: float,
        *,
        came_first: bool = True,
    ) -> UpstreamFailure:
        sent = request.question.request
        facts = AttemptFacts(
            now=self._now(),
            elapsed=elapsed,
            came_first=came_first,
            pass_through=self.pass_through,
            secrets=self._secrets(request),
            client_texts=(sent.prompt, sent.user or "", *sent.metadata.values()),
            dialect_fields=self._spec.dialect.fields,
            client_fields=client_fields(sent, self._spec.dialect),
            user_agent=self._spec.user_agent,
            reason=response.reason_phrase,
        )
        failure = classify(response.status_code, response.headers, error_body, facts)
        if location := self._spec.origin.get(failure.setting or ""):
            failure.error.place = location
            failure.error.detail = f"see {location}: {failure.error.detail}"
        return replace(failure, headers=response.headers)

    def _secrets(self, request: UpstreamRequest) -> tuple[str, ...]:
        key = self._key_for(request)
        return (key, *self._own_secrets) if key else self._own_secrets

    def _timeout_error(self, *, idle: bool = False) -> UpstreamTimeout:
        idle_timeout, timeout = self._spec.idle_timeout, self._spec.timeout
        what = f"fell silent for {idle_timeout:g} s in its reply" if idle else f"did not finish within {timeout:g} s"
        return UpstreamTimeout(f"The upstream {what}. The image may have been made.")


@dataclass(slots=True)
class _Stopwatch:
    """Measure from the end of sending. A small body is taken for sent at once, before the connection is made."""

    monotonic: Callable[[], float]
    sent_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.sent_at = self.monotonic()

    @property
    def elapsed(self) -> float:
        return self.monotonic() - self.sent_at


class _EncodedBody(httpx.AsyncByteStream):
    """A large body, encoded while it is being sent."""

    def __init__(self, body: StreamingJson, stopwatch: _Stopwatch) -> None:
        self._body, self._stopwatch = body, stopwatch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._body.chunks():
            yield chunk
        self._stopwatch.restart()


def _fields_of(response: httpx.Response) -> dict[str, str]:
    return dict(response.headers.items())


def _length_of(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes the body has before it is decompressed, None if the head does not say."""
    length = headers.get("content-length", "")
    # int() refuses numbers of more than 4,300 digits with a ValueError of its own.
    return int(length) if length.isdecimal() and len(length) < 20 else None


async def _await_end(chunks: AsyncIterator[bytes]) -> None:
    """Wait briefly for the end of a body of which enough was read: then its connection can be used again."""
    with suppress(TimeoutError, *_CONNECTION_LOST):
        async with asyncio.timeout(_LAST_WAIT):
            await anext(chunks, None)


async def _read(parser: ReplyParser, *, ended: bool = False) -> ChatReply:
    """Return what a parser has read. What is long is read in a thread, since other requests must not wait for it."""
    if parser.size < _LONG:
        return parser.reply(ended=ended)
    return await asyncio.to_thread(parser.reply, ended=ended)


async def _has_images(reply: ChatReply) -> bool:
    return bool(find_images(reply) if reply.size < _LONG else await asyncio.to_thread(find_images, reply))


def _broke_off(how: str) -> UpstreamError:
    return UpstreamInvalidReply("The upstream broke off in its reply. The image may have been made.", detail=how)


def _secrets_of(spec: UpstreamSpec) -> Iterator[str]:
    """Yield the values of headers and the parts of the proxy's address that may be secret."""
    for value in spec.headers.values():
        if len(value.get_secret_value()) >= _LEAST_SECRET:
            yield value.get_secret_value()
    if spec.proxy is not None:
        address = httpx.URL(spec.proxy.get_secret_value())
        yield from filter(None, (address.userinfo.decode(), address.password))


def _connection_failure(error: Exception, elapsed: float, secrets: Collection[str]) -> UpstreamFailure:
    """Return what it means that an attempt brought no response."""
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(error, NothingSent) or isinstance(cause, _NOT_CONNECTED):
        detail = loggable_text(_describe(error), secrets)
        unreachable = UpstreamUnreachable("The upstream cannot be reached.", detail=detail)
        return UpstreamFailure(unreachable, RetrySafety.SAFE, elapsed=elapsed)
    message = "The upstream gave no readable answer. The image may have been made."
    return UpstreamFailure(UpstreamInvalidReply(message, detail=_describe(error)), elapsed=elapsed)


def _describe(error: Exception) -> str:
    return f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}"


async def _close(response: httpx.Response) -> None:
    with suppress(*_CONNECTION_LOST):
        await response.aclose()
