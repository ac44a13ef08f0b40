"""One webhook: what a replica needs to know that sends it."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook that has not been delivered yet. It holds no secret but its address.

    Attributes:
        slot: Identifies the task and the address.
        id: The same in all attempts.
        job: The id of the job whose task it tells of.
        caller: The id of the caller, to whom the task belongs.
        host: The host of the address.
        server_url: How its receiver reaches this server, for links.
        attempts: How often it was sent.
        ended_at: When the task has ended, in seconds since 1970; 0 while it runs.
    """

    slot: str
    id: str
    job: str
    caller: str
    url: str
    host: str
    server_url: str
    attempts: int = 0
    ended_at: float = 0.0

    @property
    def queue(self) -> str:
        """The queue in which it waits: that of its caller for this host, which others may use as well."""
        return f"{self.host}/{self.caller}"


def slot_of(job_id: str, url: str) -> str:
    """Return the slot for the webhook of a job with this address."""
    return hashlib.sha256(f"{job_id} {url}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ClaimedWebhook:
    """A webhook that this replica sends. `claimed_at` is by the clock of where it is kept."""

    webhook: Webhook
    claimed_at: float
    is_local: bool


@dataclass(frozen=True, slots=True)
class WebhookTimings:
    """Times in seconds.

    Attributes:
        look_after: Between two looks at a task that runs.
        lease: For which a replica may send a webhook, longer than an attempt takes.
        interval: Between two webhooks of one caller to one host.
    """

    look_after: float = 15.0
    lease: float = 45.0
    interval: float = 1.0
