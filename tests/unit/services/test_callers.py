"""Where usage records are written."""

import asyncio
from pathlib import Path

import pytest

from app.config.field_types import STANDARD_OUTPUT
from app.config.settings import Settings
from app.services.callers import build_usage_recorder


@pytest.mark.parametrize("ledger", [None, STANDARD_OUTPUT, Path("ledger.jsonl")], ids=str)
def test_usage_records_are_written_where_the_operator_wants_them(ledger: Path | None, tmp_path: Path) -> None:
    file = tmp_path / ledger if ledger not in {None, STANDARD_OUTPUT} else ledger
    recorder = build_usage_recorder(Settings(upstream_base_url="http://h/v1", ledger=file))
    asyncio.run(recorder.close())
    assert (recorder.ledger is None) is (ledger is None)
