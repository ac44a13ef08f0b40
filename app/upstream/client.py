"""Send one request to one upstream and read its reply."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import httpx
import orjson

from app.errors import ApiError, RetrySafety, UpstreamError, UpstreamInvalidReply
from app.extraction.forms import find_guesses, find_images
from app.extraction.refusal import is_refusal
from app.loop_turns import MAX_BYTES, LoopTurn, in_thread_if_long
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest, client_fields
from app.protocol.json_stream import StreamingJson
from app.protocol.pace import Pace, split_events
from app.protocol.reply_encoding import charset_of
from app.protocol.reply_parser import ReplyParser
from app.protocol.snapshot_throttle import SnapshotThrottle
from app.protocol.values import value_class
from app.upstream.connection_errors import CONNECTION_LOST, connection_failure
from app.upstream.error_body import AttemptFacts
from app.upstream.error_mapping import UpstreamFailure, classify
from app.upstream.response_body import BodyReader, close, fields_of
from app.upstream.spec import UpstreamSpec
from app.upstream.transport import PlainRequest, Transport
from app.upstream.work_evidence import error_came_first

#: A body up to this size is sent in one piece; a larger one is encoded while it is being sent.
_MAX_SENT_WHOLE = 64 * 1024

#: Seconds for the answer whether a caller's key is good. Until then the caller waits.
_TOKEN_TIMEOUT = 5.0

#: Characters of a header below which its value is a name or a switch, and not a secret.
_LEAST_SECRET = 8


async def _unobserved(*_: object) -> None:
    return


@value_class
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
            at its end. An error may follow. A callback, because each layer of generators costs 1 % of a small request.
    """

    chat: ChatRequest
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    new_blob: Callable[[], ByteSink] | None = None
    before_send: Callable[[], Awaitable[None]] = _unobserved
    after_free_failure: Callable[[], None] = lambda: None
    on_attempt: Callable[[AttemptRecord], None] = lambda _: None
    on_reply: Callable[[str, ChatReply], Awaitable[None]] = _unobserved


@value_class
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
        url = httpx.URL(f"{spec.base_url.rstrip('/')}/chat/completions")
        self._address = str(url)
        self._origin = str(url.join("/")).rstrip("/")
        self._headers = {name.lower(): value.get_secret_value() for name, value in spec.headers.items()}
        self._headers["user-agent"] = spec.user_agent
        self._own_secrets = tuple(_secrets_of(spec))
        self._api_key = None if spec.api_key is None else spec.api_key.get_secret_value()
        self._bodies = BodyReader(spec, monotonic, self.secrets)
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
                        body = await self._bodies.read_error(response, started_at)
                finally:
                    await close(response)
        except (TimeoutError, *CONNECTION_LOST):
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
            async with asyncio.timeout(self._bodies.time_left(started_at)):
                response = await self._transport.handle_async_request(self._build(request, body, stopwatch))
        except TimeoutError:
            return UpstreamFailure(self._bodies.timeout_error(), elapsed=stopwatch.elapsed)
        except CONNECTION_LOST as error:
            return connection_failure(error, stopwatch.elapsed, self._secrets(request))
        if response.is_success:
            return PendingReply(response, stopwatch.sent_at, fields_of(response))
        elapsed = stopwatch.elapsed
        try:
            error_body = await self._bodies.read_error(response, started_at)
        finally:
            await close(response)
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
        parser = self._parser(pending, request, record)
        response = pending.response
        try:
            await self._parse(parser, pending, request, started_at, record)
            reply, end = await in_thread_if_long(parser.size, parser.reply, ended=True), None
        except UpstreamError as error:
            await in_thread_if_long(parser.size, parser.end)
            reply, end = await in_thread_if_long(parser.size, parser.reply), error
        finally:
            await close(response)
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
        if not reply.complete or reply.is_doubtful:
            await _raise_unless_good(reply, end or _broke_off("in the middle of an event"))
        return None

    def _parser(self, pending: PendingReply, request: UpstreamRequest, record: AttemptRecord) -> ReplyParser:
        return ReplyParser(
            request.new_blob,
            secrets=self._secrets(request),
            attempt=record,
            charset=charset_of(pending.headers.get("content-type", "")),
            upstream_origin=self._origin,
        )

    async def _parse(
        self,
        parser: ReplyParser,
        pending: PendingReply,
        request: UpstreamRequest,
        started_at: float,
        record: AttemptRecord,
    ) -> None:
        """Give the body to the parser, and report snapshots on the way."""
        throttle, pace, turn = SnapshotThrottle(), Pace(), LoopTurn()

        async def take(chunk: bytes, is_all: bool) -> bool:
            if is_all and len(chunk) < MAX_BYTES and chunk.startswith(b"{"):
                parser.feed_all(chunk)
                return True
            for piece in split_events(chunk, lambda: pace.size if parser.is_in_image else 0):
                began_at = time.perf_counter()
                grown = await in_thread_if_long(parser.pending, parser.feed, piece)
                pace.note(len(piece), time.perf_counter() - began_at)
                if throttle.should_snapshot(piece, parser.size, grown=grown):
                    reply = parser.reply()
                    if reply.has_content:
                        await self._report(reply, request, record)
                await turn.give_way()
            return parser.is_done

        await self._bodies.read(pending.response, pending.headers, started_at, take, turn.restart)

    async def _report(self, reply: ChatReply, request: UpstreamRequest, record: AttemptRecord) -> None:
        record.read_reply(reply.id, reply.usage, reply.cost)
        await request.on_reply(self._spec.name, reply)

    def _build(self, request: UpstreamRequest, body: StreamingJson, stopwatch: "_Stopwatch") -> httpx.Request:
        streams = request.chat.streams(self._spec.stream)
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
        return PlainRequest(self._address, headers, stream, self._extensions)

    def _key_for(self, request: UpstreamRequest) -> str | None:
        return request.api_key if self._api_key is None else self._api_key

    def _classify(
        self,
        response: httpx.Response,
        error_body: bytes,
        request: UpstreamRequest,
        elapsed: float,
        *,
        came_first: bool = True,
    ) -> UpstreamFailure:
        sent = request.chat.request
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
            # An early answer is read before more is sent. Many chunks are taken at once otherwise.
            await asyncio.sleep(0)
        self._stopwatch.restart()


async def _raise_unless_good(reply: ChatReply, end: UpstreamError) -> None:
    """Raise what a reply ended with, unless it is a text with an image in it, or one in which the model declines."""
    if reply.is_doubtful:
        if await _has_images(reply) or is_refusal(reply):
            return
        # What an address leads to is seen only later: it may be the image.
        end.counts_against_upstream = not await in_thread_if_long(reply.size, find_guesses, reply)
    raise end


async def _has_images(reply: ChatReply) -> bool:
    return bool(await in_thread_if_long(reply.size, find_images, reply))


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
