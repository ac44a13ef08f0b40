"""Whether to ask again, and after how long: a decision, not a wait."""

from dataclasses import dataclass

from app.upstream.error_mapping import RetrySafety, UpstreamFailure

#: Seconds. Full jitter: anything from nothing up to `_BASE` x 2^(attempt - 1), at most `_CAP`.
_BASE, _CAP = 0.5, 8.0

#: A question asked in the last tenth of its time would be paid for and not waited for.
_ROOM = 0.1

#: Questions that pay for one repeat, and repeats saved up at most.
_PRICE, _RESERVE = 5, 10


def retry_delay(
    failure: UpstreamFailure,
    *,
    attempt: int,
    max_attempts: int,
    elapsed: float,
    deadline: float,
    random: float,
    retry_ambiguous: bool = False,
) -> float | None:
    """Seconds to wait before the next attempt, None for no more.

    `attempt` counts from 1 and is the one that failed. `elapsed` and `deadline` are seconds since the question came.
    `random` is from [0, 1). `ambiguous` allows to repeat what probably cost nothing.
    """
    allowed = failure.retry_safety is RetrySafety.SAFE or (
        retry_ambiguous and failure.retry_safety is RetrySafety.AMBIGUOUS
    )
    if not allowed or attempt >= max_attempts:
        return None
    delay = (failure.retry_after or 0.0) + random * min(_CAP, _BASE * 2 ** (attempt - 1))
    return delay if elapsed + delay <= deadline * (1 - _ROOM) else None


@dataclass(slots=True)
class RetryBudget:
    """What a whole process may repeat: one question more for every five asked, and a reserve for quiet times.

    Without it, an upstream that is down gets several times its usual load from everyone's retries.
    """

    balance: int = _PRICE * _RESERVE

    def deposit(self) -> None:
        """Once for every question, its repeats not counted."""
        self.balance = min(_PRICE * _RESERVE, self.balance + 1)

    def withdraw(self) -> bool:
        """Whether one more repeat is within the budget; if so it is taken."""
        if self.balance < _PRICE:
            return False
        self.balance -= _PRICE
        return True
