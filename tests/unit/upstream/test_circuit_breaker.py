"""Circuit breakers: what opens them, for how long, and what closes them again."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.circuit_breaker import CircuitBreaker, CircuitState, Permit


@dataclass(frozen=True, slots=True)
class Case:
    """`outcomes`: `+` is a success, `-` a failure, one every `every` seconds."""

    name: str
    outcomes: str
    state: CircuitState = CircuitState.OPEN
    every: float = 0.1


CASES = [
    Case("nothing has happened", "", CircuitState.CLOSED),
    Case("four failures in a row", "----", CircuitState.CLOSED),
    Case("five failures in a row", "-----"),
    Case("five failures in a row, however far apart", "-----", every=3600),
    Case("a success between failures", "----+----", CircuitState.CLOSED),
    Case("half of twenty outcomes", "--+--+" * 3 + "+-"),
    Case("half of nineteen outcomes", "--+--+" * 3 + "-", CircuitState.CLOSED),
    Case("less than half of thirty outcomes", "-++-+" * 6, CircuitState.CLOSED),
    Case("half of twenty outcomes, over more than a minute", "--+--+" * 3 + "+-", CircuitState.CLOSED, every=5),
    Case("many successes long ago, then half of a minute's outcomes", "+" * 40 + "--+--+" * 10, every=2),
    Case("half of the last hundred, many successes before", "+" * 300 + "---+" * 34, every=0.01),
]  # fmt: skip


def play(circuit: CircuitBreaker, outcomes: str, every: float = 0.1, start: float = 0.0) -> float:
    """Return the time after the last outcome, or when the circuit opened."""
    now = start
    for outcome in outcomes:
        if circuit.state(now) is not CircuitState.CLOSED:
            break
        now += every
        permit = circuit.acquire(now)
        circuit.record_success(permit, now) if outcome == "+" else circuit.record_failure(permit, now, 0.0)
    return now


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_which_outcomes_open_a_circuit(case: Case) -> None:
    circuit = CircuitBreaker()
    now = play(circuit, case.outcomes, case.every)
    assert circuit.state(now) is case.state
    assert circuit.allows(now) is (case.state is CircuitState.CLOSED)


def opened(random: float = 0.0) -> CircuitBreaker:
    """Return a circuit that opened at 0 seconds, for 10 seconds and up to a quarter more by `random`."""
    circuit = CircuitBreaker()
    for permit in [circuit.acquire(0) for _ in range(5)]:
        circuit.record_failure(permit, 0, random)
    return circuit


@pytest.mark.parametrize(
    ("random", "seconds"),
    [
        pytest.param(0, 10, id="nothing by chance"),
        pytest.param(0.5, 11.25, id="half of the quarter"),
        pytest.param(0.999, 12.4975, id="nearly all of the quarter"),
    ],
)
def test_a_circuit_stays_open_for_its_time_and_up_to_a_quarter_more(random: float, seconds: float) -> None:
    circuit = opened(random)
    assert circuit.state(seconds - 0.001) is CircuitState.OPEN
    assert not circuit.allows(seconds - 0.001)
    assert circuit.state(seconds) is CircuitState.HALF_OPEN
    assert circuit.allows(seconds)


def test_a_half_open_circuit_allows_one_probe_at_a_time() -> None:
    circuit = opened()
    permits = [circuit.acquire(10) for _ in range(3)]
    assert [permit.probe for permit in permits] == [True, False, False]
    assert not circuit.allows(1000)


def test_a_successful_probe_closes_the_circuit_and_clears_its_failures_in_a_row() -> None:
    circuit = opened()
    circuit.record_success(circuit.acquire(10), 60)
    assert circuit.state(60) is CircuitState.CLOSED
    assert circuit.allows(60)
    now = play(circuit, "----", start=60)
    assert circuit.state(now) is CircuitState.CLOSED


def test_a_successful_probe_clears_the_share_of_failures() -> None:
    circuit = CircuitBreaker()
    now = play(circuit, "--+--+" * 3 + "+-")
    circuit.record_success(circuit.acquire(now + 10), now + 10)
    now = play(circuit, "-", start=now + 10)
    assert circuit.state(now) is CircuitState.CLOSED


def failed_probes(number: int) -> tuple[CircuitBreaker, list[int]]:
    """Return the circuit and how many seconds it stayed open after each failed probe."""
    circuit, now, times = opened(), 10, []
    for _ in range(number):
        circuit.record_failure(circuit.acquire(now), now, 0.0)
        seconds = next(seconds for seconds in range(1, 1000) if circuit.state(now + seconds) is CircuitState.HALF_OPEN)
        times.append(seconds)
        now += seconds
    return circuit, times


def test_each_failed_probe_doubles_the_time() -> None:
    assert failed_probes(7)[1] == [20, 40, 80, 160, 300, 300, 300]


def test_a_circuit_that_closed_opens_for_the_first_time_again() -> None:
    circuit, _ = failed_probes(3)
    circuit.record_success(circuit.acquire(1000), 1000)
    now = play(circuit, "-----", start=1000)
    assert circuit.state(now + 9.9) is CircuitState.OPEN
    assert circuit.state(now + 10) is CircuitState.HALF_OPEN


def test_after_a_cancelled_probe_the_next_request_is_the_probe() -> None:
    circuit = opened()
    circuit.cancel(circuit.acquire(10))
    assert circuit.acquire(11).probe


def test_other_cancelled_requests_do_not_free_the_probe() -> None:
    circuit = opened()
    before, probe = Permit(epoch=0), circuit.acquire(10)
    circuit.cancel(before)
    circuit.cancel(circuit.acquire(10))
    assert not circuit.allows(10)
    circuit.record_success(probe, 10)
    circuit.cancel(probe)
    assert circuit.allows(10)


def test_requests_from_before_the_circuit_opened_do_not_count() -> None:
    circuit = CircuitBreaker()
    early = [circuit.acquire(0) for _ in range(9)]
    for permit in early[:5]:
        circuit.record_failure(permit, 0, 0.0)
    circuit.record_success(early[5], 1)
    circuit.record_failure(early[6], 1, 0.0)
    assert circuit.state(9.9) is CircuitState.OPEN
    assert circuit.state(10) is CircuitState.HALF_OPEN
    circuit.record_failure(early[7], 11, 0.0)
    circuit.record_success(early[8], 11)
    assert circuit.state(11) is CircuitState.HALF_OPEN


@pytest.mark.parametrize("now", [5, 10])
def test_a_request_that_was_not_allowed_closes_the_circuit_but_does_not_keep_it_open(now: float) -> None:
    circuit = opened()
    circuit.acquire(10)  # The probe, which is still in flight.
    circuit.record_failure(circuit.acquire(now), now, 0.0)
    assert circuit.state(10) is CircuitState.HALF_OPEN
    circuit.record_success(circuit.acquire(now), now)
    assert circuit.state(now) is CircuitState.CLOSED


ACTS = st.lists(st.tuples(st.sampled_from(["acquire", "succeed", "fail", "cancel", "wait"]), st.integers(0, 9)))


@given(ACTS)
def test_there_is_never_more_than_one_probe_and_never_a_stuck_circuit(acts: Sequence[tuple[str, int]]) -> None:
    circuit, now, in_flight = CircuitBreaker(), 0.0, list[Permit]()
    for act, number in acts:
        if act == "wait":
            now += number * 5
        elif act == "acquire":
            in_flight.append(circuit.acquire(now))
        elif in_flight:
            permit = in_flight.pop(number % len(in_flight))
            {
                "succeed": lambda: circuit.record_success(permit, now),  # noqa: B023
                "fail": lambda: circuit.record_failure(permit, now, 0.5),  # noqa: B023
                "cancel": lambda: circuit.cancel(permit),  # noqa: B023
            }[act]()
        assert sum(permit.probe and permit.epoch == circuit._epoch for permit in in_flight) <= 1
    for permit in in_flight:
        circuit.cancel(permit)
    assert circuit.allows(now + 1000)
