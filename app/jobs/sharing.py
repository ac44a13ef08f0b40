"""Share finished jobs between replicas.

A finished job that another replica may still be asked for is written to the job table as an outcome (`outcome.py`).
"""

import asyncio
from dataclasses import dataclass, field

from app.errors import (
    ApiError,
    JobLost,
    NotFound,
    ServiceUnavailable,
    TaskNotCancelable,
)
from app.images.blob import Spool
from app.images.store import ImageStore
from app.jobs.background_tasks import BackgroundTasks
from app.jobs.job import Job
from app.jobs.job_run import StopReason
from app.jobs.outcome import (
    CANCELED_OUTCOME,
    NO_REQUEST,
    JobOutcome,
    dump_outcome,
    has_spooled_images,
    is_canceled,
    load_outcome,
)
from app.jobs.pipeline_interface import GenerationResult
from app.jobs.registry import JobRegistry
from app.observability.logging import log
from app.state.job_table import JobTable
from app.state.job_table_reply import TableAnswer

#: What the job table says of a job that it knows.
_KNOWN = {TableAnswer.DONE, TableAnswer.IN_FLIGHT, TableAnswer.ORPHANED, TableAnswer.LOST}

#: Why a job cannot be canceled.
NOT_CANCELABLE = {
    TableAnswer.SUBMITTED: (
        "The task was already sent to an upstream and may be charged, so it cannot be canceled. Poll it."
    ),
    TableAnswer.AWAITED: "Another request waits for the result of this task, so it cannot be canceled.",
    TableAnswer.DONE: "The task has already ended, so it cannot be canceled.",
    TableAnswer.LOST: (
        "The server that worked on this task has died, so it cannot be canceled. It may have been paid for."
    ),
}

_ORPHANED = (
    "The server that was to work on this request has stopped before anything was sent to an upstream. "
    "Nothing was charged. Please send the request again."
)

_NOT_FOUND_YET = "The server cannot look for this result at the moment. Please try again."


