"""Which answers stay with a replica and which go to all of them; the way over real sockets is in test_replicas.py."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from app.errors import ApiError, ImageUnavailable, JobLost, ModerationBlocked, NotFound, ServiceUnavailable
from app.images.blob import Blob, Spool
from app.images.memory import MemoryStore
from app.images.store import StoreConfig, store_failed
from app.jobs.job import Errand, Exchange, Identity, Item, Job
from app.jobs.pipeline import Answer
from app.jobs.registry import Once
from app.jobs.sharing import Handover, write_letter
from app.protocol.chat_reply import read_reply
from app.protocol.image_format import ImageInfo, read_info
from app.protocol.image_response import OutputImage
from app.state.job_table import Board, Heard
from tests.support.sample_images import as_blob, as_bytes, gradient, saved
from tests.unit.jobs.test_registry import ANSWER, KEYED, ME, REQUEST

PNG = saved(gradient("RGB", (16, 16)), "PNG")


@dataclass
class Notes:
    """A board that writes down what it is told. `followed`: somebody waits elsewhere; `away`: nobody hears anything."""

    followed: bool = False
    away: bool = False
    taken: bool = False
    is_shared: bool = True
    outcome: bytes | None = b""
    rests: int = 1
    owned: list[Errand] = field(default_factory=list)
    mine: set[str] = field(default_factory=set)
    heard: list[str] = field(default_factory=list)

    def owns(self, errand: Errand) -> bool:
        return errand.id in self.mine

    async def tell(self, errand: Errand) -> None:
        self.heard.append(f"{errand.job.readers} here")
        if self.taken:
            raise ServiceUnavailable("taken over")

    def let_go(self, id: str) -> None:  # noqa: A002  the API's word
        self.mine.discard(id)

    async def withdraw(self, id: str, identity: Identity) -> str:  # noqa: A002  the API's word
        self.heard.append("withdrawn")
        if self.away:
            return ""
        if self.followed:
            return "kept"
        self.let_go(id)
        return "dropped"

    async def finish(self, errand: Errand, outcome: bytes, *, briefly: bool) -> bool:
        self.heard.append("handed over briefly" if briefly else "handed over")
        if not self.away:
            self.let_go(errand.id)
        return not self.away

    async def rest(self) -> None:
        if self.rests == 0:
            raise asyncio.CancelledError
        self.rests -= 1

    async def beat(self) -> list[Errand]:
        return [errand for errand in self.owned if errand.id in self.mine]

    async def leave(self, errand: Errand) -> bool:
        self.heard.append("left")
        return not self.away

    async def wait(self, errand: Errand) -> bytes | None:
        return self.outcome

    async def adopt(self, errand: Errand) -> bool:
        self.heard.append("adopted")
        return not self.taken

    async def find(self, id: str, caller: str) -> Heard:  # noqa: A002  the API's word
        return Heard(id, self.outcome or b"")


class BrokenStore(MemoryStore):
    async def put(self, blob: Blob, info: ImageInfo) -> str:
        raise store_failed("the bucket is away")


class Scene:
    def __init__(self, notes: Notes, *, broken: bool = False) -> None:
        self.notes = notes
        self.once = Once(ttl=600, key_ttl=86_400, most=10, most_bytes=10_000_000)
        config = StoreConfig("memory:", 60)
        self.store = BrokenStore(config) if broken else MemoryStore(config)
        self.handover = Handover(self.once, cast("Board", notes), self.store)

    def start(
        self, identity: Identity = ME, fault: ApiError | None = None, answer: Answer = ANSWER, *, own: bool = True
    ) -> Errand:
        async def work() -> AsyncGenerator[Item, None]:
            if fault is not None:
                raise fault
            yield answer

        exchange = Exchange(REQUEST, 60)
        exchange.was_submitted = True
        errand = Errand("req_1", identity, exchange, Spool())
        errand.job = Job(work(), lambda: self.handover.settle(errand))
        self.once.add(errand)
        errand.follows = not own
        if own:
            self.notes.mine.add(errand.id)
            self.notes.owned.append(errand)
        return errand

    async def end(self, errand: Errand, *, delivered: bool) -> bool:
        """Whether it is still here when all has been told."""
        await errand.job.end()
        errand.delivered = delivered
        errand.job.leave()
        await asyncio.sleep(0)
        await self.handover.drain(10)
        return self.once.known(errand.id) is not None


@dataclass(frozen=True)
class Case:
    name: str
    heard: list[str]
    stays: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    delivered: bool = False
    identity: Identity = ME
    fault: ApiError | None = None
    own: bool = True


CASES = [
    Case("delivered: nobody needs to know more", ["withdrawn"], delivered=True),
    Case("delivered, and somebody waits for it elsewhere", ["withdrawn", "handed over briefly"], delivered=True, notes={"followed": True}),
    Case("not delivered", ["handed over"]),
    Case("delivered, under a key", ["handed over"], delivered=True, identity=KEYED),
    Case("a refusal", ["withdrawn"], fault=ModerationBlocked("no"), delivered=True),
    Case("a refusal under a key", ["handed over"], fault=ModerationBlocked("no"), delivered=True, identity=KEYED),
    Case("paid for and not fetched", ["handed over"], fault=ImageUnavailable("404"), delivered=True),
    Case("not delivered, and nobody hears it", ["handed over"], True, notes={"away": True}),
    Case("delivered, and nobody hears it", ["withdrawn"], delivered=True, notes={"away": True}),
    Case("another replica's", ["left"], delivered=True, own=False),
    Case("another replica's, not delivered, and nobody hears it", ["left"], True, own=False, notes={"away": True}),
    Case("alone, not delivered", [], True, notes={"is_shared": False}),
    Case("alone, delivered", [], delivered=True, notes={"is_shared": False}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_where_an_answer_goes(case: Case) -> None:
    async def play() -> None:
        scene = Scene(Notes(**case.notes))
        errand = scene.start(case.identity, case.fault, own=case.own)
        assert await scene.end(errand, delivered=case.delivered) is case.stays
        assert scene.notes.heard == case.heard
        scene.once.close()

    asyncio.run(play())


def test_a_picture_that_the_store_does_not_take_stays_here() -> None:
    blob = as_blob(PNG)
    answer = Answer((OutputImage("form", source=blob, info=read_info(blob.read_at)),), ANSWER.usage)

    async def play() -> None:
        scene = Scene(Notes(), broken=True)
        with capture_logs() as logs:
            assert await scene.end(scene.start(answer=answer), delivered=False)
        assert [(each["event"], each["error"]) for each in logs] == [
            ("job_sharing_failed", "LIMNER_IMAGE_STORE: the bucket is away")
        ]
        scene.once.close()

    asyncio.run(play())


def test_who_comes_before_it_is_handed_over_reads_it_here() -> None:
    async def play() -> None:
        scene = Scene(Notes())
        errand = scene.start()
        await errand.job.end()
        await asyncio.sleep(0)
        errand.job.leave()
        errand.job.readers += 1
        await scene.handover.drain(10)
        assert scene.once.known("req_1") is errand
        assert scene.notes.heard == []
        errand.job.leave()
        await scene.handover.drain(10)
        assert scene.once.known("req_1") is None
        assert scene.notes.heard == ["handed over"]

    asyncio.run(play())


class SlowStore(MemoryStore):
    """Takes nothing before it may; `kept` is what it has been given."""

    def __init__(self) -> None:
        super().__init__(StoreConfig("memory:", 60))
        self.may = asyncio.Event()
        self.kept: list[bytes] = []

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        await self.may.wait()
        self.kept.append(as_bytes(blob))
        return await super().put(blob, info)


def test_who_comes_while_it_is_handed_over_does_not_take_it_away() -> None:
    """His having it is told when the other has been; a spool is not closed under the hands of who reads it."""

    async def play() -> None:
        scene = Scene(Notes())
        scene.handover.store = store = SlowStore()
        blob = as_blob(PNG)
        errand = scene.start(
            answer=Answer((OutputImage("form", source=blob, info=read_info(blob.read_at)),), ANSWER.usage)
        )
        errand.spool.add(blob)
        await errand.job.end()
        await asyncio.sleep(0)
        errand.job.leave()
        await asyncio.sleep(0)
        errand.job.readers += 1
        errand.delivered = True
        errand.job.leave()
        await asyncio.sleep(0)
        store.may.set()
        while scene.handover.under_way:
            await scene.handover.drain(10)
        assert store.kept == [PNG]
        assert scene.notes.heard == ["handed over", "left"]
        assert scene.once.known("req_1") is None
        assert errand.spool.size == 0

    asyncio.run(play())


def test_what_a_repeat_has_started_once_more_is_not_settled() -> None:
    async def play() -> None:
        scene = Scene(Notes())
        errand = scene.start(fault=ImageUnavailable("404"))
        await errand.job.end()
        await asyncio.sleep(0)
        errand.job.leave()
        errand.job = Job(forever(), lambda: None, readers=0)
        await scene.handover.drain(10)
        scene.handover.settle(errand)
        assert not scene.handover.under_way
        assert scene.notes.heard == []
        assert scene.once.known("req_1") is errand
        errand.job.task.cancel()
        scene.once.close()

    asyncio.run(play())


async def forever() -> AsyncGenerator[Item, None]:
    await asyncio.Event().wait()
    yield ANSWER


LATER: list[tuple[str, bool, bool, list[str]]] = [
    ("not delivered, and Redis comes back", False, True, ["handed over", "handed over"]),
    ("delivered, and Redis comes back", True, True, ["withdrawn", "withdrawn"]),
    ("not delivered, and not kept until Redis comes back", False, False, ["handed over", "withdrawn"]),
]


@pytest.mark.parametrize(("name", "delivered", "kept", "heard"), LATER, ids=[row[0] for row in LATER])
def test_what_nobody_could_hear_is_told_later(name: str, delivered: bool, kept: bool, heard: list[str]) -> None:
    async def play() -> None:
        scene = Scene(Notes(away=True))
        errand = scene.start()
        assert await scene.end(errand, delivered=delivered) is not delivered
        if not kept:
            scene.once.forget(errand)
        scene.notes.away = False
        with pytest.raises(asyncio.CancelledError):
            await scene.handover.beat()
        await scene.handover.drain(10)
        assert scene.notes.heard == heard
        assert not scene.notes.mine
        assert scene.once.known(errand.id) is None

    asyncio.run(play())


def test_what_is_read_at_the_moment_is_not_told_of() -> None:
    async def play() -> None:
        scene = Scene(Notes())
        errand = scene.start()
        with pytest.raises(asyncio.CancelledError):
            await scene.handover.beat()
        await scene.handover.drain(10)
        assert scene.notes.heard == []
        await scene.end(errand, delivered=True)
        scene.notes.is_shared = False
        await scene.handover.beat()

    asyncio.run(play())


def test_a_bug_in_one_sign_of_life_is_not_the_end_of_all() -> None:
    async def play() -> None:
        notes = Notes(rests=2)
        scene = Scene(notes)
        beats = iter([ValueError("a bug"), None])

        async def beat() -> list[Errand]:
            if bug := next(beats):
                raise bug
            return []

        notes.beat = beat  # type: ignore[method-assign]
        with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
            await scene.handover.beat()
        assert [(each["event"], type(each["exc_info"])) for each in logs] == [("unhandled_error", ValueError)]
        assert next(beats, "both were given") == "both were given"

    asyncio.run(play())


def test_what_was_delivered_and_is_gone_here_cannot_be_handed_over_later() -> None:
    async def play() -> None:
        scene = Scene(Notes(away=True))
        errand = scene.start()
        await scene.end(errand, delivered=True)
        scene.notes.away, scene.notes.followed = False, True
        with pytest.raises(asyncio.CancelledError):
            await scene.handover.beat()
        await scene.handover.drain(10)
        assert scene.notes.heard == ["withdrawn", "withdrawn"]
        assert not scene.notes.mine

    asyncio.run(play())


CUT: list[tuple[str, Identity, bool, list[str]]] = [
    ("nobody knows of it", ME, False, []),
    ("its client has been told", ME, True, ["withdrawn"]),
    ("under a key it stays so", KEYED, True, []),
]


@pytest.mark.parametrize(("name", "identity", "delivered", "heard"), CUT, ids=[row[0] for row in CUT])
def test_what_the_end_of_a_replica_cuts_off_looks_as_if_it_had_died(
    name: str, identity: Identity, delivered: bool, heard: list[str]
) -> None:
    async def play() -> None:
        scene = Scene(Notes())
        errand = scene.start(identity, ServiceUnavailable("The server is shutting down."))
        errand.is_cut_off = True
        assert not await scene.end(errand, delivered=delivered)
        assert scene.notes.heard == heard
        assert not scene.notes.mine

    asyncio.run(play())


def test_what_only_this_replica_can_deliver_stays_here() -> None:
    async def play() -> None:
        scene = Scene(Notes())
        errand = scene.start(fault=ImageUnavailable("no room"))
        reply = read_reply(b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}')
        errand.replies.append(replace(reply, spooled_images={"data:": Blob()}))
        assert await scene.end(errand, delivered=True)
        assert scene.notes.heard == ["handed over"]
        scene.once.close()

    asyncio.run(play())


def test_a_bug_is_logged_and_what_was_paid_for_stays_here() -> None:
    async def play() -> None:
        scene = Scene(Notes())
        blob = as_blob(PNG)
        errand = scene.start(answer=Answer((OutputImage("form", source=blob),), ANSWER.usage))
        with capture_logs() as logs:
            assert await scene.end(errand, delivered=False)
            await asyncio.sleep(0)
        assert [(each["event"], type(each["exc_info"])) for each in logs] == [("unhandled_error", TypeError)]
        assert not scene.notes.mine
        scene.once.close()

    asyncio.run(play())


def test_who_leaves_before_the_end_is_told_of() -> None:
    async def play() -> None:
        scene = Scene(Notes())
        errand = scene.start()
        scene.handover.note(errand)
        await scene.handover.drain(10)
        assert scene.notes.heard == ["1 here"]
        await errand.job.end()
        scene.handover.note(errand)
        scene.notes.mine.clear()
        scene.handover.note(errand)
        assert scene.notes.heard == ["1 here"]
        scene.once.close()

    asyncio.run(play())


def test_what_another_replica_has_taken_over_is_only_logged() -> None:
    async def play() -> None:
        scene = Scene(Notes(taken=True))
        errand = scene.start()
        with capture_logs() as logs:
            scene.handover.note(errand)
            await scene.handover.drain(10)
        assert [each["error"] for each in logs] == ["taken over"]
        scene.once.close()

    asyncio.run(play())


def letter(answer: Answer = ANSWER, fault: ApiError | None = None, *, told: bool = True) -> bytes:
    async def write() -> bytes:
        scene = Scene(Notes(is_shared=False))
        errand = scene.start(fault=fault, answer=answer)
        if told:
            errand.replies.append(read_reply(b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'))
        await errand.job.end()
        return await write_letter(errand, scene.store)

    return asyncio.run(write())


UNDELIVERED = letter(fault=ImageUnavailable("404"))
LETTERS: list[tuple[str, bytes | None, bool, str]] = [
    ("an answer", letter(), False, "answer"),
    ("a refusal", letter(fault=ModerationBlocked("no")), False, "moderation_blocked"),
    ("what could not be delivered is tried here", UNDELIVERED, False, "work with 1 paid"),
    ("what could not be delivered is tried by another", UNDELIVERED, True, "image_download_failed"),
    ("nothing, for its replica has died before it asked", None, False, "work with 0 paid"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "outcome", "taken", "comes"), LETTERS, ids=[row[0] for row in LETTERS])
def test_what_a_follower_gets(name: str, outcome: bytes | None, taken: bool, comes: str) -> None:
    async def play() -> str:
        scene = Scene(Notes(outcome=outcome, taken=taken))
        errand = scene.start(own=False)
        try:
            answer = await scene.handover.follow(errand)
        except ApiError as error:
            return str(error.code)
        finally:
            scene.once.close()
        return f"work with {len(errand.replies)} paid" if answer is None else "answer"

    assert asyncio.run(play()) == comes


def test_what_is_recalled_by_its_id() -> None:
    async def play() -> None:
        scene = Scene(Notes(outcome=letter_of_answer))
        found = await scene.handover.recall("done", "me", Spool())
        assert found is not None
        assert found.answer is not None
        assert await scene.handover.recall("under way", "me", Spool()) is None
        with pytest.raises(JobLost):
            await scene.handover.recall("lost", "me", Spool())
        with pytest.raises(NotFound):
            await scene.handover.recall("gone", "me", Spool())
        with pytest.raises(ServiceUnavailable):
            await scene.handover.recall("", "me", Spool())
        scene.notes.is_shared = False
        with pytest.raises(NotFound):
            await scene.handover.recall("", "me", Spool())

    letter_of_answer = letter()
    asyncio.run(play())
