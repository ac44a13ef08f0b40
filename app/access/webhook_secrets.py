"""Find the secret that signs the webhooks of a caller. No secret is stored: every server finds the same one."""

from dataclasses import dataclass

from app.access.auth import Authenticator, KnownKey
from app.protocol.webhook_signature import derive_secret


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """The secrets of all callers. `root`: what they are made from, in place of the digests of the keys."""

    authenticator: Authenticator
    root: bytes | None

    def find(self, caller: str) -> bytes | None:
        """Return the secret of the caller with this id; None where there is nothing secret to make it from."""
        known = next((key for key in self.authenticator.known_keys() if key.caller == caller), None)
        if known is not None:
            return self.secret_of(known)
        return None if self.root is None else derive_secret(self.root, caller)

    def secret_of(self, known: KnownKey) -> bytes:
        """Return the secret of a key: its own, or one that is made for it."""
        if known.key is not None and known.key.webhook_secret is not None:
            return known.key.webhook_secret
        return derive_secret(known.digest if self.root is None else self.root, known.caller)
