"""What a server does once a second, whether or not there are requests."""

import asyncio
from pathlib import Path

import pytest

from app.config.settings import Settings
from app.jobs.registry import JobRegistry
from app.server.draining import DrainingServer
from app.server.freed_memory import FreedMemory


def test_results_expire_and_memory_is_looked_at_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn calls `on_tick` ten times a second."""
    done: list[str] = []
    monkeypatch.setattr(JobRegistry, "drop_expired", lambda _: done.append("results"))
    monkeypatch.setattr(FreedMemory, "look", lambda *_: done.append("memory"))
    server = DrainingServer(Settings(upstream_base_url="http://h/v1", image_store=f"disk://{tmp_path}"))

    async def run() -> None:
        for counter in range(1, 21):
            assert not await server.on_tick(counter)

    asyncio.run(run())
    assert done == ["results", "memory"] * 2


@pytest.mark.parametrize(("requests", "jobs"), [(3, 0), (0, 3), (3, 2)])
def test_requests_that_are_still_arriving_are_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: int, jobs: int
) -> None:
    """Uploads hold memory before they have jobs, and jobs may outlive their requests."""
    looks: list[int] = []
    monkeypatch.setattr(FreedMemory, "look", lambda _, in_flight, now: looks.append(in_flight))
    server = DrainingServer(Settings(upstream_base_url="http://h/v1", image_store=f"disk://{tmp_path}"))

    async def run() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(requests + jobs)]
        server.server_state.tasks.update(tasks[:requests])
        server._services.service.tasks.update(tasks[requests:])
        await server.on_tick(10)
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert looks == [3]
