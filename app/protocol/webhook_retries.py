"""Decide what the answer of a webhook's receiver means, and when the webhook is sent again."""

import re
from enum import StrEnum

#: Seconds between the attempts; the last one repeats.
DELAYS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0)

#: Seconds after the end of the task during which its webhook is sent again.
RETRY_SECONDS = 86_400.0

#: The share by which a delay may be longer, so that webhooks that failed together do not come together again.
JITTER = 0.2

_GONE = 410


class WebhookOutcome(StrEnum):
    """How an attempt to deliver a webhook has ended."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"
    GIVEN_UP = "given_up"
    EXPIRED = "expired"
    UNSIGNED = "unsigned"


def outcome_of_status(status: int) -> WebhookOutcome:
    """Return what a status means. A redirect is a failure: the address was checked, and its target was not."""
    if 200 <= status < 300:
        return WebhookOutcome.DELIVERED
    return WebhookOutcome.GONE if status == _GONE else WebhookOutcome.FAILED


def parse_retry_after(value: str) -> float:
    """Return the seconds that a `retry-after` asks for; 0 where it says nothing, or a date."""
    return float(value) if re.fullmatch("[0-9]{1,9}", value) else 0.0


def seconds_until_retry(attempts: int, since_end: float, retry_after: float, chance: float) -> float | None:
    """Return when to send again.

    Args:
        attempts: How often it was sent, at least once.
        since_end: Seconds since the task has ended.
        retry_after: Seconds that the receiver asks for.
        chance: A random number from 0 to 1.

    Returns:
        Seconds; None where it is sent no more. The last attempt is made when the time is over.
    """
    if since_end >= RETRY_SECONDS:
        return None
    delay = DELAYS[min(attempts, len(DELAYS)) - 1] * (1 + JITTER * chance)
    return min(max(delay, min(retry_after, DELAYS[-1])), RETRY_SECONDS - since_end)
