"""Share finished jobs between replicas.

A finished job that another replica may still be asked for is written to the job table as an *outcome*: JSON with sizes,
usage and either the error or the names of the images, which are put into the shared image store first. Prompts are
never written. Reading an outcome restores the images into a spool, as if the job had run here.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import orjson

from app.errors import (
    ApiError,
    ImageUnavailable,
    JobLost,
    NotFound,
    RetrySafety,
    ServiceUnavailable,
    TaskCanceled,
    TaskNotCancelable,
)
from app.images.blob import Blob, Spool
from app.images.store import ImageStore, copy_stored
from app.jobs.job import Job
from app.jobs.pipeline_interface import Emit, GenerationResult
from app.jobs.registry import JobRegistry
from app.observability.logging import log
from app.protocol.chat_reply import ChatReply
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.json_stream import Base64String
from app.protocol.parameters import Operation
from app.protocol.reply_parser import read_reply
from app.protocol.size_fit import SizeMode
from app.protocol.sizes import parse_pixels
from app.protocol.usage import Usage
from app.state.job_table import JobTable

#: Fields of the request in an outcome: those that the response or the log shows, never the prompt.
_REQUEST_FIELDS = ("model", "n", "quality", "safety_identifier", "stream", "ignored", "asked_size", "size_mode")

#: Fields of an image in an outcome that are texts.
_IMAGE_FIELDS = ("form", "credentials", "ignored")
#: Why a job cannot be cancelled.
NOT_CANCELABLE = {
    "submitted": "The task was already sent to an upstream and may be charged, so it cannot be canceled. Poll it.",
    "awaited": "Another request waits for the result of this task, so it cannot be canceled.",
    "done": "The task has already ended, so it cannot be canceled.",
    "lost": "The server that worked on this task has died, so it cannot be canceled. It may have been paid for.",
}

_UNASKED = (
    "The server that was to work on this request has stopped before anything was sent to an upstream. "
    "Nothing was charged. Please send the request again."
)

_NOT_FOUND_YET = "The server cannot look for this result at the moment. Please try again."
_NOT_SHARED = "The image was made, but this server cannot find it any more."


@dataclass(slots=True)
class JobSharing:
    """Publish the jobs of this replica, and take over what others have published.

    A replica that shares nothing keeps everything in its registry. `background` holds the tasks that still publish.
    `is_draining`: no delivered result stays here any more, since a retry would find this replica gone.
    """

    registry: JobRegistry
    job_table: JobTable[Job]
    store: ImageStore
    background: set[asyncio.Task[object]] = field(default_factory=set)
    is_draining: bool = False

    def __post_init__(self) -> None:
        self.registry.on_drop = self._on_drop

    async def await_remote(self, job: Job) -> GenerationResult | None:
        """Wait for the result of a job of another replica.

        Returns:
            None where this replica has to run the job itself, with the job's `paid_replies`.

        Raises:
            ApiError: What the other replica's run has ended with.
            JobLost: The other replica has died after submission.
        """
        try:
            return await self._await_outcome(job)
        finally:
            # Where this is cancelled, too: the table may have made this replica the owner already.
            job.is_remote = not self.job_table.owns(job)

    async def _await_outcome(self, job: Job) -> GenerationResult | None:
        while (data := await self.job_table.wait_for_result(job)) is not None:
            outcome = await load_outcome(data, self.store, job.spool)
            if outcome.error is None:
                return outcome.result
            if not outcome.can_retry_free:
                raise outcome.error
            # Before the job is taken over: from then on no disconnect of a client may end the redelivery.
            job.paid_replies[:], job.spent_questions[:] = outcome.paid_replies, outcome.spent_questions
            if await self.job_table.take_over(job):
                return None
            # Another replica was faster, and runs the job now. The error is no news of that run.
            job.paid_replies.clear()
            job.spent_questions.clear()
            await self.job_table.sleep_until_poll()
        return None

    async def load_remote(self, job_id: str, caller: str, spool: Spool) -> "RemoteJob":
        """Return the state of a job that this replica does not know. That its replica has died is an outcome, too.

        Raises:
            NotFound: There is no such job of that caller.
            ServiceUnavailable: Redis does not answer.
        """
        reply = await self.job_table.lookup(job_id, caller)
        left = int(reply.left) / 1000
        match reply.answer:
            case "done":
                return RemoteJob(await load_outcome(reply.value, self.store, spool), left)
            case "in_flight":
                return RemoteJob(None, left)
            case "lost":
                return RemoteJob(JobOutcome(_NO_REQUEST, error=JobLost(detail=f"job {job_id}")), left)
            case "unasked":
                return RemoteJob(JobOutcome(_NO_REQUEST, error=ServiceUnavailable(_UNASKED)), left)
        raise self._unknown(reply.answer)

    async def has_ended(self, job_id: str, caller: str) -> bool:
        """Return whether a job that this replica does not know has ended, if only by the death of its replica.

        Raises:
            NotFound: There is no such job of that caller.
            ServiceUnavailable: Redis does not answer.
        """
        reply = await self.job_table.lookup(job_id, caller)
        if reply.answer in {"done", "in_flight", "lost", "unasked"}:
            return reply.answer != "in_flight"
        raise self._unknown(reply.answer)

    async def cancel_remote(self, job_id: str, caller: str, follower: str | None = None) -> None:
        """Cancel a job that another replica runs. One that is cancelled already stays so.

        `follower`: see `JobTable.cancel`.

        Raises:
            TaskNotCancelable: It was submitted, has ended, or a client waits for it.
            NotFound: There is no such job of that caller.
            ServiceUnavailable: Redis does not answer.
        """
        reply = await self.job_table.cancel(job_id, caller, _CANCELED_OUTCOME, follower=follower)
        if reply.answer == "ok" or (reply.answer == "done" and _is_canceled(reply.value)):
            return
        if reply.answer in NOT_CANCELABLE:
            raise TaskNotCancelable(NOT_CANCELABLE[reply.answer])
        raise self._unknown(reply.answer)

    def _unknown(self, answer: str) -> ApiError:
        if answer == "young" or (not answer and self.job_table.is_shared):
            return ServiceUnavailable(_NOT_FOUND_YET, headers={"retry-after": "5"})
        return NotFound("This result does not exist or has expired.", code="result_not_found")

    def on_reader_left(self, job: Job) -> None:
        """Publish that a reader has left before the end of the run."""
        if self.job_table.owns(job) and not job.run.is_done:
            self._run_in_background(self._publish_status(job))

    def on_joined(self, job: Job, request_id: str) -> None:
        """End the lease of a request, unless this replica follows the job under that id.

        It may follow the job under another id, or run it itself: also where the table had an outcome of an earlier run.
        """
        if not job.is_remote or request_id != job.reader_id:
            self._run_in_background(self.job_table.unsubscribe(job, request_id))

    def on_unread(self, job: Job) -> None:
        """Hand a finished job over, or retain it here. A retry may have started the job once more meanwhile."""
        if not job.is_unread:
            return
        if self.job_table.is_shared:
            self._run_in_background(self._hand_over(job))
        else:
            self.registry.retain_or_drop(job)

    async def heartbeat_loop(self) -> None:
        """Give heartbeats for ever, and publish outcomes that Redis could not take when they were ready."""
        while self.job_table.is_shared:
            await self.job_table.sleep_until_heartbeat()
            # A task of its own: a bug is logged and must not end the loop, without which this replica looks dead.
            await asyncio.wait({self._run_in_background(self._heartbeat())})

    async def _heartbeat(self) -> None:
        self.registry.drop_expired()
        for job in await self.job_table.heartbeat():
            if job.is_unread and not job.publish_lock.locked():
                self._run_in_background(self._hand_over(job))
        for job in self.registry.active():
            # Another replica has cancelled it for its client, or runs it now.
            is_needed = job.is_remote or job.may_have_cost or job.readers or self.job_table.owns(job)
            if job.is_async and not is_needed:
                job.run.call_off()

    def _on_drop(self, job: Job) -> None:
        """Let other replicas forget a delivered job whose outcome was only here.

        At the end of this replica its record stays: a retry then learns that the image was paid for and is lost.
        """
        if self.job_table.is_kept_for_retries(job):
            self.job_table.untrack(job)
            if not self.is_draining:
                self._run_in_background(self.job_table.abandon(job))

    async def drain(self, seconds: float) -> None:
        """Publish everything that other replicas may be asked for, also delivered results; wait `seconds` at most."""
        self.is_draining = True
        for job in self.job_table.kept_for_retries():
            self._run_in_background(self._hand_over(job))
        if self.background:
            await asyncio.wait(self.background, timeout=seconds)

    async def _hand_over(self, job: Job) -> None:
        """Publish a finished job, then drop or retain it. Repeated when a reader that came meanwhile has left.

        A retry may start the job once more meanwhile, and that run may end, too. It is handed over afterwards.
        """
        is_published = False
        async with job.publish_lock:
            is_own, run = self.job_table.owns(job), job.run
            try:
                if job.is_unread:
                    publish = self._publish_result if is_own else self.job_table.unsubscribe
                    is_published = await publish(job)
            except BaseException:  # reason: tidied up, and raised again
                self.job_table.untrack(job)
                raise
            finally:
                if job.is_unread and job.run is run:
                    is_elsewhere = is_published and not job.is_local_only
                    (self.registry.drop if is_elsewhere else self.registry.retain_or_drop)(job)
                elif is_own:
                    self.job_table.track(job)

    async def _publish_result(self, job: Job) -> bool:
        """Return False if this replica has to keep the job."""
        if job.was_interrupted and (job.key.key is not None or not job.delivered):
            # As if this replica had died: a client that repeats the request learns that it may have been paid for.
            self.job_table.untrack(job)
            return True
        is_here = self.registry.by_id(job.id) is job
        is_kept = is_here and job.is_only_for_retries and not self.is_draining
        is_wanted = is_here and job.should_retain and not is_kept
        briefly = not is_wanted or job.is_only_for_retries
        if not is_wanted:
            answer = await (self.job_table.mark_delivered(job) if is_kept else self.job_table.abandon(job))
            must_publish = answer == "awaited" or (is_kept and answer == "ok" and self.is_draining)
            if not must_publish:
                return answer != "" and not self.job_table.is_kept_for_retries(job)
        if not job.is_unread:
            # A retry has started the job once more meanwhile, so there is no outcome yet.
            return False
        if not is_here and (job.run.result is not None or job.is_local_only):
            # The registry did not keep its images for as long as Redis was down.
            self.job_table.untrack(job)
            return True
        try:
            outcome = await dump_outcome(job, self.store)
            is_published = await self.job_table.publish_result(job, outcome, briefly=briefly)
        except ApiError as error:
            log.warning("job_sharing_failed", job=job.id, error=error.detail or error.message)
            return False
        return is_published

    async def _publish_status(self, job: Job) -> None:
        try:
            await self.job_table.publish_status(job)
        except ServiceUnavailable as error:
            log.warning("job_sharing_failed", job=job.id, error=error.message)

    def _run_in_background(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self._on_background_done)
        return task

    def _on_background_done(self, task: asyncio.Task[object]) -> None:
        self.background.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("unhandled_error", exc_info=bug)


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A job of another replica: its outcome, None while it is in flight, and seconds for which it will be known."""

    outcome: "JobOutcome | None"
    seconds_left: float


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """A finished job of another replica: a result, or an error.

    `can_retry_free`: a further run with the `paid_replies` costs nothing more, without the `spent_questions`.
    """

    request: ImagesRequest
    result: GenerationResult | None = None
    error: ApiError | None = None
    paid_replies: tuple[ChatReply, ...] = ()
    spent_questions: tuple[ApiError, ...] = ()
    can_retry_free: bool = False

    async def emit(self, emit: Emit) -> None:
        """Emit the result as a run brings it. Raises the error."""
        if self.result is None:
            raise self.error or ApiError()
        emit(self.result)


