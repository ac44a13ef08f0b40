"""Write the documents of asynchronous tasks, as sub2api has introduced them and clients read them.

Their contract is ASYNC_IMAGE_TASKS.md in the documentation of https://github.com/Wei-Shaw/sub2api.
"""

from collections.abc import Mapping, Sequence
from typing import Any

#: What the ids of tasks and of jobs begin with. The rest is the same: 32 random hexadecimal digits.
_TASK, _JOB = "imgtask_", "req_"


def task_id(job_id: str) -> str:
    """Return the id of the task whose job has this id."""
    return _TASK + job_id.removeprefix(_JOB)


def job_id_of(task_id: str) -> str:
    """Return the id of the job of a task. An id that no task has belongs to no job either."""
    return _JOB + task_id.removeprefix(_TASK) if task_id.startswith(_TASK) else ""


def task_receipt(job_id: str, poll_url: str, expires_at: int) -> dict[str, Any]:
    """Return the receipt for a task that was submitted."""
    return {**_head(job_id), "status": "processing", "poll_url": poll_url, "expires_at": expires_at}


def processing_task(job_id: str, expires_at: int) -> dict[str, Any]:
    """Return a task that has not ended."""
    return {**_head(job_id), "status": "processing", "expires_at": expires_at}


def completed_task(
    job_id: str, result: Mapping[str, Any], links: Sequence[str | None], expires_at: int
) -> dict[str, Any]:
    """Return a task with its images. `result` is the body of the Images API, `links` are those of its images."""
    image_url = {"image_url": links[0]} if links[0] is not None else {}
    return {
        **_head(job_id),
        "status": "completed",
        "http_status": 200,
        **image_url,
        "result": result,
        "expires_at": expires_at,
    }


def failed_task(job_id: str, status: int, error: Mapping[str, Any], expires_at: int) -> dict[str, Any]:
    """Return a task that has ended with an error, with the status that a waiting client would have got."""
    return {**_head(job_id), "status": "failed", "http_status": status, "error": error, "expires_at": expires_at}


def task_event(task: Mapping[str, Any], ended_at: str) -> dict[str, Any]:
    """Return what a webhook tells of a task that has ended: the task, as its client would poll it, without its images.

    The two fields ahead of it are those that Standard Webhooks recommend, beside the data itself.
    """
    return {"type": f"{task['object']}.{task['status']}", "timestamp": ended_at, **task}


def _head(job_id: str) -> dict[str, Any]:
    return {"id": task_id(job_id), "task_id": task_id(job_id), "object": "image.generation.task"}
