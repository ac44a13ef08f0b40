"""The jobs of this process: which one an equal request joins, and how long results are retained.

SDKs retry a request after a timeout or a cut connection, twice, and none of them sends an idempotency key. So a result
that was not delivered is kept for the next equal request of the same caller, and a job whose client has left runs to
its end and can be joined. Two equal requests of clients that are both still connected are two jobs. A delivered result
is kept for a minute too, for requests that say they are retries: it may have been written into a dead connection.
"""

import asyncio
import hashlib
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import islice
from operator import attrgetter
from weakref import WeakValueDictionary

import orjson

from app.access.auth import Caller
from app.errors import IdempotencyKeyReused, InvalidRequest
from app.images.blob import Blob
from app.jobs.job import Job, JobKey, Joining
from app.jobs.retention import Retention
from app.jobs.unserved import UnservedRequests
from app.protocol.image_request import ImagesRequest
from app.protocol.input_images import InputImage

#: Where a request looks for a job to join, in this order; one that says it is a retry looks further.
_ALL_JOIN = (Joining.ANYONE,)
_RETRIES_JOIN = (Joining.ANYONE, Joining.RETRIES, Joining.RETRIES_LAST)

#: Images count by their checksums, and the others say nothing of the images that are asked for.
_NO_KEY_FIELDS = {"images", "mask", "markup", "unread", "as_task", "webhook_url"}

#: The fields that are alike in requests for the same job.
_KEY_FIELDS = tuple(each.name for each in fields(ImagesRequest) if each.name not in _NO_KEY_FIELDS)
_key_values = attrgetter(*_KEY_FIELDS)

#: Ids that `unread_ids` returns at most.
_MAX_UNREAD_IDS = 16


