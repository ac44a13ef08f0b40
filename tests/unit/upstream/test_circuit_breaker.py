"""Circuits: what opens them, for how long, and what closes them again."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.circuit_breaker import CircuitBreaker, CircuitState, Permit


@dataclass(frozen=True, slots=True)
class Case:
    """`outcomes`: `+` a success, `-` a fault, one every `every` seconds."""

    name: str
    outcomes: str
    state: CircuitState = CircuitState.OPEN
    every: float = 0.1


CASES = [
    Case("nothing has happened", "", CircuitState.CLOSED),
    Case("four faults in a row", "----", CircuitState.CLOSED),
    Case("five faults in a row", "-----"),
    Case("five faults in a row, however slowly they came", "-----", every=3600),
    Case("a success between them", "----+----", CircuitState.CLOSED),
    Case("half of twenty", "--+--+" * 3 + "+-"),
    Case("half of nineteen", "--+--+" * 3 + "-", CircuitState.CLOSED),
    Case("less than half of thirty", "-++-+" * 6, CircuitState.CLOSED),
    Case("half of twenty, in more than their minute", "--+--+" * 3 + "+-", CircuitState.CLOSED, every=5),
    Case("many successes long ago, then half of a minute's", "+" * 40 + "--+--+" * 10, every=2),
    Case("no more than a hundred are remembered", "+" * 300 + "---+" * 34, every=0.01),
]  # fmt: skip


def play(circuit: CircuitBreaker, outcomes: str, every: float = 0.1, start: float = 0.0) -> float:
    """The time after it, or when it opened."""
    now = start
    for outcome in outcomes:
        if circuit.state(now) is not CircuitState.CLOSED:
            break
        now += every
        ticket = circuit.acquire(now)
        circuit.record_success(ticket, now) if outcome == "+" else circuit.record_failure(ticket, now, 0.0)
    return now


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_opens_it(case: Case) -> None:
    circuit = CircuitBreaker()
    now = play(circuit, case.outcomes, case.every)
    assert circuit.state(now) is case.state
    assert circuit.allows(now) is (case.state is CircuitState.CLOSED)


def opened(random: float = 0.0) -> CircuitBreaker:
    """At 0 seconds, for 10 and a quarter of `random` more."""
    circuit = CircuitBreaker()
    for ticket in [circuit.acquire(0) for _ in range(5)]:
        circuit.record_failure(ticket, 0, random)
    return circuit


@pytest.mark.parametrize(("random", "seconds"), [(0, 10), (0.5, 11.25), (0.999, 12.4975)])
def test_it_stays_open_for_its_time_and_a_bit_by_chance(random: float, seconds: float) -> None:
    circuit = opened(random)
    assert circuit.state(seconds - 0.001) is CircuitState.OPEN
    assert not circuit.allows(seconds - 0.001)
    assert circuit.state(seconds) is CircuitState.HALF_OPEN
    assert circuit.allows(seconds)


def test_one_probe_at_a_time() -> None:
    circuit = opened()
    tickets = [circuit.acquire(10) for _ in range(3)]
    assert [ticket.probe for ticket in tickets] == [True, False, False]
    assert not circuit.allows(1000)


def test_a_probe_that_succeeds_closes_it_and_all_is_forgotten() -> None:
    circuit = opened()
    circuit.record_success(circuit.acquire(10), 60)
    assert circuit.state(60) is CircuitState.CLOSED
    assert circuit.allows(60)
    now = play(circuit, "----", start=60)
    assert circuit.state(now) is CircuitState.CLOSED


def test_what_opened_it_is_not_held_against_it_later() -> None:
    circuit = CircuitBreaker()
    now = play(circuit, "--+--+" * 3 + "+-")
    circuit.record_success(circuit.acquire(now + 10), now + 10)
    now = play(circuit, "-", start=now + 10)
    assert circuit.state(now) is CircuitState.CLOSED


def failed_probes(number: int) -> tuple[CircuitBreaker, list[int]]:
    """And how long it stayed open after each."""
    circuit, now, times = opened(), 10, []
    for _ in range(number):
        circuit.record_failure(circuit.acquire(now), now, 0.0)
        seconds = next(seconds for seconds in range(1, 1000) if circuit.state(now + seconds) is CircuitState.HALF_OPEN)
        times.append(seconds)
        now += seconds
    return circuit, times


def test_each_probe_that_fails_doubles_the_time() -> None:
    assert failed_probes(7)[1] == [20, 40, 80, 160, 300, 300, 300]


def test_after_it_was_closed_the_times_begin_anew() -> None:
    circuit, _ = failed_probes(3)
    circuit.record_success(circuit.acquire(1000), 1000)
    now = play(circuit, "-----", start=1000)
    assert circuit.state(now + 9.9) is CircuitState.OPEN
    assert circuit.state(now + 10) is CircuitState.HALF_OPEN


def test_a_probe_that_is_called_off_leaves_its_place_to_the_next() -> None:
    circuit = opened()
    circuit.cancel(circuit.acquire(10))
    assert circuit.acquire(11).probe


def test_others_that_are_called_off_do_not() -> None:
    circuit = opened()
    before, probe = Permit(epoch=0), circuit.acquire(10)
    circuit.cancel(before)
    circuit.cancel(circuit.acquire(10))
    assert not circuit.allows(10)
    circuit.record_success(probe, 10)
    circuit.cancel(probe)
    assert circuit.allows(10)


def test_what_began_before_it_opened_says_nothing() -> None:
    circuit = CircuitBreaker()
    early = [circuit.acquire(0) for _ in range(9)]
    for ticket in early[:5]:
        circuit.record_failure(ticket, 0, 0.0)
    circuit.record_success(early[5], 1)
    circuit.record_failure(early[6], 1, 0.0)
    assert circuit.state(9.9) is CircuitState.OPEN
    assert circuit.state(10) is CircuitState.HALF_OPEN
    circuit.record_failure(early[7], 11, 0.0)
    circuit.record_success(early[8], 11)
    assert circuit.state(11) is CircuitState.HALF_OPEN


@pytest.mark.parametrize("now", [5, 10])
def test_a_question_that_was_asked_nevertheless_closes_it_but_does_not_keep_it_open(now: float) -> None:
    circuit = opened()
    circuit.acquire(10)  # the probe, which takes its time
    circuit.record_failure(circuit.acquire(now), now, 0.0)
    assert circuit.state(10) is CircuitState.HALF_OPEN
    circuit.record_success(circuit.acquire(now), now)
    assert circuit.state(now) is CircuitState.CLOSED


ACTS = st.lists(st.tuples(st.sampled_from(["enter", "succeed", "fail", "withdraw", "wait"]), st.integers(0, 9)))


@given(ACTS)
def test_never_more_than_one_probe_and_never_stuck(acts: Sequence[tuple[str, int]]) -> None:
    circuit, now, under_way = CircuitBreaker(), 0.0, list[Permit]()
    for act, number in acts:
        if act == "wait":
            now += number * 5
        elif act == "enter":
            under_way.append(circuit.acquire(now))
        elif under_way:
            ticket = under_way.pop(number % len(under_way))
            {
                "succeed": lambda: circuit.record_success(ticket, now),  # noqa: B023
                "fail": lambda: circuit.record_failure(ticket, now, 0.5),  # noqa: B023
                "withdraw": lambda: circuit.cancel(ticket),  # noqa: B023
            }[act]()
        assert sum(one.probe and one.epoch == circuit._epoch for one in under_way) <= 1
    for ticket in under_way:
        circuit.cancel(ticket)
    assert circuit.allows(now + 1000)
