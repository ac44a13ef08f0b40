"""Room for images, descriptors and bytes of uploads: refused before anything is paid for, given back at the end."""

import asyncio
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from app.access.capacity import Capacity, count_open_descriptors, descriptor_limit
from app.errors import ApiError, RateLimited, ServiceUnavailable

MIB = 2**20


class Machine:
    """Figures of a machine, which a test changes."""

    def __init__(self) -> None:
        self.free = 100 * MIB
        self.opened = 100
        self.limit = 1024
        self.counts = self.measurements = 0
        self.now = 0.0

    def count(self) -> int:
        self.counts += 1
        return self.opened

    def measure(self) -> int:
        self.measurements += 1
        return self.free

    def capacity(
        self, max_uploads: int = 100, max_image_bytes: int = 64 * MIB, *, stores_in_spool: bool = False
    ) -> Capacity:
        return Capacity(
            free_bytes=self.measure,
            open_descriptors=self.count,
            descriptor_limit=lambda: self.limit,
            max_image_bytes=max_image_bytes,
            max_uploads=max_uploads,
            stores_in_spool=stores_in_spool,
            clock=lambda: self.now,
        )


@pytest.fixture
def machine() -> Machine:
    return Machine()


def assert_invites_retry(error: ApiError, status: int) -> None:
    assert error.status == status
    assert error.headers["retry-after"] == "5"
    assert "x-should-retry" not in error.headers
    assert not error.may_have_cost


def test_an_image_reserves_four_bytes_a_pixel(machine: Machine) -> None:
    capacity = machine.capacity()
    with capacity.reserve(4, 6 * MIB), pytest.raises(ServiceUnavailable) as caught, capacity.reserve(1, 1 + MIB):
        raise AssertionError
    assert_invites_retry(caught.value, 503)
    assert caught.value.detail == "LIMNER_SPOOL_DIR has too little room"


def test_the_disk_is_measured_a_few_times_a_second(machine: Machine) -> None:
    capacity = machine.capacity()
    for now in (0.0, 0.1, 0.2, 0.25, 0.3):
        machine.now = now
        with capacity.upload("a", 10), capacity.reserve(1, 1):
            pass
    assert machine.measurements == 2


def test_what_was_written_since_the_last_measurement_is_taken_off(machine: Machine) -> None:
    capacity = machine.capacity()
    for _ in range(4):
        with capacity.reserve(1, 6 * MIB):
            machine.free -= 24 * MIB
    with pytest.raises(ServiceUnavailable), capacity.reserve(1, 6 * MIB):
        raise AssertionError


def test_no_image_reserves_more_than_the_largest_that_is_accepted(machine: Machine) -> None:
    with machine.capacity(max_image_bytes=5 * MIB).reserve(20, 8 * MIB):
        machine.free -= 1
    with pytest.raises(ServiceUnavailable), machine.capacity(max_image_bytes=5 * MIB).reserve(20, 8 * MIB):
        raise AssertionError


@pytest.mark.parametrize(("free", "fits"), [(8 * MIB, True), (8 * MIB - 1, False)])
def test_images_that_will_be_stored_need_room_in_the_store_too(machine: Machine, free: int, fits: bool) -> None:
    """Four MiB are in use by another request."""
    capacity = machine.capacity()
    with capacity.reserve(1, MIB, 100 * MIB), capacity.reserve(5, MIB):
        if fits:
            with capacity.reserve(1, MIB, free):
                pass
        else:
            with pytest.raises(ServiceUnavailable) as caught, capacity.reserve(1, MIB, free):
                raise AssertionError
            assert_invites_retry(caught.value, 503)
            assert caught.value.detail == "LIMNER_IMAGE_STORE has too little room"


@pytest.mark.parametrize(("free", "fits"), [(20 * MIB, True), (20 * MIB - 1, False)])
def test_on_one_disk_an_image_needs_room_in_the_spool_and_in_the_store(machine: Machine, free: int, fits: bool) -> None:
    machine.free = free
    capacity = machine.capacity(stores_in_spool=True)
    with capacity.reserve(1, MIB, free), capacity.reserve(1, MIB):
        if fits:
            with capacity.reserve(1, MIB, free):
                pass
        else:
            with pytest.raises(ServiceUnavailable, match="store images"), capacity.reserve(1, MIB, free):
                raise AssertionError


