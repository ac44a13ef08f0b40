"""Webhooks that have not been delivered yet: in Redis for all replicas, or in this process.

A webhook waits while its task runs. Then it stands in the queue of its caller for its host, from which one is sent at a
time, and at most one each second: no host and no caller delays the webhooks of another. Who takes one holds it by a
lease, so that another replica sends it if this one dies. The rules for Redis are in webhook_queue.lua, because each
step must be atomic.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson

from app.state.local_webhooks import LocalWebhooks
from app.state.shared_state import SharedState
from app.state.webhook import ClaimedWebhook, Webhook, WebhookTimings

_PREFIX = "limner:webhooks:"
_KEYS = [_PREFIX + part for part in ("records", "waiting", "queues")]

#: Seconds after which everything is forgotten that nobody has touched: longer than a webhook is sent again.
_TTL = 2 * 86_400


class WebhookQueue:
    """The webhooks of all replicas. While Redis is down, this process keeps its own."""

    def __init__(
        self,
        state: SharedState,
        timings: WebhookTimings = WebhookTimings(),  # noqa: B008  # frozen
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now`: the clock of what this process keeps itself."""
        self._state = state
        self._timings = timings
        self._local = LocalWebhooks(timings, now)

    @property
    def is_shared(self) -> bool:
        """Whether other replicas send what this one leaves."""
        return self._state.is_shared

    @property
    def local_size(self) -> int:
        """How many webhooks end with this process."""
        return self._local.size

    async def add(self, webhook: Webhook) -> bool:
        """Keep a webhook of a task that runs. Returns False if there is one of this task and address already."""
        reply = await self._call("add", _dump(webhook), slot=webhook.slot)
        return self._local.add(webhook) if reply is None else bool(reply[0])

    async def ready(self, webhook: Webhook, *, restore: bool = False) -> None:
        """Note that the task has ended. `restore`: keep the webhook again if Redis has lost it."""
        args = {"slot": webhook.slot, "queue": webhook.queue, "restore": restore}
        is_local = self._local.ready(webhook)
        if not is_local and await self._call("ready", _dump(webhook), **args) is None and restore:
            self._local.add(webhook)
            self._local.ready(webhook)

    async def overdue(self, most: int) -> list[Webhook]:
        """Return some webhooks whose tasks nobody has looked at for a while."""
        return self._local.overdue(most) + [_load(each) for each in await self._call("overdue", most=most) or ()]

    async def claim(self, most: int) -> list[ClaimedWebhook]:
        """Return the next webhook of each of some queues, to be sent at once and released then."""
        claimed = self._local.claim(most)
        reply = await self._call("claim", most=most - len(claimed)) if len(claimed) < most else None
        if reply is None:
            return claimed
        started, *found = reply
        return claimed + [ClaimedWebhook(_load(each), float(started) / 1000, is_local=False) for each in found]

    async def release(self, claimed: ClaimedWebhook, *, after: float | None) -> None:
        """End a claim: the webhook, as it is now, is sent again `after` seconds, or never."""
        if claimed.is_local:
            self._local.release(claimed, after)
            return
        await self._call(
            "release",
            b"" if after is None else _dump(claimed.webhook),
            slot=claimed.webhook.slot,
            queue=claimed.webhook.queue,
            after=_milliseconds(after or 0),
            claimed_at=_milliseconds(claimed.claimed_at),
        )

    async def forget(self, webhook: Webhook) -> None:
        """Drop a webhook whose task is not known any more."""
        self._local.forget(webhook.slot)
        await self._call("forget", slot=webhook.slot)

    async def size(self) -> int:
        """Return how many webhooks are kept here and, if Redis answers, there."""
        return self.local_size + sum(await self._call("size") or ())

    async def _call(self, command: str, record: bytes = b"", **args: Any) -> Any:
        """Return what webhook_queue.lua answers; None where nothing is shared, or Redis does not answer."""
        timings = {name: _milliseconds(value) for name, value in asdict(self._timings).items()}
        document = orjson.dumps({**args, **timings, "prefix": _PREFIX, "ttl": _milliseconds(_TTL)})
        return await self._state.run_script("webhook_queue.lua", _KEYS, [command, document, record])


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _dump(webhook: Webhook) -> bytes:
    return orjson.dumps(webhook)


def _load(record: bytes) -> Webhook:
    return Webhook(**orjson.loads(record))
