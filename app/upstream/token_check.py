"""Ask the upstreams whether they accept a caller's own key, before a request of that caller is read (pass-through)."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from app.errors import ApiError

#: Seconds for which an answer is remembered, and how many are remembered.
REMEMBERED_SECONDS = 60.0
MAX_REMEMBERED = 1000


class KeyChecker(Protocol):
    """The part of `UpstreamClient` that is needed here."""

    async def check_token(self, token: str) -> ApiError | None:
        """Return the error of a key that the upstream refuses; None if it accepts the key, or does not say."""
        ...


class TokenCheck:
    """Remember for a minute which keys are refused. Requests that come at the same time wait for one answer.

    A key is refused if every upstream refuses it. Without `upstreams` none is.
    """

    def __init__(self, upstreams: Sequence[KeyChecker], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._upstreams = upstreams
        self._monotonic = monotonic
        self._answers: dict[str, tuple[float, asyncio.Task[ApiError | None]]] = {}

    async def check(self, caller: str, token: str | None) -> None:
        """Check the key of a caller. `caller` is a fingerprint of the key, which itself is not kept.

        Raises:
            ApiError: Every upstream refuses the key.
        """
        if not self._upstreams or token is None:
            return
        expires_at, answer = self._answers.get(caller, (0.0, None))
        if answer is None or expires_at <= self._monotonic():
            answer = self._start(caller, token)
        # One of the waiting clients may leave.
        error = await asyncio.shield(answer)
        if error is not None:
            # The error is raised once for each request, and would collect the frames of them all.
            raise error.with_traceback(None)

    def _start(self, caller: str, token: str) -> asyncio.Task[ApiError | None]:
        self._answers.pop(caller, None)
        if len(self._answers) >= MAX_REMEMBERED:
            # Invented keys replace each other, and not those of callers who have been accepted.
            del self._answers[next(self._refused(), next(iter(self._answers)))]
        answer = asyncio.create_task(self._ask(token))
        self._answers[caller] = self._monotonic() + REMEMBERED_SECONDS, answer
        return answer

    def _refused(self) -> Iterator[str]:
        return (
            caller
            for caller, (_, answer) in self._answers.items()
            if answer.done() and not answer.cancelled() and answer.result() is not None
        )

    async def _ask(self, token: str) -> ApiError | None:
        error = None
        for upstream in self._upstreams:
            error = await upstream.check_token(token)
            if error is None:
                break
        return error
