"""One execution of a job: its items, its readers and its end."""

import asyncio
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import ApiError, NotFound, ServiceUnavailable, TaskCanceled
from app.images.blob import Spool
from app.jobs.job import Job
from app.jobs.job_run import JobRun, StopReason
from app.jobs.pipeline_interface import Emit, GenerationResult, Item, PartialImage
from app.jobs.pipeline_io import JobIO, SentChatRequest
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.parameters import Operation
from app.protocol.usage import Usage
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from tests.support.join_cases import ME

REQUEST = ImagesRequest(operation=Operation.GENERATION, prompt="a fox")
IMAGE = OutputImage("markdown-image", url="https://h/a.png")
PARTIAL = PartialImage(IMAGE)
RESULT = GenerationResult((IMAGE,), Usage())


class Work:
    """Items on demand. `orders`: what comes next, an item or an exception; None is the end.

    `calls`: what the run has reported, in order. `has_ended`: the work has ended.
    """

    def __init__(self) -> None:
        self.orders: asyncio.Queue[Item | Exception | None] = asyncio.Queue()
        self.calls: list[str] = []
        self.has_ended = False

    async def do(self, emit: Emit) -> None:
        try:
            while (order := await self.orders.get()) is not None:
                if isinstance(order, Exception):
                    raise order
                emit(order)
        finally:
            self.has_ended = True

    def start(self, readers: int = 1) -> JobRun:
        run = JobRun(readers=readers)
        run.start(self.do, on_unread=lambda: self.calls.append("unread"))
        return run


async def wait_for_more(run: JobRun, have: int, revision: int | None = None) -> bool:
    while (more := run.has_more(have, revision)) is None:
        await asyncio.shield(run.next_change())
    return more


def test_items_are_read_as_they_come_until_the_end() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        waiting = asyncio.create_task(wait_for_more(run, 0))
        await asyncio.sleep(0)
        work.orders.put_nowait(PARTIAL)
        assert await waiting
        work.orders.put_nowait(None)
        await run.wait_done()
        assert (run.items, run.error, await wait_for_more(run, 1)) == ([PARTIAL], None, False)
        assert work.calls == []
        run.release()
        assert work.calls == ["unread"]

    asyncio.run(play())


def test_a_run_goes_on_when_its_reader_has_left_and_reports_its_end() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        run.release()
        work.orders.put_nowait(PARTIAL)
        work.orders.put_nowait(None)
        await run.wait_done()
        await asyncio.sleep(0)
        assert (run.items, work.calls, work.has_ended) == ([PARTIAL], ["unread"], True)

    asyncio.run(play())


def test_each_reader_reads_from_the_first_item() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        run.add_reader()
        readers = [asyncio.create_task(wait_for_more(run, 0)) for _ in range(2)]
        await asyncio.sleep(0)
        work.orders.put_nowait(PARTIAL)
        work.orders.put_nowait(None)
        assert await asyncio.gather(*readers) == [True, True]
        await run.wait_done()
        run.release()
        assert work.calls == []
        run.release()
        assert work.calls == ["unread"]

    asyncio.run(play())


def test_a_reader_that_comes_after_the_end_is_reported_when_it_leaves() -> None:
    async def play() -> None:
        work = Work()
        run = work.start(readers=0)
        work.orders.put_nowait(PARTIAL)
        work.orders.put_nowait(None)
        await run.wait_done()
        await asyncio.sleep(0)
        assert work.calls == ["unread"]
        run.add_reader()
        assert await wait_for_more(run, 0)
        run.release()
        assert work.calls == ["unread", "unread"]

    asyncio.run(play())


def test_one_that_no_longer_waits_for_the_end_takes_it_from_nobody() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        first, second = asyncio.create_task(run.wait_done()), asyncio.create_task(run.wait_done())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        work.orders.put_nowait(None)
        await second
        assert first.cancelled()

    asyncio.run(play())


def test_a_reader_that_passes_a_revision_is_woken_by_changes_that_are_no_item() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        with_revision, without = (asyncio.create_task(wait_for_more(run, 0, revision)) for revision in (0, None))
        await asyncio.sleep(0)
        run.notify()
        assert await with_revision
        assert await wait_for_more(run, 0, 0)
        assert not without.done()
        work.orders.put_nowait(PARTIAL)
        assert await without
        work.orders.put_nowait(None)
        await run.wait_done()
        assert not await wait_for_more(run, 1, 0)
        run.release()

    asyncio.run(play())


def test_a_run_without_a_reader_reports_its_end() -> None:
    async def play() -> None:
        work = Work()
        run = work.start(readers=0)
        work.orders.put_nowait(None)
        await run.wait_done()
        await asyncio.sleep(0)
        assert work.calls == ["unread"]

    asyncio.run(play())


def test_a_reader_that_leaves_as_soon_as_the_run_has_ended_is_reported_once() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        work.orders.put_nowait(PARTIAL)
        work.orders.put_nowait(None)
        await run.wait_done()
        run.release()
        for _ in range(3):
            await asyncio.sleep(0)
        assert work.calls == ["unread"]

    asyncio.run(play())


