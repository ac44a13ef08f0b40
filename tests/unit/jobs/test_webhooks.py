"""Webhooks are looked at, sent, sent again and given up, on a clock of the test and with a receiver of the test."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
from structlog.testing import capture_logs

from app.access.auth import Caller
from app.access.webhook_secrets import WebhookSecrets
from app.errors import ApiError, ImageUnavailable, NotFound, ServiceUnavailable
from app.jobs import webhooks as module
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun
from app.jobs.pipeline_interface import Emit
from app.jobs.tasks import ImageTasks
from app.jobs.webhook_sender import WebhookAttempt, WebhookSender
from app.jobs.webhooks import Webhooks
from app.protocol.webhook_retries import WebhookOutcome
from app.state.shared_state import SharedState
from app.state.webhook_queue import WebhookQueue

START = 1_764_000_000.0
URL = "https://shop.example/hooks/secret-path"
DELIVERED = WebhookAttempt(WebhookOutcome.DELIVERED, "status 200")
FAILED = WebhookAttempt(WebhookOutcome.FAILED, "status 500")
GONE = WebhookAttempt(WebhookOutcome.GONE, "status 410")


class Target:
    """A checked address."""

    def __init__(self, url: str) -> None:
        self.name = url.split("/")[2]


@dataclass
class World:
    """Tasks, receivers and the clock around the webhooks under test.

    Attributes:
        ended: Whether the task has ended; an error is raised.
        task: What there is to tell of the task; an error is raised.
        answers: Those of the receiver. Each attempt gets the next one, and all later ones the last; a function waits.
        sent: The time, the headers and the event of each attempt.
    """

    now: float = START
    ended: bool | ApiError = True
    task: dict[str, Any] | ApiError | None = field(
        default_factory=lambda: {"id": "imgtask_1", "object": "image.generation.task", "status": "completed"}
    )
    answers: list[WebhookAttempt | Callable[[], Coroutine[Any, Any, WebhookAttempt]]] = field(
        default_factory=lambda: [DELIVERED]
    )
    secret: bytes | None = b"0123456789abcdef01234567"
    sent: list[tuple[float, str, Mapping[str, str], Any]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    # In place of ImageTasks.

    async def has_ended(self, job_id: str, caller: Caller) -> bool:
        if isinstance(self.ended, ApiError):
            raise self.ended
        return self.ended

    async def view_for_webhook(self, job_id: str, caller: Caller, server_url: str) -> dict[str, Any] | None:
        if isinstance(self.task, ApiError):
            raise self.task
        return self.task

    # In place of WebhookSender and GuardedHttp.

    @property
    def http(self) -> "World":
        return self

    def check(self, url: str) -> Target:
        return Target(url)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> WebhookAttempt:
        self.sent.append((self.now - START, url, headers, orjson.loads(body)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, WebhookAttempt) else await answer()

    # In place of WebhookSecrets.

    def find(self, caller: str) -> bytes | None:
        return self.secret

    def open(self) -> Webhooks:
        self.webhooks = Webhooks(
            queue=WebhookQueue(SharedState("memory:", fail_closed=False), now=lambda: self.now),
            tasks=cast(ImageTasks, self),
            sender=cast(WebhookSender, self),
            secrets=cast(WebhookSecrets, self),
            is_used=True,
            now=lambda: self.now,
            chance=lambda: 0.0,
        )
        return self.webhooks

    async def register(self, url: str = URL, job_id: str = "req_1", caller: str = "caller") -> None:
        async def nothing(_: Emit) -> None:
            return

        run = JobRun()
        job = Job(job_id, JobKey(caller, "what"), cast(Any, None), cast(Any, None), run)
        self.jobs.append(job)
        await self.webhooks.register(job, url, "https://limner.example")
        run.start(nothing)
        await self.settle()

    async def settle(self) -> None:
        """Let everything go on that does not wait for a receiver or for the clock."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        await self.webhooks.take_turn()
        await self.settle()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> list[dict[str, Any]]:
    """Run a test and return what was logged."""
    with capture_logs() as lines:
        asyncio.run(work())
    return [dict(line) for line in lines]


