"""The job table in Redis: which replica runs which job, which replicas wait for it, and its outcome.

Prompts are never written there, only digests of requests. The rules are in job_table.lua: each is one atomic step.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import orjson

from app.errors import IdempotencyKeyReused, JobLost, ServiceUnavailable
from app.state.job_table_reply import HeartbeatReply, TableAnswer, TableReply
from app.state.shared_job import SharedJob, SharedKey
from app.state.shared_state import SharedState
from app.state.timings import DEFAULT_TIMINGS, SharingTimings

#: Heartbeats in one command; and finished jobs that are remembered while Redis is down, to be published later.
_HEARTBEATS_AT_ONCE, _MAX_UNPUBLISHED = 200, 1000

#: One hash tag in all keys keeps them on one node of a cluster.
_PREFIX = "limner:{jobs}:"

_TAKEN_OVER = "Another replica of this server has taken over the request. Please ask again: that costs nothing more."

J = TypeVar("J", bound=SharedJob)
T = TypeVar("T")


class JobTable(Generic[J]):
    """Claim jobs, publish their state and outcome, and wait for those of other replicas.

    Where nothing is shared, and while Redis is down, each call behaves as if there were no other replica. Only
    `claim_or_join` and `mark_submitted` raise `ServiceUnavailable` then, if the operator wants it so.
    """

    def __init__(
        self,
        state: SharedState,
        *,
        ttl: float,
        key_ttl: float,
        timings: SharingTimings = DEFAULT_TIMINGS,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Keep outcomes for `ttl` seconds, and for `key_ttl` those of tasks and under an idempotency key."""
        self._state, self.is_shared = state, state.is_shared
        self._ttl, self._key_ttl = ttl, key_ttl
        self._timings = timings
        self._sleep = sleep
        self._owner = secrets.token_hex(8)
        #: The jobs for which this replica gives heartbeats, by id; and the ids of those that are only kept for retries.
        self._tracked: dict[str, J] = {}
        self._delivered: set[str] = set()
        #: By group, the sequence number of a claim that is on its way: the registry sends one at a time.
        self._claims: dict[str, int] = {}
        self._sequence = 0
        self._has_answered = True

    @property
    def is_alone(self) -> bool:
        """Whether this replica cannot know of others at present: nothing is shared, or Redis did not answer."""
        return not self.is_shared or self._state.is_down

    # Which jobs are this replica's.

    def owns(self, job: J) -> bool:
        """Return whether this replica gives heartbeats for the job.

        It may have had another job with that id before: one whose outcome it has taken over again from the table.
        """
        return self._tracked.get(job.id) is job

    def track(self, job: J) -> None:
        """Give heartbeats for the job from now on."""
        if self.is_shared and not self.owns(job):
            self._tracked[job.id] = job
            self._delivered.discard(job.id)

    def untrack(self, job: J) -> None:
        """Give no more heartbeats: the outcome is published, or the job is to look orphaned."""
        if self.owns(job):
            del self._tracked[job.id]
            self._delivered.discard(job.id)

    def is_kept_for_retries(self, job: J) -> bool:
        """Return whether the table knows the job as delivered, and its outcome is only here."""
        return job.id in self._delivered and self.owns(job)

    def kept_for_retries(self) -> list[J]:
        """Return the delivered jobs whose outcome is only here."""
        return [self._tracked[job_id] for job_id in self._delivered]

    # Claim a job, or join one.

    async def claim_or_join(
        self,
        job_id: str,
        key: SharedKey,
        *,
        is_async: bool,
        unread: Callable[[], Sequence[str]] = tuple,
        is_here: Callable[[str], bool] = lambda _: True,
    ) -> str | None:
        """Return the id of a job to join; None if there is none, and other replicas find the new job from now on.

        With an idempotency key, and as a retry, this waits until a new table can be trusted: an owner may have to
        restore its record first. `unread` returns equal jobs that no client of this replica waits for, `is_here`
        whether this replica still has a job: one may end while Redis answers.

        Raises:
            IdempotencyKeyReused: The key belongs to a different request.
            JobLost: The replica that ran an equal job has died after submission.
            ServiceUnavailable: Redis is down, and this replica may not go on alone.
        """
        if not self.is_shared:
            return None
        claim = partial(self._claim, job_id, key, is_async=is_async, unread=unread)
        reply = await claim()
        while reply.answer is TableAnswer.SETTLING:
            # Redis may lose its data once more while this waits: then the table is a new one.
            milliseconds, epoch = reply.value.decode().split()
            await self._sleep(int(milliseconds) / 1000)
            reply = await claim(waited_for=epoch)
        if reply.answer is TableAnswer.JOINED_OWN and not is_here(reply.value.decode()):
            reply = await claim(has_waited=True, given_up=self._given_up(reply.value.decode()))
        match reply.answer:
            case TableAnswer.KEY_REUSED:
                raise IdempotencyKeyReused
            case TableAnswer.LOST:
                raise JobLost(detail=f"job {reply.value.decode()}")
            case TableAnswer.JOINED | TableAnswer.JOINED_OWN:
                return reply.value.decode()
        return None

    async def _claim(
        self, job_id: str, key: SharedKey, *, is_async: bool, unread: Callable[[], Sequence[str]], **more: Any
    ) -> TableReply:
        fields, group = _fields(key, is_async=is_async, readers=0 if is_async else 1), _group_key(key)
        self._claims[group] = self._sequence + 1
        try:
            return await self._call(
                "claim",
                job_id,
                key,
                required=True,
                ttl=self._retention(key),
                reader=job_id,
                is_retry=key.is_retry,
                unread=list(unread()),
                fields=fields,
                **more,
            )
        finally:
            # Whoever has sent it counts the reader before the next turn of the loop.
            self._claims.pop(group, None)

    def _given_up(self, job_id: str) -> str:
        """Return the id of a job that nobody comes back for, which Redis may not know yet; empty for any other job."""
        job = self._tracked.get(job_id)
        return job_id if job is not None and job.has_ended_unread and not job.should_retain else ""

    async def withdraw(self, job_id: str, key: SharedKey) -> None:
        """Delete the record of a claim that no job has come of."""
        await self._abandon(job_id, key, has_cost_nothing=True)

    # Publish what becomes of a job of this replica.

    async def mark_submitted(self, job: J) -> None:
        """Publish that the job may cost something from now on, so that no other replica runs it should this one die.

        Raises:
            ServiceUnavailable: Another replica has taken the job over, or this one may not go on alone.
        """
        async with job.publish_lock:
            if not self.owns(job):
                raise ServiceUnavailable(_TAKEN_OVER)
            await self._publish(job, submitted=True, required=True)

    async def publish_status(self, job: J) -> None:
        """Publish the state of a job. Raises `ServiceUnavailable` where another replica has taken it over."""
        async with job.publish_lock:
            if self.owns(job) and not job.has_ended_unread:
                await self._publish(job)

    async def publish_unread(self, job: J) -> None:
        """Publish that a job has ended unread and its outcome comes later. The caller holds the lock of the job."""
        await self._publish(job)

    async def publish_result(self, job: J, outcome: bytes, *, briefly: bool) -> bool:
        """Publish the outcome of a job; `briefly` only for the replicas that wait for it now.

        Returns:
            False where Redis did not answer.

        Raises:
            ServiceUnavailable: Another replica has taken the job over.
        """
        ttl = self._key_ttl if job.key.is_kept_long else self._ttl
        is_published = await self._publish(job, outcome, ttl=self._timings.delivery_lease if briefly else ttl)
        if is_published:
            self.untrack(job)
        return is_published

    async def _publish(
        self,
        job: J,
        outcome: bytes = b"",
        *,
        submitted: bool = False,
        ttl: float | None = None,
        required: bool = False,
    ) -> bool:
        fields = _fields(
            job.key,
            is_async=job.is_async,
            readers=job.readers,
            submitted=submitted or job.was_submitted,
            delivered=job.delivered,
            retry_free=bool(outcome) and job.can_retry_free,
            failed=bool(outcome) and job.has_failed,
        )
        ttl = self._retention(job.key) if ttl is None else ttl
        # A run that has sent something already is published, even if another job has replaced its record.
        is_first = submitted and not job.was_submitted
        claim = self._claims.get(_group_key(job.key), 0)
        more = {"fields": fields, "submitting": is_first, "claim": claim, "is_retry": job.key.is_retry}
        reply = await self._call("publish", job.id, job.key, outcome, required=required, ttl=ttl, **more)
        if reply.answer is TableAnswer.NOT_OWNER:
            self.untrack(job)
            raise ServiceUnavailable(_TAKEN_OVER)
        return reply.answer is TableAnswer.OK

    async def mark_delivered(self, job: J) -> TableAnswer:
        """Publish that a job was delivered. Its outcome stays here until a retry reaches another replica.

        Returns OK, AWAITED, NOT_OWNER or NO_REPLY.
        """
        fields = _fields(job.key, is_async=job.is_async, readers=job.readers, submitted=job.was_submitted)
        more: dict[str, Any] = {"fields": fields, "is_retry": job.key.is_retry}
        answer = (await self._call("deliver", job.id, job.key, ttl=self._timings.delivered, **more)).answer
        if answer is TableAnswer.OK and self.owns(job):
            self._delivered.add(job.id)
        elif answer is TableAnswer.NOT_OWNER:
            self.untrack(job)
        return answer

    async def abandon(self, job: J) -> TableAnswer:
        """Delete the record of a job that has no outcome. Returns OK, AWAITED or NO_REPLY."""
        answer = await self._abandon(job.id, job.key, has_cost_nothing=not job.may_have_cost)
        if answer not in {TableAnswer.OK, TableAnswer.NOT_OWNER}:
            return answer
        self.untrack(job)
        return TableAnswer.OK

    async def _abandon(self, job_id: str, key: SharedKey, *, has_cost_nothing: bool) -> TableAnswer:
        # Only a client that counts its attempts says later that it repeats this one.
        unserved = has_cost_nothing and key.counts_attempts and key.key is None
        return (await self._call("abandon", job_id, key, unserved=unserved)).answer

    # Follow a job of another replica.

    async def wait_for_result(self, job: J) -> bytes | None:
        """Return the outcome of a job of another replica; None where this replica has taken the job over.

        While Redis does not answer, nothing says that the other replica has died. It keeps the outcome for later.

        Raises:
            JobLost: Its replica has died after submission, or no replica knows the job any more.
        """
        missing = unanswered = 0.0
        while missing < self._timings.dead_after and unanswered < self._ttl:
            reply = await self._call("poll", job.id, job.key, reader=job.reader_id)
            match reply.answer:
                case TableAnswer.DONE:
                    return reply.value
                case TableAnswer.LOST:
                    break
                case TableAnswer.ORPHANED if await self.take_over(job):
                    return None
            # The owners restore their records in a Redis that has lost its data, so wait for that.
            missing = missing + self._timings.poll if reply.answer is TableAnswer.UNKNOWN else 0.0
            unanswered = unanswered + self._timings.poll if reply.answer is TableAnswer.NO_REPLY else 0.0
            await self._sleep(self._timings.poll)
        raise JobLost(detail=f"job {job.id}")

    async def take_over(self, job: J) -> bool:
        """Become the owner of a job that has cost nothing yet, or that was paid for and could not be delivered.

        Tried again where Redis does not answer: if only its reply was lost, this replica is the owner already. Also
        where Redis has fallen back to older data: another replica may be the owner, and tells so with its heartbeat.
        """
        waited = 0.0
        try:
            while True:
                answer = await _to_its_end(self._take_over(job))
                if answer not in {TableAnswer.NO_REPLY, TableAnswer.SETTLING} or waited >= self._timings.dead_after:
                    return answer is TableAnswer.OK
                waited += self._timings.poll
                await self._sleep(self._timings.poll)
        except asyncio.CancelledError:
            # Redis may have made this replica the owner, which then has to hand the job over.
            self.track(job)
            raise

    async def _take_over(self, job: J) -> TableAnswer:
        """Return what the table answers. The owner gives heartbeats, also where its caller is canceled meanwhile."""
        fields = _fields(job.key, is_async=job.is_async, readers=job.readers)
        ttl = self._retention(job.key)
        reply = await self._call("take_over", job.id, job.key, reader=job.reader_id, fields=fields, ttl=ttl)
        if reply.answer is TableAnswer.OK:
            # Whoever has started the job may come back for it by its id alone.
            job.is_async = job.is_async or reply.value == b"1"
            self.track(job)
        return reply.answer

    async def unsubscribe(self, job: J, reader_id: str | None = None) -> bool:
        """End the wait for a job of another replica. Returns False where Redis did not answer.

        `reader_id`: a request that has joined a job which this replica waited for already: its lease is one too many.
        """
        delivered = reader_id is None and job.delivered and not job.has_failed
        reply = await self._call("unsubscribe", job.id, job.key, reader=reader_id or job.reader_id, delivered=delivered)
        return reply.answer is TableAnswer.OK

    async def sleep_until_poll(self) -> None:
        """Wait until a job of another replica may be looked at again."""
        await self._sleep(self._timings.poll)

    # Serve a client that comes back with the id of a job.

    async def lookup(self, job_id: str, caller: str) -> TableReply:
        """Look for a job by its id alone.

        Returns DONE with its outcome, IN_FLIGHT, ORPHANED or LOST; if it is not found, UNKNOWN, SETTLING or NO_REPLY.
        """
        args = {"id": job_id, "caller": caller}
        return TableReply.parse(await self._run("lookup", [_PREFIX + "unknown-group"], args))

    async def cancel(self, job_id: str, caller: str, outcome: bytes, *, follower: str | None = None) -> TableReply:
        """End a job of another replica with an outcome, if it has not cost anything yet.

        `follower`: the reader id under which this replica follows the job for clients that do not wait.

        Returns OK, DONE with the outcome that it has, SUBMITTED, AWAITED or LOST; if it is not found, as `lookup`.
        """
        args = {"id": job_id, "caller": caller} | ({} if follower is None else {"reader": follower})
        return TableReply.parse(await self._run("cancel", [_PREFIX + "unknown-group"], args, outcome))

    # Give heartbeats.

    async def heartbeat(self) -> list[J]:
        """Give heartbeats for all jobs of this replica. Returns finished jobs whose outcome other replicas need.

        Without any job, too: a silence of all replicas thus means that Redis was away, and not that owners have died.
        """
        unpublished = [job for job in self._tracked.values() if self._is_unpublished(job)]
        for job in unpublished[:-_MAX_UNPUBLISHED]:
            self.untrack(job)
        tracked, wanted = list(self._tracked.values()), set[bytes]()
        for first in range(0, len(tracked) or 1, _HEARTBEATS_AT_ONCE):
            jobs = tracked[first : first + _HEARTBEATS_AT_ONCE]
            reply = await self._give_heartbeats(jobs)
            self._has_answered = reply is not None
            if reply is None:
                return []
            wanted |= reply.wanted
            for job in jobs:
                # Publishing may take long, and the other jobs must not look orphaned meanwhile.
                if job.id.encode() in reply.unknown and not job.publish_lock.locked():
                    await self._restore(job)
        # What was published meanwhile may be the job of another request by now, under the same id.
        unread = [job for job in tracked if job.has_ended_unread and self.owns(job)]
        return [job for job in unread if job.id.encode() in wanted or not self.is_kept_for_retries(job)]

    async def _give_heartbeats(self, jobs: list[J]) -> HeartbeatReply | None:
        """Return what the table says; None where Redis does not answer.

        One command for many jobs, since Redis may be slow.
        """
        groups = [_group_key(job.key) for job in jobs]
        heartbeats = [
            {
                "id": job.id,
                "claim": self._claims.get(group, 0),
                # A client that has everything is counted until the table knows that the job was delivered.
                "readers": job.readers or int(job.delivered and not self.is_kept_for_retries(job)),
                "submitted": job.was_submitted,
                "delivered": self.is_kept_for_retries(job),
                "ttl": round(self._retention(job.key) * 1000),
            }
            for job, group in zip(jobs, groups, strict=True)
        ]
        reply = await self._run("heartbeat", groups or [_PREFIX + "unknown-group"], {"heartbeats": heartbeats})
        if reply is None:
            return None
        return HeartbeatReply.parse(reply)

    def _is_unpublished(self, job: J) -> bool:
        return job.has_ended_unread and self.owns(job) and not self.is_kept_for_retries(job)

    async def _restore(self, job: J) -> None:
        if self.is_kept_for_retries(job):
            await self.mark_delivered(job)
            return
        try:
            await self.publish_status(job)
        except ServiceUnavailable:
            # Readers of this replica still get its result; other replicas have an owner that works for them.
            return

    async def sleep_until_heartbeat(self) -> None:
        """Wait until the next heartbeat is due: sooner if Redis did not answer, since it may have lost its data."""
        await self._sleep(self._timings.heartbeat if self._has_answered else self._timings.heartbeat / 4)

    # Send commands.

    def _retention(self, key: SharedKey) -> float:
        """Return how long a record is kept: a dead owner is remembered for as long as its outcome would be."""
        return max(self._key_ttl if key.is_kept_long else self._ttl, 4 * self._timings.dead_after)

    async def _call(
        self,
        command: str,
        job_id: str,
        key: SharedKey,
        outcome: bytes = b"",
        *,
        required: bool = False,
        ttl: float = 0,
        **more: Any,
    ) -> TableReply:
        args = {"id": job_id, "keyed": key.key is not None, "ttl": max(1, round(ttl * 1000)), **more}
        return TableReply.parse(await self._run(command, [_group_key(key)], args, outcome, required=required))

    async def _run(
        self, command: str, groups: list[str], args: dict[str, Any], outcome: bytes = b"", *, required: bool = False
    ) -> list[bytes] | None:
        """Return what job_table.lua answers; None where Redis does not."""
        self._sequence += 1
        more = {"prefix": _PREFIX, "owner": self._owner, "sequence": self._sequence}
        document = orjson.dumps({**args, **self._timings.arguments, **more})
        work = self._state.run_script("job_table.lua", groups, [command, document, outcome], required=required)
        return await _to_its_end(work)


async def _to_its_end(command: Coroutine[Any, Any, T]) -> T:
    """Return what a command brings. A canceled caller waits for it, too.

    A command that was given up may still reach Redis, after the commands that follow it, and undo what these have done.
    """
    task = asyncio.ensure_future(command)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def _fields(key: SharedKey, *, is_async: bool, readers: int, **more: bool) -> dict[str, Any]:
    flags = {"submitted": False, "delivered": False, "retry_free": False, "failed": False, **more}
    flags |= {"async": is_async, "keyed": key.key is not None}
    return {
        "caller": key.caller,
        "fingerprint": key.fingerprint,
        "readers": readers,
        **{name: "1" if value else "0" for name, value in flags.items()},
    }


def _group_key(key: SharedKey) -> str:
    # An idempotency key may be a secret of the client's, so its digest stands for it.
    return _PREFIX + "joinable:" + hashlib.sha256("\0".join(key.group).encode()).hexdigest()
