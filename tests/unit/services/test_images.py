"""The proxy through which images are downloaded."""

from typing import Any

import pytest

from app.config.settings import Settings
from app.services.images import download_proxy

PROXIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "none is set: downloads are direct": ({}, None),
    "that of the upstream leads out": ({"upstream_proxy": "http://up:3128"}, "http://up:3128"),
    "one of their own": ({"upstream_proxy": "http://up:3128", "fetch_proxy": "http://down:3128"}, "http://down:3128"),
    "only one of their own": ({"fetch_proxy": "http://down:3128"}, "http://down:3128"),
    "downloads are direct, whatever the upstream needs": (
        {"upstream_proxy": "http://up:3128", "fetch_proxy": "none"},
        None,
    ),
}


@pytest.mark.parametrize("name", PROXIES)
def test_images_are_downloaded_the_way_that_leads_out(name: str) -> None:
    fields, expected = PROXIES[name]
    assert download_proxy(Settings(upstream_base_url="http://h/v1", **fields)) == expected
