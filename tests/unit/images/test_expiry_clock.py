"""Stored images live as long as promised, although the clock of the machine is set meanwhile."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from app.images.disk import DiskStore
from app.images.expiry_clock import ExpiryClock, steady_clock
from app.images.store import StoreConfig
from app.protocol.image_format import sniff
from tests.support.sample_images import as_blob, gradient, saved

DAY, START = 86_400.0, 1_800_000_000.0
IMAGE = saved(gradient(), "PNG")


class Clocks:
    def __init__(self) -> None:
        self.process, self.day = 1000.0, START
        self.expiry = ExpiryClock(DAY, lambda: self.process, lambda: self.day)

    def pass_time(self, seconds: float) -> float:
        self.process += seconds
        self.day += seconds
        return self.expiry()


def test_the_clock_goes_with_the_time_of_day() -> None:
    clocks = Clocks()
    for hours in range(1, 50):
        # It is adjusted by a minute an hour.
        clocks.day += 59
        assert clocks.pass_time(3541) == clocks.day == START + 3600 * hours


@pytest.mark.parametrize("jump", [3600, 90_000, 365 * DAY])
def test_a_clock_that_is_set_forward_is_believed_once_all_earlier_images_are_old_enough(jump: float) -> None:
    clocks = Clocks()
    clocks.day += jump
    assert clocks.pass_time(10) == START + 10
    assert clocks.pass_time(DAY - 1) == START + DAY + 9
    assert clocks.pass_time(1) == clocks.day
    assert clocks.pass_time(1) == clocks.day


def test_a_clock_that_is_set_forward_and_back_was_never_believed() -> None:
    clocks = Clocks()
    clocks.day += 2 * DAY
    clocks.pass_time(10)
    clocks.day -= 2 * DAY
    assert clocks.pass_time(DAY) == START + DAY + 10
    clocks.day += 2 * DAY
    assert clocks.pass_time(10) == START + DAY + 20


def test_a_clock_that_is_set_back_is_believed_at_once() -> None:
    clocks = Clocks()
    clocks.day -= DAY
    assert clocks.pass_time(10) == START - DAY + 10
    assert clocks.pass_time(10) == START - DAY + 20


def test_what_one_process_alone_has_stored_expires_by_a_clock_that_nobody_sets() -> None:
    process, day = 1000.0, START
    now = steady_clock(lambda: process, lambda: day)
    day += DAY
    process += 10
    assert now() == START + 10


def test_a_full_folder_drops_no_new_image_because_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right_time = time.time

    async def store() -> list[str]:
        disk = DiskStore(StoreConfig(f"disk://{tmp_path}", DAY, max_bytes=len(IMAGE) * 8))
        names = []
        for number in range(12):
            blob = as_blob(IMAGE)
            info = sniff(IMAGE)
            assert info is not None
            names.append(await disk.put(blob, info))
            if number < 8:
                # Stored before the clock was set back by two hours.
                os.utime(tmp_path / names[-1], (right_time() + 7200 + number, right_time() + 7200 + number))
            blob.close()
        disk.close()
        return names

    names = asyncio.run(store())
    assert all((tmp_path / name).exists() for name in names[8:])
