"""Who holds most is known after any number of changes, without a look at all callers."""

from random import Random

import pytest

from app.jobs.retention import Ranking


@pytest.mark.parametrize("seed", range(20))
def test_the_caller_with_the_largest_number_is_known_after_many_changes(seed: int) -> None:
    chance, ranking, numbers = Random(seed), Ranking(), dict[str, int]()
    for _ in range(2000):
        caller, number = f"caller {chance.randrange(40)}", chance.randrange(100)
        ranking.set(caller, number)
        numbers[caller] = number
        if largest := max(numbers.values()):
            assert numbers[ranking.largest()] == largest


def test_the_ranking_does_not_grow_with_the_changes() -> None:
    ranking = Ranking()
    for number in range(1, 10_000):
        ranking.set(f"caller {number % 3}", number)
    assert len(ranking._heap) < 100
