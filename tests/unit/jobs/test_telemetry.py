"""The timers of one run."""

import time

from app.jobs.telemetry import JobTelemetry, OverlapTimer


def test_a_timer_counts_overlapping_work_once() -> None:
    timer = OverlapTimer()
    with timer, timer:
        pass
    first = timer.seconds
    with timer:
        pass
    assert 0 < first < timer.seconds


def test_the_overhead_is_the_time_without_waiting_and_queueing() -> None:
    telemetry = JobTelemetry(started_at=100.0, queue_seconds=2.0)
    telemetry.waiting.seconds = 3.0
    assert telemetry.overhead(110.0) == 5.0
    assert telemetry.overhead(104.0) == 0.0
    assert JobTelemetry().started_at <= time.perf_counter()
