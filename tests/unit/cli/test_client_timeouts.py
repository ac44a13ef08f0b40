"""Who gives up is told in order of patience."""

import pytest

from app.cli.check import CLIENT_TIMEOUTS, clients_that_time_out


@pytest.mark.parametrize(("limit", "who"), CLIENT_TIMEOUTS)
def test_each_gives_up_at_its_limit(limit: int, who: str) -> None:
    assert who not in clients_that_time_out(limit - 0.1)
    assert clients_that_time_out(limit).endswith(f"{who} ({limit} s)")


def test_nobody_gives_up_at_once_and_the_quickest_is_named_first() -> None:
    assert clients_that_time_out(1) == ""
    assert (
        clients_that_time_out(70)
        == "Haystack and Heroku (30 s), nginx, AWS load balancers, Spring AI and LangChain4j (60 s)"
    )
