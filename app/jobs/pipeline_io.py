"""The parts of the server as one request sees them: with its key, its spool, its timers."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from app.errors import ImageUnavailable
from app.extraction.partial import progress_line
from app.images.blob import Blob
from app.images.fetch import Fetcher
from app.images.store import ImageStore
from app.images.transcode import InputLimits, Transcoder
from app.jobs.job import Errand
from app.jobs.pipeline import Edge, Put
from app.observability.metrics import DOWNLOADED_BYTES, STORE_ERRORS
from app.observability.tracing import TraceStep
from app.protocol.chat_reply import ChatReply
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_request import ImagesRequest
from app.state.job_table import Board
from app.upstream.client import Question
from app.upstream.pool import Submission, Upstreams

#: Seconds between two looks at what the upstream says of its work.
_LISTENS = 0.5


@dataclass(frozen=True, slots=True)
class Parts:
    """`public_url`: how clients reach this server, where the operator has said so."""

    upstreams: Upstreams
    fetcher: Fetcher
    transcoder: Transcoder
    store: ImageStore
    board: Board
    shrink: InputLimits
    public_url: str | None


@dataclass(slots=True)
class Workbench:
    """`token` is the caller's own key, `base_url` the address that the client asked.

    `upstream`: the only one that the caller's questions may be asked of; None: whichever is well.
    """

    parts: Parts
    errand: Errand
    token: str | None
    base_url: str
    upstream: str | None = None
    _paid: Iterator[ChatReply] = field(init=False)
    _announced: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self._paid = iter(tuple(self.errand.replies))

    def edge(self) -> Edge[Blob]:
        return Edge(
            self.ask,
            self.fetch,
            self.errand.spool.new_blob,
            self.prepare,
            self.parts.transcoder.check_mask,
            self.restore,
            self.convert,
            self.keep,
        )

    async def ask(self, put: Put, *, stream: bool) -> AsyncGenerator[ChatReply, None]:
        """What has been paid for already is not asked again."""
        reply = next(self._paid, None)
        if reply is not None:
            yield reply
            return
        errand, exchange = self.errand, self.errand.exchange
        with exchange.waiting, exchange.upstream, exchange.trace.step("ask") as step:
            headers = {"x-request-id": errand.id, **step.headers}

            async def before_send() -> None:
                await self._announce()
                exchange.submit()

            def question(dialect: str, model: str) -> Question:
                exchange.attempts += 1
                return Question(put(dialect, model), stream, self.token, headers, errand.spool.new_blob)

            try:
                submission = Submission(before_send, exchange.withdraw)
                asked = self.parts.upstreams.ask(question, exchange.request.model, self.upstream, submission)
                async with aclosing(asked) as snapshots:
                    async for name, reply in snapshots:
                        exchange.heard[name] = None
                        if self.parts.upstreams.are_several:
                            exchange.answered_by[name] = None
                        if exchange.request.stream and not reply.complete:
                            self._listen(reply)
                        yield reply
            finally:
                if reply is not None:
                    errand.replies.append(reply)

    def _listen(self, reply: ChatReply) -> None:
        """For a sign of how far the upstream is: not at each of its words, since all of them are read for it."""
        exchange, now = self.errand.exchange, time.perf_counter()
        if now - exchange.listened < _LISTENS:
            return
        exchange.listened = now
        line = progress_line(reply, exchange.request.prompt)
        if line and line != exchange.progress:
            exchange.progress = line
            self.errand.job.stir()

    async def _announce(self) -> None:
        """Of several questions none is asked before all replicas know of it."""
        if not self.parts.board.is_shared:
            return
        if self._announced is None:
            self._announced = asyncio.ensure_future(self.parts.board.announce(self.errand))
        await self._announced

    async def fetch(self, url: str) -> Blob:
        exchange = self.errand.exchange
        with exchange.waiting, exchange.download, exchange.trace.step("fetch"):
            blob = self.errand.spool.add(await self.parts.fetcher.fetch(url))
        DOWNLOADED_BYTES.inc(blob.size)
        return blob

    async def prepare(self, blob: Blob, index: int, like: Blob | None) -> Blob:
        with self._step("prepare"):
            prepared = await self.parts.transcoder.prepare(
                blob,
                index=index,
                size=None if like is None else pixels(like),
                max_bytes=self.parts.shrink.max_bytes,
                max_edge=self.parts.shrink.max_edge,
            )
        if prepared.shrunk is not None:
            self.errand.exchange.shrunk.append(prepared.shrunk)
        return self._own(prepared.blob, blob)

    async def restore(self, result: Blob, original: Blob, mask: Blob) -> Blob:
        with self._step("restore"):
            return self._own(await self.parts.transcoder.apply_mask(result, original, mask), result)

    async def convert(self, blob: Blob, request: ImagesRequest) -> Blob:
        """Into the format that was asked for, and down to a legacy size, which the upstream does not paint."""
        size, form, compression = request.size, request.output_format, request.output_compression
        legacy = None if size is None or size.upstream_size == size else (size.width, size.height)
        if legacy is None and form is None and compression is None:
            return blob
        with self._step("convert"):
            converted = await self.parts.transcoder.convert(
                blob, image_format=form, compression=compression, size=legacy
            )
        return self._own(converted, blob)

    async def keep(self, blob: Blob, info: ImageInfo) -> str:
        try:
            with self._step("keep"):
                name = await self.parts.store.put(blob, info)
                address = await self.parts.store.url_for(name)
        except ImageUnavailable:
            STORE_ERRORS.inc()
            raise
        base = self.parts.public_url or self.base_url.rstrip("/")
        return address or f"{base}/kept/{name}"

    def _step(self, name: str) -> TraceStep:
        return self.errand.exchange.trace.step(name)

    def _own(self, made: Blob, given: Blob) -> Blob:
        """A new blob is gone with the request; the given one is its already."""
        return made if made is given else self.errand.spool.add(made)


def pixels(blob: Blob) -> tuple[int, int] | None:
    info = read_info(blob.read_at)
    return None if info is None or info.width is None or info.height is None else (info.width, info.height)
