"""What a job remembers of its chat requests: what may have been paid for is never sent again."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from app.errors import ApiError, JobLost, RetrySafety, SpoolFull
from app.images.blob import Spool
from app.jobs.job import Job
from app.jobs.job_run import JobRun
from app.jobs.pipeline_io import JobIO
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest
from app.protocol.dialects import DIALECTS, Dialect
from app.protocol.reply_parser import read_reply
from app.protocol.sizes import Size
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from app.upstream.client import UpstreamRequest
from app.upstream.spec import UpstreamSpec
from tests.support.join_cases import ME, PAID_REPLY, failed
from tests.support.registries import REQUEST

HALF = ChatReply(complete=False)
TABLE: JobTable[Job] = JobTable(SharedState("memory:", fail_closed=False), ttl=600, key_ttl=600)


class ScriptedPool:
    """Upstreams whose attempts bring what `script` says: a reply, an error, or "free" for a failure that cost nothing."""

    has_alternatives = False

    def __init__(self, *script: ChatReply | BaseException | str) -> None:
        self.script = script
        self.requests = 0
        self.dialects = {"one": DIALECTS["gpt-image-2-chat"]}

    def member(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(spec=UpstreamSpec("https://up.example/v1", name=name, dialect=self.dialects[name]))

    def candidates(self, model: str | None, only: str | None) -> dict[str, str]:
        return dict.fromkeys(self.dialects, "m")

    async def request(self, request: UpstreamRequest, model: str | None, only: str | None) -> None:
        self.requests += 1
        await request.before_send()
        for each in self.script:
            match each:
                case ChatReply():
                    await request.on_reply(list(self.dialects)[-1], each)
                case str():
                    request.after_free_failure()
                    await request.before_send()
                case _:
                    raise each


def job_with(*script: ChatReply | BaseException | str) -> tuple[Job, JobIO, ScriptedPool]:
    job, pool = Job("req_1", ME, REQUEST, Spool(), JobRun()), ScriptedPool(*script)
    return job, io_of(job, pool), pool


def io_of(job: Job, pool: ScriptedPool) -> JobIO:
    backends: Any = SimpleNamespace(pool=pool, job_table=TABLE)
    return JobIO(backends, job, None)


async def ask(io: JobIO) -> ChatReply | BaseException:
    """Return the last snapshot, or the exception that ended it."""
    replies: list[ChatReply] = []

    async def take(reply: ChatReply) -> None:
        replies.append(reply)

    try:
        await io.ask(ChatRequest(REQUEST, (), stream=False), take)
    except (ApiError, KeyError, asyncio.CancelledError) as error:
        return error
    return replies[-1]


UNSAFE, FUTILE = failed(RetrySafety.UNSAFE), failed(RetrySafety.FUTILE)
FULL = SpoolFull("full")
BUG = KeyError("bug")

#: What the upstream does; the replies that were paid for; the errors that may have been paid for; whether it may have cost.
CHATS: list[tuple[str, tuple[Any, ...], list[ChatReply], Callable[[list[ApiError]], bool], bool]] = [
    ("a reply", (PAID_REPLY,), [PAID_REPLY], lambda spent: not spent, True),
    ("a reply after a failure that cost nothing", ("free", PAID_REPLY), [PAID_REPLY], lambda spent: not spent, True),
    ("a failure that may have cost something", (UNSAFE,), [], lambda spent: spent == [UNSAFE], True),
    ("failures that cost nothing, and then one that may have", ("free", UNSAFE), [], lambda spent: spent == [UNSAFE], True),
    ("a failure that cost nothing, and that no other attempt can mend", (FUTILE,), [], lambda spent: not spent, False),
    ("a reply that broke off", (HALF, UNSAFE), [HALF], lambda spent: not spent, True),
    ("no room for the reply", (FULL,), [], lambda spent: isinstance(spent[0], JobLost), True),
    ("no room for the rest of a reply", (HALF, FULL), [], lambda spent: isinstance(spent[0], JobLost), True),
    ("a bug in the middle of a reply", (HALF, BUG), [], lambda spent: isinstance(spent[0], JobLost), True),
    ("the end of this server in the middle of a reply", (HALF, asyncio.CancelledError()), [], lambda spent: isinstance(spent[0], JobLost), True),
    ("the end of this server after a reply", (PAID_REPLY, asyncio.CancelledError()), [PAID_REPLY], lambda spent: not spent, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "script", "paid", "is_paid", "may_cost"), CHATS, ids=[row[0] for row in CHATS])
def test_a_chat_request_leaves_behind_what_a_further_run_must_know(
    name: str,
    script: tuple[Any, ...],
    paid: list[ChatReply],
    is_paid: Callable[[list[ApiError]], bool],
    may_cost: bool,
) -> None:
    async def play() -> None:
        job, io, _ = job_with(*script)
        outcome = await ask(io)
        assert job.paid_replies == paid
        assert is_paid(job.paid_failures), job.paid_failures
        assert job.run.may_have_cost is may_cost
        assert job.run.chat_errors == ([] if isinstance(outcome, ChatReply) else [outcome])
        job.spool.close()

    asyncio.run(play())


def test_a_further_run_sends_only_the_chat_requests_that_surely_cost_nothing() -> None:
    async def play() -> None:
        job, _, _ = job_with()
        job.paid_replies.append(PAID_REPLY)
        job.paid_failures.append(UNSAFE)
        pool = ScriptedPool(read_reply(b'{"choices":[{"message":{"content":"y"}}]}'))
        io = io_of(job, pool)
        assert [await ask(io) for _ in range(2)] == [PAID_REPLY, UNSAFE]
        assert (pool.requests, job.paid_failures) == (0, [UNSAFE])
        assert job.run.chat_errors == [UNSAFE]
        assert isinstance(await ask(io), ChatReply)
        assert pool.requests == 1
        job.spool.close()

    asyncio.run(play())


def test_a_reply_for_which_there_was_no_room_invites_no_retry() -> None:
    job, io, _ = job_with(SpoolFull("full", detail="LIMNER_SPOOL_DIR: No space left on device"))
    error = asyncio.run(ask(io))
    assert isinstance(error, JobLost)
    assert (error.status, error.headers, error.detail) == (
        500,
        {"x-should-retry": "false"},
        "LIMNER_SPOOL_DIR: No space left on device",
    )
    job.spool.close()


@pytest.mark.parametrize("error", [FUTILE, FULL])
def test_a_chat_request_that_was_never_sent_leaves_nothing_behind(error: ApiError) -> None:
    job, _, _ = job_with()

    class FullPool(ScriptedPool):
        """Upstreams that have no room for it."""

        async def request(self, *_: object) -> None:
            (error,) = self.script
            assert isinstance(error, ApiError)
            raise error

    assert asyncio.run(ask(io_of(job, FullPool(error)))) is error
    assert (job.paid_failures, job.run.may_have_cost) == ([], False)
    job.spool.close()


LOST = ("size", "quality", "style", "metadata", "user")
EVERYTHING = replace(
    REQUEST, size=Size(1536, 1024), asked_size="1536x1024", quality="high", style="vivid", metadata={"a": "b"}, user="u"
)


@pytest.mark.parametrize(
    ("name", "dialects", "expected", "in_the_end"),
    [
        ("nothing is known before", [Dialect(send=())], LOST, LOST),
        ("what any may carry is not named yet", [DIALECTS["top-level"], Dialect(send=())], ("metadata",), LOST),
        ("style is carried", [DIALECTS["top-level"]], ("metadata",), ("metadata",)),
    ],
)
def test_parameters_are_ignored_by_the_upstream_that_answers(
    name: str, dialects: list[Dialect], expected: tuple[str, ...], in_the_end: tuple[str, ...]
) -> None:
    job, io, pool = job_with(PAID_REPLY)
    job.request = EVERYTHING
    pool.dialects = {f"upstream {number}": dialect for number, dialect in enumerate(dialects)}
    seen = []

    async def note(*_: object) -> None:
        seen.append(job.run.telemetry.ignored)

    with patch.object(JobIO, "_before_send", note):
        asyncio.run(ask(io))
    assert (seen, job.run.telemetry.ignored) == ([expected], in_the_end), name


def test_what_any_upstream_of_several_replies_ignores_is_named() -> None:
    job, io, pool = job_with(PAID_REPLY)
    job.request = EVERYTHING
    for dialect in (DIALECTS["words"], DIALECTS["gpt-image-2-chat"], DIALECTS["top-level"]):
        pool.dialects[f"upstream {len(pool.dialects)}"] = dialect
        asyncio.run(ask(io))
    assert job.run.telemetry.ignored == ("metadata", "user", "style")