@pytest.fixture
def look_at_store(machine: Machine) -> Callable[..., int | None]:
    """Ask a capacity for the free bytes of the image store at a time. Each measurement finds 4 MiB more."""
    capacity, found = machine.capacity(), count(4 * MIB, 4 * MIB)

    async def measure() -> int:
        return next(found)

    def look(now: float, pixels: int = 1) -> int | None:
        machine.now = now
        return asyncio.run(capacity.free_to_store(measure, 1, pixels))

    return look


def test_the_image_store_is_measured_four_times_a_second_at_most(look_at_store: Callable[..., int | None]) -> None:
    """It is asked for before each image that needs a link, and a measurement takes a thread."""
    assert [look_at_store(now) for now in (0.0, 0.1, 0.2, 0.25, 0.4)] == [4 * MIB] * 3 + [8 * MIB] * 2


def test_requests_that_come_together_measure_the_image_store_once(machine: Machine) -> None:
    """Thirty clients that all got an answer would start thirty threads."""
    capacity, found = machine.capacity(), count(1)

    async def measure() -> int:
        # All others are waiting by the time that the second turn begins.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        machine.now += 60.0
        return next(found)

    async def look() -> list[int | None]:
        return await asyncio.gather(*(capacity.free_to_store(measure, 1, 1) for _ in range(30)))

    assert asyncio.run(look()) == [1] * 30


def test_the_image_store_is_measured_again_before_a_request_is_refused(
    look_at_store: Callable[..., int | None],
) -> None:
    """Three MiB of pixels need twelve of bytes. Too little is left until the third measurement."""
    found = [look_at_store(now, 3 * MIB) for now in (0.0, 0.005, 0.02, 0.025, 0.04, 0.06)]
    assert found == [4 * MIB, 4 * MIB, 8 * MIB, 8 * MIB, 12 * MIB, 12 * MIB]


def test_what_was_stored_since_the_last_measurement_is_not_free(machine: Machine) -> None:
    capacity = machine.capacity()

    async def store_one() -> int | None:
        free = await capacity.free_to_store(measure, 1, MIB)
        with capacity.reserve(1, MIB, free):
            return free

    async def measure() -> int:
        return 9 * MIB

    assert [asyncio.run(store_one()) for _ in range(2)] == [9 * MIB, 5 * MIB]
    with pytest.raises(ServiceUnavailable, match="store images"):
        asyncio.run(store_one())


def test_room_is_given_back_at_the_end(machine: Machine) -> None:
    capacity = machine.capacity()
    for _ in range(3):
        with pytest.raises(KeyError), capacity.reserve(4, 6 * MIB, 96 * MIB):
            raise KeyError
    with capacity.reserve(4, 6 * MIB, 96 * MIB):
        pass


def test_a_folder_that_is_gone_has_no_room(machine: Machine) -> None:
    capacity = machine.capacity()

    def measure() -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    capacity.free_bytes = measure
    with pytest.raises(ServiceUnavailable) as caught, capacity.reserve(1, 1):
        raise AssertionError
    assert_invites_retry(caught.value, 503)
    assert caught.value.detail == "LIMNER_SPOOL_DIR: No such file or directory"


def test_an_upload_leaves_the_room_that_is_reserved(machine: Machine) -> None:
    capacity = machine.capacity(max_uploads=1000 * MIB)
    with capacity.reserve(4, 6 * MIB):
        with capacity.upload("a", 4 * MIB):
            pass
        with pytest.raises(ServiceUnavailable), capacity.upload("a", 4 * MIB + 1):
            raise AssertionError


