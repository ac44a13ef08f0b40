"""Bugs that the simulated schedules must find: each changes one function, and says what breaks."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

import simulate.redis
from app.access.concurrency import FairSemaphore
from app.api import images as image_endpoints
from app.api.disconnects import DisconnectWatcher
from app.errors import ImageUnavailable, RetrySafety, ServiceUnavailable, UpstreamError
from app.jobs import outcome, retention
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun
from app.jobs.pipeline_interface import Emit
from app.jobs.pipeline_io import JobIO
from app.jobs.registry import JobRegistry
from app.jobs.service import _INTERRUPTED, ImageService, JobReader, Submission
from app.jobs.sharing import JobSharing
from app.protocol.stored_reply import dump_reply
from app.state.job_table import JobTable
from app.state.job_table_reply import TableAnswer
from app.upstream import client as upstream_client
from app.upstream import error_mapping
from app.upstream.connection_errors import connection_failure
from app.upstream.error_mapping import UpstreamFailure
from app.upstream.pool import RoutingState, UpstreamPool
from simulate.attempts import Attempt
from simulate.history import Group, History
from simulate.schedule import Outcome, play
from simulate.upstream import Call
from tests.support.situations import (
    Situation,
    a_client_joins_and_is_gone_before_the_run_begins,
    a_client_joins_and_leaves_while_its_result_is_published,
    a_client_joins_at_a_heartbeat,
    a_client_leaves_at_a_heartbeat,
    a_client_leaves_when_its_key_is_claimed,
    a_client_vanishes_when_its_result_is_published,
    a_key_comes_with_two_prompts,
    a_replica_dies_while_it_sends_the_result_of_another,
    a_replica_dies_with_a_reply_that_was_cut,
    a_replica_drains_what_it_wrote_into_a_dead_connection,
    a_replica_is_paused_while_it_claims_under_a_key,
    a_replica_stops_while_it_downloads,
    a_request_fails_while_redis_is_away,
    a_retry_takes_what_another_client_has_left,
    an_owner_dies_when_its_claim_has_come_once_more,
    the_news_of_a_leave_is_slow,
    the_reply_to_a_published_failure_is_lost,
    two_clients_ask_at_once_for_an_image_that_has_to_be_had_again,
)

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class PlantedBug:
    """One bug.

    Attributes:
        first: The seed of the first schedule that is searched for it.
        seeds: How many schedules may pass before one shows it, many more than it needs today.
        situation: What the schedules are about, where chance seldom brings it about.
        hidden_by: Makes the checker so loose that it misses the bug, by a little more than what no code can know.
    """

    what: str
    plant: Plant
    first: int = 0
    seeds: int = 1500
    situation: Situation | None = None
    hidden_by: Plant | None = None

    def found(self) -> Iterator[int]:
        """Yield the seeds of the schedules that show the bug."""
        for seed in range(self.first, self.first + self.seeds):
            with pytest.MonkeyPatch.context() as patch:
                self.plant(patch)
                is_found = bool(self.play(seed).violations)
            if is_found:
                yield seed

    def play(self, seed: int) -> Outcome:
        """Play one schedule in which the bug may show."""
        return play(seed, situation=self.situation)


def attribute(owner: Any, name: str, value: Any) -> Plant:
    """Replace an attribute of a class or module."""
    return lambda patch: patch.setattr(owner, name, value)


def script(*changes: tuple[str, str]) -> Plant:
    """Replace texts of job_table.lua."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        compile_script = simulate.redis.compile_script

        def compile_changed(text: str) -> Any:
            for old, new in changes:
                assert old in text, f"job_table.lua has no {old!r} any more"
                text = text.replace(old, new)
            return compile_script(text)

        patch.setattr(simulate.redis, "compile_script", compile_changed)

    return plant