def test_a_webhook_is_sent_when_the_run_has_ended_and_then_forgotten() -> None:
    world = World()

    async def work() -> None:
        world.open()
        await world.register()
        assert world.sent == []
        await world.turn()
        assert world.webhooks.queue.local_size == 0
        await world.turn(100)
        await world.webhooks.drain()

    (line,) = run(work)
    ((_, url, headers, event),) = world.sent
    assert url == URL
    assert event == {
        "type": "image.generation.task.completed",
        "timestamp": "2025-11-24T16:00:00.000Z",
        **cast(dict[str, Any], world.task),
    }
    assert headers["webhook-timestamp"] == str(int(START))
    assert (line["outcome"], line["host"], line["log_level"]) == ("delivered", "shop.example", "info")
    assert "secret-path" not in str(line)


def test_a_receiver_that_is_broken_for_a_day_is_given_up_and_one_that_comes_back_is_not() -> None:
    for comes_back in (False, True):
        world = World(answers=[*([FAILED] * 12), DELIVERED if comes_back else FAILED])

        async def work(world: World = world) -> None:
            world.open()
            await world.register()
            for _ in range(86_400 // 100 + 2):
                await world.turn()
                await world.turn(100)
            assert world.webhooks.queue.local_size == 0

        lines = run(work)
        times = [at for at, *_ in world.sent]
        assert (times[0], times[1]) == (0, 100)
        assert times[-1] == 86_400 or comes_back
        assert len({headers["webhook-id"] for _, _, headers, _ in world.sent}) == 1
        assert len({headers["webhook-signature"] for _, _, headers, _ in world.sent}) == len(times)
        assert len({event["timestamp"] for *_, event in world.sent}) == 1
        assert lines[-1]["outcome"] == ("delivered" if comes_back else "given_up")
        assert [line["next_in"] for line in lines if "next_in" in line][:3] == [5, 30, 120]


@dataclass(frozen=True)
class End:
    name: str
    outcome: str
    world: Callable[[], World]
    sends: int


ENDS = [
    End("the receiver wants no more of them", "gone", lambda: World(answers=[GONE]), 1),
    End("nobody knows the task any more", "expired", lambda: World(task=NotFound("no")), 0),
    End("nobody knows the task when it is looked at", "expired", lambda: World(ended=NotFound("no")), 0),
]


@pytest.mark.parametrize("case", ENDS, ids=lambda case: case.name)
def test_a_webhook_that_cannot_be_sent_any_more_ends_and_this_is_logged(case: End) -> None:
    world = case.world()

    async def work() -> None:
        world.open()
        await world.register()
        await world.turn()
        await world.turn(100)
        assert world.webhooks.queue.local_size == 0

    (line,) = run(work)
    assert (line["outcome"], len(world.sent)) == (case.outcome, case.sends)


def test_a_client_key_that_a_server_does_not_know_yet_is_waited_for_and_one_that_stays_unknown_is_not() -> None:
    for is_known_later in (True, False):
        world = World(secret=None)

        async def work(world: World = world, is_known_later: bool = is_known_later) -> None:
            world.open()
            await world.register()
            await world.turn()
            world.secret = b"0123456789abcdef01234567" if is_known_later else None
            await world.turn(6)
            for _ in range(15):
                await world.turn(15_000)
            assert world.webhooks.queue.local_size == 0

        lines = run(work)
        assert (lines[0]["outcome"], lines[0]["reason"]) == ("failed", "its client key is not known here")
        assert lines[-1]["outcome"] == ("delivered" if is_known_later else "unsigned")
        assert len(world.sent) == is_known_later


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(ImageUnavailable("no", detail="the store is away"), "the store is away", id="its images"),
        pytest.param(ServiceUnavailable("Redis is away"), "Redis is away", id="the shared state"),
        pytest.param(None, "its task runs once more", id="the task itself"),
    ],
)
def test_a_task_that_cannot_be_written_just_now_is_sent_later(trouble: ApiError | None, reason: str) -> None:
    world = World()

    async def work() -> None:
        task, world.task = world.task, trouble
        world.open()
        await world.register()
        await world.turn()
        assert world.sent == []
        world.task = task
        await world.turn(6)
        assert len(world.sent) == 1

    first, second = run(work)
    assert (first["outcome"], first["reason"], second["outcome"]) == ("failed", reason, "delivered")


