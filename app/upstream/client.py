"""The only file that talks to a chat upstream: one attempt at one question, and the reply while it is read."""

import asyncio
import math
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from app.errors import UpstreamError, UpstreamInvalidReply, UpstreamTimeout, UpstreamUnreachable
from app.extraction.forms import find_images
from app.protocol.chat_reply import ChatReply, ReplyParser, SnapshotThrottle, split_lines
from app.protocol.inline_images import ByteSink
from app.protocol.json_stream import StreamingJson
from app.upstream.decoding import ContentDecoder
from app.upstream.error_mapping import RetrySafety, UpstreamFailure, classify
from app.upstream.spec import UpstreamSpec

#: A body up to this size goes out in one piece; a larger one is made while it is being sent.
_AT_ONCE = 64 * 1024

#: Seconds that an unused connection is kept: less than the shortest habit of servers (5, Node and uvicorn). One that
#: the server closes while a question is on its way to it is a question that may have been paid for.
_KEEP_ALIVE = 4.0

#: What is read of an error answer: bytes, and seconds for all of it.
_COMPLAINT, _COMPLAINT_SECONDS = 64 * 1024, 5.0

#: Faults that surely came before the question was sent. The cause is asked, not the exception of httpx: its transport
#: calls every lost connection a ConnectTimeout.
_UNREACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, httpx.ConnectError, httpx.ConnectTimeout)
_LOST = (httpx.HTTPError, aiohttp.ClientError)


@dataclass(frozen=True, slots=True)
class Question:
    """`key` is the caller's own, used only where the configuration has none; large pictures go into new sinks."""

    body: StreamingJson
    stream: bool = False
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    new_sink: Callable[[], ByteSink] | None = None