@pytest.mark.parametrize(("kept", "has_room"), [([30, 30], True), ([10, 9, 5], True), ([10, 3], False), ([], False)])
def test_before_work_is_refused_room_is_made_on_the_disk(machine: Machine, kept: list[int], has_room: bool) -> None:
    """`kept`: MiB that each call frees, at most."""
    missing: list[int] = []

    def make_room(size: int) -> bool:
        missing.append(size // MIB)
        if not kept:
            return False
        machine.free += kept.pop(0) * MIB
        return True

    capacity = machine.capacity()
    capacity.make_room = make_room
    try:
        with capacity.reserve(5, 6 * MIB):
            pass
        admitted = True
    except ServiceUnavailable:
        admitted = False
    assert admitted is has_room
    assert missing[0] == 20


def test_a_body_of_unknown_length_is_accepted_on_a_full_disk(machine: Machine) -> None:
    """Most of them are small and never touch the disk; a large one meets the full disk when it is written."""
    machine.free = 0
    with machine.capacity().upload("a", 0) as upload:
        upload.add(10)


@pytest.mark.parametrize(("opened", "fits"), [(952, True), (953, False)])
def test_an_image_needs_descriptors(machine: Machine, opened: int, *, fits: bool) -> None:
    """Of 1,024 descriptors a sixteenth stays free, and two images need eight."""
    machine.opened = opened
    capacity = machine.capacity()
    if fits:
        with capacity.reserve(2, 1):
            return
    with pytest.raises(ServiceUnavailable) as caught, capacity.reserve(2, 1):
        raise AssertionError
    assert_invites_retry(caught.value, 503)
    assert caught.value.detail == "953 descriptors are open"


def test_a_small_limit_leaves_32_descriptors(machine: Machine) -> None:
    machine.limit, machine.opened = 136, 100
    with machine.capacity().reserve(1, 1):
        machine.opened += 1
    with pytest.raises(ServiceUnavailable), machine.capacity().reserve(1, 1):
        raise AssertionError


def test_a_body_is_refused_when_too_many_descriptors_are_open(machine: Machine) -> None:
    machine.opened = 961
    with pytest.raises(ServiceUnavailable), machine.capacity().upload("a", 1):
        raise AssertionError


def test_descriptors_are_counted_once_a_second(machine: Machine) -> None:
    capacity = machine.capacity()
    for now in (0.0, 0.5, 0.99, 1.0, 1.5, 2.0):
        machine.now = now
        with capacity.reserve(1, 1):
            pass
    assert machine.counts == 3


def test_what_was_granted_is_added_to_the_last_count(machine: Machine) -> None:
    """215 images of four descriptors fill 960 after 100; then they are counted again, at most 20 times a second."""
    capacity = machine.capacity()
    for _ in range(215):
        with capacity.reserve(1, 1):
            pass
    with pytest.raises(ServiceUnavailable), capacity.reserve(1, 1):
        raise AssertionError
    assert machine.counts == 1
    machine.now = 0.05
    with capacity.reserve(1, 1):
        assert machine.counts == 2


def test_a_caller_may_use_half_of_all_uploads(machine: Machine) -> None:
    capacity = machine.capacity(max_uploads=100)
    with capacity.upload("a", 30) as first, capacity.upload("a", 0) as second:
        first.add(20)
        second.add(15)
        second.add(5)
        with pytest.raises(RateLimited) as caught:
            second.add(1)
        assert_invites_retry(caught.value, 429)
        with capacity.upload("b", 50), pytest.raises(ServiceUnavailable) as refused, capacity.upload("c", 1):
            raise AssertionError
        assert_invites_retry(refused.value, 503)
        assert refused.value.detail == "more than LIMNER_MAX_UPLOAD_BYTES (100) are being received"
    with capacity.upload("a", 50):
        pass


def test_a_body_longer_than_announced_is_counted_as_it_is(machine: Machine) -> None:
    capacity = machine.capacity(max_uploads=100)
    with capacity.upload("a", 10) as upload:
        upload.add(10)
        upload.add(40)
        with pytest.raises(RateLimited):
            upload.add(1)


def test_callers_without_uploads_are_forgotten(machine: Machine) -> None:
    capacity = machine.capacity()
    for number in range(10):
        with capacity.upload(str(number), 1):
            pass
    assert len(capacity._uploads) == 0


class UnlistedCounter(Counter[str]):
    """Cannot be walked through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    def total(self) -> int:
        raise AssertionError


def test_no_chunk_of_an_upload_looks_at_the_other_callers(machine: Machine) -> None:
    capacity = machine.capacity()
    capacity._uploads = UnlistedCounter()
    with capacity.upload("a", 10), capacity.upload("b", 10) as upload:
        upload.add(20)
        assert capacity._all_uploads == 30
    assert capacity._all_uploads == 0


def test_open_descriptors_are_counted(tmp_path: Path) -> None:
    before = count_open_descriptors()
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        assert count_open_descriptors() == before + 2
    assert before < descriptor_limit()


def test_without_a_descriptor_to_count_with_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise OSError(errno.EMFILE, path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert count_open_descriptors() > 10**9


def test_no_limit_of_descriptors_is_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (-1, -1))
    assert descriptor_limit() > 10**9