def test_the_callbacks_of_the_end_are_called_in_order_before_the_one_of_an_unread_run() -> None:
    async def play() -> None:
        calls: list[str] = []
        work, run = Work(), JobRun()
        work.orders.put_nowait(None)
        on_done = [lambda task: calls.append(f"first of {task is run.task}"), lambda _: calls.append("second")]
        task = run.start(work.do, on_done=on_done, on_unread=lambda: calls.append("unread"))
        assert task is run.task
        assert not run.is_done
        await run.wait_done()
        await asyncio.sleep(0)
        assert (run.is_done, calls) == (True, ["first of True", "second", "unread"])

    asyncio.run(play())


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["run to its end", "cancelled"])
def test_a_run_that_has_ended_does_not_hold_its_task(is_cancelled: bool) -> None:
    """Its job may be retained for a minute, with a thousand others."""

    async def play() -> None:
        work, run = Work(), JobRun()
        task = weakref.ref(run.start(work.do))
        if is_cancelled:
            run.call_off()
        else:
            work.orders.put_nowait(None)
        await run.wait_done()
        await asyncio.sleep(0)
        assert (run.is_done, run.was_canceled) == (True, is_cancelled)
        assert (run.task, task()) == (None, None)

    asyncio.run(play())


def test_an_error_ends_the_run_without_the_frames_of_the_error() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        work.orders.put_nowait(NotFound("no"))
        assert await wait_for_more(run, 0) is False
        assert isinstance(run.error, NotFound)
        assert run.error.__traceback__ is None

    asyncio.run(play())


def test_a_bug_becomes_a_500_for_the_reader() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        work.orders.put_nowait(KeyError("secret"))
        await run.wait_done()
        assert type(run.error) is ApiError
        assert "secret" not in str(run.error.body)

    asyncio.run(play())


def test_the_error_of_a_cancelled_run_says_that_the_server_is_shutting_down() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        await asyncio.sleep(0)
        run.call_off()
        await run.wait_done()
        assert isinstance(run.error, ServiceUnavailable)
        assert run.was_canceled
        assert work.has_ended

    asyncio.run(play())


@pytest.mark.parametrize("by_client", [False, True], ids=["called off", "cancelled by its client"])
def test_a_run_that_is_cancelled_before_its_first_step_has_failed(by_client: bool) -> None:
    """Otherwise others would be told that it has succeeded, and find no result."""

    async def play() -> None:
        work = Work()
        run = JobRun()
        run.start(work.do)
        (run.cancel if by_client else run.call_off)()
        await run.wait_done()
        await asyncio.sleep(0)
        assert isinstance(run.error, TaskCanceled if by_client else ServiceUnavailable)
        assert (run.was_canceled, work.has_ended) == (True, False)

    asyncio.run(play())


def test_a_run_that_has_not_started_is_neither_done_nor_cancelled() -> None:
    run = JobRun()
    run.call_off()
    assert (run.is_done, run.was_canceled, run.result) == (False, False, None)


@pytest.mark.parametrize(("items", "result"), [((PARTIAL,), None), ((PARTIAL, RESULT), RESULT)])
def test_the_result_is_known_as_soon_as_it_is_there(items: tuple[Item, ...], result: GenerationResult | None) -> None:
    async def play() -> GenerationResult | None:
        work = Work()
        run = work.start()
        for order in (*items, None):
            work.orders.put_nowait(order)
        await run.wait_done()
        return run.result

    assert asyncio.run(play()) is result


def test_a_run_may_cost_something_while_one_of_its_attempts_may() -> None:
    run = JobRun()
    assert (run.may_have_cost, run.was_submitted) == (False, False)
    run.mark_submitted()
    run.mark_submitted()
    run.mark_free()
    assert (run.may_have_cost, run.was_submitted) == (True, True)
    run.mark_free()
    assert (run.may_have_cost, run.was_submitted) == (False, True)
    run.mark_submitted()
    assert (run.may_have_cost, run.was_submitted) == (True, True)


def test_a_run_that_has_ended_cannot_be_called_off() -> None:
    async def play() -> None:
        work = Work()
        run = work.start()
        work.orders.put_nowait(None)
        await run.wait_done()
        run.call_off()
        assert run.stop_reason is None

    asyncio.run(play())


def test_the_wish_of_the_client_is_the_stronger_reason_to_stop() -> None:
    """Otherwise a request that joins would start what the client has canceled."""

    async def play() -> None:
        for stops in ([JobRun.cancel, JobRun.call_off], [JobRun.call_off, JobRun.cancel]):
            run = Work().start()
            for stop in stops:
                stop(run)
            await run.wait_done()
            assert run.stop_reason is StopReason.CANCELED
            assert isinstance(run.error, TaskCanceled)

    asyncio.run(play())


def test_nothing_is_sent_once_a_run_is_called_off() -> None:
    """Although the cancellation has not reached the task of each chat request yet."""

    async def play() -> None:
        table: JobTable[Job] = JobTable(SharedState("memory:", fail_closed=False), ttl=600, key_ttl=600)
        run = Work().start()
        backends: Any = SimpleNamespace(job_table=table)
        io = JobIO(backends, Job("req_1", ME, REQUEST, Spool(), run), None)
        run.call_off()
        with pytest.raises(asyncio.CancelledError):
            await io._before_send(SentChatRequest(run))
        assert not run.was_submitted
        await run.wait_done()

    asyncio.run(play())


def test_a_job_that_was_interrupted_after_submission_may_have_cost_something() -> None:
    job = Job("req_1", ME, REQUEST, Spool(), JobRun())
    job.run.mark_submitted()
    job.run.interrupt()
    assert job.may_have_cost
    job.spool.close()


def test_a_run_that_has_ended_holds_nothing_of_the_request_that_started_it() -> None:
    class Request:
        def end(self, _: asyncio.Task[None]) -> None:
            """Stand for the usage record, the input images and all else that a callback holds."""

    async def play() -> tuple[bool, bool]:
        work, run, request = Work(), JobRun(), Request()
        held = weakref.ref(request)
        task = run.start(work.do, on_done=[request.end])
        del request
        before = held() is not None
        work.orders.put_nowait(None)
        await task
        await asyncio.sleep(0)
        return before, held() is not None

    assert asyncio.run(play()) == (True, False)
