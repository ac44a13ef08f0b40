"""Sign webhooks by the convention of Standard Webhooks, version 1.0.0, so that its libraries verify them.

The convention is spec/standard-webhooks.md of https://github.com/standard-webhooks/standard-webhooks.
"""

import hashlib
import hmac

import pybase64

#: What a secret begins with. The rest is its bytes in base64.
PREFIX = "whsec_"

#: Bytes of a secret, by the convention.
_MIN_SECRET, _MAX_SECRET = 24, 64

#: Separates these secrets from everything else that may be derived from the same root.
_PURPOSE = b"limner webhook "


def parse_secret(text: str) -> bytes:
    """Return the bytes of a secret.

    Raises:
        ValueError: The text is no secret of this convention.
    """
    encoded = text.removeprefix(PREFIX)
    try:
        secret = pybase64.b64decode(encoded, validate=True) if encoded != text else b""
    except ValueError:
        secret = b""
    if not _MIN_SECRET <= len(secret) <= _MAX_SECRET:
        raise ValueError(f"expected {PREFIX} and {_MIN_SECRET} to {_MAX_SECRET} bytes in base64")
    return secret


def write_secret(secret: bytes) -> str:
    """Return a secret as receivers of webhooks are given it."""
    return PREFIX + pybase64.b64encode(secret).decode()


def derive_secret(root: bytes, caller: str) -> bytes:
    """Return the secret of a caller that all servers with the same root agree on. It does not reveal the root."""
    return hmac.digest(root, _PURPOSE + caller.encode(), hashlib.sha256)


def signed_headers(secret: bytes, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of one attempt. `timestamp`: its time, in whole seconds since 1970."""
    content = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    signature = pybase64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
