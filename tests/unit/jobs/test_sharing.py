"""Which outcomes stay with a replica and which are published. tests/e2e/test_replicas.py does it over real sockets."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from app.errors import (
    ApiError,
    ImageUnavailable,
    JobLost,
    ModerationBlocked,
    NoImageInReply,
    NotFound,
    ServiceUnavailable,
)
from app.images.blob import Blob, Spool
from app.images.memory import MemoryStore
from app.images.store import StoreConfig, store_failed
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun, StopReason
from app.jobs.outcome import dump_outcome
from app.jobs.pipeline_interface import Emit, GenerationResult
from app.jobs.registry import JobRegistry
from app.jobs.sharing import JobSharing
from app.protocol.chat_reply import ChatReply
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_response import OutputImage
from app.protocol.reply_parser import read_reply
from app.state.job_table import JobTable
from app.state.job_table_reply import TableAnswer, TableReply
from tests.support.join_cases import KEYED, ME
from tests.support.registries import ANSWER, REQUEST
from tests.support.sample_images import as_blob, as_bytes, gradient, saved

PNG = saved(gradient("RGB", (16, 16)), "PNG")
REPLY = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'


@dataclass
class FakeTable:
    """A job table that notes its calls.

    Attributes:
        awaited: Another replica waits for the outcome.
        down: Redis does not answer.
        taken_over: Another replica owns the job.
        outcome: What `wait_for_result` and `lookup` return.
        pauses: Heartbeats until the loop is cancelled.
        tracked: The jobs of this replica; `owned` are the ids of those that it still gives heartbeats for.
        calls: What was published, in order.
        meanwhile: Called while Redis works on a command.
    """

    awaited: bool = False
    down: bool = False
    taken_over: bool = False
    is_shared: bool = True
    outcome: bytes | None = b""
    pauses: int = 1
    tracked: list[Job] = field(default_factory=list)
    owned: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def owns(self, job: Job) -> bool:
        return job.id in self.owned

    async def publish_status(self, job: Job) -> None:
        self.calls.append(f"{job.readers} readers")
        if self.taken_over:
            raise ServiceUnavailable("taken over")

    async def publish_unread(self, job: Job) -> None:
        await self.publish_status(job)

    def track(self, job: Job) -> None:
        self.owned.add(job.id)

    def untrack(self, job: Job) -> None:
        self.owned.discard(job.id)
        self.kept.discard(job.id)

    def is_kept_for_retries(self, job: Job) -> bool:
        return job.id in self.kept

    def kept_for_retries(self) -> list[Job]:
        return [job for job in self.tracked if job.id in self.kept]

    async def mark_delivered(self, job: Job) -> TableAnswer:
        self.calls.append("marked as delivered")
        self.meanwhile()
        if self.down or self.awaited:
            return TableAnswer.AWAITED if self.awaited else TableAnswer.NO_REPLY
        self.kept.add(job.id)
        return TableAnswer.OK

    async def abandon(self, job: Job) -> TableAnswer:
        self.calls.append("abandoned")
        self.meanwhile()
        if self.down:
            return TableAnswer.NO_REPLY
        if self.awaited:
            return TableAnswer.AWAITED
        self.untrack(job)
        return TableAnswer.OK

    async def publish_result(self, job: Job, outcome: bytes, *, briefly: bool) -> bool:
        self.calls.append("published briefly" if briefly else "published")
        if not self.down:
            self.untrack(job)
        return not self.down

    async def sleep_until_heartbeat(self) -> None:
        if self.pauses == 0:
            raise asyncio.CancelledError
        self.pauses -= 1

    async def heartbeat(self) -> list[Job]:
        return [job for job in self.tracked if job.id in self.owned]

    async def unsubscribe(self, job: Job, reader_id: str | None = None) -> bool:
        self.calls.append("unsubscribed" if reader_id is None else f"{reader_id} unsubscribed")
        self.meanwhile()
        return not self.down

    async def wait_for_result(self, job: Job) -> bytes | None:
        if self.outcome is None:
            self.track(job)
        return self.outcome

    async def take_over(self, job: Job) -> bool:
        self.calls.append("took over")
        self.meanwhile()
        if not self.taken_over:
            self.track(job)
        # A caller that was cancelled learns it here.
        await asyncio.sleep(0)
        return not self.taken_over

    async def sleep_until_poll(self) -> None:
        """Another replica has run the job meanwhile."""
        self.outcome = FINISHED

    async def lookup(self, job_id: str, caller: str) -> TableReply:
        """Answer with the word that stands in place of the id."""
        return TableReply(TableAnswer(job_id), self.outcome or b"")


class BrokenStore(MemoryStore):
    async def put(self, blob: Blob, info: ImageInfo) -> str:
        raise store_failed("the bucket is down")


class Scene:
    """One replica, with a fake job table."""

    def __init__(self, table: FakeTable, *, broken: bool = False) -> None:
        self.table = table
        self.registry = JobRegistry(ttl=600, key_ttl=86_400, max_retained=10, max_retained_bytes=10_000_000)
        config = StoreConfig("memory:", 60)
        self.store = BrokenStore(config) if broken else MemoryStore(config)
        self.sharing = JobSharing(self.registry, cast("JobTable[Job]", table), self.store)

    def start(
        self,
        key: JobKey = ME,
        error: ApiError | None = None,
        result: GenerationResult = ANSWER,
        *,
        own: bool = True,
        interrupted: bool = False,
    ) -> Job:
        """Start a job with one reader, `own` or another replica's, that ends at the next turn of the loop."""

        async def work(emit: Emit) -> None:
            if interrupted:
                job.run.interrupt()
            if error is not None:
                raise error
            emit(result)

        job = Job("req_1", key, REQUEST, Spool(), JobRun(readers=1), is_remote=not own)
        job.run.was_submitted = True
        job.run.start(work, on_unread=lambda: self.sharing.on_unread(job))
        self.registry.add(job)
        if own:
            self.table.owned.add(job.id)
            self.table.tracked.append(job)
        return job

    async def settle(self) -> None:
        """Wait for what happens in the background."""
        while self.sharing.background:
            await asyncio.wait(self.sharing.background)

    async def finish(self, job: Job, *, delivered: bool) -> bool:
        """Let the reader of a job leave at its end. Returns whether the replica still has the job."""
        await job.run.wait_done()
        job.delivered = delivered
        job.run.release()
        await asyncio.sleep(0)
        await self.settle()
        return self.registry.by_id(job.id) is not None


