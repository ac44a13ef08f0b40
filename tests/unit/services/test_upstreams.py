"""Upstreams as the settings describe them."""

import asyncio
from typing import Any

import pytest

from app import __version__
from app.config.settings import Settings
from app.services.upstreams import build_pool, build_spec, max_in_flight
from app.upstream.transport import open_transport

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


def test_the_upstream_that_single_variables_describe_is_one_of_a_list() -> None:
    async def run() -> None:
        pool = build_pool(Settings(upstream_base_url="http://h/v1"), open_transport())
        assert [member.spec.name for member in pool.members] == ["default"]
        await pool.close()

    asyncio.run(run())


BY_SETTINGS: dict[str, Any] = {
    "upstream_user_agent": "Mozilla/5.0",
    "upstream_proxy": "http://proxy:3128",
    "upstream_timeout": 500,
    "upstream_idle_timeout": 50,
    "upstream_max_images_bytes": 4096,
    "upstream_origin_downloads_with_key": False,
}
OWN: dict[str, Any] = {
    "user_agent": "curl/8",
    "proxy": "none",
    "timeout": 900,
    "idle_timeout": 90,
    "stream": "never",
    "max_images_bytes": 2048,
    "origin_downloads_with_key": True,
    "headers": {"X-Title": "Limner"},
}


def test_an_upstream_has_its_own_connection_or_that_of_all() -> None:
    entry = {"base_url": "http://h/v1"}
    settings = Settings(upstreams=[entry | {"name": "a"}, entry | {"name": "b"} | OWN], **BY_SETTINGS)
    first, second = [build_spec(entry, settings, 1) for entry in settings.effective_upstreams]
    assert (first.user_agent, first.timeout, first.has_own_timeout) == ("Mozilla/5.0", 500, False)
    assert (first.idle_timeout, first.stream, first.max_images_bytes) == (50, None, 4096)
    assert first.proxy is not None
    assert first.proxy.get_secret_value() == "http://proxy:3128"
    assert (first.origin_downloads_with_key, first.headers) == (False, {})
    assert (second.user_agent, second.timeout, second.has_own_timeout) == ("curl/8", 900, True)
    assert (second.idle_timeout, second.stream, second.max_images_bytes) == (90, "never", 2048)
    assert (second.proxy, second.origin_downloads_with_key) == (None, True)
    assert second.headers["X-Title"].get_secret_value() == "Limner"


def test_an_upstream_without_anything_is_reached_directly() -> None:
    settings = Settings(upstream_base_url="http://h/v1")
    (entry,) = settings.effective_upstreams
    spec = build_spec(entry, settings, 1)
    assert (spec.proxy, spec.tls_ca, spec.max_images_bytes, spec.origin_downloads_with_key) == (None, None, None, True)
    assert spec.user_agent == f"limner/{__version__}"
