"""When a question is asked again, to the last second and token."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UpstreamError
from app.upstream.error_mapping import RetrySafety, UpstreamFailure
from app.upstream.retry import RetryBudget, retry_delay


def fault(again: RetrySafety, retry_after: float | None = None) -> UpstreamFailure:
    return UpstreamFailure(UpstreamError(), again, retry_after)


SAFE, AMBIGUOUS, NEVER = (fault(again) for again in (RetrySafety.SAFE, RetrySafety.AMBIGUOUS, RetrySafety.UNSAFE))


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    fault: UpstreamFailure
    delay: float | None
    attempt: int = 1
    attempts: int = 3
    elapsed: float = 0
    deadline: float = 600
    random: float = 0.5
    ambiguous: bool = False


CASES = (
    Case("no work was done", SAFE, 0.25),
    Case("no chance, no wait", SAFE, 0, random=0),
    Case("the second wait is longer", SAFE, 0.5, attempt=2),
    Case("waits stop growing", SAFE, 4, attempt=9, attempts=10),
    Case("the last attempt is the last", SAFE, None, attempt=3),
    Case("a single attempt", SAFE, None, attempts=1),
    Case("work may have been done", NEVER, None, ambiguous=True),
    Case("probably no work, and nobody allowed it", AMBIGUOUS, None),
    Case("probably no work, and the operator allows it", AMBIGUOUS, 0.25, ambiguous=True),
    Case("as long as the upstream asks, and a bit so that not all come at once", fault(RetrySafety.SAFE, 7), 7.25),
    Case("up to the deadline", fault(RetrySafety.SAFE, 400), 400.25),
    Case("not beyond the deadline", fault(RetrySafety.SAFE, 600), None),
    Case("an absurd wait", fault(RetrySafety.SAFE, 1e12), None),
    Case("an answer could no longer be waited for", fault(RetrySafety.SAFE, 550), None),
    Case("the time is over", SAFE, None, elapsed=599),
    Case("the time is nearly over", SAFE, 0.25, elapsed=539),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decide(case: Case) -> None:
    delay = retry_delay(
        case.fault,
        attempt=case.attempt,
        max_attempts=case.attempts,
        elapsed=case.elapsed,
        deadline=case.deadline,
        random=case.random,
        retry_ambiguous=case.ambiguous,
    )
    assert delay == case.delay


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_fifth_may_be_repeated(questions: int, idle: int) -> None:
    budget, repeats = RetryBudget(), 0
    for _ in range(idle):
        budget.deposit()
    for _ in range(questions):
        budget.deposit()
        for _ in range(2):
            repeats += budget.withdraw()
    assert repeats <= 10 + questions / 5
    assert repeats >= min(2 * questions, 10)


def test_a_single_question_may_be_repeated() -> None:
    budget = RetryBudget()
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
