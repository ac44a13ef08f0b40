"""The jobs of this process: which one an equal request joins, and how long results are retained.

SDKs retry a request after a timeout or a cut connection, twice, and none of them sends an idempotency key. So a result
that was not delivered is kept for the next equal request of the same caller, and a job whose client has left runs to
its end and can be joined. Two equal requests of clients that are both still connected are two jobs.
"""

import asyncio
import hashlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import fields
from weakref import WeakValueDictionary

import orjson

from app.access.auth import Caller
from app.errors import IdempotencyKeyReused, InvalidRequest
from app.images.blob import Blob
from app.jobs.job import Job, JobKey
from app.protocol.image_request import ImagesRequest, InputImage


class JobRegistry:
    """Index jobs by id and by key, and drop finished ones when their time is over.

    `now` never goes back. At most `max_retained` finished jobs with `max_retained_bytes` of images are kept; those that
    would expire first are dropped first.
    """

    def __init__(
        self,
        *,
        ttl: float,
        key_ttl: float,
        max_retained: int,
        max_retained_bytes: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep undelivered results for `ttl` seconds, and results under an idempotency key for `key_ttl` seconds."""
        self._ttl, self._key_ttl = ttl, key_ttl
        self._max_retained, self._max_retained_bytes = max_retained, max_retained_bytes
        self._now = now
        self._by_id: dict[str, Job] = {}
        self._by_slot: dict[tuple[str, str], list[Job]] = {}
        self._next_expiry = math.inf
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def lock(self, key: JobKey) -> asyncio.Lock:
        """Return the lock to hold from looking for a job until one is added.

        Of two equal requests, the second then finds the job of the first.
        """
        return self._locks.setdefault(key.slot, asyncio.Lock())

    def add(self, job: Job) -> None:
        """Add a job, so that equal requests and its id find it."""
        self._by_id[job.id] = job
        self._by_slot.setdefault(job.key.slot, []).append(job)

    def find_joinable(self, key: JobKey) -> Job | None:
        """Return a job that this request may join.

        Raises:
            IdempotencyKeyReused: The key belongs to a different request.
        """
        self.drop_expired()
        for job in self._by_slot.get(key.slot, ()):
            if job.key.fingerprint != key.fingerprint:
                raise IdempotencyKeyReused
            if job.accepts(key):
                return job
        return None

    def get(self, caller: Caller, job_id: str) -> Job | None:
        """Return the caller's job with that id."""
        self.drop_expired()
        job = self._by_id.get(job_id)
        return job if job is not None and job.key.caller == caller.id else None

    def by_id(self, job_id: str | None) -> Job | None:
        """Return the job with that id, of whichever caller."""
        return None if job_id is None else self._by_id.get(job_id)

    def active(self) -> list[Job]:
        """Return the jobs whose run has not ended, in order of arrival."""
        return [job for job in self._by_id.values() if not job.run.is_done]

    def retain_or_drop(self, job: Job) -> None:
        """Keep a finished job that has no readers if a client may come back for it, otherwise drop it."""
        if not job.should_retain:
            self.drop(job)
            return
        if job.expires_at == math.inf:
            job.expires_at = self._now() + (self._ttl if job.key.key is None else self._key_ttl)
        self._next_expiry = min(self._next_expiry, job.expires_at)
        self._evict()

    def drop(self, job: Job) -> None:
        """Forget a job and close its spool."""
        if self._by_id.pop(job.id, None) is not None:
            jobs = self._by_slot[job.key.slot]
            jobs.remove(job)
            if not jobs:
                del self._by_slot[job.key.slot]
        job.spool.close()

    def close(self) -> None:
        """Drop all jobs."""
        for job in list(self._by_id.values()):
            self.drop(job)

    def drop_expired(self) -> None:
        """Drop the jobs for which no client came back in time."""
        if self._now() < self._next_expiry:
            return
        for job in self._retained():
            if job.expires_at <= self._now():
                self.drop(job)
        self._next_expiry = min((job.expires_at for job in self._retained()), default=math.inf)

    def _evict(self) -> None:
        retained = sorted(self._retained(), key=lambda job: job.expires_at)
        size = sum(job.spool.size for job in retained)
        while len(retained) > self._max_retained or size > self._max_retained_bytes:
            oldest = retained.pop(0)
            size -= oldest.spool.size
            self.drop(oldest)

    def _retained(self) -> list[Job]:
        """Return the finished jobs that have no readers at this moment."""
        return [job for job in self._by_id.values() if job.expires_at < math.inf and not job.run.readers]


def job_key(request: ImagesRequest, caller: Caller, idempotency_key: str | None, *, is_retry: bool) -> JobKey:
    """Return what makes other requests the same job.

    Raises:
        InvalidRequest: The idempotency key has the wrong form.
    """
    if idempotency_key is not None and not re.fullmatch(r"[!-~]{1,255}", idempotency_key):
        message = "Invalid Idempotency-Key: expected 1 to 255 visible ASCII characters."
        raise InvalidRequest(message, param="Idempotency-Key", code="invalid_value")
    names = [each.name for each in fields(request) if each.name not in {"images", "mask", "markup", "unread"}]
    values = {name: getattr(request, name) for name in names}
    digest = hashlib.sha256(orjson.dumps(values, str, orjson.OPT_SORT_KEYS))
    for image in request.all_images:
        digest.update(_image_digest(image))
    return JobKey(caller.id, digest.hexdigest(), idempotency_key, is_retry)


def _image_digest(image: InputImage | None) -> bytes:
    # A CRC-32, computed while the image arrived, is enough: a caller who forges one can only mislead itself.
    if image is not None and isinstance(image.source, Blob):
        return b"%d %d," % (image.source.size, image.source.checksum)
    return orjson.dumps(image and image.url)
