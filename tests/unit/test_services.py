"""What the settings mean for the parts of the server."""

import asyncio
from pathlib import Path

import pytest

from app.config.field_types import STANDARD_OUTPUT
from app.config.settings import Settings
from app.services import open_books, open_upstreams, turns

LIMITS: dict[str, tuple[list[int | None], int]] = {
    "one without a limit: as many as the process takes": ([4, None], 100),
    "all with one: no more than they take together": ([4, 3], 7),
    "more than the process takes": ([90, 90], 100),
}


@pytest.mark.parametrize("name", LIMITS)
def test_questions_wait_in_the_fair_queue_for_upstreams_that_are_full(name: str) -> None:
    limits, expected = LIMITS[name]
    listed = [
        {"name": f"u{index}", "base_url": "http://h/v1", "api_key": "sk-1", "max_concurrency": limit}
        for index, limit in enumerate(limits)
    ]
    assert turns(Settings(upstreams=listed, max_concurrency=100)) == expected


@pytest.mark.parametrize("ledger", [None, STANDARD_OUTPUT, Path("ledger.jsonl")], ids=str)
def test_books_are_kept_where_the_operator_says(ledger: Path | None, tmp_path: Path) -> None:
    file = tmp_path / ledger if ledger not in {None, STANDARD_OUTPUT} else ledger
    books = open_books(Settings(upstream_base_url="http://h/v1", ledger=file))
    asyncio.run(books.close())
    assert (books.ledger is None) is (ledger is None)


def test_the_upstream_that_single_variables_describe_is_one_of_a_list() -> None:
    async def scene() -> None:
        upstreams = open_upstreams(Settings(upstream_base_url="http://h/v1"))
        assert [member.spec.name for member in upstreams.members] == ["default"]
        await upstreams.close()

    asyncio.run(scene())
