"""Send one webhook to its receiver, under the rules of downloads: checked addresses, no redirects, limits."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from app import __version__
from app.images.guarded_http import FetchError, GuardedHttp
from app.images.ssrf import AddressBlocked
from app.protocol.webhook_retries import WebhookOutcome, outcome_of_status, parse_retry_after

#: Seconds for one attempt: name, connection, request and the head of the answer.
TIMEOUT = 15.0

#: Of every request of this kind.
HEADERS = {"Accept": "*/*", "Content-Type": "application/json", "User-Agent": f"limner/{__version__}"}


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """How an attempt has ended. `reason` is for the log. `retry_after`: seconds that the receiver asks to wait."""

    outcome: WebhookOutcome
    reason: str
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class WebhookSender:
    """Send webhooks. The owner of `http` closes it."""

    http: GuardedHttp
    timeout: float = TIMEOUT

    async def check(self, url: str) -> None:
        """Check an address before anything is sent there. That its name cannot be looked up just now is no mistake.

        Raises:
            AddressBlocked: Nothing may be sent there. The message may be shown to clients.
            FetchError: Its host does not exist.
        """
        try:
            await self.http.resolve_checked(self.http.check(url))
        except FetchError as error:
            if not error.is_transient:
                raise

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> WebhookAttempt:
        """Post a body. Of the answer only the head is read."""
        try:
            async with asyncio.timeout(self.timeout):
                target = self.http.check(url)
                await self.http.pin(target)
                response = await self.http.send("POST", target, headers, body)
        except TimeoutError:
            return WebhookAttempt(WebhookOutcome.FAILED, f"no answer within {self.timeout:g} seconds")
        except (AddressBlocked, FetchError) as error:
            return WebhookAttempt(WebhookOutcome.FAILED, error.detail or str(error))
        # Closed at once: a receiver may send without an end.
        response.close()
        retry_after = parse_retry_after(response.headers.get("Retry-After", ""))
        return WebhookAttempt(outcome_of_status(response.status), f"status {response.status}", retry_after)