@dataclass(frozen=True)
class Case:
    name: str
    calls: list[str]
    stays: bool = False
    table: dict[str, Any] = field(default_factory=dict)
    delivered: bool = False
    key: JobKey = ME
    error: ApiError | None = None
    own: bool = True


CASES = [
    Case("delivered: it is kept here for a retry", ["marked as delivered"], True, delivered=True),
    Case("delivered, and another replica waits for it", ["marked as delivered", "published briefly"], delivered=True, table={"awaited": True}),
    Case("not delivered: others may join it while its images are stored", ["0 readers", "published"]),
    Case("delivered, under a key", ["published"], delivered=True, key=KEYED),
    Case("a refusal", ["abandoned"], error=ModerationBlocked("no"), delivered=True),
    Case("a refusal under a key", ["published"], error=ModerationBlocked("no"), delivered=True, key=KEYED),
    Case("paid for and not fetched", ["published"], error=ImageUnavailable("404"), delivered=True),
    Case("not delivered, and Redis is down", ["0 readers", "published"], True, table={"down": True}),
    Case("delivered, and Redis is down", ["marked as delivered"], True, delivered=True, table={"down": True}),
    Case("another replica's", ["unsubscribed"], delivered=True, own=False),
    Case("another replica's, not delivered, and Redis is down", ["unsubscribed"], True, own=False, table={"down": True}),
    Case("alone, not delivered", [], True, table={"is_shared": False}),
    Case("alone, delivered", [], True, delivered=True, table={"is_shared": False}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_finished_job_is_published_or_retained(case: Case) -> None:
    async def play() -> None:
        scene = Scene(FakeTable(**case.table))
        job = scene.start(case.key, case.error, own=case.own)
        assert await scene.finish(job, delivered=case.delivered) is case.stays
        assert scene.table.calls == case.calls
        scene.registry.close()

    asyncio.run(play())


def test_a_job_whose_image_cannot_be_stored_stays_here() -> None:
    blob = as_blob(PNG)
    result = GenerationResult((OutputImage("form", source=blob, info=read_info(blob.read_at)),), ANSWER.usage)

    async def play() -> None:
        scene = Scene(FakeTable(), broken=True)
        with capture_logs() as logs:
            assert await scene.finish(scene.start(result=result), delivered=False)
        assert [(each["event"], each["error"]) for each in logs] == [
            ("job_sharing_failed", "LIMNER_IMAGE_STORE: the bucket is down")
        ]
        scene.registry.close()

    asyncio.run(play())


def test_a_reader_that_comes_before_publication_reads_the_job_here() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start()
        await job.run.wait_done()
        await asyncio.sleep(0)
        job.run.release()
        job.run.add_reader()
        await scene.sharing.drain(10)
        assert scene.registry.by_id("req_1") is job
        assert scene.table.calls == []
        job.run.release()
        await scene.sharing.drain(10)
        assert scene.registry.by_id("req_1") is None
        assert scene.table.calls == ["0 readers", "published"]

    asyncio.run(play())


class SlowStore(MemoryStore):
    """Stores nothing before `ready` is set; `stored` is what it was given."""

    def __init__(self) -> None:
        super().__init__(StoreConfig("memory:", 60))
        self.ready = asyncio.Event()
        self.stored: list[bytes] = []

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        await self.ready.wait()
        self.stored.append(as_bytes(blob))
        return await super().put(blob, info)


def test_a_reader_that_comes_during_publication_does_not_close_the_spool() -> None:
    """That the job was delivered is published afterwards; the images are still being read."""

    async def play() -> None:
        scene = Scene(FakeTable())
        scene.sharing.store = store = SlowStore()
        blob = as_blob(PNG)
        job = scene.start(
            result=GenerationResult((OutputImage("form", source=blob, info=read_info(blob.read_at)),), ANSWER.usage)
        )
        job.spool.add(blob)
        await job.run.wait_done()
        await asyncio.sleep(0)
        job.run.release()
        await asyncio.sleep(0)
        job.run.add_reader()
        job.delivered = True
        job.run.release()
        await asyncio.sleep(0)
        store.ready.set()
        while scene.sharing.background:
            await scene.sharing.drain(10)
        assert store.stored == [PNG]
        assert scene.table.calls == ["0 readers", "published", "unsubscribed"]
        assert scene.registry.by_id("req_1") is None
        assert job.spool.size == 0

    asyncio.run(play())


def test_a_job_that_was_restarted_is_not_published() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start(error=ImageUnavailable("404"))
        await job.run.wait_done()
        await asyncio.sleep(0)
        job.run.release()
        job.run = JobRun()
        job.run.start(endless)
        await scene.sharing.drain(10)
        scene.sharing.on_unread(job)
        assert not scene.sharing.background
        assert scene.table.calls == []
        assert scene.registry.by_id("req_1") is job
        job.run.call_off()
        scene.registry.close()

    asyncio.run(play())


async def endless(_: Emit) -> None:
    await asyncio.Event().wait()


LATER: list[tuple[str, bool, bool, list[str]]] = [
    ("not delivered, and Redis is back", False, True, ["0 readers", "published"] * 2),
    ("delivered, and Redis is back", True, True, ["marked as delivered", "marked as delivered"]),
    ("not delivered, and not retained until Redis is back", False, False, ["0 readers", "published", "abandoned"]),
]


@pytest.mark.parametrize(("name", "delivered", "retained", "calls"), LATER, ids=[row[0] for row in LATER])
def test_an_outcome_that_redis_could_not_take_is_published_later(
    name: str, delivered: bool, retained: bool, calls: list[str]
) -> None:
    async def play() -> None:
        scene = Scene(FakeTable(down=True))
        job = scene.start()
        assert await scene.finish(job, delivered=delivered)
        if not retained:
            scene.registry.drop(job)
        scene.table.down = False
        with pytest.raises(asyncio.CancelledError):
            await scene.sharing.heartbeat_loop()
        await scene.settle()
        assert scene.table.calls == calls
        assert scene.table.owned == scene.table.kept == ({job.id} if delivered else set())
        assert (scene.registry.by_id(job.id) is job) is delivered
        scene.registry.close()

    asyncio.run(play())


def test_a_heartbeat_does_not_publish_a_job_that_has_readers() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start()
        with pytest.raises(asyncio.CancelledError):
            await scene.sharing.heartbeat_loop()
        await scene.sharing.drain(10)
        assert scene.table.calls == []
        await scene.finish(job, delivered=True)
        scene.table.is_shared = False
        await scene.sharing.heartbeat_loop()

    asyncio.run(play())


def test_a_bug_in_one_heartbeat_does_not_end_the_loop() -> None:
    async def play() -> None:
        table = FakeTable(pauses=2)
        scene = Scene(table)
        bugs = iter([ValueError("a bug"), None])

        async def heartbeat() -> list[Job]:
            if bug := next(bugs):
                raise bug
            return []

        table.heartbeat = heartbeat  # type: ignore[method-assign]
        with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
            await scene.sharing.heartbeat_loop()
        assert [(each["event"], type(each["exc_info"])) for each in logs] == [("unhandled_error", ValueError)]
        assert next(bugs, "both were given") == "both were given"

    asyncio.run(play())


def test_a_delivered_job_that_was_dropped_cannot_be_published_later() -> None:
    async def play() -> None:
        scene = Scene(FakeTable(down=True))
        job = scene.start()
        await scene.finish(job, delivered=True)
        scene.registry.drop(job)
        scene.table.down, scene.table.awaited = False, True
        with pytest.raises(asyncio.CancelledError):
            await scene.sharing.heartbeat_loop()
        await scene.sharing.drain(10)
        assert scene.table.calls == ["marked as delivered", "abandoned"]
        assert not scene.table.owned

    asyncio.run(play())


SPOOLED_REPLY = replace(read_reply(REPLY), spooled_images={"data:": Blob()})
LARGE_REPLY = replace(read_reply(REPLY), size=2**21)

DROPPED: list[tuple[str, ApiError, list[ChatReply], bool]] = [
    ("a run that was called off", ServiceUnavailable("called off"), [], True),
    ("a reply without an image", NoImageInReply("I cannot draw today."), [read_reply(REPLY)], True),
    ("a download that every replica can repeat", ImageUnavailable("404"), [read_reply(REPLY)], True),
    ("an image that came with the reply, and is lost", ImageUnavailable("no room"), [SPOOLED_REPLY], False),
    ("a reply that is too large to be shared", ImageUnavailable("no room"), [LARGE_REPLY], True),
]


@pytest.mark.parametrize(("name", "error", "replies", "is_published"), DROPPED, ids=[row[0] for row in DROPPED])
def test_a_failure_that_was_dropped_is_published_later_where_another_replica_waits_for_it(
    name: str, error: ApiError, replies: list[ChatReply], is_published: bool
) -> None:
    """Otherwise its client would be told that the replica has died."""

    async def play() -> None:
        scene = Scene(FakeTable(down=True))
        job = scene.start(error=error)
        job.paid_replies += replies
        await scene.finish(job, delivered=False)
        scene.registry.drop(job)
        scene.table.down, scene.table.awaited = False, True
        scene.table.calls.clear()
        with pytest.raises(asyncio.CancelledError):
            await scene.sharing.heartbeat_loop()
        await scene.sharing.drain(10)
        assert scene.table.calls[-1:] == (["published briefly"] if is_published else ["abandoned"])
        assert not scene.table.owned

    asyncio.run(play())


INTERRUPTED: list[tuple[str, JobKey, bool, list[str]]] = [
    ("no client was told", ME, False, []),
    ("its client was told", ME, True, ["abandoned"]),
    ("under a key a retry is told, too", KEYED, True, []),
]


@pytest.mark.parametrize(("name", "key", "delivered", "calls"), INTERRUPTED, ids=[row[0] for row in INTERRUPTED])
def test_a_job_interrupted_by_the_shutdown_of_its_replica_becomes_an_orphan(
    name: str, key: JobKey, delivered: bool, calls: list[str]
) -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start(key, ServiceUnavailable("The server is shutting down."), interrupted=True)
        assert not await scene.finish(job, delivered=delivered)
        assert job.run.stop_reason is StopReason.INTERRUPTED
        assert scene.table.calls == calls
        assert not scene.table.owned

    asyncio.run(play())


def test_a_job_that_only_this_replica_can_redeliver_stays_here() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start(error=ImageUnavailable("no room"))
        job.paid_replies.append(SPOOLED_REPLY)
        assert await scene.finish(job, delivered=True)
        assert scene.table.calls == ["published"]
        # So it does after a client has looked at its failure once more.
        job.run.add_reader()
        assert await scene.finish(job, delivered=True)
        assert scene.table.calls == ["published", "unsubscribed"]
        scene.registry.close()

    asyncio.run(play())


def test_a_bug_during_publication_is_logged_and_the_job_stays_here() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        blob = as_blob(PNG)
        job = scene.start(result=GenerationResult((OutputImage("form", source=blob),), ANSWER.usage))
        with capture_logs() as logs:
            assert await scene.finish(job, delivered=False)
            await asyncio.sleep(0)
        assert [(each["event"], type(each["exc_info"])) for each in logs] == [("unhandled_error", TypeError)]
        assert not scene.table.owned
        scene.registry.close()

    asyncio.run(play())


def test_a_reader_that_leaves_before_the_end_is_published() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start()
        scene.sharing.on_reader_left(job)
        await scene.sharing.drain(10)
        assert scene.table.calls == ["1 readers"]
        await job.run.wait_done()
        scene.sharing.on_reader_left(job)
        scene.table.owned.clear()
        scene.sharing.on_reader_left(job)
        assert scene.table.calls == ["1 readers"]
        scene.registry.close()

    asyncio.run(play())


def test_the_loss_of_a_job_to_another_replica_is_only_logged() -> None:
    async def play() -> None:
        scene = Scene(FakeTable(taken_over=True))
        job = scene.start()
        with capture_logs() as logs:
            scene.sharing.on_reader_left(job)
            await scene.sharing.drain(10)
        assert [each["error"] for each in logs] == ["taken over"]
        scene.registry.close()

    asyncio.run(play())


def outcome_of(error: ApiError | None = None, *, paid: bool = True) -> bytes:
    """Return the outcome of a job with one paid reply, or without one."""

    async def write() -> bytes:
        scene = Scene(FakeTable(is_shared=False))
        job = scene.start(error=error)
        job.run.was_submitted = paid
        job.paid_replies += [read_reply(REPLY)] * paid
        await job.run.wait_done()
        return (await dump_outcome(job, scene.store))[0]

    return asyncio.run(write())


FINISHED = outcome_of()
UNDELIVERED = outcome_of(ImageUnavailable("404"))
UNASKED = outcome_of(ServiceUnavailable("The server is shutting down."), paid=False)
OUTCOMES: list[tuple[str, bytes | None, bool, str]] = [
    ("a result", FINISHED, False, "result"),
    ("a refusal", outcome_of(ModerationBlocked("no")), False, "moderation_blocked"),
    ("a job that needs redelivery is run here", UNDELIVERED, False, "run with 1 paid reply"),
    ("a job that needs redelivery is run by another replica, and that one's result counts", UNDELIVERED, True, "result"),
    ("nothing, since its replica died before submission", None, False, "run with 0 paid reply"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "outcome", "taken_over", "expected"), OUTCOMES, ids=[row[0] for row in OUTCOMES])
def test_a_replica_that_waits_for_another_gets_its_outcome(
    name: str, outcome: bytes | None, taken_over: bool, expected: str
) -> None:
    async def play() -> str:
        scene = Scene(FakeTable(outcome=outcome, taken_over=taken_over))
        job = scene.start(own=False)
        try:
            result = await scene.sharing.await_remote(job)
        except ApiError as error:
            assert job.is_remote
            return str(error.code)
        finally:
            scene.registry.close()
        assert job.is_remote is (result is not None)
        return f"run with {len(job.paid_replies)} paid reply" if result is None else "result"

    assert asyncio.run(play()) == expected


def test_a_delivered_job_is_published_for_a_retry_at_another_replica_and_forgotten_there_when_it_is_dropped_here() -> (
    None
):
    async def play() -> None:
        scene = Scene(FakeTable())
        first = scene.start()
        assert await scene.finish(first, delivered=True)
        scene.table.awaited = True
        scene.sharing.on_unread(first)
        await scene.settle()
        assert scene.table.calls == ["marked as delivered", "marked as delivered", "published briefly"]
        assert scene.registry.by_id(first.id) is None
        scene.table.awaited, scene.table.calls = False, []
        second = scene.start()
        assert await scene.finish(second, delivered=True)
        scene.registry.drop(second)
        await scene.settle()
        assert scene.table.calls == ["marked as delivered", "abandoned"]
        assert not scene.table.owned

    asyncio.run(play())


def test_a_replica_that_stops_hands_over_what_it_keeps_for_retries() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start()
        assert await scene.finish(job, delivered=True)
        await scene.sharing.drain(10)
        assert scene.table.calls == ["marked as delivered", "published briefly"]
        assert scene.registry.by_id(job.id) is None

    asyncio.run(play())


def test_a_job_that_is_delivered_at_the_end_of_its_replica_is_published_at_once() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start()
        await scene.sharing.drain(10)
        assert not await scene.finish(job, delivered=True)
        assert scene.table.calls == ["published briefly"]

    asyncio.run(play())


def test_a_job_that_is_marked_as_delivered_when_its_replica_stops_is_published() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        scene.table.meanwhile = lambda: setattr(scene.sharing, "is_draining", True)
        assert not await scene.finish(scene.start(), delivered=True)
        assert scene.table.calls == ["marked as delivered", "published briefly"]

    asyncio.run(play())


def test_a_delivered_job_that_cannot_be_stored_when_its_replica_stops_looks_lost_to_a_retry() -> None:
    """Its record without an outcome stays, and becomes an orphan."""
    blob = as_blob(PNG)
    result = GenerationResult((OutputImage("form", source=blob, info=read_info(blob.read_at)),), ANSWER.usage)

    async def play() -> None:
        scene = Scene(FakeTable(), broken=True)
        await scene.finish(scene.start(result=result), delivered=True)
        with capture_logs() as logs:
            await scene.sharing.drain(10)
        assert [each["event"] for each in logs] == ["job_sharing_failed"]
        assert scene.table.kept
        scene.registry.close()
        assert scene.table.calls == ["marked as delivered"]
        assert not scene.sharing.background
        assert not scene.table.owned

    asyncio.run(play())


def test_an_outcome_is_loaded_by_the_id_of_its_job() -> None:
    async def play() -> None:
        scene = Scene(FakeTable(outcome=finished))
        found = (await scene.sharing.load_remote("done", "me", Spool())).outcome
        assert found is not None
        assert found.result is not None
        assert (await scene.sharing.load_remote("in_flight", "me", Spool())).outcome is None
        for answer, error in (("lost", JobLost), ("orphaned", ServiceUnavailable)):
            found = (await scene.sharing.load_remote(answer, "me", Spool())).outcome
            assert found is not None
            assert type(found.error) is error
        with pytest.raises(NotFound):
            await scene.sharing.load_remote("unknown", "me", Spool())
        for answer in ("settling", ""):
            with pytest.raises(ServiceUnavailable):
                await scene.sharing.load_remote(answer, "me", Spool())
        scene.table.is_shared = False
        with pytest.raises(NotFound):
            await scene.sharing.load_remote("", "me", Spool())

    finished = outcome_of()
    asyncio.run(play())


@pytest.mark.parametrize(("own", "awaited"), [(True, False), (True, True), (False, False)], ids=["no other replica waits for it", "another replica waits for it", "another replica's"])  # fmt: skip
def test_a_job_that_a_retry_starts_once_more_while_it_is_handed_over_keeps_its_owner(own: bool, awaited: bool) -> None:
    async def play() -> None:
        scene = Scene(FakeTable(awaited=awaited))
        job = scene.start(error=ModerationBlocked("no"), own=own)
        scene.table.meanwhile = lambda: job.restart(REQUEST, Spool(), JobRun(readers=1))
        assert await scene.finish(job, delivered=True)
        assert scene.table.calls == ["abandoned" if own else "unsubscribed"]
        assert scene.table.owns(job) is own
        scene.registry.close()

    asyncio.run(play())


@pytest.mark.parametrize("paid", [True, False], ids=["what was paid for", "what has cost nothing"])
def test_a_job_that_is_taken_over_when_its_run_ends_is_left_to_other_replicas(paid: bool) -> None:
    """At the end of this replica, or since its client leaves."""

    async def play() -> list[str]:
        scene = Scene(FakeTable(outcome=UNDELIVERED if paid else UNASKED, awaited=True))

        async def follow(emit: Emit) -> None:
            await scene.sharing.await_remote(job)
            emit(ANSWER)

        job = Job("req_1", ME, REQUEST, Spool(), JobRun(readers=1), is_remote=True)
        scene.registry.add(job)
        scene.table.meanwhile = lambda: job.run.task and job.run.task.cancel()
        job.run.start(follow, on_unread=lambda: scene.sharing.on_unread(job))
        await job.run.wait_done()
        job.run.release()
        await asyncio.sleep(0)
        await scene.settle()
        assert scene.registry.by_id("req_1") is None
        return scene.table.calls

    assert asyncio.run(play()) == ["took over", *([] if paid else ["abandoned"]), "published" + " briefly" * (not paid)]


@dataclass
class SlowTable(FakeTable):
    """A job table that answers its first command late."""

    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish_result(self, job: Job, outcome: bytes, *, briefly: bool) -> bool:
        is_published = await super().publish_result(job, outcome, briefly=briefly)
        await self.answers.wait()
        return is_published

    async def unsubscribe(self, job: Job, reader_id: str | None = None) -> bool:
        is_published = await super().unsubscribe(job, reader_id)
        await self.answers.wait()
        return is_published


@pytest.mark.parametrize("own", [True, False], ids=["its own", "another replica's"])
def test_a_job_that_a_retry_starts_and_ends_while_it_is_handed_over_is_handed_over_once_more(own: bool) -> None:
    async def work(emit: Emit) -> None:
        emit(ANSWER)

    async def play() -> None:
        table = SlowTable()
        scene = Scene(table)
        job = scene.start(error=ImageUnavailable("404"), own=own)
        await job.run.wait_done()
        job.run.release()
        await asyncio.sleep(0)
        job.restart(REQUEST, Spool(), JobRun(readers=1))
        job.is_remote = False
        table.track(job)
        job.run.start(work, on_unread=lambda: scene.sharing.on_unread(job))
        await job.run.wait_done()
        job.run.release()
        await asyncio.sleep(0)
        table.answers.set()
        await scene.settle()
        assert table.calls == ["published" if own else "unsubscribed", "0 readers", "published"]
        assert scene.registry.by_id(job.id) is None

    asyncio.run(play())


def test_no_disconnect_calls_off_a_redelivery_that_is_being_taken_over() -> None:
    async def play() -> None:
        scene = Scene(FakeTable())
        lost = scene.start(error=ImageUnavailable("404"), own=False)
        await lost.run.wait_done()
        lost.paid_replies.append(read_reply(REPLY))
        lost.is_remote = False
        scene.table.outcome, _ = await dump_outcome(lost, scene.store)
        job = Job("req_2", ME, REQUEST, Spool(), JobRun(readers=1), is_remote=True)
        may_have_cost: list[bool] = []
        scene.table.meanwhile = lambda: may_have_cost.append(job.may_have_cost)
        assert await scene.sharing.await_remote(job) is None
        assert may_have_cost == [True]
        scene.registry.close()

    asyncio.run(play())


LEASES: list[tuple[str, bool, str, list[str]]] = [
    ("a job that runs here", True, "req_1", ["req_1 unsubscribed"]),
    ("a job that this replica follows for another request", False, "req_2", ["req_2 unsubscribed"]),
    ("a job that this replica follows for this request", False, "req_1", []),
]


@pytest.mark.parametrize(("name", "own", "request_id", "calls"), LEASES, ids=[row[0] for row in LEASES])
def test_a_request_has_a_lease_only_for_a_job_that_is_followed_for_it(
    name: str, own: bool, request_id: str, calls: list[str]
) -> None:
    """One that nobody renews would hide the job from the next request of the same client for some seconds."""

    async def play() -> None:
        scene = Scene(FakeTable())
        job = scene.start(own=own)
        job.reader_id = "req_1"
        scene.sharing.on_joined(job, request_id)
        await scene.settle()
        assert scene.table.calls == calls
        await scene.finish(job, delivered=True)

    asyncio.run(play())
