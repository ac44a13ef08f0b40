"""The parts of the server that are built from the settings."""

import asyncio
from pathlib import Path

import pytest

from app.config.field_types import STANDARD_OUTPUT
from app.config.settings import Settings
from app.services import build_pool, build_usage_recorder, max_in_flight
from app.upstream.client import open_transport

LIMITS: dict[str, tuple[list[int | None], int]] = {
    "one without a limit: as many as the process takes": ([4, None], 100),
    "all with one: no more than they take together": ([4, 3], 7),
    "more than the process takes": ([90, 90], 100),
}


@pytest.mark.parametrize("name", LIMITS)
def test_requests_for_full_upstreams_wait_in_the_fair_queue(name: str) -> None:
    limits, expected = LIMITS[name]
    listed = [
        {"name": f"u{index}", "base_url": "http://h/v1", "api_key": "sk-1", "max_concurrency": limit}
        for index, limit in enumerate(limits)
    ]
    assert max_in_flight(Settings(upstreams=listed, max_concurrency=100)) == expected


@pytest.mark.parametrize("ledger", [None, STANDARD_OUTPUT, Path("ledger.jsonl")], ids=str)
def test_usage_records_are_written_where_the_operator_wants_them(ledger: Path | None, tmp_path: Path) -> None:
    file = tmp_path / ledger if ledger not in {None, STANDARD_OUTPUT} else ledger
    recorder = build_usage_recorder(Settings(upstream_base_url="http://h/v1", ledger=file))
    asyncio.run(recorder.close())
    assert (recorder.ledger is None) is (ledger is None)


def test_the_upstream_that_single_variables_describe_is_one_of_a_list() -> None:
    async def run() -> None:
        pool = build_pool(Settings(upstream_base_url="http://h/v1"), open_transport())
        assert [member.spec.name for member in pool.members] == ["default"]
        await pool.close()

    asyncio.run(run())
