"""Tell the receivers of webhooks that asynchronous requests have ended.

A webhook is delivered at least once: it is sent until its receiver accepts it, for a day, and another replica goes on
where this one dies. The task is written again for each attempt, so that its links are fresh.
"""

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import orjson

from app.access.auth import Caller
from app.access.webhook_secrets import WebhookSecrets
from app.errors import ApiError, NotFound
from app.jobs.background_tasks import BackgroundTasks
from app.jobs.job import Job
from app.jobs.tasks import ImageTasks
from app.jobs.webhook_sender import WebhookAttempt, WebhookSender
from app.observability.logging import log
from app.observability.metrics import WEBHOOKS, WEBHOOKS_PENDING
from app.protocol.image_task import task_event
from app.protocol.webhook_retries import WebhookOutcome, seconds_until_retry
from app.protocol.webhook_signature import signed_headers
from app.state.webhook import ClaimedWebhook, Webhook, slot_of
from app.state.webhook_queue import WebhookQueue

#: Webhooks that are sent at once, of all callers and of one: receivers that do not answer hold them up for a while.
MAX_SENDING, MAX_SENDING_OF_CALLER = 64, 16

#: Tasks that are looked at in one turn, since their replica may have died, and seconds between two turns.
_MAX_LOOKS, _INTERVAL = 64, 1.0

#: Seconds until another try for a webhook whose caller has too many under way.
_CALLER_PAUSE = 5.0

#: Seconds to write a task: its images may have to be stored first. With the attempt less than the lease of a webhook.
_WRITE_SECONDS = 20.0

#: Seconds at the end of a server for the webhooks that nobody else would send.
_LAST_SECONDS = 10.0


#: What is tried again, and how it ends where no time is left.
_FINAL_OUTCOMES = {
    WebhookOutcome.FAILED: WebhookOutcome.GIVEN_UP,
    WebhookOutcome.UNSIGNED: WebhookOutcome.UNSIGNED,
}