async def dump_outcome(job: Job, store: ImageStore) -> bytes:
    """Serialize a finished job; its images go into the store. Raises `ImageUnavailable` where one cannot be stored."""
    result = job.run.result
    document: dict[str, Any] = {"request": _dump_request(job.request, job.run.telemetry.ignored_of(job.request))}
    if result is not None:
        images = [await _dump_image(image, store) for image in result.images]
        document["result"] = {
            "images": images,
            "usage": astuple(result.usage),
            "failed": result.failed,
            "created": result.created,
        }
    else:
        error = job.run.error or ApiError()
        document["error"] = _dump_error(error)
        document["spent"] = [_dump_error(each) for each in job.spent_questions]
        document["replies"] = [reply.raw for reply in job.paid_replies]
        document["can_retry_free"] = job.can_retry_free and not job.is_local_only
    return orjson.dumps(document)


def _dump_request(request: ImagesRequest, ignored: Sequence[str] = ()) -> dict[str, Any]:
    fields = {name: getattr(request, name) for name in _REQUEST_FIELDS} | {"ignored": ignored}
    return {**fields, "operation": request.operation, "size": request.size_text}


def _is_canceled(outcome: bytes) -> bool:
    error: dict[str, Any] = orjson.loads(outcome).get("error", {})
    return error.get("class") == TaskCanceled.__name__


