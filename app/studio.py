"""Where requests are worked on: a turn, a job, the edge of the world for it, and the answer in the form that fits."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from app.access import Caller, Turns
from app.blobs import Blob, Spool
from app.errors import Unavailable
from app.exchange import Exchange, Item, answer_of
from app.fetch import Fetcher
from app.jobs import Job
from app.pipeline import Edge, Policy, paint
from app.pure.chat import ChatReply
from app.pure.images import ImagesRequest
from app.pure.json_holes import HoleyJson
from app.pure.media import ImageInfo, measure
from app.responses import ClientGone, FlowingResponse, PicturesResponse, Presence
from app.settings import Shrink
from app.store import Store
from app.transcode import Transcoder
from app.upstream import Question, Upstream

#: Seconds without a byte after which a sign of life is sent: middle boxes cut silent connections after 60 to 120.
SILENCE = 15.0

_JSON, _EVENTS = "application/json", "text/event-stream"


@dataclass(slots=True)
class Studio:
    """`jobs` are those under way, with or without a reader; `keepalive_after` is in seconds, 0 means never."""

    turns: Turns
    upstream: Upstream
    fetcher: Fetcher
    transcoder: Transcoder
    store: Store
    policy: Policy
    shrink: Shrink
    public_url: str | None
    keepalive_after: float
    silence: float = SILENCE
    closing: bool = False
    jobs: set[asyncio.Task[None]] = field(default_factory=set)

    async def answer(self, request: ImagesRequest, caller: Caller, spool: Spool, http: Request) -> Response:
        """Takes over the spool. Raises the ApiError of the work where nothing has been sent yet."""
        exchange = Exchange(request, self.silence)
        job = self._start(exchange, caller, spool, http)
        presence = Presence(http.receive)

        def leave() -> None:
            presence.stop()
            job.leave()

        try:
            return await self._respond(exchange, job, presence, http, leave)
        except ClientGone:
            if not exchange.upstream.started:
                # Nothing has been asked yet, so nothing is lost; a question under way runs to its end.
                job.task.cancel()
            leave()
            return Response(status_code=499)
        except BaseException:
            leave()
            raise

    async def drain(self, grace: float) -> None:
        """Take no more questions, let those under way finish within `grace` seconds, end the rest with an error."""
        self.closing = True
        if self.jobs:
            _, late = await asyncio.wait(self.jobs, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _start(self, exchange: Exchange, caller: Caller, spool: Spool, http: Request) -> Job[Item]:
        if self.closing:
            spool.close()
            raise Unavailable("The server is shutting down. Please try again.")
        edge = self._edge(exchange, caller, spool, http)
        job = Job(self._work(exchange.request, caller, edge), spool.close)
        self.jobs.add(job.task)
        job.task.add_done_callback(self.jobs.discard)
        return job

    async def _work(self, request: ImagesRequest, caller: Caller, edge: Edge[Blob]) -> AsyncGenerator[Item, None]:
        async with self.turns.take(caller.id, request.n), aclosing(paint(request, edge, self.policy)) as items:
            async for item in items:
                yield item

    async def _respond(
        self, exchange: Exchange, job: Job[Item], presence: Presence, http: Request, leave: Callable[[], None]
    ) -> Response:
        streamed = exchange.request.stream
        if http.scope["http_version"] == "1.0":
            # Such a client knows no chunks: it gets everything at the end.
            await presence.wait(job.end(), None)
        elif streamed:
            await presence.wait(job.more(0), self.silence)
        else:
            await presence.wait(job.end(), self.keepalive_after or None)
        if job.fault is not None and not job.items:
            raise job.fault
        answer = answer_of(job)
        headers = exchange.headers(answer)
        if http.scope["http_version"] == "1.0" and streamed:
            return PicturesResponse(exchange.all_events(job), _EVENTS, headers, leave)
        if streamed:
            return FlowingResponse(exchange.events(job, presence), _EVENTS, headers, leave)
        if answer is None:
            return FlowingResponse(exchange.white_space_then_json(job, presence), _JSON, headers, leave)
        return PicturesResponse([exchange.json(answer)], _JSON, headers, leave)

    def _edge(self, exchange: Exchange, caller: Caller, spool: Spool, http: Request) -> Edge[Blob]:
        """The parts as one request sees them: its key, its spool, its timers."""

        async def ask(body: HoleyJson, *, stream: bool) -> AsyncGenerator[ChatReply, None]:
            question = Question(body, stream, caller.token, http.state.request_id, spool.blob)
            with exchange.waiting, exchange.upstream:
                async with aclosing(self.upstream.ask(question)) as snapshots:
                    async for reply in snapshots:
                        yield reply

        async def fetch(url: str) -> Blob:
            with exchange.waiting:
                return spool.adopt(await self.fetcher.fetch(url))

        async def prepare(blob: Blob, index: int, like: Blob | None) -> Blob:
            size = None if like is None else pixels(like)
            prepared = await self.transcoder.prepare(
                blob, index=index, size=size, max_bytes=self.shrink.max_bytes, max_edge=self.shrink.max_edge
            )
            if prepared.shrunk is not None:
                exchange.shrunk.append(prepared.shrunk)
            return prepared.blob if prepared.blob is blob else spool.adopt(prepared.blob)

        async def restore(result: Blob, original: Blob, mask: Blob) -> Blob:
            return spool.adopt(await self.transcoder.restore(result, original, mask))

        async def convert(blob: Blob, request: ImagesRequest) -> Blob:
            legacy = request.size is not None and request.size.asked_as != request.size
            target = (request.size.width, request.size.height) if request.size is not None and legacy else None
            if target is None and request.output_format is None and request.output_compression is None:
                return blob
            converted = await self.transcoder.convert(
                blob, format=request.output_format, compression=request.output_compression, size=target
            )
            return converted if converted is blob else spool.adopt(converted)

        async def keep(blob: Blob, info: ImageInfo) -> str:
            base = self.public_url or str(http.base_url).rstrip("/")
            return f"{base}/kept/{await self.store.keep(blob, info)}"

        return Edge(ask, fetch, spool.blob, prepare, self.transcoder.check_mask, restore, convert, keep)


def pixels(blob: Blob) -> tuple[int, int] | None:
    info = measure(blob.read_at)
    return None if info is None or info.width is None or info.height is None else (info.width, info.height)