def both(*plants: Plant) -> Plant:
    """Break a rule and what would hide that."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for each in plants:
            each(patch)

    return plant


async def do_nothing(*_: Any, **__: Any) -> None: ...


async def say_yes(*_: Any) -> bool:
    return True


async def give_no_heartbeats(_: JobTable[Job]) -> list[Job]:
    return []


CLOSE, HEARTBEATS, CONNECTION_FAILURE, ASK, HANDLE_FAILURE, ALLOWED_CALLS, IS_EXCUSED, FINISH, RUN = (
    JobReader.close,
    JobTable._give_heartbeats,
    connection_failure,
    JobIO.ask,
    UpstreamPool._handle_failure,
    History._allowed_calls,
    History._is_excused,
    JobRun._finish,
    ImageService._run,
)


async def give_plain_heartbeats(table: JobTable[Job], jobs: list[Job]) -> Any:
    before = [job.delivered for job in jobs]
    for job in jobs:
        job.delivered = False
    reply = HEARTBEATS(table, jobs)
    waiting = asyncio.ensure_future(reply)
    await asyncio.sleep(0)
    for job, delivered in zip(jobs, before, strict=True):
        job.delivered = job.delivered or delivered
    return await waiting


def close_as_delivered(reader: JobReader, *, delivered: bool) -> None:
    CLOSE(reader, delivered=True)


def close_and_call_off(reader: JobReader, *, delivered: bool) -> None:
    reader.run.call_off()
    CLOSE(reader, delivered=delivered)


def close_and_follow(reader: JobReader, *, delivered: bool) -> None:
    if reader.job.is_remote and not delivered:
        reader.run.call_off = lambda: None  # type: ignore[method-assign]
    CLOSE(reader, delivered=delivered)


def close_and_go_on(reader: JobReader, *, delivered: bool) -> None:
    if not reader.job.is_remote:
        reader.run.call_off = lambda: None  # type: ignore[method-assign]
    CLOSE(reader, delivered=delivered)


#: The outcome of an asynchronous job takes the one before it away.
KEEP_THE_LATEST = """
    if args.fields.async == '1' and not args.keyed then
      local earlier = redis.call('GET', group .. ':latest')
      if earlier and earlier ~= args.id then delete(earlier) end
      redis.call('SET', group .. ':latest', args.id)
    end
