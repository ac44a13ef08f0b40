"""The counters of one process: exact limits in any window, whatever happens to the time of day."""

import asyncio
import random
from dataclasses import dataclass

import pytest

from app.state.local_counters import LocalCounters


class Clocks:
    """Counters with a clock of the process and a time of day that the test sets."""

    def __init__(self) -> None:
        self.process, self.day = 1000.0, 1_800_000_000.0
        self.counters = LocalCounters(lambda: self.process, lambda: self.day)

    def pass_time(self, seconds: float) -> None:
        self.process += seconds
        self.day += seconds

    def use(self, amount: int = 1, limit: int = 5) -> bool:
        return asyncio.run(self.counters.acquire_entry("a", limit, 60, amount))

    def window(self, limit: int = 5) -> tuple[float, int]:
        """Return after how many seconds there is room for one more, and what is used."""
        start, used = asyncio.run(self.counters.get_moving_window("a", limit, 60))
        return start + 60 - self.day, used

    def add(self, amount: int, key: str = "month") -> int:
        return asyncio.run(self.counters.incr(key, 100, amount))

    def number(self) -> int:
        return asyncio.run(self.counters.get("month"))


def test_no_window_of_the_period_holds_more_than_the_limit() -> None:
    clocks, chance, used = Clocks(), random.Random(1), list[tuple[float, int]]()
    for _ in range(3000):
        clocks.pass_time(chance.random() * 20)
        amount = chance.randint(1, 3)
        recent = sum(each for at, each in used if at >= clocks.process - 60)
        assert clocks.window()[1] == recent
        assert clocks.use(amount) is (recent + amount <= 5)
        if recent + amount <= 5:
            used.append((clocks.process, amount))


@dataclass(frozen=True)
class Wait:
    name: str
    limit: int
    seconds: float


WAITS = [
    Wait("for one more than nothing", 9, 30.0),
    Wait("for one more at the limit", 6, 30.0),
    Wait("for one more than was used since the second use", 5, 30.0),
    Wait("until the first use has gone, for more", 4, 40.0),
    Wait("until all but the last has gone", 1, 50.0),
    Wait("for a limit that permits nothing", 0, 50.0),
]


@pytest.mark.parametrize("case", WAITS, ids=lambda case: case.name)
def test_the_wait_is_until_there_is_room_below_the_limit(case: Wait) -> None:
    clocks = Clocks()
    assert clocks.window() == (60.0, 0)
    for amount in (2, 3, 1):
        assert clocks.use(amount, limit=6)
        clocks.pass_time(10)
    assert clocks.window(case.limit) == (case.seconds, 6)


@pytest.mark.parametrize("jump", [-86_400, -3600, 3600, 86_400])
def test_the_time_of_day_may_jump(jump: int) -> None:
    clocks = Clocks()
    assert clocks.use(5)
    assert clocks.add(2) == 2
    clocks.day += jump
    assert not clocks.use()
    assert clocks.window() == (60.0, 5)
    clocks.pass_time(61)
    assert clocks.use(5)
    assert clocks.number() == 2


def test_numbers_are_forgotten_after_their_time() -> None:
    clocks = Clocks()
    assert clocks.number() == 0
    assert [clocks.add(2), clocks.add(-1), clocks.number()] == [2, 1, 1]
    clocks.pass_time(99)
    assert clocks.add(1) == 2
    clocks.pass_time(1)
    assert clocks.number() == 0
    assert clocks.add(1, "next month") == 1
    assert [*clocks.counters._numbers] == ["next month"]
    assert clocks.add(1) == 1
