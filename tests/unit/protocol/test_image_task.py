"""Documents of asynchronous tasks."""

from app.protocol.image_task import (
    completed_task,
    failed_task,
    job_id_of,
    processing_task,
    task_event,
    task_id,
    task_receipt,
)

HEAD = {"id": "imgtask_ab", "task_id": "imgtask_ab", "object": "image.generation.task"}


def test_a_task_and_its_job_have_the_same_digits() -> None:
    assert task_id("req_ab") == "imgtask_ab"
    assert job_id_of("imgtask_ab") == "req_ab"
    assert [job_id_of(other) for other in ("req_ab", "ab", "")] == ["", "", ""]


def test_each_state_has_its_document() -> None:
    assert task_receipt("req_ab", "/p", 9) == {**HEAD, "status": "processing", "poll_url": "/p", "expires_at": 9}
    assert processing_task("req_ab", 9) == {**HEAD, "status": "processing", "expires_at": 9}
    failed = {"status": "failed", "http_status": 400, "error": {"code": "c"}, "expires_at": 9}
    assert failed_task("req_ab", 400, {"code": "c"}, 9) == HEAD | failed


def test_a_completed_task_has_the_first_link_if_there_is_one() -> None:
    completed = {**HEAD, "status": "completed", "http_status": 200, "result": {"data": []}, "expires_at": 9}
    assert completed_task("req_ab", {"data": []}, ["a", "b"], 9) == completed | {"image_url": "a"}
    assert completed_task("req_ab", {"data": []}, [None, "b"], 9) == completed


def test_a_webhook_has_the_task_behind_the_fields_that_its_convention_recommends() -> None:
    task = failed_task("req_1", 400, {"code": "moderation_blocked"}, 1)
    event = task_event(task, "2026-11-29T12:00:00.000Z")
    assert list(event)[:2] == ["type", "timestamp"]
    assert event == {"type": "image.generation.task.failed", "timestamp": "2026-11-29T12:00:00.000Z", **task}
