"""Which of several upstreams is selected."""

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
    selected: str | NoCandidate
    random: float = 0.5


A, B, C = (Candidate(name) for name in "abc")
HEAVY = replace(C, weight=8.0)

CASES = [
    Case("a single upstream", (A,), "a"),
    Case("the lowest priority first, wherever it stands in the list", (replace(A, priority=2), replace(B, priority=1)), "b"),
    Case("equal priorities: the first, by chance", (A, B), "a", random=0.49),
    Case("equal priorities: the second, by chance", (A, B), "b", random=0.5),
    Case("equal priorities: the last, by the greatest random number", (A, B, C), "c", random=0.999999),
    Case("by weight: the light one", (A, B, HEAVY), "a", random=0.09),
    Case("by weight: the next light one", (A, B, HEAVY), "b", random=0.19),
    Case("by weight: the heavy one", (A, B, HEAVY), "c", random=0.2),
    Case("weight does not outweigh priority", (replace(A, priority=1, weight=1000), B), "b"),
    Case("an open circuit is passed over", (replace(A, available=False), replace(B, priority=9)), "b"),
    Case("a full upstream is passed over", (replace(A, full=True), replace(B, priority=9)), "b"),
    Case("an upstream that was tried already is passed over", (replace(A, tried=True), replace(B, priority=9)), "b"),
    Case("the weight of an upstream that is passed over does not count", (replace(HEAVY, full=True), A, B), "a", random=0.4),
    Case("all full: wait", (replace(A, full=True), replace(B, full=True)), NoCandidate.BUSY),
    Case("the only closed circuit belongs to a full upstream: wait for it", (replace(A, available=False), replace(B, full=True)), NoCandidate.BUSY),
    Case("all tried: none is left", (replace(A, tried=True), replace(B, tried=True)), NoCandidate.EXHAUSTED),
    Case("only an upstream with an open circuit is untried: none is left", (replace(A, available=False), replace(B, tried=True)), NoCandidate.EXHAUSTED),
    Case("all circuits open: one is selected nevertheless", (replace(A, available=False),), "a"),
    Case("all circuits open: by priority as always", (replace(A, available=False), replace(B, available=False, priority=-1)), "b"),
    Case("all circuits open: the next untried", (replace(A, available=False, tried=True), replace(B, available=False)), "b"),
    Case("all circuits open and all full: wait", (replace(A, available=False, full=True),), NoCandidate.BUSY),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_which_upstream_is_selected(case: Case) -> None:
    assert select(case.candidates, case.random) == case.selected


def test_weights_are_shares_of_the_requests() -> None:
    chance = Random(7).random
    candidates = [replace(A, weight=1), replace(B, weight=3), replace(C, weight=6)]
    selected = Counter(select(candidates, chance()) for _ in range(10_000))
    assert {name: round(number / 10_000, 2) for name, number in selected.items()} == pytest.approx(
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
def test_a_selected_upstream_may_be_tried(candidates: list[Candidate], random: float) -> None:
    selected = select(candidates, random)
    if isinstance(selected, NoCandidate):
        available = [each for each in candidates if each.available]
        assert all(each.tried or each.full for each in available or candidates)
        return
    (one,) = [each for each in candidates if each.name == selected]
    assert not one.tried
    assert not one.full
    assert one.available or not any(other.available for other in candidates)
