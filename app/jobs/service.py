"""The use case: join an equal job or start a new one, run it, and hand out readers of it."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import NamedTuple

from app.access.auth import Caller
from app.access.budgets import Grant
from app.access.capacity import Capacity
from app.access.concurrency import FairSemaphore
from app.access.keys import ClientKey
from app.access.limits import KeyLimits, apply_key_policy
from app.errors import SHUTTING_DOWN, ServiceUnavailable, TaskCanceled, TaskNotCancelable
from app.images.blob import Spool
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun, StopReason
from app.jobs.pipeline import Pipeline
from app.jobs.pipeline_interface import Emit, PipelinePolicy
from app.jobs.pipeline_io import Backends, JobIO
from app.jobs.registry import JobRegistry, job_key
from app.jobs.sharing import NOT_CANCELABLE, JobSharing
from app.jobs.telemetry import JobTelemetry
from app.jobs.usage_record import UsageRecord
from app.protocol.attempt_costs import budgeted_cost
from app.protocol.image_request import ImagesRequest
from app.protocol.sizes import Size
from app.protocol.values import value_class
from app.state.job_table_reply import TableAnswer

#: The size that models generate if none is requested, or nearly that.
_USUAL_SIZE = Size(1536, 1024)

#: Turns of the event loop in which it reads that a connection was closed, closes it, and ends the wait of its request.
_TURNS_TO_LEAVE = 4

#: No retry is invited: another server would pay for the image once more.
_INTERRUPTED = "The server is shutting down. The image may have been made."


class ClientLeft(Exception):
    """The client has left before its job was started. Nothing was charged."""


@value_class
class Submission:
    """A request for images, with everything that a job takes from it.

    Attributes:
        id: The id of the request; of the job too, if the request starts one.
        spool: Holds the input images. The service takes it over.
        is_retry: The client says that it is repeating a request.
        counts_attempts: It says so with each request, with the first one too.
        is_async: The client does not wait, it comes back for the result with the job's id. A task is asynchronous too.
        is_connected: Returns whether the client is still connected.
    """

    id: str
    request: ImagesRequest
    caller: Caller
    spool: Spool
    usage: UsageRecord
    is_connected: Callable[[], Awaitable[bool]]
    idempotency_key: str | None = None
    is_retry: bool = False
    counts_attempts: bool = False
    is_async: bool = False


@dataclass(slots=True, eq=False)
class JobReader:
    """A client connection that waits for a job's result.

    `run` is the run that it waits for. That run may fail, and the job be restarted for another client, while this one
    is still being answered.
    """

    job: Job
    run: JobRun
    _sharing: JobSharing

    def close(self, *, delivered: bool) -> None:
        """Release the run; `delivered`: the client has got all of the result.

        A client that leaves earlier, even after keep-alives, ends a run that has cost nothing and that no other reads.
        """
        if self.run.readers == 1 and not self.job.is_awaited_later and not self.job.may_have_cost:
            self.run.call_off()
        if self.run is self.job.run:
            self.job.delivered = self.job.delivered or delivered
            if delivered and self.job.is_only_for_retries:
                # From now on, however long the result was kept before.
                self.job.expires_at = math.inf
        self.run.release()
        self._sharing.on_reader_left(self.job)


class JobView(NamedTuple):
    """The state of a job: a reader once it has ended, and seconds for which its result will be available."""

    reader: JobReader | None
    seconds_left: float


@dataclass(slots=True)
class ImageService:
    """Accept requests for images.

    Attributes:
        draining: Set when draining begins, for requests that wait for something else than a job.
        tasks: The runs in progress, with or without readers.
        settlements: What releases the reserved money of runs that were canceled before their first step.
    """

    semaphore: FairSemaphore
    limits: KeyLimits
    backends: Backends
    policy: PipelinePolicy
    registry: JobRegistry
    sharing: JobSharing
    capacity: Capacity
    is_draining: bool = False
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    settlements: set[asyncio.Task[None]] = field(default_factory=set)

    # Join a job or start one.

    async def submit(self, submission: Submission) -> JobReader:
        """Join or start the job of a request, and return a reader of it.

        The reader has to be closed, unless the submission is asynchronous.

        Raises:
            Forbidden, UserError: The client key does not allow the request.
            InvalidRequest: The idempotency key has the wrong form.
            IdempotencyKeyReused, RateLimited, ServiceUnavailable, JobLost: The job cannot be joined or started.
            ClientLeft: There is no client any more that would read the result.
        """
        try:
            request = apply_key_policy(submission.caller.key, submission.request)
            key = _key_of(submission, request)
            # Before the locks: requests that come together would wait for the turns of each other.
            await self._let_clients_leave(key)
            async with self.limits.lock(submission.caller), self.registry.lock(key):
                return await self._join_or_start(key, request, submission)
        except BaseException:  # reason: tidied up, and raised again
            submission.spool.close()
            raise

    async def _let_clients_leave(self, key: JobKey) -> None:
        """Let the event loop notice clients of equal jobs that have hung up just before this request came."""
        for _ in range(_TURNS_TO_LEAVE):
            if not self.registry.all_seem_read(key):
                return
            await asyncio.sleep(0)

    async def _join_or_start(self, key: JobKey, request: ImagesRequest, submission: Submission) -> JobReader:
        """Return a reader of an existing job, or of a new one that has been started.

        Only new jobs are charged against the limits of the client key. Without an idempotency key the job table decides
        which job is joined, because only the table knows whether a client of another replica waits for it.
        """
        table = self.sharing.job_table
        # Under a key every request may join what is here. A replica that drains joins nothing else, and one that is
        # alone has no table to ask.
        if self.is_draining or key.key is not None or table.is_alone:
            job = await self._joinable_here(key)
            if self.is_draining and (job is None or job.restarts_on_join):
                raise ServiceUnavailable(SHUTTING_DOWN)
            if job is not None:
                return self._join(job, request, submission)
        joined_id = await table.claim_or_join(
            submission.id,
            key,
            is_async=submission.is_async,
            unread=partial(self.registry.unread_ids, key),
            is_here=lambda job_id: self.registry.by_id(job_id) is not None,
        )
        # Redis may not have answered, and this replica then decides alone.
        is_unknown = joined_id is None and table.is_alone
        job = self.registry.find_joinable(key) if is_unknown else await self._joined_here(joined_id)
        if job is not None:
            reader = self._join(job, request, submission)
            if joined_id is not None:
                self.sharing.on_joined(job, submission.id)
            return reader
        grant = Grant() if joined_id is not None else await self._charge(request, key, submission)
        return self._add_job(joined_id, grant, key, request, submission)

    async def _joinable_here(self, key: JobKey) -> Job | None:
        """Return the job of this replica that a request joins.

        The end of a run that was stopped is reported to the table first. Then the job may be gone, and another
        replica may have begun an equal one.
        """
        while (job := self.registry.find_joinable(key)) is not None:
            was_stopped = job.run.stop_reason in {StopReason.CALLED_OFF, StopReason.CANCELED}
            if not (was_stopped and job.publish_lock.locked()):
                return job
            async with job.publish_lock:
                pass
        return None

    async def _joined_here(self, job_id: str | None) -> Job | None:
        """Return the job with that id if this replica runs or follows it already, or has just finished it.

        None for a job that this replica has to begin to follow. A wait for another replica that was called off is over
        when Redis has answered its last command, which may have made this replica the owner.
        """
        job = self.registry.by_id(job_id)
        if job is not None and job.has_ended_following:
            await job.run.wait_done()
        return None if job is None or job.has_ended_following else job

    def _join(self, job: Job, request: ImagesRequest, submission: Submission) -> JobReader:
        """Return a reader of an existing job, which is run once more if that costs nothing and brings the result."""
        job.has_receipt = job.has_receipt or submission.is_async
        if job.restarts_on_join:
            job.restart(request, submission.spool, JobRun(JobTelemetry(submission.usage.trace)))
            return self._start(job, submission)
        # The job already holds the same input images.
        submission.spool.close()
        submission.usage.attach(job)
        return self._reader(job, submission)

    async def _charge(self, request: ImagesRequest, key: JobKey, submission: Submission) -> Grant:
        """Charge a new job, and return what it may spend and what the client key has left."""
        self.registry.unserved.note_new_job(key)
        try:
            if not await submission.is_connected():
                raise ClientLeft
            if submission.is_async:
                # While the client is there: it would learn only from the result that there was no room for its job.
                self.semaphore.check_room(submission.caller.id, request.n)
            return await self._reserve_and_charge(request, submission.caller)
        except BaseException:  # reason: tidied up, and raised again
            self.registry.unserved.note_end(key)
            await self.sharing.job_table.withdraw(submission.id, key)
            raise

    async def _reserve_and_charge(self, request: ImagesRequest, caller: Caller) -> Grant:
        """Reserve the price and count the request; one that any limit refuses counts for none."""
        client_key, budgets = caller.key, self.limits.budgets
        only = None if client_key is None else client_key.upstream
        has_budget = _has_budget(client_key)
        price = request.n * self.backends.pool.highest_price(request, only) if has_budget else Decimal(0)
        grant = await budgets.reserve(client_key, price)
        try:
            headers = await self.limits.charge(caller, request.n)
        except BaseException:  # reason: tidied up, and raised again
            await budgets.settle(client_key, grant.reservation, Decimal(0))
            raise
        return Grant(grant.reservation, headers | grant.headers)

    def _add_job(
        self,
        joined_id: str | None,
        grant: Grant,
        key: JobKey,
        request: ImagesRequest,
        submission: Submission,
    ) -> JobReader:
        """Start a new job, or follow the replica that already runs an equal one."""
        job = Job(
            joined_id or submission.id,
            key,
            request,
            submission.spool,
            JobRun(JobTelemetry(submission.usage.trace, grant.headers, reservation=grant.reservation)),
            is_async=submission.is_async,
            reader_id=submission.id,
            is_remote=joined_id is not None,
        )
        reader = self._start(job, submission)
        self.registry.add(job)
        return reader

    # Run it.

    def _start(self, job: Job, submission: Submission) -> JobReader:
        """Start the present run of a job, and return a reader of it."""
        run, usage = job.run, submission.usage
        reader = self._reader(job, submission)
        work = partial(self._follow_remote if job.is_remote else self._run, job, submission)
        client_key = submission.caller.key
        task = run.start(
            partial(self._run_and_settle, work, run, client_key) if _has_budget(client_key) else work,
            # Called in this order. No closures: each takes 0.2 KiB, for as long as the run waits for its upstream.
            on_done=[self.tasks.discard, partial(self._end, run, usage, client_key)],
            on_unread=partial(self.sharing.on_unread, job),
        )
        self.tasks.add(task)
        if job.is_remote:
            usage.attach(job)
        else:
            usage.start_run(job)
            self.sharing.job_table.track(job)
        return reader

    def _reader(self, job: Job, submission: Submission) -> JobReader:
        # Counted before the next `await`: an equal request must not take the client for one that has left. A client
        # that does not wait is no reader.
        if not submission.is_async:
            job.run.add_reader()
        return JobReader(job, job.run, self.sharing)

    async def _run_and_settle(
        self, work: Callable[[Emit], Awaitable[None]], run: JobRun, client_key: ClientKey | None, emit: Emit
    ) -> None:
        """Do the work of a run, and count its real cost before its end is known to clients."""
        try:
            await work(emit)
        finally:
            await self._settle(run, client_key)

    def _end(self, run: JobRun, usage: UsageRecord, client_key: ClientKey | None, _: asyncio.Task[None]) -> None:
        usage.end_run(run)
        self._settle_unstarted(run, client_key)

    async def _settle(self, run: JobRun, client_key: ClientKey | None) -> None:
        reservation, run.telemetry.reservation = run.telemetry.reservation, None
        cost = budgeted_cost(run.telemetry.attempt_records)
        await self.limits.budgets.settle(client_key, reservation, cost)

    def _settle_unstarted(self, run: JobRun, client_key: ClientKey | None) -> None:
        """Release what is reserved for a run that was canceled before its first step."""
        if run.telemetry.reservation is not None:
            task = asyncio.create_task(self._settle(run, client_key))
            self.settlements.add(task)
            task.add_done_callback(self.settlements.discard)

    async def _follow_remote(self, job: Job, submission: Submission, emit: Emit) -> None:
        """Emit the result of another replica, or run the job here where that replica cannot and nothing is lost."""
        result = await self.sharing.await_remote(job)
        if result is not None:
            emit(result)
            return
        submission.usage.start_run(job)
        await self._run(job, submission, emit)

    async def _run(self, job: Job, submission: Submission, emit: Emit) -> None:
        """Run the pipeline with a slot of the client key and one of this process.

        The key's slot comes first: a request that waits for it holds no slot that others could use.
        """
        run, caller, request = job.run, submission.caller, job.request
        upstream = None if caller.key is None else caller.key.upstream
        size = _USUAL_SIZE if request.size is None else request.size.upstream_size
        pipeline = Pipeline(request, JobIO(self.backends, job, caller.token, upstream), self.policy)
        with run.telemetry.trace.step("turn") as queued:
            async with self.limits.slot(caller, request.n), self.semaphore.acquire(caller.id, request.n):
                run.telemetry.queue_seconds = queued.stop()
                try:
                    # Room for the images is reserved before anything is paid for.
                    room, measure = (request.n, size.pixels), self.backends.store.free_bytes
                    free = await self.capacity.free_to_store(measure, *room) if pipeline.stores_results else None
                    with self.capacity.reserve(*room, free):
                        await pipeline.run(emit)
                except asyncio.CancelledError:
                    if not run.may_have_cost:
                        raise
                    if job.paid_replies:
                        # Whoever repeats the request gets what these replies bring, at no further cost.
                        raise ServiceUnavailable(SHUTTING_DOWN) from None
                    run.interrupt()
                    raise ServiceUnavailable(_INTERRUPTED, headers={"x-should-retry": "false"}) from None

    # Serve a client that comes back with the id of a job.

    async def view(self, job_id: str, caller: Caller, spool: Spool) -> JobView:
        """Return the state of a job. May be called as often as wanted. Takes the spool over.

        Raises:
            NotFound: There is no such job of that caller, or its time is over.
            ServiceUnavailable: Redis does not answer.
        """
        job = self._own_job(job_id, caller)
        if job is None:
            return await self._load_remote(job_id, caller, spool)
        left = self.registry.seconds_left(job)
        if not job.run.is_done:
            return JobView(None, left)
        job.run.add_reader()
        return JobView(JobReader(job, job.run, self.sharing), left)

    async def has_ended(self, job_id: str, caller: Caller) -> bool:
        """Return whether a job has ended. Raises as `view` does."""
        job = self._own_job(job_id, caller)
        return await self.sharing.has_ended(job_id, caller.id) if job is None else job.run.is_done

    def _own_job(self, job_id: str, caller: Caller) -> Job | None:
        """Return the caller's job of this process, but none that another replica has canceled or runs now."""
        job = self.registry.of_caller(caller, job_id)
        return None if job is None or job.run.stop_reason is StopReason.CALLED_OFF else job

    async def _load_remote(self, job_id: str, caller: Caller, spool: Spool) -> JobView:
        """Restore a finished job of another replica as if it had run here."""
        try:
            remote = await self.sharing.load_remote(job_id, caller.id, spool)
        except BaseException:  # reason: tidied up, and raised again
            spool.close()
            raise
        outcome = remote.outcome
        if outcome is None:
            return JobView(None, remote.seconds_left)
        job = Job(job_id, JobKey(caller.id, ""), outcome.request, spool, JobRun(readers=1), is_async=True)
        job.run.start(outcome.emit, on_unread=spool.close)
        await job.run.wait_done()
        return JobView(JobReader(job, job.run, self.sharing), remote.seconds_left)

    async def cancel(self, job_id: str, caller: Caller) -> None:
        """Cancel a job that has not cost anything yet and that no client waits for. Repeated, it changes nothing.

        Raises:
            NotFound: There is no such job of that caller, or its time is over.
            TaskNotCancelable: It was submitted, has ended, or a client waits for it.
        """
        job = self._own_job(job_id, caller)
        if job is None or (job.is_remote and not job.run.is_done):
            follower = None if job is None or job.readers else job.reader_id
            await self.sharing.cancel_remote(job_id, caller.id, follower)
            if job is not None and not job.run.is_done:
                # It would find out only when it asks for the outcome again.
                job.run.cancel()
                await job.run.wait_done()
        elif not isinstance(job.run.error, TaskCanceled):
            reasons = {
                TableAnswer.DONE: job.run.is_done,
                TableAnswer.SUBMITTED: job.may_have_cost,
                TableAnswer.AWAITED: job.readers > 0,
            }
            for reason, applies in reasons.items():
                if applies:
                    raise TaskNotCancelable(NOT_CANCELABLE[reason])
            job.run.cancel()
            await job.run.wait_done()

    # Stop.

    async def drain(self, grace: float) -> None:
        """Accept no new jobs, let runs finish within `grace` seconds, and end the rest with an error."""
        self.is_draining = True
        self.draining.set()
        if self.tasks:
            _, late = await asyncio.wait(self.tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.gather(*self.settlements, return_exceptions=True)
        await self.sharing.drain(grace)


def _has_budget(client_key: ClientKey | None) -> bool:
    return client_key is not None and client_key.monthly_cost is not None


def _key_of(submission: Submission, request: ImagesRequest) -> JobKey:
    key = job_key(
        request,
        submission.caller,
        submission.idempotency_key,
        is_retry=submission.is_retry,
        counts_attempts=submission.counts_attempts,
    )
    return replace(key, is_task=True) if request.as_task or request.webhook_url else key
