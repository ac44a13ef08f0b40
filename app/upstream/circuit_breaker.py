"""A circuit breaker: whether an upstream has failed so often of late that another one should be asked instead.

closed     ── faults in a row, or a share of faults ──▶ open
open       ── its time is over ──▶ half-open
half-open  ── the probe succeeds ──▶ closed
           ── the probe fails ──▶ open, for longer
both       ── a question that was asked nevertheless succeeds ──▶ closed
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

#: Faults one after the other that open it.
_ROW = 5

#: Or this share of faults among the outcomes of the last seconds, once there are enough of them to tell.
_SHARE, _WINDOW, _ENOUGH, _REMEMBERED = 0.5, 60.0, 20, 100

#: Seconds that it stays open: doubled each time a probe fails, up to the longest, and up to a quarter more by chance,
#: so that many servers do not probe together.
_COOL_DOWN, _LONGEST, _JITTER = 10.0, 300.0, 0.25


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Permit:
    """One question, and the time that it belongs to: what began before the circuit last changed says nothing now."""

    epoch: int
    probe: bool = False


@dataclass(slots=True)
class CircuitBreaker:
    """`now` is in seconds of a clock that never goes back, `random` from [0, 1). Each ticket is handed in once."""

    _until: float | None = None
    _trips: int = 0
    _epoch: int = 0
    _row: int = 0
    _probing: bool = False
    _outcomes: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def state(self, now: float) -> CircuitState:
        if self._until is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self._until else CircuitState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a question is welcome: while half-open only the first, which is the probe."""
        state = self.state(now)
        return state is CircuitState.CLOSED or (state is CircuitState.HALF_OPEN and not self._probing)

    def acquire(self, now: float) -> Permit:
        """For each question that is asked, also for one that is not welcome because there is no other choice."""
        probe = self.state(now) is CircuitState.HALF_OPEN and not self._probing
        self._probing = self._probing or probe
        return Permit(self._epoch, probe)

    def record_success(self, permit: Permit, now: float) -> None:
        if permit.epoch != self._epoch:
            return
        if self._until is None:
            self._row = 0
            self._outcomes.append((now, True))
        else:
            self._change(None, trips=0)

    def record_failure(self, permit: Permit, now: float, random: float) -> None:
        if permit.epoch != self._epoch:
            return
        if self._until is None:
            self._row += 1
            self._outcomes.append((now, False))
            if self._row >= _ROW or self._is_failing(now):
                self._open(now, random)
        elif permit.probe:
            self._open(now, random)

    def cancel(self, permit: Permit) -> None:
        """A question that was called off tells nothing; the next one is the probe."""
        if permit.probe and permit.epoch == self._epoch:
            self._probing = False

    def _is_failing(self, now: float) -> bool:
        recent = [good for at, good in self._outcomes if at > now - _WINDOW]
        return len(recent) >= _ENOUGH and recent.count(False) >= _SHARE * len(recent)

    def _open(self, now: float, random: float) -> None:
        cool_down = min(_LONGEST, _COOL_DOWN * 2**self._trips)
        self._change(now + cool_down * (1 + _JITTER * random), trips=self._trips + 1)

    def _change(self, until: float | None, *, trips: int) -> None:
        self._until, self._trips = until, trips
        self._epoch += 1
        self._row = 0
        self._probing = False
        self._outcomes.clear()
