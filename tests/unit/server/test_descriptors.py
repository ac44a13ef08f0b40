"""The limit of open descriptors is raised as far as the system allows, but not without end."""

import os
from dataclasses import dataclass

import pytest

from app.server.descriptors import fill_standard_descriptors, raise_descriptor_limit

ENDLESS = -1


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    soft: int
    hard: int
    after: int
    ceiling: int = 2**40


CASES = [
    Case("the hard limit is higher", 1024, 4096, 4096),
    Case("the limits are equal", 4096, 4096, 4096),
    Case("the hard limit is a billion", 1024, 2**30, 2**17),
    Case("the soft limit is a billion and stays", 2**30, 2**30, 2**30),
    Case("there is no hard limit", 256, ENDLESS, 2**17),
    Case("there is no limit at all", ENDLESS, ENDLESS, 2**17),
    Case("the kernel refuses what it cannot do", 256, ENDLESS, 256, ceiling=10_240),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_limit_is_raised(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(case.soft, case.hard)]

    def change(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > case.ceiling:
            raise ValueError("current limit exceeds maximum limit")
        limits[0] = wanted

    monkeypatch.setattr("resource.getrlimit", lambda _: limits[0])
    monkeypatch.setattr("resource.setrlimit", change)
    assert raise_descriptor_limit() == case.after
    assert limits[0][1] == case.hard


@pytest.mark.parametrize("free", [(), (2,), (0, 1, 2)], ids=str)
def test_closed_standard_streams_become_the_null_device(free: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, closed = iter([*free, 9]), list[int]()
    monkeypatch.setattr(os, "open", lambda *_: next(numbers))
    monkeypatch.setattr(os, "close", closed.append)
    fill_standard_descriptors()
    assert closed == [9]
    assert [*numbers] == []
