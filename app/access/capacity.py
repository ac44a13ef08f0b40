"""Refuse work for which this machine has no room: disk for images, descriptors, bytes of uploads.

An image that was paid for and finds the disk full can be delivered only to a client that repeats its request. So room
for the images of a request is reserved before the upstream is asked: a request without room gets a free 503.
"""

import asyncio
import math
import os
import resource
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from app.errors import RateLimited, ServiceUnavailable

#: Seconds after which a client that was refused for lack of room may try again.
_RETRY_AFTER = 5

#: Seconds for which a count of open descriptors is good enough: counting 20,000 of them takes 5 ms. What was granted
#: since is added to it. A count that says that there are too many is repeated sooner, before a request is refused.
_COUNT_EVERY, _COUNT_WHEN_FULL = 1.0, 0.05

#: Seconds for which the free bytes of a disk are good enough: to measure that of the image store takes a thread, which
#: costs a tenth of a small request. Where these are too few, a measurement is repeated sooner, as a count is.
_MEASURE_EVERY, _MEASURE_WHEN_SHORT = 0.25, 0.01

#: Descriptors that one image needs at most: two connections to the upstream, one blob, and one for its converted form.
_PER_IMAGE = 4

#: Descriptors that are always left: log files, Redis, the image store, decoding.
_SPARE_DESCRIPTORS = 32

#: Of the descriptors that a process may open, the part that stays free for the images of requests under way.
_SPARE_SHARE = 16

_NO_DISK = "The server has no room left for images. Please try again later."
_NO_STORE = "The server has no room left to store images. Please try again later, or request b64_json."
_NO_DESCRIPTORS = "The server has too many open connections and files. Please try again later."
_NO_UPLOADS = "The server receives too many large requests at once. Please try again later."
_CALLERS_UPLOADS = "Too many bytes of your requests are being received at once. Send fewer large requests at a time."


