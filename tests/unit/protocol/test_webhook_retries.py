"""What an answer of a receiver means, and when a webhook is sent again."""

import pytest

from app.protocol.webhook_retries import (
    DELAYS,
    RETRY_SECONDS,
    WebhookOutcome,
    outcome_of_status,
    parse_retry_after,
    seconds_until_retry,
)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, WebhookOutcome.DELIVERED),
        (204, WebhookOutcome.DELIVERED),
        (299, WebhookOutcome.DELIVERED),
        (301, WebhookOutcome.FAILED),
        (308, WebhookOutcome.FAILED),
        (400, WebhookOutcome.FAILED),
        (404, WebhookOutcome.FAILED),
        (410, WebhookOutcome.GONE),
        (429, WebhookOutcome.FAILED),
        (500, WebhookOutcome.FAILED),
        (199, WebhookOutcome.FAILED),
    ],
)
def test_a_status_ends_the_webhook_or_does_not(status: int, outcome: WebhookOutcome) -> None:
    assert outcome_of_status(status) is outcome


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), ("0", 0), ("", 0), ("-5", 0), ("1.5", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("9" * 30, 0)],
)
def test_only_whole_seconds_of_retry_after_count(value: str, seconds: float) -> None:
    assert parse_retry_after(value) == seconds


def test_a_receiver_that_never_answers_is_tried_with_growing_delays_for_a_day() -> None:
    now, attempts, delays = 0.0, 1, list[float]()
    while (delay := seconds_until_retry(attempts, now, 0, 0)) is not None:
        delays.append(delay)
        now, attempts = now + delay, attempts + 1
    assert tuple(delays[: len(DELAYS)]) == DELAYS
    assert delays[:-1] == sorted(delays[:-1])
    assert now == RETRY_SECONDS
    assert 10 <= attempts <= 20


@pytest.mark.parametrize(
    ("name", "attempts", "since_end", "retry_after", "chance", "seconds"),
    [
        ("the first failure", 1, 0, 0, 0, 5),
        ("jitter makes it longer", 1, 0, 0, 1, 6),
        ("what the receiver asks for", 1, 0, 60, 0, 60),
        ("less than the delay is no reason to hurry", 2, 0, 1, 0, 30),
        ("no receiver asks for more than the longest delay", 1, 0, 1e9, 0, 14_400),
        ("the last attempt comes when the time is over", 20, 86_300, 0, 0, 100),
        ("nothing comes after it", 21, 86_400, 0, 0, None),
    ],
)
def test_the_next_attempt_comes_later_each_time_or_never(
    name: str, attempts: int, since_end: float, retry_after: float, chance: float, seconds: float | None
) -> None:
    assert seconds_until_retry(attempts, since_end, retry_after, chance) == seconds
