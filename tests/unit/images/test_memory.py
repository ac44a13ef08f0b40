"""Pictures in memory: what makes room for what."""

import asyncio

import pytest

from app.errors import ImageUnavailable
from app.images.memory import MemoryStore, check_memory_url
from app.images.store import StoreConfig
from tests.support.store_fixtures import keep, read


def test_the_oldest_make_room() -> None:
    store = MemoryStore(StoreConfig("memory:", 60, max_bytes=1000))
    names = [keep(store, bytes([number]) * 300) for number in range(5)]
    assert [read(store, name) is not None for name in names] == [False, False, True, True, True]
    large = keep(store, b"x" * 1000)
    assert [read(store, name) for name in (*names, large)] == [None] * 5 + [b"x" * 1000]
    with pytest.raises(ImageUnavailable) as caught:
        keep(store, b"x" * 1001)
    assert "LIMNER_IMAGE_STORE_MAX_BYTES" in str(caught.value.detail)
    assert read(store, large) is not None


def test_what_is_swept_or_closed_leaves_its_room() -> None:
    now = 0.0
    store = MemoryStore(StoreConfig("memory:", 60, max_bytes=1000, now=lambda: now))
    keep(store, b"x" * 600)
    now = 50
    young = keep(store, b"x" * 400)
    now = 70
    assert asyncio.run(store.delete_expired()) == 1
    names = [keep(store, b"x" * 300), keep(store, b"x" * 300)]
    assert None not in [read(store, name) for name in (young, *names)]
    store.close()
    assert [read(store, name) for name in (young, *names)] == [None] * 3
    assert read(store, keep(store, b"x" * 1000)) is not None


def test_what_is_over_is_not_found_before_it_is_swept() -> None:
    now = 0.0
    store = MemoryStore(StoreConfig("memory:", 60, now=lambda: now))
    name = keep(store, b"x")
    assert asyncio.run(store.url_for(name)) is None
    now = 61
    assert read(store, name) is None


def test_memory_is_no_place() -> None:
    check_memory_url("memory:")
    with pytest.raises(ValueError, match="memory:"):
        check_memory_url("memory:///here")