@dataclass(slots=True)
class Capacity:
    """What requests under way have been promised. One object for each process.

    Attributes:
        free_bytes: Returns the bytes that are free in the spool folder.
        open_descriptors: Returns how many descriptors this process has open.
        descriptor_limit: Returns how many it may have open.
        max_image_bytes: The largest image that is accepted.
        max_uploads: Bytes of request bodies that may be under way at once; half of it for each caller.
        stores_in_spool: Whether images are stored on the disk of the spool folder.
        make_room: Frees this many bytes of the disk, if it can. Returns whether it has freed anything.
        clock: Returns seconds that never go back.
    """

    free_bytes: Callable[[], int]
    open_descriptors: Callable[[], int]
    descriptor_limit: Callable[[], int]
    max_image_bytes: int
    max_uploads: int
    stores_in_spool: bool = False
    make_room: Callable[[int], bool] = lambda _: False
    clock: Callable[[], float] = time.monotonic
    _reserved: int = 0
    _reserved_to_store: int = 0
    _uploads: dict[str, int] = field(default_factory=dict)
    _all_uploads: int = 0
    _opened: int = 0
    _limit: int = 0
    _counted_at: float | None = None
    _free: int = 0
    _measured_at: float = -math.inf
    _free_to_store: int | None = None
    _store_measured_at: float = -math.inf
    _store_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def free_to_store(self, measure: Callable[[], Awaitable[int | None]], images: int, pixels: int) -> int | None:
        """Return the bytes that are free in the image store, None if unknown, as `measure` has told a moment ago.

        Nobody is refused for an old measurement: where it leaves too little for these images, there is a new one.
        """
        is_short = self._free_to_store is not None and self._free_to_store < self._needed(self._size(images, pixels))
        max_age = _MEASURE_WHEN_SHORT if is_short else _MEASURE_EVERY
        if self.clock() - self._store_measured_at >= max_age:
            return await self._measure_store(measure, max_age)
        return self._free_to_store

    async def _measure_store(self, measure: Callable[[], Awaitable[int | None]], max_age: float) -> int | None:
        async with self._store_lock:
            # All that have come during one measurement take its result, or each would start a thread.
            if self.clock() - self._store_measured_at >= max_age:
                self._free_to_store = await measure()
                self._store_measured_at = self.clock()
            return self._free_to_store

    def _size(self, images: int, pixels: int) -> int:
        return images * min(self.max_image_bytes, 4 * pixels)

    def _needed(self, size: int) -> int:
        """Return the bytes that the store needs for all requests under way and for one of `size` bytes."""
        spooled = self._reserved + size if self.stores_in_spool else 0
        return spooled + self._reserved_to_store + size

    def reserve(self, images: int, pixels: int, free_to_store: int | None = None) -> "ReservedRoom":
        """Hold room for `images` images of `pixels` each, until the end of a `with`.

        Where the images will be stored, `free_to_store` says how many bytes are free there, as the method does.

        An image needs 4 bytes a pixel at most: formats that compress nothing of RGBA are hardly larger.

        The bytes are counted twice once they are written, as reserved and as used: a small disk refuses a little early.

        Raises:
            ServiceUnavailable: There is too little room on the disk, or too few descriptors are free.
        """
        self._check_descriptors(images * _PER_IMAGE)
        size = self._size(images, pixels)
        self._check_disk(size)
        if free_to_store is None:
            return ReservedRoom(self, size)
        if free_to_store < self._needed(size):
            # Whoever comes next is refused only if there still is too little.
            self._store_measured_at = -math.inf
            raise _unavailable(_NO_STORE, "LIMNER_IMAGE_STORE has too little room")
        return ReservedRoom(self, size, size)

    def upload(self, caller: str, announced: int) -> "Upload":
        """Count a request body of `announced` bytes (0 if unknown) as under way, until the end of a `with`.

        Raises:
            RateLimited: The caller has too many bytes under way.
            ServiceUnavailable: All callers together have, or there is no room for the body.
        """
        self._check_descriptors(0)
        self._check_disk(announced)
        upload = Upload(self, caller)
        upload.grow_to(announced)
        return upload

    def _count_upload(self, caller: str, more: int) -> None:
        """Add bytes to those under way, in a time that does not depend on the number of callers."""
        self._all_uploads += more
        self._uploads[caller] = self._uploads.get(caller, 0) + more
        if not self._uploads[caller]:
            # There may be many callers.
            del self._uploads[caller]

    def _check_disk(self, size: int) -> None:
        if not size:
            return
        now = self.clock()
        if now - self._measured_at >= _MEASURE_EVERY or self._free < self._reserved + size:
            self._free, self._measured_at = self._measure(), now
        while self._free < self._reserved + size:
            if not self.make_room(self._reserved + size - self._free):
                raise _unavailable(_NO_DISK, "LIMNER_SPOOL_DIR has too little room")
            self._free = self._measure()
        self._free -= size

    def _measure(self) -> int:
        try:
            return self.free_bytes()
        except OSError as error:
            raise _unavailable(_NO_DISK, f"LIMNER_SPOOL_DIR: {error.strerror}") from None

    def _check_descriptors(self, needed: int) -> None:
        self._count_descriptors(_COUNT_EVERY)
        if self._opened + needed > self._limit:
            self._count_descriptors(_COUNT_WHEN_FULL)
        if self._opened + needed > self._limit:
            raise _unavailable(_NO_DESCRIPTORS, f"{self._opened} descriptors are open")
        self._opened += needed

    def _count_descriptors(self, max_age: float) -> None:
        now = self.clock()
        if self._counted_at is None or now - self._counted_at >= max_age:
            limit = self.descriptor_limit()
            self._limit = limit - max(_SPARE_DESCRIPTORS, limit // _SPARE_SHARE)
            self._opened, self._counted_at = self.open_descriptors(), now


@dataclass(slots=True)
class ReservedRoom:
    """Room on the disk for the images of one request, in bytes. No generator: each request for images has one."""

    capacity: Capacity
    size: int
    to_store: int = 0

    def __enter__(self) -> None:
        self.capacity._reserved += self.size
        self.capacity._reserved_to_store += self.to_store

    def __exit__(self, *_: object) -> None:
        self.capacity._reserved -= self.size
        self.capacity._reserved_to_store -= self.to_store
        if self.capacity._free_to_store is not None:
            # What was stored is free in a measurement that was made before.
            self.capacity._free_to_store -= self.to_store


@dataclass(slots=True)
class Upload:
    """One request body under way. `counted` is the larger of the announced and the received bytes."""

    capacity: Capacity
    caller: str
    counted: int = 0
    received: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.capacity._count_upload(self.caller, -self.counted)

    def add(self, size: int) -> None:
        """Note that `size` more bytes have arrived. Raises as `Capacity.upload`."""
        self.received += size
        self.grow_to(self.received)

    def grow_to(self, size: int) -> None:
        """Count `size` bytes, if these are more than before. Raises as `Capacity.upload`."""
        more = size - self.counted
        if more <= 0:
            return
        capacity, most = self.capacity, self.capacity.max_uploads
        if capacity._uploads.get(self.caller, 0) + more > most // 2:
            raise RateLimited(_CALLERS_UPLOADS, retry_after=_RETRY_AFTER)
        if capacity._all_uploads + more > most:
            raise _unavailable(_NO_UPLOADS, f"more than LIMNER_MAX_UPLOAD_BYTES ({most}) are being received")
        capacity._count_upload(self.caller, more)
        self.counted = size


def count_open_descriptors() -> int:
    """Return how many descriptors this process has open; a very large number if none is left to count them with."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 2**62


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**62 if soft == resource.RLIM_INFINITY else soft


def _unavailable(message: str, detail: str) -> ServiceUnavailable:
    return ServiceUnavailable(message, detail=detail, headers={"retry-after": f"{_RETRY_AFTER}"})
