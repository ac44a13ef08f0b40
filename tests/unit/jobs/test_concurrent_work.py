"""Several works at once, and what is left of them."""

import asyncio
import inspect
from contextlib import suppress

import pytest

from app.jobs.concurrent_work import run_concurrently


async def bring(value: str, turns: int) -> str:
    for _ in range(turns):
        await asyncio.sleep(0)
    if not value:
        raise ValueError
    return value


def test_what_works_bring_comes_in_order_of_arrival() -> None:
    assert asyncio.run(run_concurrently([bring("late", 3), bring("early", 1)])) == ["early", "late"]
    assert asyncio.run(run_concurrently([bring("alone", 1)])) == ["alone"]


def test_a_bug_in_one_ends_the_others() -> None:
    with pytest.raises(ExceptionGroup):
        asyncio.run(run_concurrently([bring("", 1), bring("late", 9)]))


def test_works_that_are_cancelled_before_their_first_step_are_closed() -> None:
    async def play() -> list[str]:
        works = [bring("one", 3), bring("other", 3)]
        task = asyncio.create_task(run_concurrently(works))
        await asyncio.sleep(0)
        # As at the end of a process.
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return [inspect.getcoroutinestate(work) for work in works]

    assert asyncio.run(play()) == ["CORO_CLOSED"] * 2
