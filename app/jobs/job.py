"""A job: the deduplicated unit of work behind one or more equal requests, its runs, and what they cost."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from app.errors import (
    SHUTTING_DOWN,
    ApiError,
    ImageUnavailable,
    ModerationBlocked,
    NoImageInReply,
    ServiceUnavailable,
    TaskCanceled,
    UpstreamError,
)
from app.images.blob import Spool
from app.jobs.pipeline_interface import Emit, GenerationResult, Item, PartialImage
from app.jobs.telemetry import JobTelemetry
from app.observability.logging import log
from app.protocol.chat_reply import ChatReply
from app.protocol.image_request import ImagesRequest
from app.protocol.values import value_class

#: Errors that a reply itself has caused: a further look at it would end in the same way.
_REPLY_AT_FAULT = (ModerationBlocked, NoImageInReply, UpstreamError)


@value_class
class JobKey:
    """Identify a job: two requests with equal keys are the same job.

    Attributes:
        caller: The id of the caller.
        fingerprint: Digest of all fields and of the checksums of all input images.
        key: The client's idempotency key, if it sent one.
        is_retry: The client says that it is repeating a request. Not a part of the identity.
        is_unique: No other request can have this key.
    """

    caller: str
    fingerprint: str
    key: str | None = None
    is_retry: bool = False
    is_unique: bool = False

    @property
    def slot(self) -> tuple[str, str]:
        """Where the registry and the job table look: under the idempotency key, or else under the fingerprint."""
        return self.caller, f"what {self.fingerprint}" if self.key is None else f"key {self.key}"


class JobState(Enum):
    """How far a run has come."""

    QUEUED = "nothing is in flight that may cost something"
    SUBMITTED = "a request was put on the wire and has not failed in a way that cost nothing"
    SUCCEEDED = "the result is there"
    FAILED = "the run has ended with an error"
    INTERRUPTED = "this replica shut down after submission, so whether the image was paid for is unknown"


def _do_nothing() -> None:
    return


class Joining(StrEnum):
    """Which equal requests may join a job."""

    ANYONE = "the next one: no client waits for what the job brings"
    RETRIES = "one that says it is a retry: the client that seems to wait may be gone"
    RETRIES_LAST = "one that says it is a retry, if it fits nothing else: a client has got everything, it seems"
    NOBODY = "none"


class JobRun:
    """One execution of a job: a task that collects items, and the readers that wait for them.

    Attributes:
        items: What the run has brought so far. Every reader reads from the first item.
        error: What the run ended with, if it did not succeed.
        readers: Client connections that wait for the result.
        revision: Counts the news that are no item, such as a new progress line.
        was_submitted: Something was sent to an upstream, whether or not it has cost anything.
        is_called_off: The run was cancelled before it had cost anything, since no client waited for it any more.
        is_canceled_by_client: The client has canceled it before it had cost anything. Nothing runs the job again.
        cause: The exception behind `error`; the error itself, unless that hides a bug or a failure of the system.
        question_errors: What questions to upstreams have ended with. All other failures came after the reply.
        on_change: Called whenever the number of readers or the state of the run has changed.
    """

    def __init__(self, telemetry: JobTelemetry | None = None, *, readers: int = 0) -> None:
        self.telemetry = JobTelemetry() if telemetry is None else telemetry
        self.items: list[Item] = []
        self.error: ApiError | None = None
        self.readers = readers
        self.revision = 0
        self.state = JobState.QUEUED
        self.was_submitted = False
        self.is_called_off = self.is_canceled_by_client = False
        self.cause: BaseException | None = None
        self.question_errors: list[BaseException] = []
        self.on_change: Callable[[], None] = lambda: None
        self._unsettled = 0
        self.task: asyncio.Task[None] | None = None
        self._is_finished = False
        self._on_done: Sequence[Callable[[asyncio.Task[None]], None]] = ()
        self._on_unread: Callable[[], None] = lambda: None
        # Made when somebody waits for it: most readers wait for the task instead.
        self._news: asyncio.Future[None] | None = None

    def start(
        self,
        work: Callable[[Emit], Awaitable[None]],
        *,
        on_done: Sequence[Callable[[asyncio.Task[None]], None]] = (),
        on_unread: Callable[[], None] = lambda: None,
    ) -> asyncio.Task[None]:
        """Start the task that does the work and collects its items, and return it.

        Args:
            work: The work itself. It is given what takes its items.
            on_done: Called once, in order, with the task when it has ended.
            on_unread: Called when the task has ended and has no readers (left), after `on_done`; again when a reader
                that came later has left.
        """
        self._on_done, self._on_unread = on_done, on_unread
        self.task = asyncio.create_task(self._collect(work))
        self.task.add_done_callback(self._finish)
        return self.task

    def _take(self, item: Item) -> None:
        self.items.append(item)
        self._wake_readers()

    async def _collect(self, work: Callable[[Emit], Awaitable[None]]) -> None:
        try:
            await work(self._take)
        except ApiError as error:
            # Without its frames, which would keep the buffers of the request alive.
            self.error = self.cause = error.with_traceback(None)
        except asyncio.CancelledError:
            self._note_cancellation()
            raise
        except Exception as bug:  # noqa: BLE001  # reason: a bug must not leave readers waiting; they get a 500
            log.exception("unhandled_error")
            self.error, self.cause = ApiError(), bug.with_traceback(None)

    def _note_cancellation(self) -> None:
        self.error = TaskCanceled() if self.is_canceled_by_client else ServiceUnavailable(SHUTTING_DOWN)

    def _finish(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and self.error is None:
            # Before its first step, so `_collect` has not begun. It must not look like a success without a result.
            self._note_cancellation()
        if self.state is not JobState.INTERRUPTED:
            self.state = JobState.SUCCEEDED if self.error is None else JobState.FAILED
        self._wake_readers()
        # Not kept: they refer to everything of the request, and a finished job is retained for a minute.
        callbacks, self._on_done = self._on_done, ()
        for callback in callbacks:
            callback(task)
        self._is_finished = True
        self.on_change()
        self._report_if_unread()

    def detach(self) -> None:
        """Report nothing any more to those who have dropped the job, and forget them if no reader needs them."""
        self.on_change = _do_nothing
        if self._is_finished and not self.readers:
            self._on_unread = _do_nothing

    @property
    def is_done(self) -> bool:
        """Whether the task has ended, for whatever reason."""
        return self.task is not None and self.task.done()

    @property
    def was_task_cancelled(self) -> bool:
        """Whether the task was cancelled before it had cost anything."""
        return self.task is not None and self.task.cancelled()

    @property
    def result(self) -> GenerationResult | None:
        """The result, which is the last item; None where the run has not come so far."""
        last = self.items[-1] if self.items else None
        return last if isinstance(last, GenerationResult) else None

    def call_off(self) -> None:
        """Cancel a run that has cost nothing and that no client waits for. Nothing is sent from now on.

        The cancellation reaches the tasks of several questions one step of the event loop later than this flag.
        """
        if self.task is not None and not self.task.done():
            self.is_called_off = True
            self.task.cancel()
            self.on_change()

    def cancel(self) -> None:
        """Cancel a run that has cost nothing, at the wish of its client."""
        self.is_canceled_by_client = True
        self.call_off()

    def mark_submitted(self) -> None:
        """Note that an attempt is put on the wire: from now on the run may cost something."""
        self.was_submitted = True
        self._unsettled += 1
        self.state = JobState.SUBMITTED

    def mark_free(self) -> None:
        """Note that an attempt has failed in a way that surely cost nothing."""
        self._unsettled -= 1
        if not self._unsettled:
            self.state = JobState.QUEUED

    @property
    def may_have_cost(self) -> bool:
        """Whether an attempt was put on the wire that has not failed in a way that cost nothing."""
        return self._unsettled > 0

    def interrupt(self) -> None:
        """Note that this replica ends the run after submission."""
        self.state = JobState.INTERRUPTED

    def notify(self) -> None:
        """Tell readers of something new that is no item."""
        self.revision += 1
        self._wake_readers()

    def _wake_readers(self) -> None:
        # Readers that come later must find something new to wait for.
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    def news(self) -> asyncio.Future[None]:
        """Return a future that ends with the next news: an item, a revision or the end.

        All who wait share it, so nobody may cancel it: who awaits it has to shield it.
        """
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        return self._news

    def has_more(self, have: int, revision: int | None = None) -> bool | None:
        """Return whether there are more than `have` items, or another `revision` than the given one.

        False where nothing is left to read, None where it is still unknown.
        """
        if len(self.items) > have:
            return True
        if self.is_done:
            return False
        return None if revision in {None, self.revision} else True

    async def wait_done(self) -> None:
        """Wait for the end of the run, however it ends."""
        while not self.is_done:
            await asyncio.shield(self.news())

    def add_reader(self) -> None:
        """Count one more reader, which must call `release` at the end."""
        self.readers += 1
        self.on_change()

    def release(self) -> None:
        """Note that a reader has got everything, or has left."""
        self.readers -= 1
        self.on_change()
        self._report_if_unread()

    def _report_if_unread(self) -> None:
        # A reader can be woken by the last item and release the run before `_finish` has run. The report must wait for
        # `_finish`, which calls this method again.
        if self.readers == 0 and self._is_finished:
            self._on_unread()


@dataclass(slots=True, eq=False)
class Job:
    """One deduplicated unit of work: its request, its present run, and what redelivery needs.

    Attributes:
        run: The present run. Readers of an earlier one keep theirs.
        spool: Owns the blobs of input and output images; closed when the job is dropped from the registry.
        is_async: The client that started the job does not wait, it comes back for the result with the job's id.
        has_receipt: A client that does not wait has joined, and comes back for the result, too.
        reader_id: Identifies this replica's readers in the job table.
        is_remote: Another replica runs this job; this one only waits for its outcome.
        paid_replies: Upstream replies that were received, in order of arrival. A further run uses these first.
        spent_questions: Errors of questions that may have been paid for and brought no reply. A further run, for the
            sake of the paid replies, does not ask these questions again.
        delivered: The whole result was sent to a client that was still connected.
        expires_at: When the registry drops the job, by its own clock; infinite while it is needed.
        stored_names: Names in the image store, by the index of the image, of images that were stored for a task.
        publish_lock: Serializes updates of this job in the job table.
    """

    id: str
    key: JobKey
    request: ImagesRequest
    spool: Spool
    run: JobRun = field(default_factory=JobRun)
    is_async: bool = False
    has_receipt: bool = False
    reader_id: str = ""
    is_remote: bool = False
    paid_replies: list[ChatReply] = field(default_factory=list)
    spent_questions: list[ApiError] = field(default_factory=list)
    delivered: bool = False
    expires_at: float = math.inf
    stored_names: dict[int, str] = field(default_factory=dict)
    publish_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def readers(self) -> int:
        """Readers of the present run in this process."""
        return self.run.readers

    @property
    def is_unread(self) -> bool:
        """Whether the run has ended and has no readers left in this process."""
        return self.run.is_done and not self.run.readers

    @property
    def held_bytes(self) -> int:
        """Bytes of images, in memory or in files, and of the paid replies."""
        return self.spool.size + sum(reply.size for reply in self.paid_replies)

    def drop_unneeded(self) -> None:
        """Drop the input images and the text of the replies of a run that has succeeded: only redelivery needs them."""
        if self.run.is_done and self.run.error is None:
            self.paid_replies[:] = [reply.without_text() for reply in self.paid_replies]
            drafts = [item.image for item in self.run.items if isinstance(item, PartialImage)]
            images = [*drafts, *(() if self.run.result is None else self.run.result.images)]
            self.spool.close_all_but([image.delivered_source for image in images])

    @property
    def has_failed(self) -> bool:
        """Whether the run has ended with an error."""
        return self.run.error is not None

    @property
    def may_have_cost(self) -> bool:
        """Whether an upstream may have been paid, by this run, an earlier one, or that of another replica."""
        error = self.run.error
        return self.run.may_have_cost or bool(self.paid_replies) or (error is not None and error.may_have_cost)

    @property
    def was_submitted(self) -> bool:
        """Whether anything was sent to an upstream, in this run or an earlier one, at a cost or not."""
        return self.run.was_submitted or bool(self.paid_replies)

    @property
    def was_interrupted(self) -> bool:
        """Whether this replica ended the run after submission, so that it is unknown whether it was paid for."""
        return self.run.state is JobState.INTERRUPTED

    @property
    def needs_redelivery(self) -> bool:
        """Whether the upstream was paid and only the delivery failed, however: a further run costs nothing."""
        error = self.run.error
        if error is None or self.is_remote or not self.run.is_done:
            return False
        if isinstance(error, ImageUnavailable):
            return True
        is_answered = bool(self.paid_replies) and not isinstance(error, _REPLY_AT_FAULT)
        return is_answered and not any(each is self.run.cause for each in self.run.question_errors)

    @property
    def is_local_only(self) -> bool:
        """Whether no other replica can redeliver the job, since its images came with the replies."""
        return self.needs_redelivery and not all(reply.is_reproducible for reply in self.paid_replies)

    @property
    def can_retry_free(self) -> bool:
        """Whether a further run costs nothing more: nothing was sent yet, or only the delivery is missing.

        A run that was called off has sent nothing that has cost something. A run that has failed after failures that
        cost nothing is no such case: each replica that waits would send the request once more.
        """
        has_cost_nothing = not self.was_submitted or self.run.is_called_off
        is_open = self.run.error is not None and not self.run.is_canceled_by_client
        return self.needs_redelivery or (is_open and has_cost_nothing)

    @property
    def needs_new_run(self) -> bool:
        """Whether a request that joins has to start a further run: for redelivery, or since the run was called off."""
        return self.needs_redelivery or (
            self.run.is_called_off and not self.run.is_canceled_by_client and not self.is_remote
        )

    @property
    def has_ended_following(self) -> bool:
        """Whether this replica has ended its wait for another one, which may forget the job from now on."""
        return self.run.is_called_off and self.is_remote

    @property
    def is_awaited_later(self) -> bool:
        """Whether a client that does not wait comes back for the result: the first one, or one that joined."""
        return self.is_async or self.has_receipt

    @property
    def is_only_for_retries(self) -> bool:
        """Whether a client has got everything, so that only one that says it is a retry may come back."""
        is_wanted = self.is_awaited_later or self.needs_redelivery or self.key.key is not None
        return self.delivered and not self.has_failed and not is_wanted

    @property
    def should_retain(self) -> bool:
        """Whether a client may come back for the job after its run has ended.

        A failure is only remembered under an idempotency key, and only if it may have cost something.
        """
        if not self.has_failed or self.is_awaited_later or self.needs_redelivery:
            return True
        return self.key.key is not None and self.may_have_cost

    @property
    def joining(self) -> Joining:
        """Which equal requests may join.

        With an idempotency key each one may; without one the next request may where the job's client has left, and
        otherwise only one that says it is a retry. Whether a job of another replica has clients is known there.
        """
        if self.run.error is not None or self.run.is_called_off:
            if self.needs_new_run:
                return Joining.ANYONE
            if self.has_ended_following or (self.run.is_done and not self.should_retain):
                return Joining.NOBODY
        if self.key.key is not None:
            return Joining.ANYONE
        if self.is_async:
            return Joining.NOBODY
        if self.delivered:
            return Joining.RETRIES_LAST
        is_read_elsewhere = self.is_remote and not self.run.is_done
        return Joining.RETRIES if self.run.readers or is_read_elsewhere else Joining.ANYONE

    def restart(self, request: ImagesRequest, spool: Spool, run: JobRun) -> None:
        """Prepare a further run. The job takes over the blobs of the request that needs it."""
        self.spool.absorb(spool)
        on_change, self.run.on_change = self.run.on_change, lambda: None
        self.request, self.run, self.run.on_change = request, run, on_change
        self.delivered, self.expires_at = False, math.inf
        self.stored_names = {}
        on_change()


def summarize_request(request: ImagesRequest) -> dict[str, object]:
    """Return what logs and operators may know of a request: nothing that it says or shows."""
    return {
        "operation": str(request.operation),
        "n": request.n,
        "size": request.size_text,
        "quality": request.quality,
        "stream": request.stream,
    }
