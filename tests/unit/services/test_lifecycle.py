"""How often expired things are dropped."""

from typing import Any

import pytest

from app.config.settings import Settings
from app.services.lifecycle import purge_interval

INTERVALS: dict[str, tuple[dict[str, Any], float]] = {
    "every ten minutes at most": ({"image_ttl": 86_400, "answer_ttl": 86_400}, 600),
    "as often as images expire": ({"image_ttl": 60}, 60),
    "as often as results expire": ({"answer_ttl": 30}, 30),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_nothing_stays_much_longer_than_it_should(name: str) -> None:
    fields, seconds = INTERVALS[name]
    assert purge_interval(Settings(upstream_base_url="http://h/v1", **fields)) == seconds
