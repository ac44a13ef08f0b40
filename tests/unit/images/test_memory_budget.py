"""The memory for decoding is shared fairly: callers take turns, paid work comes first."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from app.images.memory_budget import MemoryBudget

MEMORY, COUNT = 80, 3


class Work:
    """Starts pieces of work that end when they are told to, and writes down the order in which they began."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self.begun: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def start(self, name: str, memory: int = 10, *, paid: bool = False) -> None:
        """`name`: the caller and anything else."""
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, memory, paid))
        await settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settle()

    async def end_all(self) -> None:
        while pending := [task for task in self.tasks.values() if not task.done()]:
            for end in self._ends.values():
                end.set()
            await asyncio.wait(pending)

    async def _run(self, name: str, memory: int, paid: bool) -> None:
        async with self.budget.hold(name[0], memory, paid=paid):
            self.begun.append(name)
            await self._ends[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_callers_take_turns() -> None:
    async def scenario() -> None:
        work = Work(MemoryBudget(MEMORY, COUNT))
        for name in ("a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1"):
            await work.start(name)
        assert work.begun == ["a1", "a2"]
        for name in ("a1", "a2", "a3", "b1", "c1", "a4", "b2"):
            await work.end(name)
        assert work.begun == ["a1", "a2", "a3", "b1", "c1", "a4", "b2", "a5"]
        await work.end_all()
        assert (work.budget.in_use, work.budget.running) == (0, 0)

    run(scenario())


def test_unpaid_work_that_would_fit_waits_behind_paid_work() -> None:
    async def scenario() -> None:
        work = Work(MemoryBudget(MEMORY, COUNT))
        await work.start("a paid", 50, paid=True)
        await work.start("b paid", 40, paid=True)
        await work.start("c unpaid", 10)
        assert work.begun == ["a paid"]
        await work.end("a paid")
        assert work.begun == ["a paid", "b paid", "c unpaid"]
        await work.end_all()

    run(scenario())


def test_eight_heavy_edits_of_one_caller_do_not_delay_the_result_of_another() -> None:
    async def scenario() -> None:
        work = Work(MemoryBudget(MEMORY, COUNT))
        for number in range(8):
            await work.start(f"a{number}", 70)
        await work.start("b paid", paid=True)
        assert work.begun == ["a0", "b paid"]
        await work.end_all()

    run(scenario())


def test_paid_work_comes_before_unpaid_work_that_waited_longer() -> None:
    async def scenario() -> None:
        work = Work(MemoryBudget(MEMORY, COUNT))
        await work.start("a large", 80, paid=True)
        await work.start("b unpaid")
        await work.start("b paid", paid=True)
        await work.start("c paid", paid=True)
        await work.end("a large")
        assert work.begun == ["a large", "b paid", "c paid"]
        await work.end("b paid")
        assert work.begun[-1] == "b unpaid"
        await work.end_all()

    run(scenario())


def test_unpaid_work_leaves_a_process_and_memory_to_paid_work() -> None:
    async def scenario() -> None:
        budget = MemoryBudget(MEMORY, COUNT)
        assert (budget.limit(paid=True), budget.limit(paid=False), budget.share) == (80, 70, 10)
        work = Work(budget)
        await work.start("a", 35)
        await work.start("b", 36)
        assert work.begun == ["a"]
        await work.end("a")
        assert work.begun == ["a", "b"]
        await work.end_all()

    run(scenario())


def test_the_next_in_turn_is_not_overtaken_by_one_that_needs_less() -> None:
    async def scenario() -> None:
        work = Work(MemoryBudget(MEMORY, COUNT))
        await work.start("a", 60)
        await work.start("b", 20)
        await work.start("c", 10)
        assert work.begun == ["a"]
        await work.end("a")
        assert work.begun == ["a", "b", "c"]
        await work.end_all()

    run(scenario())


def test_those_who_no_longer_wait_are_skipped() -> None:
    async def scenario() -> None:
        work = Work(MemoryBudget(MEMORY, COUNT))
        await work.start("a", 70)
        for name in ("b1", "b2", "c"):
            await work.start(name)
        work.tasks["b1"].cancel()
        work.tasks["c"].cancel()
        await settle()
        await work.end("a")
        assert work.begun == ["a", "b2"]
        await work.end_all()

    run(scenario())


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancelled, then granted", "granted, then cancelled"])
def test_a_grant_at_the_moment_of_cancellation_is_not_lost(cancel_first: bool) -> None:
    async def scenario() -> None:
        budget = MemoryBudget(MEMORY, COUNT)
        work = Work(budget)
        holding = budget.hold("a", 70, paid=False)
        await holding.__aenter__()
        await work.start("b")
        if cancel_first:
            work.tasks["b"].cancel()
            await holding.__aexit__(None, None, None)
        else:
            await holding.__aexit__(None, None, None)
            work.tasks["b"].cancel()
        await settle()
        assert (budget.in_use, budget.running, work.begun) == (0, 0, [])
        assert work.tasks["b"].cancelled()

    run(scenario())
