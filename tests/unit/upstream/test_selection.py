"""Who of several upstreams is asked next."""

from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.selection import Candidate, NoCandidate, select


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    candidates: tuple[Candidate, ...]
    chosen: str | NoCandidate
    random: float = 0.5


A, B, C = (Candidate(name) for name in "abc")
LOUD = replace(C, weight=8.0)

CASES = [
    Case("one alone", (A,), "a"),
    Case("the lowest priority first, wherever it stands in the list", (replace(A, priority=2), replace(B, priority=1)), "b"),
    Case("of equals the first, by chance", (A, B), "a", random=0.49),
    Case("of equals the second, by chance", (A, B), "b", random=0.5),
    Case("the last, at the end of chance", (A, B, C), "c", random=0.999999),
    Case("by weight: the light one", (A, B, LOUD), "a", random=0.09),
    Case("by weight: the next light one", (A, B, LOUD), "b", random=0.19),
    Case("by weight: the heavy one", (A, B, LOUD), "c", random=0.2),
    Case("weight does not outdo priority", (replace(A, priority=1, weight=1000), B), "b"),
    Case("an open circuit is passed over", (replace(A, available=False), replace(B, priority=9)), "b"),
    Case("a full one is passed over", (replace(A, full=True), replace(B, priority=9)), "b"),
    Case("one that was asked already is passed over", (replace(A, tried=True), replace(B, priority=9)), "b"),
    Case("the weight of who is passed over does not count", (replace(LOUD, full=True), A, B), "a", random=0.4),
    Case("all full: wait", (replace(A, full=True), replace(B, full=True)), NoCandidate.BUSY),
    Case("the welcome one is full: wait for it", (replace(A, available=False), replace(B, full=True)), NoCandidate.BUSY),
    Case("all asked: nobody is left", (replace(A, tried=True), replace(B, tried=True)), NoCandidate.EXHAUSTED),
    Case("the one that was not asked is not welcome, the other is", (replace(A, available=False), replace(B, tried=True)), NoCandidate.EXHAUSTED),
    Case("nobody is welcome: one is asked nevertheless", (replace(A, available=False),), "a"),
    Case("nobody is welcome: by priority as ever", (replace(A, available=False), replace(B, available=False, priority=-1)), "b"),
    Case("nobody is welcome: the next that was not asked", (replace(A, available=False, tried=True), replace(B, available=False)), "b"),
    Case("nobody is welcome and all are full: wait", (replace(A, available=False, full=True),), NoCandidate.BUSY),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_who_is_next(case: Case) -> None:
    assert select(case.candidates, case.random) == case.chosen


def test_weights_are_shares() -> None:
    chance = Random(7).random
    candidates = [replace(A, weight=1), replace(B, weight=3), replace(C, weight=6)]
    chosen = Counter(select(candidates, chance()) for _ in range(10_000))
    assert {name: round(number / 10_000, 2) for name, number in chosen.items()} == pytest.approx(
        {"a": 0.1, "b": 0.3, "c": 0.6}, abs=0.02
    )


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.uuids().map(str),
        st.integers(0, 2),
        st.floats(0.001, 1000),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(CANDIDATES, st.floats(0, 1, exclude_max=True))
def test_whoever_is_chosen_may_be_asked(candidates: list[Candidate], random: float) -> None:
    chosen = select(candidates, random)
    if isinstance(chosen, NoCandidate):
        welcome = [one for one in candidates if one.available]
        assert all(one.tried or one.full for one in welcome or candidates)
        return
    (one,) = [one for one in candidates if one.name == chosen]
    assert not one.tried
    assert not one.full
    assert one.available or not any(other.available for other in candidates)