def test_a_task_that_takes_too_long_to_be_written_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WRITE_SECONDS", 0.0)
    world = World()

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def work() -> None:
        world.open()
        monkeypatch.setattr(world, "view_for_webhook", hang)
        await world.register()
        await world.turn()

    (line,) = run(work)
    assert line["reason"] == "its task could not be written in 0 seconds"


def test_a_task_that_runs_elsewhere_is_looked_at_until_it_has_ended() -> None:
    world = World(ended=False)

    async def work() -> None:
        world.open()
        await world.register()
        await world.turn(20)
        world.ended = ServiceUnavailable("Redis is away")
        await world.turn(20)
        assert world.sent == []
        world.ended = True
        await world.turn(20)
        await world.turn()
        assert len(world.sent) == 1

    assert [line["event"] for line in run(work)] == ["webhook_look_failed", "webhook_sent"]


def test_receivers_of_one_caller_that_do_not_answer_delay_no_other_caller() -> None:
    world = World()

    async def work() -> None:
        world.open()
        answered = asyncio.Event()

        async def hang() -> WebhookAttempt:
            await answered.wait()
            return DELIVERED

        world.answers = [hang]
        for number in range(20):
            await world.register(f"https://slow{number}.example/", f"req_{number}", "greedy")
        await world.turn()
        assert len(world.sent) == module.MAX_SENDING_OF_CALLER
        world.answers = [DELIVERED]
        await world.register(job_id="req_other", caller="other")
        await world.turn(1)
        assert world.sent[-1][1] == URL
        answered.set()
        await world.settle()
        await world.turn(5)
        assert len(world.sent) == 21
        assert world.webhooks.queue.local_size == 0

    run(work)
    assert max(Counter(url for _, url, *_ in world.sent).values()) == 1


def test_a_bug_is_logged_and_the_webhook_is_sent_again_after_its_lease() -> None:
    world = World()

    async def work() -> None:
        async def fail() -> WebhookAttempt:
            raise RuntimeError("a bug")

        world.answers = [fail, DELIVERED]
        world.open()
        await world.register()
        await world.turn()
        await world.turn(40)
        assert len(world.sent) == 1
        await world.turn(6)
        assert len(world.sent) == 2

    assert [line["event"] for line in run(work)] == ["unhandled_error", "webhook_sent"]


def test_turns_are_taken_every_second_and_at_once_when_a_task_has_ended() -> None:
    world = World()
    slept: list[float] = []

    async def work() -> None:
        world.open()
        may_wake = asyncio.Event()

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await may_wake.wait()

        world.webhooks.sleep = sleep
        turns = asyncio.create_task(world.webhooks.send_forever())
        await world.settle()
        assert slept == [1.0]
        await world.register()
        await world.settle()
        assert len(world.sent) == 1
        may_wake.set()
        await world.settle()
        turns.cancel()
        await asyncio.gather(turns, return_exceptions=True)

    run(work)
    assert set(slept) == {1.0}


def test_nothing_goes_on_where_nobody_may_use_webhooks() -> None:
    world = World()

    async def work() -> None:
        world.open().is_used = False
        await world.webhooks.send_forever()
        await world.webhooks.drain()

    assert run(work) == []


def test_a_server_that_stops_makes_a_last_attempt_and_says_what_is_lost() -> None:
    world = World(answers=[DELIVERED, FAILED])

    async def work() -> None:
        world.open()
        await world.register()
        await world.register("https://other.example/", "req_2")
        await world.webhooks.drain()
        assert len(world.sent) == 2

    assert [line["count"] for line in run(work) if line["event"] == "webhooks_lost"] == [1]


def test_a_server_that_stops_waits_for_no_receiver_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.0)
    world = World()

    async def work() -> None:
        async def hang() -> WebhookAttempt:
            await asyncio.Event().wait()
            return DELIVERED

        world.answers = [hang]
        world.open()
        await world.register()
        await world.turn()
        await world.webhooks.drain()
        await world.settle()
        assert not world.webhooks.background

    assert [line["event"] for line in run(work)] == ["webhooks_lost"]