async def _dump_image(image: OutputImage, store: ImageStore) -> dict[str, Any]:
    measured = {"info": image.info, "received": image.received}
    fields: dict[str, Any] = {name: getattr(image, name) for name in _IMAGE_FIELDS}
    fields |= {name: info and astuple(info) for name, info in measured.items()}
    if image.source is None and not isinstance(image.url, Base64String):
        return fields | {"url": image.url}
    name = image.stored or await store.put(*measured_blob(image))
    return fields | {"name": name, "prefix": image.url.prefix if isinstance(image.url, Base64String) else None}


def measured_blob(image: OutputImage) -> tuple[Blob, ImageInfo]:
    """Return the bytes of an image that is not only a link, and what they say about it."""
    source = image.delivered_source
    if not isinstance(source, Blob) or image.info is None:
        raise TypeError("an image of a result is a measured blob")
    return source, image.info


async def load_outcome(data: bytes, store: ImageStore, spool: Spool) -> JobOutcome:
    """Restore an outcome, its images into the spool. Raises `ImageUnavailable` for one that is not in the store."""
    document = orjson.loads(data)
    fields = document["request"]
    request = ImagesRequest(
        operation=Operation(fields.pop("operation")),
        prompt="",
        size=parse_pixels(fields.pop("size")),
        size_mode=SizeMode(fields.pop("size_mode", SizeMode.NATIVE)),
        **fields | {"ignored": tuple(fields["ignored"])},
    )
    if (result := document.get("result")) is not None:
        images = [await _load_image(image, store, spool) for image in result["images"]]
        return JobOutcome(
            request, GenerationResult(tuple(images), Usage(*result["usage"]), result["failed"], result["created"])
        )
    error = _load_error(document["error"])
    if not document["can_retry_free"]:
        return JobOutcome(request, error=error)
    return JobOutcome(
        request,
        error=error,
        paid_replies=tuple(read_reply(raw.encode()) for raw in document["replies"]),
        spent_questions=tuple(_load_error(each) for each in document["spent"]),
        can_retry_free=True,
    )


