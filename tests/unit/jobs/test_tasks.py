"""What is told of a task whose job runs, or runs once more."""

import asyncio
from typing import Any, cast

from app.access.auth import Caller
from app.images.blob import Spool
from app.jobs.tasks import ImageTasks


class RunningJob:
    """Stands in for the service, which knows a job that has not ended."""

    async def view(self, job_id: str, caller: Caller, spool: Spool) -> tuple[None, float]:
        return None, 60.0


def test_a_webhook_has_no_task_to_send_while_the_job_runs() -> None:
    tasks = ImageTasks(cast(Any, RunningJob()), cast(Any, None), Spool)
    assert asyncio.run(tasks.view_for_webhook("req_1", Caller("a", None), "http://localhost")) is None