"""


#: A request that does not say that it is a retry begins a new job.
JOIN_NOTHING_WITHOUT_A_MARK = (
    "    if not id then return nil end\n    local record",
    "    if not id or not may_join_read_job() then return nil end\n    local record",
)


async def abandon_for_any_retry(
    table: JobTable[Job], job_id: str, key: JobKey, *, has_cost_nothing: bool
) -> TableAnswer:
    return (await table._call("abandon", job_id, key, unserved=has_cost_nothing and key.key is None)).answer


def credit_whoever_may_have_lost(history: History, request_id: str, job_id: str) -> None:
    owner = history.attempts[job_id].client
    if owner is not history.attempts[request_id].client:
        history.group_of(owner).credit[owner] += owner.wish.n


def allow_after_a_take_over(history: History, job_id: str, group: Group) -> int:
    return 1000 if history._take_overs[job_id] else ALLOWED_CALLS(history, job_id, group)


def credit_retries_of_the_vanished(history: History, attempt: Attempt, group: Group) -> None:
    earlier = [each for each in attempt.client.attempts if each.number < attempt.number]
    if any(each.left_at is not None and not history._is_noticed(each) for each in earlier):
        group.credit[attempt.client] += attempt.client.wish.n


async def ask_for_ever(io: JobIO, chat: Any, on_reply: Any) -> None:
    while True:
        try:
            return await ASK(io, chat, on_reply)
        except UpstreamError:
            if io.job.id == io.job.reader_id or io.job.may_have_cost:
                raise


def excuse_asynchronous(history: History, call: Call, group: Group) -> bool:
    return any(client.wish.is_async for client in group.clients) or IS_EXCUSED(history, call, group)


def forget_attempts(pool: UpstreamPool, routing: RoutingState, member: Any, failure: UpstreamFailure) -> None:
    HANDLE_FAILURE(pool, routing, member, failure)
    routing.failed = 1


def fail_safely(*failure: Any) -> UpstreamFailure:
    return replace(CONNECTION_FAILURE(*failure), retry_safety=RetrySafety.SAFE)


@asynccontextmanager
async def hold_for_ever(semaphore: FairSemaphore, caller: str, slots: int = 1) -> AsyncGenerator[None, None]:
    await semaphore.take(caller, slots)
    yield


async def ask_and_forget(io: JobIO, chat: Any, on_reply: Any) -> None:
    await ASK(io, chat, on_reply)
    io.job.paid_replies.clear()


def oldest_first(kept: retention.Retention) -> Iterator[Job]:
    while len(kept._droppable) > kept._max_count:
        jobs = (job for each in kept._expiring.values() for job in each.values())
        yield next(job for job in jobs if job.id in kept._droppable)


async def forget_delivered(sharing: JobSharing, seconds: float) -> None:
    for job in sharing.job_table.kept_for_retries():
        sharing.registry.drop(job)
    if sharing.background:
        await asyncio.wait(sharing.background, timeout=seconds)


def finish_as_if_begun(run: JobRun, task: Any) -> None:
    if run.error is None:
        run._note_cancellation = lambda: None  # type: ignore[method-assign]
    FINISH(run, task)


async def run_and_forget(service: ImageService, job: Job, submission: Submission, emit: Emit) -> None:
    try:
        await RUN(service, job, submission, emit)
    except ServiceUnavailable:
        if not job.paid_replies:
            raise
        job.paid_replies.clear()
        job.run.interrupt()
        raise ServiceUnavailable(_INTERRUPTED) from None


async def find_at_once(service: ImageService, key: JobKey) -> Job | None:
    return service.registry.find_joinable(key)


def only_failed_downloads(job: Job) -> bool:
    return job.run.is_done and not job.is_remote and isinstance(job.run.error, ImageUnavailable)


def only_undelivered(job: Job) -> bool:
    return not (job.delivered and job.key.key is None) and (not job.has_failed or job.needs_redelivery)


PLANTED_BUGS = (
    PlantedBug("A 503 counts as free of cost however late it comes, so the work behind it is paid for again.", attribute(error_mapping, "was_refused_at_once", lambda _: True)),
    PlantedBug("A full disk after the payment is a failure like others, so the image is lost.", attribute(Job, "needs_redelivery", property(only_failed_downloads))),
    PlantedBug("A repeat joins the latest of equal jobs, not the one that its client has lost.", script(("redis.call('ZRANGE', group, 0, 0, 'WITHSCORES')", "redis.call('ZREVRANGE', group, 0, 0, 'WITHSCORES')"))),
    PlantedBug("A delivered result is dropped at once, so a retry after a dead connection pays again.", attribute(Job, "should_retain", property(only_undelivered))),
    PlantedBug("A client that has hung up before its job starts is charged.", attribute(DisconnectWatcher, "is_connected", say_yes)),
    PlantedBug("A repeat joins a run that was called off, and gets its false message of a shutdown.", attribute(Job, "restarts_on_join", property(lambda job: job.needs_redelivery)), first=260),
    PlantedBug("An empty table is believed at once, so a request with a key is paid for twice.", script(("args.settled_after - age() or 0", "0 or 0")), first=455),
    PlantedBug("A key forgets failures that may have cost something, so its repeats pay again.", attribute(Job, "should_retain", property(lambda job: not job.has_failed or job.is_awaited_later or job.needs_redelivery))),
    PlantedBug("The record does not say that the request was sent, so a replica that takes the job over pays again.", attribute(JobTable, "mark_submitted", do_nothing)),
    PlantedBug("No heartbeats are given, so replicas that live look dead.", attribute(JobTable, "heartbeat", give_no_heartbeats)),
    PlantedBug("Jobs are compared without their caller, so one caller gets the image of another.", attribute(JobKey, "group", property(lambda key: ("", key.key or key.fingerprint)))),
    PlantedBug("Attempts are not counted, so a chat request is sent again and again.", attribute(UpstreamPool, "_handle_failure", forget_attempts)),
    PlantedBug("A client that leaves ends a run that was paid for.", attribute(JobReader, "close", close_and_call_off)),
    PlantedBug("A replica goes on following a job whose client has left, so the repeat of that client pays again.", attribute(JobReader, "close", close_and_follow), first=400_704),
    PlantedBug("A heartbeat that was sent before a client left says that it is there, so the repeat of that client pays again.", script(("latest_command(id) > args.sequence", "false")), situation=a_client_leaves_at_a_heartbeat),
    PlantedBug("A heartbeat offers what was just delivered, so two equal requests get one image.", attribute(JobTable, "_give_heartbeats", give_plain_heartbeats), first=610_779),
    PlantedBug("The error of an earlier run stays in the table, so a retry waits for ever.", script(("  else\n    redis.call('HDEL', key_of(args.id), 'outcome')\n  end", "  end"), ("  redis.call('HDEL', key_of(args.id), 'outcome')\n  write", "  write"), ("if is_unserved then", "if false then")), situation=the_reply_to_a_published_failure_is_lost),
    PlantedBug("An outcome counts a client that has joined while it was published, so the next request pays again.", script(("  if outcome == '' then\n    local readers", "  if outcome == '' or not is_latest then\n    local readers")), situation=a_client_joins_and_leaves_while_its_result_is_published),
    PlantedBug("A replica that sends an outcome is suspected late, so after its death the repeat of its client pays again.", script(("  lease(args.id, args.reader_lease)\n  if record", "  lease(args.id, record.has_outcome and args.delivery_lease or args.reader_lease)\n  if record")), situation=a_replica_dies_while_it_sends_the_result_of_another),
    PlantedBug("A state that was given up takes away the outcome that was published after it, so the image is lost.", script(("  elseif not is_latest and has_outcome(args.id) then\n    return {OK}\n", "")), situation=the_news_of_a_leave_is_slow),
    PlantedBug("Every response counts as delivered, so a client that has left does not get its image.", attribute(JobReader, "close", close_as_delivered)),
    PlantedBug("A connection that broke after sending counts as never made, so the request is paid for twice.", attribute(upstream_client, "connection_failure", fail_safely)),
    PlantedBug("Replies that were paid for are forgotten, so a failed download costs the image.", attribute(JobIO, "ask", ask_and_forget)),
    PlantedBug("A slot of the process is not given back.", attribute(FairSemaphore, "acquire", hold_for_ever)),
    PlantedBug("Requests with one key do not wait for each other, so two at the same moment are paid for twice.", attribute(JobRegistry, "lock", lambda *_: asyncio.Lock())),
    PlantedBug("Finished jobs are not handed over, so their results reach no other replica.", attribute(JobSharing, "on_unread", lambda *_: None), first=105),
    PlantedBug("The retry count of a client is not read, so its retry is another request.", attribute(image_endpoints, "is_client_retry", lambda _: False)),
    PlantedBug("A key may be used for another request, which gets the image of the first.", script(("elseif record.fingerprint ~= args.fields.fingerprint then", "elseif false then")), situation=a_key_comes_with_two_prompts),
    PlantedBug("An owner abandons a job that another replica waits for.", script(("if count_readers(args.id) > 0 then return {AWAITED} end\n  give_up(args.id)", "give_up(args.id)"))),
    PlantedBug("A reply that was cut is not shared, so the image that it has named is lost with its replica.", attribute(outcome, "dump_reply", lambda reply: dump_reply(reply) if reply.complete else None), situation=a_replica_dies_with_a_reply_that_was_cut),
    PlantedBug("The loss of a job is not declared; another replica takes it over and pays again.", script(("if is_orphan(record) and record.submitted == '1' then\n    was_reported", "if false then\n    was_reported"), ("(is_orphan(record) and record.submitted == '0')", "is_orphan(record)"))),
    PlantedBug("The longest kept result is dropped first, whatever it cost.", attribute(retention.Retention, "over_limits", oldest_first), first=740),
    PlantedBug("A claim that comes once more is taken for another client's, so a repeat pays again.", script(("record = id and by + 0 == args.sequence and read(id)", "record = nil")), first=300),
    PlantedBug("A claim that comes once more takes the job away from the replica that has finished it, and pays again.", script(("if record and record.owner == args.owner then", "if record then")), situation=a_replica_is_paused_while_it_claims_under_a_key),
    PlantedBug("A job begins although its record was deleted and another has taken its place, so both are paid for.", both(script(("if args.submitting and is_replaced(args.id) then return {NOT_OWNER} end", "")), attribute(ImageService, "_joinable_here", find_at_once)), situation=a_client_leaves_when_its_key_is_claimed),
    PlantedBug("An image that could not be delivered is for everyone at once, so two clients share it.", script(("  if record.keyed == '1' then return", "  if record.keyed == '1' or record.retry_free == '1' then return")), situation=two_clients_ask_at_once_for_an_image_that_has_to_be_had_again),
    PlantedBug("A request that has brought nothing stands for each later retry, which is paid for beside its first request.", script(("if args.is_retry and not args.keyed then add_unserved(-1) end\n  write", "write"), (" or (args.is_retry and not args.keyed) then add_unserved", " then add_unserved"))),
    PlantedBug("Requests that have brought nothing are counted, whose repeats will have no mark, so the retries of others pay again.", attribute(JobTable, "_abandon", abandon_for_any_retry), first=1_700),
    PlantedBug(
        "A client that leaves before its request is sent does not end the run.",
        attribute(JobReader, "close", close_and_go_on),
    ),
    PlantedBug(
        "A retry joins no job whose client seems to wait, so it is paid for beside its first request.",
        script(("(may_join_read_job() or from <= now)", "(args.keyed or from <= now)")),
        hidden_by=attribute(History, "_credit_overtaken", credit_retries_of_the_vanished),
    ),
    PlantedBug(
        "A replica gives a job up that another replica waits for, and tells its client that it was taken over.",
        script(("if args.submitting and is_replaced(args.id)", "if args.submitting and (is_replaced(args.id) or count_readers(args.id) > 0)")),
        hidden_by=attribute(History, "_has_just_left_here", lambda *_: True),
    ),
    PlantedBug(
        "A repeat without a mark joins nothing, so it is paid for while its image waits.",
        script(JOIN_NOTHING_WITHOUT_A_MARK),
        hidden_by=attribute(History, "_gone_with", lambda _, __, group: group.undelivered),
    ),
    PlantedBug(
        "A replica that has taken a job over does not count its attempts.",
        attribute(JobIO, "ask", ask_for_ever),
        first=3000,
        seeds=6000,
        hidden_by=attribute(History, "_allowed_calls", allow_after_a_take_over),
    ),
    PlantedBug(
        "A replica that stops while it downloads an image forgets the reply, so the image is lost.",
        attribute(ImageService, "_run", run_and_forget),
        hidden_by=attribute(History, "_was_cut_off", lambda _, __, group: bool(group.interrupted)),
        situation=a_replica_stops_while_it_downloads,
    ),
    PlantedBug(
        "Of several equal asynchronous results only the latest is kept.",
        script(("    redis.call('HSET', key_of(args.id), 'outcome', outcome)\n", "    redis.call('HSET', key_of(args.id), 'outcome', outcome)\n" + KEEP_THE_LATEST)),
        first=3600,
        hidden_by=attribute(History, "_is_excused", excuse_asynchronous),
    ),
    PlantedBug("A claim that comes late says that nothing was sent, so another replica takes the job over and pays again.", script(("if latest_command(args.id) <= args.sequence then write(args.id, args.fields) end", "write(args.id, args.fields)")), situation=an_owner_dies_when_its_claim_has_come_once_more),
    PlantedBug("A result that a client seems to read counts as delivered long ago, so a retry pays again.", script(("group, FAR + 1, FAR + now", "group, FAR, FAR + now")), situation=a_client_vanishes_when_its_result_is_published),
    PlantedBug("A run that is cancelled before its first step looks like a success, so the next client gets a failure of the server.", attribute(JobRun, "_finish", finish_as_if_begun), situation=a_client_joins_and_is_gone_before_the_run_begins),
    PlantedBug("A replica that stops forgets what it has delivered, so a retry after a dead connection pays again.", attribute(JobSharing, "drain", forget_delivered), situation=a_replica_drains_what_it_wrote_into_a_dead_connection),
    PlantedBug(
        "A repeat without a mark joins nothing, so it is paid for while the image of another client waits that has taken its own.",
        script(JOIN_NOTHING_WITHOUT_A_MARK),
        hidden_by=attribute(History, "joined", credit_whoever_may_have_lost),
        situation=a_retry_takes_what_another_client_has_left,
    ),
    PlantedBug("A heartbeat forgets a reader that its replica does not know of yet, so another client shares its image.", script(("joined_by + 0 == claim and 1 or 0", "0 or 0")), situation=a_client_joins_at_a_heartbeat),
    PlantedBug("A replica that cannot look at a job while Redis is away does not wait for it any more, and the job is forgotten.", script(("reached_since + args.reader_lease > now and '-inf' or now", "now")), situation=a_request_fails_while_redis_is_away),
)  # fmt: skip