class Upstream:
    """`started` is when the question came, by `monotonic`; `now` is seconds since 1970, for dates in answers."""

    def __init__(
        self,
        spec: UpstreamSpec,
        transport: httpx.AsyncBaseTransport,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spec = spec
        self._transport = transport
        self._monotonic, self._now = monotonic, now
        self._url = httpx.URL(f"{spec.base_url.rstrip('/')}/chat/completions")
        # Not the "read" limit of the transport: silence before the answer is a picture in the making.
        self._extensions = {"timeout": {"connect": spec.connect_timeout, "pool": spec.connect_timeout}}

    async def close(self) -> None:
        await self._transport.aclose()

    @property
    def pass_through(self) -> bool:
        """Whether callers bring the keys, so that a key that is refused is theirs."""
        return self._spec.api_key is None

    async def attempt(self, question: Question, started: float) -> httpx.Response | UpstreamFailure:
        """A response whose body is the reply, to be given to `read`: only its head has been read."""
        try:
            async with asyncio.timeout(self._left(started)):
                response = await self._transport.handle_async_request(self._request(question))
        except TimeoutError:
            return UpstreamFailure(self._too_slow())
        except _LOST as error:
            return _fault_of(error)
        if response.is_success:
            return response
        try:
            body = await self._read_complaint(response, started)
        finally:
            await _close(response)
        return self._translate(response, body, question)

    async def read(
        self, response: httpx.Response, question: Question, started: float
    ) -> AsyncGenerator[ChatReply | UpstreamFailure, None]:
        """Snapshots of the reply while it grows, the whole reply last; then the error, if it ended in one.

        A reply that is nothing but a complaint is the Fault alone that it would have been as a status. A stream that
        breaks off yields what had come (`complete` is false) before it raises: a picture that was named by then is paid
        for and good. Raises UpstreamError and its kind, or what the upstream's complaint means.
        """
        reader = ReplyParser(question.new_sink)
        try:
            async with aclosing(self._grow(response, reader, started)) as snapshots:
                async for reply in snapshots:
                    if reply.has_content:
                        yield replace(reply, secrets=self._secrets(question))
            reply, end = reader.reply(ended=True), _broke_off("in the middle of an event")
        except UpstreamError as error:
            reply, end = reader.reply(), error
        finally:
            await _close(response)
        fault = None
        if reply.error is not None:
            fault = self._translate(response, orjson.dumps({"error": reply.error}), question)
        if fault is not None and not reply.has_content and not find_images(reply):
            yield fault
            return
        yield replace(reply, secrets=self._secrets(question))
        if fault is not None:
            raise fault.error
        if not reply.complete:
            raise end

    async def _grow(
        self, response: httpx.Response, reader: ReplyParser, started: float
    ) -> AsyncGenerator[ChatReply, None]:
        pace = SnapshotThrottle()
        async with aclosing(self._pieces(response, started)) as pieces:
            async for piece in pieces:
                for line in split_lines(piece):
                    if pace.should_snapshot(line, grown=reader.feed(line)):
                        yield reader.reply()

    def _request(self, question: Question) -> httpx.Request:
        """Built here and not by the client, which would merge headers, cookies and parameters anew each time."""
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/json" if question.stream else "application/json",
            "accept-encoding": "identity",
            "user-agent": self._spec.user_agent,
            "content-length": str(question.body.length),
            **question.headers,
        }
        if key := self._key_for(question):
            headers["authorization"] = f"Bearer {key}"
        small = question.body.length <= _AT_ONCE
        content = b"".join(question.body.chunks()) if small else _send(question.body)
        fields = httpx.Headers(headers, encoding="utf-8")
        return httpx.Request("POST", self._url, headers=fields, content=content, extensions=self._extensions)

    def _key_for(self, question: Question) -> str | None:
        return question.key if self._spec.api_key is None else self._spec.api_key.get_secret_value()

    def _left(self, started: float) -> float:
        return started + self._spec.timeout - self._monotonic()

    async def _pieces(self, response: httpx.Response, started: float) -> AsyncGenerator[bytes, None]:
        """The unpacked body. Raises UpstreamTimeout and UpstreamInvalidReply."""
        unpacker = ContentDecoder(response.headers.get("content-encoding", ""))
        packed = unpacked = 0
        patience = math.inf
        # The stream itself, declared to be of either kind: `aiter_raw` costs one generator more for each chunk.
        stream: Any = response.stream
        async with aclosing(aiter(stream)) as chunks:
            while (data := await self._next(chunks, patience, self._left(started))) is not None:
                packed += len(data)
                for piece in unpacker.feed(data):
                    unpacked += len(piece)
                    self._check_size(max(packed, unpacked))
                    yield piece
                patience = self._spec.idle_timeout
        unpacker.finish()

    async def _next(self, chunks: AsyncIterator[bytes], patience: float, left: float) -> bytes | None:
        try:
            async with asyncio.timeout(min(patience, left)):
                return await anext(chunks, None)
        except TimeoutError:
            raise self._too_slow(silent=patience < left) from None
        except _LOST as error:
            message = "The upstream broke off in the middle of its reply. The image may have been made."
            raise UpstreamInvalidReply(message, detail=_describe(error)) from None

    def _check_size(self, size: int) -> None:
        if size > self._spec.max_reply_bytes:
            raise UpstreamInvalidReply("The upstream's reply is larger than this server takes.")

    async def _read_complaint(self, response: httpx.Response, started: float) -> bytes:
        """As much as comes: the status says enough where the body is endless, slow or damaged."""
        body = bytearray()
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(_COMPLAINT_SECONDS), aclosing(self._pieces(response, started)) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) >= _COMPLAINT:
                        break
        return bytes(body[:_COMPLAINT])

    def _translate(self, response: httpx.Response, body: bytes, question: Question) -> UpstreamFailure:
        failure = classify(
            response.status_code,
            response.headers,
            body,
            pass_through=self.pass_through,
            now=self._now(),
            secrets=self._secrets(question),
        )
        if location := self._spec.origin.get(failure.setting or ""):
            failure.error.detail = f"see {location}: {failure.error.detail}"
        return failure

    def _secrets(self, question: Question) -> tuple[str, ...]:
        key = self._key_for(question)
        return (key,) if key else ()

    def _too_slow(self, *, silent: bool = False) -> UpstreamTimeout:
        idle, whole = self._spec.idle_timeout, self._spec.timeout
        what = f"fell silent for {idle:g} s in its reply" if silent else f"did not finish within {whole:g} s"
        return UpstreamTimeout(f"The upstream {what}. The image may have been made.")


async def _send(body: StreamingJson) -> AsyncIterator[bytes]:
    for piece in body.chunks():
        yield piece


def _broke_off(how: str) -> UpstreamError:
    return UpstreamInvalidReply("The upstream broke off in its reply. The image may have been made.", detail=how)


def _fault_of(error: Exception) -> UpstreamFailure:
    """An attempt that brought no answer."""
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(cause, _UNREACHED):
        return UpstreamFailure(
            UpstreamUnreachable("The upstream cannot be reached.", detail=_describe(error)), RetrySafety.SAFE
        )
    message = "The upstream gave no readable answer. The image may have been made."
    return UpstreamFailure(UpstreamInvalidReply(message, detail=_describe(error)))


def _describe(error: Exception) -> str:
    return f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}"


async def _close(response: httpx.Response) -> None:
    with suppress(*_LOST):
        await response.aclose()


def open_transport() -> httpx.AsyncBaseTransport:
    """As many connections as there are questions: the transport's own session would quietly stop at 100.

    Nothing is taken from the environment but the operating system's certificates (and SSL_CERT_FILE): a proxy variable
    would send the key through the proxy. Used without httpx's client, which could follow redirects and keep cookies and
    costs a tenth of a small request.
    """
    context = ssl.create_default_context()

    def open_session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=_KEEP_ALIVE)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)

    return AiohttpTransport(verify=context, client=open_session)
