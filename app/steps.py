"""A step of `limner check`: one line that says what was found, or why not and what to do."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from app.config.settings import Settings


class Failed(Exception):
    """Why a step failed and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Step:
    """`run` says what it has found, or raises Failed."""

    name: str
    run: Callable[[Settings], Coroutine[Any, Any, str]]


def take(step: Step, settings: Settings) -> bool:
    """Whether it went well. Prints its line, with the milliseconds it took."""
    began = time.perf_counter()
    try:
        said = asyncio.run(step.run(settings))
    except Failed as reason:
        print(f"FAIL  {step.name:<8} {reason}")
        return False
    print(f"ok    {step.name:<8} {said} ({(time.perf_counter() - began) * 1000:.0f} ms)")
    return True
