"""When a failed attempt is retried, and how many retries the process may make."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RetrySafety, UpstreamError
from app.upstream.error_mapping import UpstreamFailure
from app.upstream.retry import RetryBudget, retry_delay


def failure(safety: RetrySafety, retry_after: float | None = None) -> UpstreamFailure:
    return UpstreamFailure(UpstreamError(), safety, retry_after)


SAFE, AMBIGUOUS, UNSAFE = (failure(safety) for safety in (RetrySafety.SAFE, RetrySafety.AMBIGUOUS, RetrySafety.UNSAFE))


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    failure: UpstreamFailure
    delay: float | None
    attempt: int = 1
    attempts: int = 3
    elapsed: float = 0
    deadline: float = 600
    random: float = 0.5
    ambiguous: bool = False


CASES = (
    Case("no work was done", SAFE, 0.25),
    Case("no jitter, no wait", SAFE, 0, random=0),
    Case("the second delay is longer", SAFE, 0.5, attempt=2),
    Case("delays stop growing", SAFE, 4, attempt=9, attempts=10),
    Case("the last attempt is the last", SAFE, None, attempt=3),
    Case("a single attempt", SAFE, None, attempts=1),
    Case("work may have been done", UNSAFE, None, ambiguous=True),
    Case("probably no work, and the operator does not allow it", AMBIGUOUS, None),
    Case("probably no work, and the operator allows it", AMBIGUOUS, 0.25, ambiguous=True),
    Case(
        "as long as the upstream asks, and jitter so that not all clients come at once",
        failure(RetrySafety.SAFE, 7),
        7.25,
    ),
    Case("up to the deadline", failure(RetrySafety.SAFE, 400), 400.25),
    Case("not beyond the deadline", failure(RetrySafety.SAFE, 600), None),
    Case("an absurd retry-after", failure(RetrySafety.SAFE, 1e12), None),
    Case("too late to wait for a reply", failure(RetrySafety.SAFE, 550), None),
    Case("the time is over", SAFE, None, elapsed=599),
    Case("the time is nearly over", SAFE, 0.25, elapsed=539),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_delay_before_a_retry(case: Case) -> None:
    delay = retry_delay(
        case.failure,
        attempt=case.attempt,
        max_attempts=case.attempts,
        elapsed=case.elapsed,
        deadline=case.deadline,
        random=case.random,
        retry_ambiguous=case.ambiguous,
    )
    assert delay == case.delay


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_fifth_of_the_requests_may_be_retried(requests: int, idle: int) -> None:
    budget, retries = RetryBudget(), 0
    for _ in range(idle):
        budget.deposit()
    for _ in range(requests):
        budget.deposit()
        for _ in range(2):
            retries += budget.withdraw()
    assert retries <= 10 + requests / 5
    assert retries >= min(2 * requests, 10)


def test_a_single_request_may_be_retried() -> None:
    budget = RetryBudget()
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
