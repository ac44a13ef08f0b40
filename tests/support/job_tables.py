"""Replicas that are a job table each, and what becomes of jobs in them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from redis import Redis

from app.errors import ApiError, ImageUnavailable, ServiceUnavailable
from app.images.blob import Spool
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun
from app.jobs.pipeline_interface import Emit
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from tests.support.join_cases import ME, PAID_REPLY
from tests.support.redis import RedisServer
from tests.support.registries import ANSWER, REQUEST

RECORD = "limner:{jobs}:req_1"
REACHED, EPOCH, RUN = (f"limner:{{jobs}}:{name}" for name in ("reached", "epoch", "run"))
GROUPS = "limner:{jobs}:joinable:*"


class Replica:
    """A job table, and jobs without a server. `between` is called in each pause of the table."""

    def __init__(self, url: str, *, closed: bool = False) -> None:
        self.state = SharedState(url, fail_closed=closed)
        self.table: JobTable[Job] = JobTable(self.state, ttl=600, key_ttl=86_400, sleep=self.sleep)
        self.between: Callable[[], Coroutine[Any, Any, object]] | None = None
        self.pauses = 0
        self.waited = 0.0

    async def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.waited += seconds
        if self.between is not None:
            await self.between()

    def job(
        self,
        key: JobKey = ME,
        job_id: str = "req_1",
        *,
        submitted: bool = True,
        error: ApiError | None = None,
        is_async: bool = False,
        paid: bool = False,
    ) -> Job:
        """Return a job whose run ends at the next turn of the loop; `paid`: with a reply."""

        async def work(emit: Emit) -> None:
            if error is not None:
                raise error
            emit(ANSWER)

        run = JobRun(readers=0 if is_async else 1)
        run.was_submitted = submitted
        run.start(work)
        job = Job(job_id, key, REQUEST, Spool(), run, is_async=is_async, reader_id="me")
        job.paid_replies += [PAID_REPLY] * paid
        return job

    async def claim(
        self, key: JobKey = ME, job_id: str = "req_1", *, submitted: bool = True, is_async: bool = False, **options: Any
    ) -> Job:
        """Return a job that this replica owns."""
        assert await self.table.claim_or_join(job_id, key, is_async=is_async) is None
        job = self.job(key, job_id, submitted=submitted, is_async=is_async, **options)
        self.table.track(job)
        if submitted:
            await self.table.mark_submitted(job)
        return job


def play(scene: Callable[[Replica, Replica], Awaitable[None]], server: RedisServer) -> None:
    async def run() -> None:
        replicas = Replica(server.url), Replica(server.url)
        await scene(*replicas)
        for replica in replicas:
            await replica.state.close()

    asyncio.run(run())


async def end_quietly(job: Job) -> None:
    """Let the run end and its reader leave, without any news to the table."""
    await job.run.wait_done()
    job.run.readers = 0


async def finish(replica: Replica, job: Job, *, delivered: bool) -> None:
    """Wait for the end of the run, let its reader leave, and publish the outcome if anybody may come back for it."""
    await job.run.wait_done()
    job.delivered = delivered
    job.run.readers = 0
    is_wanted = job.should_retain and not job.is_only_for_retries
    leave = replica.table.mark_delivered(job) if job.is_only_for_retries else replica.table.abandon(job)
    if is_wanted:
        leave.close()
    if is_wanted or await leave == "awaited":
        assert await replica.table.publish_result(job, b"{}", briefly=not is_wanted)


async def endless(_: Emit) -> None:
    await asyncio.Event().wait()


def never_end(job: Job, *, submitted: bool = True, readers: int = 1) -> None:
    """Give a job a run that goes on until it is cancelled."""
    job.run = JobRun(readers=readers)
    job.run.was_submitted = submitted
    job.run.start(endless)


def stop_heartbeat(redis: Redis, record: str = RECORD) -> None:
    """Make an owner look silent to a Redis that was always there."""
    redis.hset(record, mapping={"heartbeat": 0})
    redis.mset({REACHED: 0, EPOCH: 0})


async def follow(replica: Replica, key: JobKey = ME, reader: str = "req_2") -> Job:
    """Return the first job at this replica, which a request has joined there."""
    assert await replica.table.claim_or_join(reader, key, is_async=False) == "req_1"
    job = replica.job(key)
    job.reader_id = reader
    return job


async def fail(replica: Replica, error: Exception, *, key: JobKey = ME, is_async: bool = False, paid: bool) -> None:
    """Publish the failure of the first job."""
    assert isinstance(error, ImageUnavailable | ServiceUnavailable)
    job = await replica.claim(key, error=error, is_async=is_async, paid=paid, submitted=paid)
    await job.run.wait_done()
    job.run.readers = 0
    assert await replica.table.publish_result(job, b"{}", briefly=False)
