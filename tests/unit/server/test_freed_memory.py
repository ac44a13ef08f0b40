"""Memory is returned to the system when most of a crowd has gone, and again when what it has left has expired."""

import ctypes
from dataclasses import dataclass

import pytest

from app.server.freed_memory import FreedMemory, find_malloc_trim


@dataclass(frozen=True, slots=True)
class Case:
    """`looks`: requests in flight, and the time. `calls`: what was called then."""

    name: str
    looks: tuple[tuple[int, float], ...]
    calls: tuple[str, ...]


CASES = [
    Case("few requests leave little behind", ((127, 0), (0, 1), (0, 100)), ()),
    Case(
        "a crowd that has gone, its connections, and its results",
        ((128, 0), (0, 1), (0, 6), (0, 7), (0, 75), (0, 76), (0, 200)),
        ("release at 1", "release at 7", "collect at 76", "release at 76"),
    ),
    Case(
        "a crowd that goes slowly",
        ((400, 0), (200, 1), (101, 2), (100, 3), (0, 4), (0, 8), (0, 9), (0, 78)),
        ("release at 3", "release at 9", "collect at 78", "release at 78"),
    ),
    Case("a crowd that stays", ((400, 0), (400, 100), (300, 200)), ()),
    Case(
        "one crowd after the other",
        ((400, 0), (0, 1), (500, 2), (0, 3), (0, 7), (0, 9), (0, 76), (0, 78)),
        ("release at 1", "release at 3", "release at 9", "collect at 78", "release at 78"),
    ),
    Case(
        "a crowd that grows again before its last quarter has gone",
        ((400, 0), (150, 1), (800, 2), (200, 3)),
        ("release at 3",),
    ),
    Case(
        "no collection amid the next crowd",
        ((400, 0), (0, 1), (128, 7), (128, 76), (127, 77)),
        ("release at 1", "release at 7", "release at 76"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_memory_is_released_when_a_crowd_has_gone(case: Case) -> None:
    calls: list[str] = []
    freed = FreedMemory(lambda: calls.append(f"release at {now}"), lambda: calls.append(f"collect at {now}"))
    for in_flight, now in case.looks:
        freed.look(in_flight, now)
    assert tuple(calls) == case.calls


def test_another_c_library_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_malloc_trim()() in {0, 1}
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert find_malloc_trim()() == 0