async def _load_image(fields: dict[str, Any], store: ImageStore, spool: Spool) -> OutputImage:
    info, received = (ImageInfo(*fields[name]) if fields.get(name) else None for name in ("info", "received"))
    credentials, ignored = fields.get("credentials"), tuple(fields.get("ignored", ()))
    image = OutputImage(fields["form"], info=info, received=received, credentials=credentials, ignored=ignored)
    if "url" in fields:
        return replace(image, url=fields["url"])
    blob = await _load_blob(fields["name"], store, spool)
    if fields["prefix"] is None:
        return replace(image, source=blob, info=read_info(blob.read_at), stored=fields["name"])
    return replace(image, url=Base64String(blob, fields["prefix"]), stored=fields["name"])


async def _load_blob(name: str, store: ImageStore, spool: Spool) -> Blob:
    stored = await store.get(name)
    if stored is None:
        raise ImageUnavailable(_NOT_SHARED, detail="LIMNER_IMAGE_STORE: not there; do all replicas share it?")
    blob = spool.new_blob()
    await copy_stored(stored, blob)
    return blob


def _dump_error(error: ApiError) -> dict[str, Any]:
    safety = None if error.retry_safety is None else error.retry_safety.name
    return {"class": type(error).__name__, "headers": error.headers, "retry_safety": safety, **error.body}


def _load_error(fields: dict[str, Any]) -> ApiError:
    """Restore an error of the class that it had."""
    classes = {each.__name__: each for each in _subclasses(ApiError)}
    error_class = classes.get(fields["class"], ApiError)
    error, extra = error_class.__new__(error_class), fields["error"]
    standard = {name: extra.pop(name) for name in ("param", "code", "type")}
    ApiError.__init__(error, extra.pop("message"), extra=extra, headers=fields["headers"], **standard)
    error.retry_safety = None if fields["retry_safety"] is None else RetrySafety[fields["retry_safety"]]
    return error


def _subclasses(error_class: type[ApiError]) -> Iterator[type[ApiError]]:
    yield error_class
    for child in error_class.__subclasses__():
        yield from _subclasses(child)


#: In place of a request that this replica has never seen.
_NO_REQUEST = ImagesRequest(operation=Operation.GENERATION, prompt="")

#: The outcome of a job that its client has cancelled. Nothing runs it again.
_CANCELED_OUTCOME = orjson.dumps(
    {"request": _dump_request(_NO_REQUEST), "error": _dump_error(TaskCanceled()), "can_retry_free": False}
)
