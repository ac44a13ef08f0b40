"""How many requests have ended with nothing, and for how long that is remembered."""

from dataclasses import replace

from app.jobs.job import JobKey
from app.jobs.unserved import UnservedRequests
from tests.support.join_cases import COUNTED, KEYED, ME, RETRY
from tests.support.registries import Clock

OTHERS = [JobKey("me", prompt, counts_attempts=True) for prompt in ("cat", "dog", "owl")]


def test_each_is_counted_until_a_retry_begins_a_job() -> None:
    unserved = UnservedRequests(ttl=60, max_groups=2, now=Clock())
    counts = []
    steps = (unserved.note_end, unserved.note_end, unserved.note_new_job, unserved.note_new_job, unserved.note_new_job)
    for step in steps:
        step(RETRY)
        counts.append(unserved.has_any(ME))
    assert counts == [True, True, True, False, False]


def test_a_retry_may_overtake_the_request_that_it_repeats() -> None:
    unserved = UnservedRequests(ttl=60, max_groups=2, now=Clock())
    unserved.note_new_job(RETRY)
    unserved.note_end(COUNTED)
    assert not unserved.has_any(RETRY)
    unserved.note_end(COUNTED)
    assert unserved.has_any(RETRY)


def test_a_first_request_repeats_none() -> None:
    unserved = UnservedRequests(ttl=60, max_groups=2, now=Clock())
    unserved.note_end(COUNTED)
    unserved.note_new_job(COUNTED)
    assert unserved.has_any(ME)


def test_neither_requests_under_a_key_are_counted_nor_those_whose_retries_would_have_no_mark() -> None:
    unserved = UnservedRequests(ttl=60, max_groups=2, now=Clock())
    for key in (replace(KEYED, counts_attempts=True), ME):
        unserved.note_end(key)
        assert not unserved.has_any(key)


def test_a_retry_under_a_key_repeats_none() -> None:
    unserved = UnservedRequests(ttl=60, max_groups=2, now=Clock())
    unserved.note_new_job(replace(KEYED, is_retry=True))
    assert not unserved._groups


def test_the_time_is_counted_from_the_latest() -> None:
    clock = Clock()
    unserved = UnservedRequests(ttl=60, max_groups=2, now=clock)
    counts = []
    for clock.now in (0, 50):
        unserved.note_end(COUNTED)
    for clock.now in (109, 110):
        counts.append(unserved.has_any(ME))
    unserved.note_end(COUNTED)
    assert [*counts, unserved.has_any(ME)] == [True, False, True]


def test_the_latest_groups_are_remembered() -> None:
    unserved = UnservedRequests(ttl=60, max_groups=2, now=Clock())
    for key in OTHERS:
        unserved.note_end(key)
    assert [unserved.has_any(key) for key in OTHERS] == [False, True, True]
