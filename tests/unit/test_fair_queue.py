"""The queue that semaphores and the memory budget share: callers take turns, and those who leave are forgotten."""

from random import Random

import pytest

from app.fair_queue import FairQueue


def queue_of(*names: str) -> FairQueue[str]:
    """Return a queue of these names. The first letter of each is its caller."""
    queue = FairQueue[str]()
    for name in names:
        queue.append(name[0], name)
    return queue


def drain(queue: FairQueue[str]) -> list[str]:
    return [queue.pop_first() for _ in range(len(queue))]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        pytest.param(
            ["a1", "a2", "a3", "b1", "c1", "b2"], ["a1", "b1", "c1", "a2", "b2", "a3"], id="callers in rotation"
        ),
        pytest.param(["b1", "a1", "b2"], ["b1", "a1", "b2"], id="the first to come is the first in turn"),
        pytest.param(["a1", "a2"], ["a1", "a2"], id="a single caller in order of arrival"),
    ],
)
def test_those_who_wait_get_their_turn(names: list[str], order: list[str]) -> None:
    assert drain(queue_of(*names)) == order


def test_a_look_at_the_first_takes_no_turn() -> None:
    queue = queue_of("a1", "b1")
    assert (queue.first(), queue.first(), len(queue)) == ("a1", "a1", 2)
    assert queue.pop_first() == "a1"
    assert queue.first() == "b1"


def test_a_caller_that_comes_back_is_behind_those_who_wait() -> None:
    queue = queue_of("a1", "b1", "b2")
    queue.pop_first()
    queue.append("a", "a2")
    assert drain(queue) == ["b1", "a2", "b2"]


def test_one_that_leaves_is_skipped_and_may_leave_again() -> None:
    queue = queue_of("a1", "b1", "a2", "b2")
    for _ in range(2):
        queue.remove("a", "a1")
        queue.remove("c", "c1")
    assert (len(queue), queue.count_of("a"), queue.count_of("c")) == (3, 1, 0)
    assert drain(queue) == ["a2", "b1", "b2"]


def test_the_caller_of_whom_most_wait_is_known_and_its_last_one() -> None:
    queue = queue_of("a1", "b1", "b2", "c1", "c2")
    assert queue.largest_caller() == "b"
    assert (queue.pop_last("b"), len(queue), queue.count_of("b")) == ("b2", 4, 1)
    assert queue.largest_caller() == "c"
    assert drain(queue) == ["a1", "b1", "c1", "c2"]


def test_a_caller_whose_last_one_is_taken_is_forgotten() -> None:
    queue = queue_of("a1")
    assert queue.pop_last("a") == "a1"
    assert (len(queue), queue.count_of("a"), queue.largest_caller()) == (0, 0, None)
    queue.append("b", "b1")
    assert (queue.first(), drain(queue)) == ("b1", ["b1"])


@pytest.mark.parametrize("seed", range(10))
def test_nobody_waits_longer_than_one_turn_of_every_other_caller(seed: int) -> None:
    chance, queue, number = Random(seed), FairQueue[str](), 0
    turns = dict.fromkeys("abcd", 0)
    for _ in range(500):
        caller = chance.choice("aaaaabcd")
        if not queue.count_of(caller):
            turns[caller] = 0
        queue.append(caller, f"{caller}{(number := number + 1)}")
        if chance.random() < 0.7:
            taken = queue.pop_first()[0]
            turns = {each: 0 if each == taken else count + 1 for each, count in turns.items()}
            assert all(turns[each] < len(turns) for each in turns if queue.count_of(each))
