"""Decide whether to retry at the same upstream, and after how many seconds. Waiting is left to the caller."""

from dataclasses import dataclass

from app.errors import RetrySafety
from app.upstream.error_mapping import UpstreamFailure

#: Seconds. Full jitter: the delay is anything up to `_BASE` x 2^(attempt - 1), `_CAP` at most.
_BASE, _CAP = 0.5, 8.0

#: The last share of the time, in which nothing is sent: the reply would be paid for, but no client would wait.
_RESERVED_TIME = 0.1

#: Requests that pay for one retry, and retries that can be saved up.
_PRICE, _MAX_SAVED = 5, 10


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
    """Return the seconds to wait before the next attempt, `None` if there must not be one.

    Args:
        failure: The failure of the attempt.
        attempt: The number of the attempt that failed, from 1.
        max_attempts: Attempts of one request.
        elapsed: Seconds since the request started.
        deadline: Seconds after which the request ends, counted as `elapsed`.
        random: From [0, 1).
        retry_ambiguous: Also retry after a failure that may have cost something.
    """
    allowed = {RetrySafety.SAFE, RetrySafety.AMBIGUOUS} if retry_ambiguous else {RetrySafety.SAFE}
    if failure.retry_safety not in allowed or attempt >= max_attempts:
        return None
    delay = (failure.retry_after or 0.0) + random * min(_CAP, _BASE * 2 ** (attempt - 1))
    return delay if elapsed + delay <= deadline * (1 - _RESERVED_TIME) else None


@dataclass(slots=True)
class RetryBudget:
    """The retries that a whole process may make: one for every five requests, and a reserve from quiet times.

    Without this limit, an upstream that is down receives several times its usual load from the retries of all requests.
    """

    balance: int = _PRICE * _MAX_SAVED

    def deposit(self) -> None:
        """Count one request. Its retries are not counted."""
        self.balance = min(_PRICE * _MAX_SAVED, self.balance + 1)

    def withdraw(self) -> bool:
        """Pay for one retry. Return whether the budget allows the retry; nothing is taken if not."""
        if self.balance < _PRICE:
            return False
        self.balance -= _PRICE
        return True