class JobRegistry:
    """Index jobs by id and by which requests may join them, and drop finished ones when their time is over.

    `now` never goes back. At most `max_retained` finished jobs with `max_retained_bytes` of images are kept.
    """

    def __init__(
        self,
        *,
        ttl: float,
        key_ttl: float,
        max_retained: int,
        max_retained_bytes: int,
        delivered_ttl: float = 60.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep results for a time in seconds.

        Args:
            ttl: For undelivered results.
            key_ttl: For results under an idempotency key, and for those of tasks.
            max_retained: Jobs at most.
            max_retained_bytes: Bytes of their images at most.
            delivered_ttl: For delivered results, which only requests get that say they are retries, and for the
                memory of requests that have ended with nothing.
            now: The clock.
        """
        self._ttl, self._key_ttl, self._delivered_ttl = ttl, key_ttl, min(ttl, delivered_ttl)
        self._now = now
        #: Called with each job that is dropped.
        self.on_drop: Callable[[Job], None] = lambda _: None
        self._by_id: dict[str, Job] = {}
        self._joinable: dict[tuple[tuple[str, str], Joining], OrderedDict[str, Job]] = {}
        self._joining: dict[str, Joining] = {}
        self._retention = Retention(max_retained, max_retained_bytes)
        self.unserved = UnservedRequests(ttl=self._delivered_ttl, max_groups=max_retained, now=now)
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    # Index jobs.

    def lock(self, key: JobKey) -> asyncio.Lock:
        """Return the lock to hold from looking for a job until one is added.

        Of two equal requests, the second then finds the job of the first.
        """
        return self._locks.setdefault(key.group, asyncio.Lock())

    def add(self, job: Job) -> None:
        """Add a job, so that equal requests and its id find it, and no longer an earlier one with that id."""
        if (earlier := self._by_id.get(job.id)) is not None:
            self.drop(earlier)
        self._by_id[job.id] = job
        job.run.on_change = partial(self._reindex, job)
        self._reindex(job)

    def _reindex(self, job: Job) -> None:
        """Note which requests may join a job from now on, and whether it may be dropped."""
        joining = job.joining
        if self._joining.get(job.id) is not joining:
            self._remove_from_index(job)
            self._joining[job.id] = joining
            self._joinable.setdefault((job.key.group, joining), OrderedDict())[job.id] = job
        if job.expires_at == math.inf:
            self._retention.forget(job)
        elif job.run.readers:
            self._retention.protect(job)

    def _remove_from_index(self, job: Job) -> None:
        joining = self._joining.pop(job.id, None)
        if joining is None:
            return
        jobs = self._joinable[job.key.group, joining]
        del jobs[job.id]
        if not jobs:
            del self._joinable[job.key.group, joining]

    # Find jobs.

    def find_joinable(self, key: JobKey) -> Job | None:
        """Return the job that this request joins: one that no client waits for, or else what a retry may join.

        Several requests that say they are retries get different jobs, if there are that many. One that may repeat a
        request which has ended with nothing does not join a job whose client seems to wait.

        Raises:
            IdempotencyKeyReused: The key belongs to a different request.
        """
        self.drop_expired()
        for joining in _RETRIES_JOIN if key.is_retry and not self.unserved.has_any(key) else _ALL_JOIN:
            jobs = self._joinable.get((key.group, joining))
            if jobs is not None:
                job = next(iter(jobs.values()))
                jobs.move_to_end(job.id)
                if job.key.fingerprint != key.fingerprint:
                    raise IdempotencyKeyReused
                return job
        return None

    def all_seem_read(self, key: JobKey) -> bool:
        """Return whether there are jobs that a request with that key equals, and a client seems to wait for each."""
        return (key.group, Joining.RETRIES) in self._joinable and (key.group, Joining.ANYONE) not in self._joinable

    def unread_ids(self, key: JobKey) -> list[str]:
        """Return the ids of some jobs that any request with that key may join, the oldest first."""
        self.drop_expired()
        return list(islice(self._joinable.get((key.group, Joining.ANYONE), ()), _MAX_UNREAD_IDS))

    def of_caller(self, caller: Caller, job_id: str) -> Job | None:
        """Return the job with that id if it is the caller's."""
        self.drop_expired()
        job = self._by_id.get(job_id)
        return job if job is not None and job.key.caller == caller.id else None

    def by_id(self, job_id: str | None) -> Job | None:
        """Return the job with that id, of whichever caller."""
        return None if job_id is None else self._by_id.get(job_id)

    def active(self) -> list[Job]:
        """Return the jobs whose run has not ended, in order of arrival."""
        return [job for job in self._by_id.values() if not job.run.is_done]

    # Retain and drop jobs.

    def retain_or_drop(self, job: Job) -> None:
        """Keep a finished job that has no readers if a client may come back for it, otherwise drop it."""
        now = self._now()
        is_known = self._by_id.get(job.id) is job
        if not is_known or not job.should_retain or job.expires_at <= now:
            if is_known and not job.should_retain and not job.may_have_cost:
                self.unserved.note_end(job.key)
            self.drop(job)
            return
        self._retention.keep(job, self._ttl_of(job), now)
        self._reindex(job)
        for each in self._retention.over_limits():
            self.drop(each)

    def make_room(self, size: int) -> bool:
        """Drop results that were delivered or cost nothing until `size` bytes are free. Return whether any was dropped.

        If all of them would not be enough, none is dropped.
        """
        dropped = False
        for job in self._retention.dispensable(size):
            self.drop(job)
            dropped = True
        return dropped

    def seconds_left(self, job: Job) -> float:
        """Return how long the result of a job will be available, at least, if no more than the limits are kept."""
        return self._ttl_of(job) if job.expires_at == math.inf else job.expires_at - self._now()

    def _ttl_of(self, job: Job) -> float:
        if job.is_only_for_retries:
            return self._delivered_ttl
        return self._key_ttl if job.key.is_kept_long else self._ttl

    def drop(self, job: Job) -> None:
        """Forget a job and close its spool."""
        if self._by_id.get(job.id) is job:
            del self._by_id[job.id]
            self._remove_from_index(job)
            self._retention.forget(job)
            job.run.detach()
            self.on_drop(job)
        job.spool.close()

    def close(self) -> None:
        """Drop all jobs."""
        for job in list(self._by_id.values()):
            self.drop(job)

    def drop_expired(self) -> None:
        """Drop the jobs for which no client came back in time."""
        for job in self._retention.expired(self._now()):
            self.drop(job)


def job_key(
    request: ImagesRequest,
    caller: Caller,
    idempotency_key: str | None,
    *,
    is_retry: bool,
    counts_attempts: bool = False,
) -> JobKey:
    """Return what makes other requests the same job.

    Raises:
        InvalidRequest: The idempotency key has the wrong form.
    """
    if idempotency_key is not None and not re.fullmatch(r"[!-~]{1,255}", idempotency_key):
        message = "Invalid Idempotency-Key: expected 1 to 255 visible ASCII characters."
        raise InvalidRequest(message, param="Idempotency-Key", code="invalid_value")
    values = dict(zip(_KEY_FIELDS, _key_values(request), strict=True))
    digest = hashlib.sha256(orjson.dumps(values, str, orjson.OPT_SORT_KEYS))
    for image in request.all_images:
        digest.update(_image_digest(image))
    return JobKey(caller.id, digest.hexdigest(), idempotency_key, is_retry, counts_attempts)


def _image_digest(image: InputImage | None) -> bytes:
    # A CRC-32, computed while the image arrived, is enough: a caller who forges one can only mislead itself.
    if image is not None and isinstance(image.source, Blob):
        return b"%d %d," % (image.source.size, image.source.checksum)
    return orjson.dumps(image and image.url)
