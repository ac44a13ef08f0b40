"""An event loop whose clock can be put forward, so that no test waits for a time limit."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Loop(asyncio.SelectorEventLoop):
    """`skipped`: seconds that have passed at once. Time limits that they reach are over."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)


def skip(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.skipped += seconds
