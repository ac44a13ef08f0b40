"""What the pipeline needs from outside, for one job: with the job's spool, its timers and the caller's key."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial

from app.errors import ApiError, ImageUnavailable, JobLost, RetrySafety, SpoolFull
from app.extraction.partial import progress_line
from app.images.blob import Blob, SpoolMemory
from app.images.fetch import NO_KEYS, Fetcher
from app.images.input_limits import InputLimits
from app.images.location import edited, location_edits
from app.images.signer import Signer
from app.images.ssrf import origin_of
from app.images.store import ImageStore, copy_stored, name_in_url
from app.images.transcode import Transcoder
from app.jobs.job import Job
from app.jobs.job_run import JobRun
from app.observability.logging import log
from app.observability.metrics import DOWNLOADED_BYTES, SIGNING_ERRORS, STORE_ERRORS
from app.observability.tracing import TraceStep
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest, ignored_at
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_request import ImagesRequest
from app.state.job_table import JobTable
from app.upstream.client import UpstreamRequest
from app.upstream.pool import UpstreamPool

#: Seconds between two looks at what an upstream says of its progress: each look reads the whole reply.
_PROGRESS_INTERVAL = 0.5

_NO_ROOM_FOR_REPLY = (
    "The upstream has answered, but this server has no room left for the image, neither on its disk nor in its memory. "
    "Asked again, it is paid for again."
)

#: The origins of upstreams, of which there are few.
_origin_of_upstream = lru_cache(256)(origin_of)


@dataclass(frozen=True, slots=True)
class Backends:
    """What all jobs share."""

    pool: UpstreamPool
    fetcher: Fetcher
    transcoder: Transcoder
    store: ImageStore
    job_table: JobTable[Job]
    input_limits: InputLimits
    strip_location: bool = True
    signer: Signer | None = None
    spool_memory: SpoolMemory = field(default_factory=SpoolMemory)


@dataclass(slots=True)
class SentChatRequest:
    """A chat request while it is sent to upstreams. `unsettled` counts its attempts that may have cost something."""

    run: JobRun
    unsettled: int = 0
    reply: ChatReply | None = None

    def mark_submitted(self) -> None:
        """Note that an attempt is put on the wire."""
        self.unsettled += 1
        self.run.mark_submitted()

    def mark_free(self) -> None:
        """Note that an attempt has failed in a way that surely cost nothing."""
        self.unsettled -= 1
        self.run.mark_free()


@dataclass(slots=True)
class JobIO:
    """Implement `PipelineIO` for one run of a job.

    Attributes:
        token: The caller's own key, which goes upstream in pass-through mode.
        upstream: The only upstream that this caller's requests may go to; None means any.
    """

    backends: Backends
    job: Job
    token: str | None
    upstream: str | None = None
    _run: JobRun = field(init=False)
    #: What the chat requests of an earlier run have brought: a further run does not send these again.
    _brought_before: Iterator[ChatReply | ApiError] = field(init=False)
    #: Tells other replicas, once, that the job may cost something.
    _announcement: asyncio.Future[None] | None = None
    #: By the name of the upstream.
    _ignored: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._run = self.job.run
        self._brought_before = iter((*self.job.paid_replies, *self.job.paid_failures))

    async def ask(self, chat: ChatRequest, on_reply: Callable[[ChatReply], Awaitable[None]]) -> None:
        """Await `on_reply` with snapshots of one reply, as `UpstreamRequest` says.

        A further run gets what the chat requests of the earlier one have brought before it sends any.

        Raises:
            ApiError: What the upstream has answered, in this run or in the earlier one.
        """
        earlier = next(self._brought_before, None)
        if isinstance(earlier, ChatReply):
            return await on_reply(earlier)
        if earlier is not None:
            self._run.chat_errors.append(earlier)
            raise earlier
        sent, telemetry = SentChatRequest(self._run), self._run.telemetry
        if telemetry.ignored is None:
            self._expect_ignored()

        async def take(upstream: str, reply: ChatReply) -> None:
            self._note_snapshot(upstream, reply)
            sent.reply = reply
            await on_reply(reply)

        try:
            with telemetry.waiting, telemetry.upstream, telemetry.trace.step("ask") as step:
                request = self._request(chat, sent, step, take)
                await self.backends.pool.request(request, chat.request.model, self.upstream)
        except (SpoolFull, OSError) as failure:
            error = _lost_reply(failure) if sent.unsettled else failure
            self._note_failure(sent, error)
            raise error from None
        except BaseException as failure:  # reason: noted, and raised again
            self._note_failure(sent, failure)
            raise
        finally:
            if sent.reply is not None:
                self.job.paid_replies.append(sent.reply)

    def _note_failure(self, sent: SentChatRequest, failure: BaseException) -> None:
        """Note why a chat request has brought no reply, or only a part of one."""
        self._run.chat_errors.append(failure)
        if isinstance(failure, ApiError) and not isinstance(failure, JobLost):
            if sent.unsettled and failure.retry_safety is RetrySafety.FUTILE:
                # A refusal costs nothing, also one that comes in the reply itself.
                sent.mark_free()
        elif sent.reply is not None and not sent.reply.complete:
            # A part of a reply that this server itself has cut off is not what was paid for.
            sent.reply = None
        if sent.unsettled and sent.reply is None:
            self.job.paid_failures.append(failure if isinstance(failure, ApiError) else JobLost())

    def _request(
        self,
        chat: ChatRequest,
        sent: SentChatRequest,
        step: TraceStep,
        on_reply: Callable[[str, ChatReply], Awaitable[None]],
    ) -> UpstreamRequest:
        return UpstreamRequest(
            chat,
            self.token,
            {"x-request-id": self.job.id, **step.headers},
            partial(self.job.spool.new_blob, is_paid=True),
            partial(self._before_send, sent),
            sent.mark_free,
            self._note_attempt,
            on_reply,
        )

    async def _before_send(self, sent: SentChatRequest) -> None:
        """Announce the job to other replicas before it may cost something, once for all its chat requests."""
        if self.backends.job_table.is_shared:
            if self._announcement is None:
                self._announcement = asyncio.ensure_future(self.backends.job_table.mark_submitted(self.job))
            await self._announcement
        if self._run.stop_reason is not None:
            # The cancellation is on its way to this task.
            raise asyncio.CancelledError
        self._run.telemetry.attempts += 1
        sent.mark_submitted()

    def _note_attempt(self, record: AttemptRecord) -> None:
        record.sent_at = time.time()
        self._run.telemetry.attempt_records.append(record)

    def _note_snapshot(self, upstream: str, reply: ChatReply) -> None:
        """Note which upstream answers, what has no effect there, and what it says of its progress."""
        telemetry = self._run.telemetry
        if upstream not in telemetry.upstreams:
            # The first answer replaces what was expected of all upstreams; others add to it.
            ignored = self._ignored_at(upstream)
            before = (telemetry.ignored or ()) if telemetry.upstreams else ()
            telemetry.ignored = tuple(dict.fromkeys((*before, *ignored)))
        telemetry.upstreams[upstream] = None
        if self.backends.pool.has_alternatives:
            telemetry.answered_by[upstream] = None
        if self.job.request.stream and not reply.complete:
            self._update_progress(reply)

    def _expect_ignored(self) -> None:
        """Note which parameters will have no effect, whichever upstream answers."""
        names = self.backends.pool.candidates(self.job.request.model, self.upstream)
        first, *others = [self._ignored_at(name) for name in names]
        self._run.telemetry.ignored = tuple(name for name in first if all(name in other for other in others))

    def _ignored_at(self, upstream: str) -> tuple[str, ...]:
        """Return the parameters that have no effect at an upstream."""
        if upstream not in self._ignored:
            dialect = self.backends.pool.member(upstream).spec.dialect
            self._ignored[upstream] = ignored_at(self.job.request, dialect)
        return self._ignored[upstream]

    def _update_progress(self, reply: ChatReply) -> None:
        telemetry, now = self._run.telemetry, time.perf_counter()
        if now - telemetry.progress_read_at < _PROGRESS_INTERVAL:
            return
        telemetry.progress_read_at = now
        line = progress_line(reply, self.job.request.prompt)
        if line and line != telemetry.progress:
            telemetry.progress = line
            self._run.notify()

    async def fetch(self, url: str, *, is_result: bool) -> ByteSink:
        """Download an image, or read it if this server has stored it. Raises `ImageUnavailable`.

        Only that of a result may need the upstream's key.
        """
        name = name_in_url(url)
        stored = None if name is None else await self.backends.store.get(name)
        if stored is None:
            keys = self._upstream_keys() if is_result else NO_KEYS
            return await self._download(self.backends.fetcher.fetch(url, keys))
        blob = self.job.spool.new_blob()
        await copy_stored(stored, blob)
        return blob

    async def is_public(self, url: str) -> bool:
        """Return whether a client can download what is behind a link: it is not private, and needs no key of ours."""
        return await self.backends.fetcher.is_public(url, self._upstream_keys())

    def _upstream_keys(self) -> dict[str, str]:
        """Return the keys of the upstreams by their origins: some relays ask for them where their images are, too."""
        keys: dict[str, str] = {}
        for member in self.backends.pool.members:
            spec = member.spec
            key = self.token if spec.api_key is None else spec.api_key.get_secret_value()
            is_allowed = spec.origin_downloads_with_key and self.upstream in {None, spec.name}
            if key and is_allowed and (origin := _origin_of_upstream(spec.base_url)):
                keys.setdefault(origin, key)
        return keys

    async def probe(self, url: str, *, patient: bool) -> ByteSink:
        """Download what may be an image, but only the first bytes of anything else. Raises `ImageUnavailable`."""
        return await self._download(self.backends.fetcher.probe(url, self._upstream_keys(), patient=patient))

    async def _download(self, download: Awaitable[Blob]) -> ByteSink:
        telemetry = self._run.telemetry
        with telemetry.waiting, telemetry.download, telemetry.trace.step("fetch"):
            blob = self.job.spool.add(await download)
        DOWNLOADED_BYTES.inc(blob.size)
        return blob

    def new_blob(self) -> ByteSink:
        """Return an empty blob of the job's spool."""
        return self.job.spool.new_blob()

    async def prepare(self, image: ByteSink, index: int, *, size_of: ByteSink | None = None) -> ByteSink:
        """Return the input image as upstreams accept it. Raises `UserError`."""
        with self._step("prepare"):
            prepared = await self.backends.transcoder.prepare(
                _blob(image),
                caller=self.job.key.caller,
                index=index,
                size=None if size_of is None else _pixels(size_of),
                limits=self.backends.input_limits,
            )
        if prepared.shrunk is not None:
            self._run.telemetry.shrunk.append(prepared.shrunk)
        return await self._without_location(self._adopt(prepared.blob, image))

    async def _without_location(self, image: Blob) -> Blob:
        """Return an image that does not say where it was taken: the given one if it does not, or may."""
        edits = location_edits(image.read_at) if self.backends.strip_location else ()
        if not edits:
            return image
        clean = self.job.spool.new_blob()
        for piece in edited(image.read_at, image.size, edits):
            clean.write(piece)
            # A large image is copied in turns with what others do.
            await asyncio.sleep(0)
        return clean

    async def check_mask(self, mask: ByteSink, image: ByteSink, *, exact: bool) -> None:
        """Compare a mask with its image; if `exact`, decode both. Raises `UserError`."""
        blobs, caller = (_blob(mask), _blob(image)), self.job.key.caller
        await self.backends.transcoder.check_mask(*blobs, caller=caller, exact=exact)

    async def apply_mask(self, result: ByteSink, original: ByteSink, mask: ByteSink) -> ByteSink:
        """Return the result with the original's pixels wherever the mask is opaque."""
        with self._step("restore"):
            blobs = _blob(result), _blob(original), _blob(mask)
            return self._adopt(await self.backends.transcoder.apply_mask(*blobs, caller=self.job.key.caller), result)

    async def convert(self, image: ByteSink, request: ImagesRequest) -> ByteSink:
        """Return the image in the format that was asked for, and in the size if that is not `is_size_native`."""
        size, image_format, compression = request.size, request.output_format, request.output_compression
        is_native = request.is_size_native
        if is_native and image_format is None and compression is None:
            return image
        with self._step("convert"):
            converted = await self.backends.transcoder.convert(
                _blob(image),
                caller=self.job.key.caller,
                image_format=image_format,
                compression=compression,
                size=None if size is None or is_native else (size.width, size.height),
                mode=request.size_mode,
                transparent=request.background == "transparent",
            )
        return self._adopt(converted, image)

    async def sign(
        self, image: ByteSink, original: ByteSink, *, is_ingredient: bool, is_masked: bool
    ) -> ByteSink | None:
        """Return a signed copy of a converted image. None if that failed, of which the operator learns."""
        signer = self.backends.signer
        if signer is None:
            return None
        blobs, caller = (_blob(image), _blob(original)), self.job.key.caller
        try:
            with self._step("sign"):
                signed = await signer.sign(*blobs, caller=caller, is_ingredient=is_ingredient, is_masked=is_masked)
        except (ApiError, OSError) as error:
            SIGNING_ERRORS.inc()
            detail = error.detail or error.message if isinstance(error, ApiError) else str(error)
            log.error("signing_failed", error=detail)
            return None
        return self._adopt(signed, image)

    async def store(self, image: ByteSink, info: ImageInfo) -> str:
        """Put the image into the image store and return its URL, a path on this server. Raises `ImageUnavailable`."""
        try:
            with self._step("keep"):
                name = await self.backends.store.put(_blob(image), info)
                url = await self.backends.store.url_for(name)
        except ImageUnavailable:
            STORE_ERRORS.inc()
            raise
        return url or f"/kept/{name}"

    def report_bug(self, bug: Exception) -> None:
        """Log an unexpected exception, which is a bug."""
        log.error("unhandled_error", exc_info=bug)

    def _step(self, name: str) -> TraceStep:
        return self._run.telemetry.trace.step(name)

    def _adopt(self, made: Blob, given: ByteSink) -> Blob:
        """Let the job's spool close a new blob; the given one is in it already."""
        return made if made is given else self.job.spool.add(made)


def _lost_reply(failure: SpoolFull | OSError) -> JobLost:
    """Return the error for a reply that was paid for and cannot be held: no invitation to retry, which pays again."""
    detail = failure.detail if isinstance(failure, SpoolFull) else f"{type(failure).__name__}: {failure.strerror}"
    return JobLost(_NO_ROOM_FOR_REPLY, detail=detail)


def _blob(image: ByteSink) -> Blob:
    # The pipeline hands back what this file and the reader of the request body have made, and both make blobs.
    if not isinstance(image, Blob):
        raise TypeError(f"{type(image).__name__} is not a blob")
    return image


def _pixels(image: ByteSink) -> tuple[int, int] | None:
    info = read_info(image.read_at)
    return None if info is None or info.width is None or info.height is None else (info.width, info.height)
