"""Run tasks that nobody awaits, until they end by themselves."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from app.observability.logging import log


class BackgroundTasks(set[asyncio.Task[Any]]):
    """The tasks that have not ended. Without a reference to it, Python may drop a task before its end."""

    def start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Start a task, and return it. A bug in it is logged."""
        task = asyncio.create_task(work)
        self.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("unhandled_error", exc_info=bug)
