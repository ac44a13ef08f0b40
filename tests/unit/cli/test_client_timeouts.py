"""Clients that would have timed out are named in ascending order of their timeouts."""

import pytest

from app.cli.check import CLIENT_TIMEOUTS, clients_that_time_out


@pytest.mark.parametrize(("limit", "names"), CLIENT_TIMEOUTS)
def test_each_client_times_out_at_its_limit(limit: int, names: str) -> None:
    assert names not in clients_that_time_out(limit - 0.1)
    assert clients_that_time_out(limit).endswith(f"{names} ({limit} s)")


def test_no_client_times_out_at_once_and_the_shortest_timeout_is_named_first() -> None:
    assert clients_that_time_out(1) == ""
    assert (
        clients_that_time_out(70)
        == "Haystack and Heroku (30 s), nginx, AWS load balancers, Spring AI and LangChain4j (60 s)"
    )
