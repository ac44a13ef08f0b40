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
