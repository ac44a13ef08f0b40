"""An event loop whose clock a test can advance, so that no test waits for a timeout."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ManualClockLoop(asyncio.SelectorEventLoop):
    """`skipped`: seconds by which the clock was advanced; timeouts within them expire at once."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


def run_with_manual_clock(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        return runner.run(work)


def advance(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualClockLoop)
    loop.skipped += seconds