@dataclass(slots=True)
class JobSharing:
    """Publish the jobs of this replica, and take over what others have published.

    A replica that shares nothing keeps everything in its registry. `background` holds the tasks that still publish.
    `is_draining`: no delivered result stays here any more, since a retry would find this replica gone.
    """

    registry: JobRegistry
    job_table: JobTable[Job]
    store: ImageStore
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    is_draining: bool = False

    def __post_init__(self) -> None:
        self.registry.on_drop = self._on_drop

    # Follow a job of another replica.

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
            # Where this is canceled, too: the table may have made this replica the owner already.
            job.is_remote = not self.job_table.owns(job)

    async def _await_outcome(self, job: Job) -> GenerationResult | None:
        while (data := await self.job_table.wait_for_result(job)) is not None:
            outcome = await load_outcome(data, self.store, job.spool)
            if outcome.error is None:
                return outcome.result
            if not outcome.can_retry_free:
                raise outcome.error
            # Before the job is taken over: from then on no disconnect of a client may end the redelivery.
            job.paid_replies[:] = await outcome.load_paid_replies(self.store, job.spool)
            job.paid_failures[:] = outcome.paid_failures
            if await self.job_table.take_over(job):
                return None
            # Another replica was faster, and runs the job now. The error says nothing of that run.
            job.paid_replies.clear()
            job.paid_failures.clear()
            await self.job_table.sleep_until_poll()
        return None

    # Serve a client that comes back with the id of a job.

    async def load_remote(self, job_id: str, caller: str, spool: Spool) -> "RemoteJob":
        """Return the state of a job that this replica does not know. That its replica has died is an outcome, too.

        Raises:
            NotFound: There is no such job of that caller.
            ServiceUnavailable: Redis does not answer.
        """
        reply = await self.job_table.lookup(job_id, caller)
        left = reply.milliseconds_left / 1000
        match reply.answer:
            case TableAnswer.DONE:
                return RemoteJob(await load_outcome(reply.value, self.store, spool), left)
            case TableAnswer.IN_FLIGHT:
                return RemoteJob(None, left)
            case TableAnswer.LOST:
                return RemoteJob(JobOutcome(NO_REQUEST, error=JobLost(detail=f"job {job_id}")), left)
            case TableAnswer.ORPHANED:
                return RemoteJob(JobOutcome(NO_REQUEST, error=ServiceUnavailable(_ORPHANED)), left)
        raise self._not_found(reply.answer)

    async def has_ended(self, job_id: str, caller: str) -> bool:
        """Return whether a job that this replica does not know has ended, if only by the death of its replica.

        Raises:
            NotFound: There is no such job of that caller.
            ServiceUnavailable: Redis does not answer.
        """
        reply = await self.job_table.lookup(job_id, caller)
        if reply.answer in _KNOWN:
            return reply.answer is not TableAnswer.IN_FLIGHT
        raise self._not_found(reply.answer)

    async def cancel_remote(self, job_id: str, caller: str, follower: str | None = None) -> None:
        """Cancel a job that another replica runs. One that is canceled already stays so.

        `follower`: see `JobTable.cancel`.

        Raises:
            TaskNotCancelable: It was submitted, has ended, or a client waits for it.
            NotFound: There is no such job of that caller.
            ServiceUnavailable: Redis does not answer.
        """
        reply = await self.job_table.cancel(job_id, caller, CANCELED_OUTCOME, follower=follower)
        if reply.answer is TableAnswer.OK or (reply.answer is TableAnswer.DONE and is_canceled(reply.value)):
            return
        if reply.answer in NOT_CANCELABLE:
            raise TaskNotCancelable(NOT_CANCELABLE[reply.answer])
        raise self._not_found(reply.answer)

    def _not_found(self, answer: TableAnswer) -> ApiError:
        """Return the error for a job that the table does not know, or not at present."""
        may_exist = answer is TableAnswer.NO_REPLY and self.job_table.is_shared
        if may_exist or answer is TableAnswer.SETTLING:
            return ServiceUnavailable(_NOT_FOUND_YET, headers={"retry-after": "5"})
        return NotFound("This result does not exist or has expired.", code="result_not_found")

    # Publish what becomes of a job of this replica.

    def on_reader_left(self, job: Job) -> None:
        """Publish that a reader has left before the end of the run."""
        if self.job_table.owns(job) and not job.run.is_done:
            self.background.start(self._publish_status(job))

    async def _publish_status(self, job: Job) -> None:
        try:
            await self.job_table.publish_status(job)
        except ServiceUnavailable as error:
            log.warning("job_sharing_failed", job=job.id, error=error.message)

    def on_joined(self, job: Job, request_id: str) -> None:
        """End the lease of a request, unless this replica follows the job under that id.

        It may follow the job under another id, or run it itself: also where the table had an outcome of an earlier run.
        """
        if not job.is_remote or request_id != job.reader_id:
            self.background.start(self.job_table.unsubscribe(job, request_id))

    def on_unread(self, job: Job) -> None:
        """Hand a finished job over, or retain it here. A retry may have started the job once more meanwhile."""
        if not job.has_ended_unread:
            return
        if self.job_table.is_shared:
            self.background.start(self._hand_over(job))
        else:
            self.registry.retain_or_drop(job)

    async def _hand_over(self, job: Job) -> None:
        """Publish a finished job, then drop or retain it. Repeated when a reader that came meanwhile has left.

        A retry may start the job once more meanwhile, and that run may end, too. It is handed over afterwards.
        """
        is_published = False
        async with job.publish_lock:
            is_own, run = self.job_table.owns(job), job.run
            try:
                if job.has_ended_unread:
                    publish = self._publish_result if is_own else self.job_table.unsubscribe
                    is_published = await publish(job)
            except BaseException:  # reason: tidied up, and raised again
                self.job_table.untrack(job)
                raise
            finally:
                if job.has_ended_unread and job.run is run:
                    is_elsewhere = is_published and not job.is_only_here
                    (self.registry.drop if is_elsewhere else self.registry.retain_or_drop)(job)
                elif is_own:
                    self.job_table.track(job)

    async def _publish_result(self, job: Job) -> bool:
        """Publish a finished job, if anybody may ask other replicas for it. Return False if this one has to keep it."""
        if job.run.stop_reason is StopReason.INTERRUPTED and (job.key.key is not None or not job.delivered):
            # As if this replica had died: a client that repeats the request learns that it may have been paid for.
            self.job_table.untrack(job)
            return True
        is_known = self.registry.by_id(job.id) is job
        stays_here = is_known and job.is_only_for_retries and not self.is_draining
        is_wanted = is_known and job.should_retain and not stays_here
        briefly = not is_wanted or job.is_only_for_retries
        if not is_wanted:
            answer = await (self.job_table.mark_delivered(job) if stays_here else self.job_table.abandon(job))
            # The server may have begun to drain meanwhile.
            must_leave = stays_here and answer is TableAnswer.OK and self.is_draining
            if answer is not TableAnswer.AWAITED and not must_leave:
                return answer is not TableAnswer.NO_REPLY and not self.job_table.is_kept_for_retries(job)
        if not job.has_ended_unread:
            # A retry has started the job once more meanwhile, so there is no outcome yet.
            return False
        if not is_known and has_spooled_images(job):
            # The registry did not keep its images for as long as Redis was down.
            self.job_table.untrack(job)
            return True
        return await self._publish_outcome(job, briefly=briefly)

    async def _publish_outcome(self, job: Job, *, briefly: bool) -> bool:
        """Publish what a job has brought. Return False where Redis or the image store cannot take it."""
        try:
            if has_spooled_images(job) and not job.delivered:
                # Its images may take long to store, or not fit. A repeat at another replica may join meanwhile.
                await self.job_table.publish_unread(job)
            outcome, is_whole = await dump_outcome(job, self.store)
            job.is_only_here = not is_whole
            return await self.job_table.publish_result(job, outcome, briefly=briefly)
        except ApiError as error:
            log.warning("job_sharing_failed", job=job.id, error=error.detail or error.message)
            return False

    def _on_drop(self, job: Job) -> None:
        """Let other replicas forget a delivered job whose outcome was only here.

        At the end of this replica its record stays: a retry then learns that the image was paid for and is lost.
        """
        if self.job_table.is_kept_for_retries(job):
            self.job_table.untrack(job)
            if not self.is_draining:
                self.background.start(self.job_table.abandon(job))

    # Give heartbeats, and stop.

    async def heartbeat_loop(self) -> None:
        """Give heartbeats for ever, and publish outcomes that Redis could not take when they were ready."""
        while self.job_table.is_shared:
            await self.job_table.sleep_until_heartbeat()
            # A task of its own: a bug is logged and must not end the loop, without which this replica looks dead.
            await asyncio.wait({self.background.start(self._heartbeat())})

    async def _heartbeat(self) -> None:
        self.registry.drop_expired()
        for job in await self.job_table.heartbeat():
            if job.has_ended_unread and not job.publish_lock.locked():
                self.background.start(self._hand_over(job))
        for job in self.registry.active():
            # Another replica has canceled it for its client, or runs it now.
            is_needed = job.is_remote or job.may_have_cost or job.readers or self.job_table.owns(job)
            if job.is_async and not is_needed:
                job.run.call_off()

    async def drain(self, seconds: float) -> None:
        """Publish everything that other replicas may be asked for, also delivered results; wait `seconds` at most."""
        self.is_draining = True
        for job in self.job_table.kept_for_retries():
            self.background.start(self._hand_over(job))
        if self.background:
            await asyncio.wait(self.background, timeout=seconds)


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A job of another replica: its outcome, None while it is in flight, and seconds for which it will be known."""

    outcome: JobOutcome | None
    seconds_left: float
