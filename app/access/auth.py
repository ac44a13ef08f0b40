"""Authenticate callers by their API key."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from starlette.datastructures import Headers

from app.access.keys import ClientKey, KeyFile
from app.errors import Unauthorized

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


@dataclass(frozen=True, slots=True, repr=False)
class Caller:
    """The identity behind a request. Has no repr, so that no key gets into a log.

    Attributes:
        id: A fingerprint of the key, by which callers can be distinguished without knowing their keys.
        token: The key that was presented, if any.
        key: The entry of the key file for this key, if there is one.
    """

    id: str
    token: str | None
    key: ClientKey | None = None

    @property
    def name(self) -> str | None:
        """The name of the client key, if it is in the key file."""
        return None if self.key is None else self.key.name


class KnownKey(NamedTuple):
    """A key that this server accepts: its digest, and its entry if it is in the key file."""

    digest: bytes
    key: ClientKey | None

    @property
    def caller(self) -> str:
        """The id of the callers that present the key."""
        return _id_of(self.digest)


class Authenticator:
    """Accept the keys of the settings and those of the key file.

    Without either, every request is accepted; in pass-through mode it still needs a key to pass on.
    """

    def __init__(self, keys: Iterable[str], *, pass_through: bool, key_file: KeyFile | None = None) -> None:
        """`keys`: keys, or `sha256:` and the hexadecimal digest of a key."""
        self._digests = [_digest(key) for key in keys]
        self._pass_through = pass_through
        self._key_file = key_file

    def authenticate(self, headers: Headers) -> Caller:
        """Return the caller of a request.

        Raises:
            Unauthorized: The key is missing, unknown, expired or malformed.
        """
        token = _parse_bearer(headers)
        needs_known_key = self._key_file is not None or bool(self._digests)
        if token is None and (needs_known_key or self._pass_through):
            raise Unauthorized(_NO_KEY)
        key = self._match_key(token) if needs_known_key and token is not None else None
        return Caller(_fingerprint(token), token, key)

    def known_keys(self) -> Iterator[KnownKey]:
        """Yield all keys that are accepted, whether or not they have expired."""
        entries = () if self._key_file is None else self._key_file.keys
        yield from (KnownKey(entry.sha256, entry) for entry in entries)
        yield from (KnownKey(digest, None) for digest in self._digests)

    def _match_key(self, token: str) -> ClientKey | None:
        """Return the entry of the key file, or None for a key of the settings."""
        presented = hashlib.sha256(token.encode()).digest()
        # Each key of the settings is compared, in constant time, so that the duration reveals nothing. Comparing
        # digests hides even the length.
        is_known = sum([hmac.compare_digest(presented, digest) for digest in self._digests])
        key = None if self._key_file is None else self._key_file.lookup(presented)
        if not is_known and key is None:
            raise Unauthorized("Incorrect API key provided.", code="invalid_api_key")
        if key is not None and key.expires is not None and key.expires <= datetime.now(UTC):
            raise Unauthorized("This API key has expired.", code="invalid_api_key")
        return key


def _digest(key: str) -> bytes:
    scheme, _, digits = key.rpartition(":")
    return bytes.fromhex(digits) if scheme.lower() == "sha256" else hashlib.sha256(key.encode()).digest()


#: Where clients of Azure and of Anthropic send a key. The first header that is there counts.
_KEY_HEADERS = ("api-key", "x-api-key")


def _parse_bearer(headers: Headers) -> str | None:
    values = headers.getlist("authorization") or _bare_keys(headers)
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    # In pass-through mode the token becomes a header of the upstream request, so only visible ASCII is accepted. No key
    # has a space: some clients write `Bearer` themselves, in front of what was entered with it.
    is_visible = token.isascii() and token.isprintable() and " " not in token
    if len(values) > 1 or scheme.lower() != "bearer" or not token or not is_visible:
        raise Unauthorized("Malformed Authorization header. Send exactly one, as: Authorization: Bearer YOUR_KEY")
    return token


def _bare_keys(headers: Headers) -> list[str]:
    found = next(filter(None, map(headers.getlist, _KEY_HEADERS)), [])
    return [f"Bearer {key}" for key in found]


def _fingerprint(token: str | None) -> str:
    return _id_of(hashlib.sha256((token or "").encode("latin-1")).digest())


def _id_of(digest: bytes) -> str:
    return digest.hex()[:16]
