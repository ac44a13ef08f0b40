"""Webhooks that this process keeps alone, by the same rules as webhook_queue.lua."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.state.webhook import ClaimedWebhook, Webhook, WebhookTimings


@dataclass(slots=True)
class _Queue:
    """The webhooks of a queue, by their slots, with the time of the next attempt; nothing is sent before `free_at`."""

    due: dict[str, float] = field(default_factory=dict)
    free_at: float = 0.0


class LocalWebhooks:
    """The webhooks of one process."""

    def __init__(self, timings: WebhookTimings, now: Callable[[], float]) -> None:
        self._timings = timings
        self._now = now
        self._records: dict[str, Webhook] = {}
        self._waiting: dict[str, float] = {}
        self._queues: dict[str, _Queue] = {}

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._records)

    def add(self, webhook: Webhook) -> bool:
        """Keep a webhook of a task. Returns False where one with this slot is there already."""
        if webhook.slot in self._records:
            return False
        self._records[webhook.slot] = webhook
        self._waiting[webhook.slot] = self._now() + self._timings.look_after
        return True

    def ready(self, webhook: Webhook) -> bool:
        """Note that the task has ended. Returns whether the webhook is kept here."""
        if self._waiting.pop(webhook.slot, None) is not None:
            self._records[webhook.slot] = webhook
            self._queues.setdefault(webhook.queue, _Queue()).due[webhook.slot] = self._now()
        return webhook.slot in self._records

    def overdue(self, most: int) -> list[Webhook]:
        """Return some webhooks whose tasks are to be looked at now."""
        now = self._now()
        slots = [slot for slot, at in self._waiting.items() if at <= now][:most]
        self._waiting |= dict.fromkeys(slots, now + self._timings.look_after)
        return [self._records[slot] for slot in slots]

    def claim(self, most: int) -> list[ClaimedWebhook]:
        """Return the next webhook of each of some queues."""
        now, claimed = self._now(), list[ClaimedWebhook]()
        for name, queue in list(self._queues.items()):
            if not queue.due and queue.free_at <= now:
                del self._queues[name]
            slot = min(queue.due, key=lambda each: queue.due[each], default=None)
            if slot is not None and max(queue.due[slot], queue.free_at) <= now and len(claimed) < most:
                queue.due[slot] = queue.free_at = now + self._timings.lease
                claimed.append(ClaimedWebhook(self._records[slot], now, is_local=True))
        return claimed

    def release(self, claimed: ClaimedWebhook, after: float | None) -> None:
        """End a claim: the webhook is sent again `after` seconds, or forgotten."""
        webhook = claimed.webhook
        queue = self._queues[webhook.queue]
        queue.free_at = claimed.claimed_at + self._timings.interval
        if webhook.slot not in self._records:
            # Its lease had ended, and it was sent twice.
            return
        if after is None:
            del self._records[webhook.slot], queue.due[webhook.slot]
        else:
            self._records[webhook.slot] = webhook
            queue.due[webhook.slot] = self._now() + after

    def forget(self, slot: str) -> None:
        """Drop a webhook of a task that is not known any more."""
        if self._waiting.pop(slot, None) is not None:
            del self._records[slot]
