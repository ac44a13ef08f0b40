"""Who gives up is told in order of patience."""

import pytest

from app.cli.check import LIMITS, who_gives_up


@pytest.mark.parametrize(("limit", "who"), LIMITS)
def test_each_gives_up_at_its_limit(limit: int, who: str) -> None:
    assert who not in who_gives_up(limit - 0.1)
    assert who_gives_up(limit).endswith(f"{who} ({limit} s)")


def test_nobody_gives_up_at_once_and_the_quickest_is_named_first() -> None:
    assert who_gives_up(1) == ""
    assert who_gives_up(70) == "Haystack and Heroku (30 s), nginx, AWS load balancers, Spring AI and LangChain4j (60 s)"
