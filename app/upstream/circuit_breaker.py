"""A circuit breaker: decide whether an upstream has recently failed so often that another one should be preferred.

closed     ── failures in a row, or a share of failures ──▶ open
open       ── its time is over ──▶ half-open
half-open  ── the probe succeeds ──▶ closed
           ── the probe fails ──▶ open, for longer
both       ── a request that was sent although not allowed succeeds ──▶ closed
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

#: Consecutive failures that open the circuit.
_MAX_CONSECUTIVE = 5

#: Or this share of failures among the outcomes of the last `_WINDOW` seconds, if there are at least `_MIN_OUTCOMES`.
_FAILURE_SHARE, _WINDOW, _MIN_OUTCOMES = 0.5, 60.0, 20
#: Outcomes that are remembered at most.
_MAX_OUTCOMES = 100

#: Seconds that the circuit stays open: doubled each time a probe fails, up to the maximum. Up to a quarter is added by
#: chance, so that the servers of a fleet do not probe at the same time.
_OPEN_SECONDS, _MAX_OPEN_SECONDS, _JITTER = 10.0, 300.0, 0.25


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Permit:
    """One request at the upstream.

    Attributes:
        epoch: Counts the changes of the circuit. Outcomes of requests from before the last change are ignored.
        probe: The outcome of this request decides whether a half-open circuit closes.
    """

    epoch: int
    probe: bool = False


@dataclass(slots=True)
class CircuitBreaker:
    """The circuit of one upstream.

    Every permit is handed back once: to `record_success`, `record_failure` or `cancel`. In all methods, `now` is in
    seconds of a clock that never goes back, and `random` is from [0, 1).
    """

    _open_until: float | None = None
    _trips: int = 0
    _epoch: int = 0
    _consecutive_failures: int = 0
    _probing: bool = False
    _outcomes: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=_MAX_OUTCOMES))

    def state(self, now: float) -> CircuitState:
        if self._open_until is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self._open_until else CircuitState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Return whether the upstream should be chosen. A half-open circuit allows one request at a time, the probe."""
        state = self.state(now)
        return state is CircuitState.CLOSED or (state is CircuitState.HALF_OPEN and not self._probing)

    def acquire(self, now: float) -> Permit:
        """Register a request that is about to be sent, also one that is not allowed but has no other upstream."""
        probe = self.state(now) is CircuitState.HALF_OPEN and not self._probing
        self._probing = self._probing or probe
        return Permit(self._epoch, probe)

    def record_success(self, permit: Permit, now: float) -> None:
        if permit.epoch != self._epoch:
            return
        if self._open_until is None:
            self._consecutive_failures = 0
            self._outcomes.append((now, True))
        else:
            self._change(None, trips=0)

    def record_failure(self, permit: Permit, now: float, random: float) -> None:
        if permit.epoch != self._epoch:
            return
        if self._open_until is None:
            self._consecutive_failures += 1
            self._outcomes.append((now, False))
            if self._consecutive_failures >= _MAX_CONSECUTIVE or self._is_failing(now):
                self._open(now, random)
        elif permit.probe:
            self._open(now, random)

    def cancel(self, permit: Permit) -> None:
        """Give back the permit of a request that ended without outcome. If it was the probe, the next request is."""
        if permit.probe and permit.epoch == self._epoch:
            self._probing = False

    def _is_failing(self, now: float) -> bool:
        recent = [succeeded for time, succeeded in self._outcomes if time > now - _WINDOW]
        return len(recent) >= _MIN_OUTCOMES and recent.count(False) >= _FAILURE_SHARE * len(recent)

    def _open(self, now: float, random: float) -> None:
        seconds = min(_MAX_OPEN_SECONDS, _OPEN_SECONDS * 2**self._trips)
        self._change(now + seconds * (1 + _JITTER * random), trips=self._trips + 1)

    def _change(self, open_until: float | None, *, trips: int) -> None:
        self._open_until, self._trips = open_until, trips
        self._epoch += 1
        self._consecutive_failures = 0
        self._probing = False
        self._outcomes.clear()
