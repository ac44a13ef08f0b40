"""The same question is asked once: repeats join what is under way, and get what was paid for but not delivered.

SDKs repeat a request by themselves after a timeout or a cut connection, twice, and none of them sends a key. So an
answer that nobody took is kept for the next identical question of the same caller, and a question whose client has gone
runs to its end and is joined. Two identical questions of clients that are both still there are two questions.
"""

import asyncio
import hashlib
import math
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import fields
from weakref import WeakValueDictionary

import orjson
from starlette.datastructures import Headers

from app.access.auth import Caller
from app.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
)
from app.jobs.job import Errand, Identity
from app.protocol.image_request import ImagesRequest, InputImage

_HASHED_AT_ONCE = 1024 * 1024

REUSED = "This Idempotency-Key was used with another request body. Use a new key for a new question."


class Once:
    """The errands of this process, in seconds and bytes; `now` never goes back.

    `ttl` is for answers that nobody took, `key_ttl` for those under an Idempotency-Key. At most `most` finished errands
    and `most_bytes` of their pictures are kept, those that end first go first.
    """

    def __init__(
        self, *, ttl: float, key_ttl: float, most: int, most_bytes: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl, self._key_ttl, self._most, self._most_bytes = ttl, key_ttl, most, most_bytes
        self._now = now
        self._by_id: dict[str, Errand] = {}
        self._by_place: dict[tuple[str, str], list[Errand]] = {}
        self._next_end = math.inf
        self._doors: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def door(self, identity: Identity) -> asyncio.Lock:
        """Held while an errand is looked for until one is added: of two equal requests the second finds the first."""
        return self._doors.setdefault(identity.place, asyncio.Lock())

    def add(self, errand: Errand) -> None:
        self._by_id[errand.id] = errand
        self._by_place.setdefault(errand.identity.place, []).append(errand)

    def find(self, identity: Identity) -> Errand | None:
        """An errand that this request may join. Raises IdempotencyKeyReused."""
        self.sweep()
        for errand in self._by_place.get(identity.place, ()):
            if errand.identity.fingerprint != identity.fingerprint:
                raise IdempotencyKeyReused(REUSED)
            if errand.may_be_joined(identity):
                return errand
        return None

    def get(self, caller: Caller, id: str) -> Errand | None:  # noqa: A002  the name of the field in the API
        self.sweep()
        errand = self._by_id.get(id)
        return errand if errand is not None and errand.identity.caller == caller.id else None

    def known(self, id: str | None) -> Errand | None:  # noqa: A002  the name of the field in the API
        return None if id is None else self._by_id.get(id)

    def under_way(self) -> list[Errand]:
        """Those without an answer yet, in the order in which they came."""
        return [errand for errand in self._by_id.values() if not errand.job.task.done()]

    def settle(self, errand: Errand) -> None:
        """The work has ended and nobody reads it: keep what somebody may come back for, let go of the rest."""
        if not errand.is_worth_keeping:
            self.forget(errand)
            return
        if errand.until == math.inf:
            errand.until = self._now() + (self._ttl if errand.identity.key is None else self._key_ttl)
        self._next_end = min(self._next_end, errand.until)
        self._make_room()

    def forget(self, errand: Errand) -> None:
        if self._by_id.pop(errand.id, None) is not None:
            line = self._by_place[errand.identity.place]
            line.remove(errand)
            if not line:
                del self._by_place[errand.identity.place]
        errand.spool.close()

    def close(self) -> None:
        for errand in list(self._by_id.values()):
            self.forget(errand)

    def sweep(self) -> None:
        """Let go of what nobody came back for in time."""
        if self._now() < self._next_end:
            return
        for errand in self._kept():
            if errand.until <= self._now():
                self.forget(errand)
        self._next_end = min((errand.until for errand in self._kept()), default=math.inf)

    def _make_room(self) -> None:
        kept = sorted(self._kept(), key=lambda errand: errand.until)
        size = sum(errand.spool.size for errand in kept)
        while len(kept) > self._most or size > self._most_bytes:
            oldest = kept.pop(0)
            size -= oldest.spool.size
            self.forget(oldest)

    def _kept(self) -> list[Errand]:
        """Finished, and nobody is reading them at this moment."""
        return [errand for errand in self._by_id.values() if errand.until < math.inf and not errand.job.readers]


async def identify(request: ImagesRequest, caller: Caller, headers: Headers) -> Identity:
    """Raises InvalidRequest for a key that is none. Only between pictures does it let others have the loop."""
    key = headers.get("idempotency-key")
    if key is not None and not re.fullmatch(r"[!-~]{1,255}", key):
        message = "Invalid Idempotency-Key: expected 1 to 255 visible ASCII characters."
        raise InvalidRequest(message, param="Idempotency-Key", code="invalid_value")
    said = {each.name: getattr(request, each.name) for each in fields(request) if each.name not in {"images", "mask"}}
    digest = hashlib.sha256(orjson.dumps(said, str, orjson.OPT_SORT_KEYS))
    for picture in (*request.images, request.mask):
        digest.update(_summary(picture))
        await asyncio.sleep(0)
    again = headers.get("x-stainless-retry-count", "0") not in {"", "0"}
    return Identity(caller.id, digest.hexdigest(), key, again)


def _summary(picture: InputImage | None) -> bytes:
    """A caller can mislead only himself, so a checksum does; it costs a third of a hash."""
    if picture is None or picture.source is None:
        return orjson.dumps(picture and picture.url)
    checksum = 0
    for piece in picture.source.chunks(_HASHED_AT_ONCE):
        checksum = zlib.crc32(piece, checksum)
    return b"%d %d," % (picture.source.size, checksum)
