"""Memory is returned to the system when most of a crowd has gone, and once more when its results have expired."""

import ctypes
from dataclasses import dataclass

import pytest

from app.server.freed_memory import FreedMemory, find_malloc_trim


@dataclass(frozen=True, slots=True)
class Case:
    """`looks`: requests in flight, and the time. `released`: the times at which memory was released."""

    name: str
    looks: tuple[tuple[int, float], ...]
    released: tuple[float, ...]


CASES = [
    Case("few requests leave little behind", ((127, 0), (0, 1), (0, 100)), ()),
    Case("a crowd that has gone, and its results", ((128, 0), (0, 1), (0, 70), (0, 76), (0, 200)), (1, 76)),
    Case("a crowd that goes slowly", ((400, 0), (200, 1), (101, 2), (100, 3), (0, 4), (0, 78)), (3, 78)),
    Case("a crowd that stays", ((400, 0), (400, 100), (300, 200)), ()),
    Case("one crowd after the other", ((400, 0), (0, 1), (500, 2), (0, 3), (0, 76), (0, 78)), (1, 3, 78)),
    Case("a crowd that grows again before its last quarter has gone", ((400, 0), (150, 1), (800, 2), (200, 3)), (3,)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_memory_is_released_when_a_crowd_has_gone(case: Case) -> None:
    calls: list[None] = []
    freed = FreedMemory(lambda: calls.append(None))
    released: list[float] = []
    for in_flight, now in case.looks:
        freed.look(in_flight, now)
        released += [now] * len(calls)
        calls.clear()
    assert tuple(released) == case.released


def test_another_c_library_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_malloc_trim()() in {0, 1}
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert find_malloc_trim()() == 0