@dataclass(slots=True, eq=False)
class Webhooks:
    """Keep the webhooks of requests, and send those whose task has ended.

    Attributes:
        is_used: Whether some client may use webhooks.
        now: Returns seconds since 1970.
        chance: Returns a random number from 0 to 1.
        background: What is under way: looks at tasks, and attempts. If a bug ends an attempt, the lease of its webhook
            ends after a while, and the webhook is sent again.
    """

    queue: WebhookQueue
    tasks: ImageTasks
    sender: WebhookSender
    secrets: WebhookSecrets
    is_used: bool
    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    chance: Callable[[], float] = random.SystemRandom().random
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    _sending: Counter[str] = field(default_factory=Counter)
    _is_draining: bool = False
    _is_ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def register(self, job: Job, url: str, server_url: str) -> None:
        """Send a webhook to this address, which was checked, when the job has ended."""
        host = self.sender.http.check(url).name
        webhook_id = f"msg_{secrets.token_hex(16)}"
        webhook = Webhook(slot_of(job.id, url), webhook_id, job.id, job.key.caller, url, host, server_url)
        is_new = await self.queue.add(webhook)
        self.background.start(self._await_end(job, webhook, restore=is_new))

    async def _await_end(self, job: Job, webhook: Webhook, *, restore: bool) -> None:
        await job.run.wait_done()
        await self._queue_if_ended(webhook, restore=restore)

    async def _queue_if_ended(self, webhook: Webhook, *, restore: bool = False) -> None:
        """Let a webhook be sent if its task has ended."""
        try:
            if await self.tasks.has_ended(webhook.job, _caller_of(webhook)):
                await self.queue.ready(replace(webhook, ended_at=self.now()), restore=restore)
                self._is_ready.set()
        except NotFound:
            await self.queue.forget(webhook)
            self._record(webhook, WebhookAttempt(WebhookOutcome.EXPIRED, "its task is not known any more"))
        except ApiError as error:
            # It is looked at again in a while.
            log.warning("webhook_look_failed", webhook=webhook.id, error=error.detail or error.message)

    async def send_forever(self) -> None:
        """Send what is due, in one turn after the other, until the server stops."""
        while self.is_used and not self._is_draining:
            # A task of its own: a bug is logged and must not end the turns.
            await asyncio.wait({self.background.start(self.take_turn())})
            waiting = asyncio.ensure_future(self.sleep(_INTERVAL))
            ready = asyncio.create_task(self._is_ready.wait())
            try:
                await asyncio.wait((waiting, ready), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                ready.cancel()

    async def take_turn(self) -> None:
        """Begin to send what is due, one webhook of each queue, and to look at tasks whose replica may have died."""
        self._is_ready.clear()
        WEBHOOKS_PENDING.set(await self.queue.size())
        for webhook in await self.queue.overdue(_MAX_LOOKS):
            self.background.start(self._queue_if_ended(webhook))
        for claimed in await self.queue.claim(MAX_SENDING - self._sending.total()):
            caller = claimed.webhook.caller
            if self._sending[caller] >= MAX_SENDING_OF_CALLER:
                await self.queue.release(claimed, after=_CALLER_PAUSE)
            else:
                self._sending[caller] += 1
                self.background.start(self._send(claimed)).add_done_callback(partial(self._end_sending, caller))

    def _end_sending(self, caller: str, _: asyncio.Task[None]) -> None:
        self._sending -= Counter({caller: 1})
        self._is_ready.set()

    async def _send(self, claimed: ClaimedWebhook) -> None:
        """Make one attempt, and decide what becomes of the webhook."""
        webhook = replace(claimed.webhook, attempts=claimed.webhook.attempts + 1)
        attempt = await self._attempt(webhook)
        after = None
        if attempt.outcome in _FINAL_OUTCOMES:
            since_end = self.now() - webhook.ended_at
            after = seconds_until_retry(webhook.attempts, since_end, attempt.retry_after, self.chance())
            outcome = _FINAL_OUTCOMES[attempt.outcome] if after is None else WebhookOutcome.FAILED
            attempt = replace(attempt, outcome=outcome)
        self._record(webhook, attempt, after)
        await self.queue.release(replace(claimed, webhook=webhook), after=after)

    async def _attempt(self, webhook: Webhook) -> WebhookAttempt:
        secret = self.secrets.find(webhook.caller)
        if secret is None:
            # Another server may have a newer file of keys, or this one will have it in a while.
            return WebhookAttempt(WebhookOutcome.UNSIGNED, "its client key is not known here")
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                task = await self.tasks.view_for_webhook(webhook.job, _caller_of(webhook), webhook.server_url)
        except NotFound:
            return WebhookAttempt(WebhookOutcome.EXPIRED, "its task is not known any more")
        except ApiError as error:
            return WebhookAttempt(WebhookOutcome.FAILED, error.detail or error.message)
        except TimeoutError:
            return WebhookAttempt(WebhookOutcome.FAILED, f"its task could not be written in {_WRITE_SECONDS:g} seconds")
        if task is None:
            return WebhookAttempt(WebhookOutcome.FAILED, "its task runs once more")
        ended_at = datetime.fromtimestamp(webhook.ended_at, UTC).isoformat(timespec="milliseconds")
        body = orjson.dumps(task_event(task, ended_at.replace("+00:00", "Z")))
        return await self.sender.send(webhook.url, signed_headers(secret, webhook.id, int(self.now()), body), body)

    def _record(self, webhook: Webhook, attempt: WebhookAttempt, after: float | None = None) -> None:
        WEBHOOKS[attempt.outcome].inc()
        is_well = attempt.outcome in {WebhookOutcome.DELIVERED, WebhookOutcome.GONE}
        fields = {"next_in": round(after)} if after is not None else {}
        # Only the host of the address, whose path may be a secret.
        log.log(
            logging.INFO if is_well else logging.WARNING,
            "webhook_sent",
            webhook=webhook.id,
            job=webhook.job,
            host=webhook.host,
            attempt=webhook.attempts,
            outcome=attempt.outcome,
            reason=attempt.reason,
            **fields,
        )

    async def drain(self) -> None:
        """Let attempts end, and make one more for webhooks that only this process keeps; the rest of these is lost."""
        if not self.is_used:
            return
        self._is_draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._finish()
                await self.take_turn()
                await self._finish()
        for task in self.background:
            task.cancel()
        if lost := self.queue.local_size:
            log.warning("webhooks_lost", count=lost)

    async def _finish(self) -> None:
        if self.background:
            await asyncio.wait(self.background)


def _caller_of(webhook: Webhook) -> Caller:
    return Caller(webhook.caller, None)
