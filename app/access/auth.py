"""Who may call, and how many questions are under way at once."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.datastructures import Headers

from app.access.keys import ClientKey, KeyFile
from app.errors import Unauthorized

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


@dataclass(frozen=True, slots=True, repr=False)
class Caller:
    """`id` tells callers apart without telling their keys; `token` is what they presented, None where nothing.

    `row` is that of the file of keys, None for who has no key there.
    """

    id: str
    token: str | None
    key: ClientKey | None = None

    @property
    def name(self) -> str | None:
        return None if self.key is None else self.key.name


class Authenticator:
    """`keys`, or `sha256:` and their digests, and those of the `book`.

    Neither of them: everybody may call, but pass-through needs a key to pass on.
    """

    def __init__(self, keys: Iterable[str], *, pass_through: bool, key_file: KeyFile | None = None) -> None:
        self._digests = [_digest(key) for key in keys]
        self._pass_through = pass_through
        self._key_file = key_file

    def authenticate(self, headers: Headers) -> Caller:
        """Raises Unauthorized."""
        token = _parse_bearer(headers)
        closed = self._key_file is not None or bool(self._digests)
        if token is None and (closed or self._pass_through):
            raise Unauthorized(_NO_KEY)
        row = self._match_key(token) if closed and token is not None else None
        return Caller(_fingerprint(token), token, row)

    def _match_key(self, token: str) -> ClientKey | None:
        """Keys of the settings are all compared, each in constant time: digests, so not even a length tells."""
        presented = hashlib.sha256(token.encode()).digest()
        known = sum([hmac.compare_digest(presented, digest) for digest in self._digests])
        row = None if self._key_file is None else self._key_file.lookup(presented)
        if not known and row is None:
            raise Unauthorized("Incorrect API key provided.", code="invalid_api_key")
        if row is not None and row.expires is not None and row.expires <= datetime.now(UTC):
            raise Unauthorized("This API key has expired.", code="invalid_api_key")
        return row


def _digest(key: str) -> bytes:
    """Of a key, or of one that is told as its digest: that itself opens nothing."""
    scheme, _, digits = key.rpartition(":")
    return bytes.fromhex(digits) if scheme == "sha256" else hashlib.sha256(key.encode()).digest()


def _parse_bearer(headers: Headers) -> str | None:
    # Clients of Azure's have a header of their own for it.
    values = headers.getlist("authorization") or [f"Bearer {key}" for key in headers.getlist("api-key")]
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    # A token goes into a header of ours in pass-through mode: visible ASCII only, and only one of them.
    if len(values) > 1 or scheme.lower() != "bearer" or not token or not (token.isascii() and token.isprintable()):
        raise Unauthorized("Malformed Authorization header. Send exactly one, as: Authorization: Bearer YOUR_KEY")
    return token


def _fingerprint(token: str | None) -> str:
    return hashlib.sha256((token or "").encode("latin-1")).hexdigest()[:16]
