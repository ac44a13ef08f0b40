"""Images are stored in memory, within a limit."""

import asyncio

import pytest

from app.errors import ImageUnavailable
from app.images.memory import MemoryStore, check_memory_url
from app.images.store import StoreConfig
from tests.support.store_fixtures import put, read


def test_new_images_replace_the_oldest() -> None:
    store = MemoryStore(StoreConfig("memory:", 60, max_bytes=1000))
    names = [put(store, bytes([number]) * 300) for number in range(5)]
    assert [read(store, name) is not None for name in names] == [False, False, True, True, True]
    large = put(store, b"x" * 1000)
    assert [read(store, name) for name in (*names, large)] == [None] * 5 + [b"x" * 1000]
    with pytest.raises(ImageUnavailable) as caught:
        put(store, b"x" * 1001)
    assert "LIMNER_IMAGE_STORE_MAX_BYTES" in str(caught.value.detail)
    assert read(store, large) is not None


def test_deleting_images_or_closing_the_store_frees_its_space() -> None:
    now = 0.0
    store = MemoryStore(StoreConfig("memory:", 60, max_bytes=1000, now=lambda: now))
    put(store, b"x" * 600)
    now = 50
    young = put(store, b"x" * 400)
    now = 70
    assert asyncio.run(store.delete_expired()) == 1
    names = [put(store, b"x" * 300), put(store, b"x" * 300)]
    assert None not in [read(store, name) for name in (young, *names)]
    store.close()
    assert [read(store, name) for name in (young, *names)] == [None] * 3
    assert read(store, put(store, b"x" * 1000)) is not None


def test_an_expired_image_is_not_found_even_before_it_is_deleted() -> None:
    now = 0.0
    store = MemoryStore(StoreConfig("memory:", 60, now=lambda: now))
    name = put(store, b"x")
    assert asyncio.run(store.url_for(name)) is None
    now = 61
    assert read(store, name) is None


def test_the_url_has_no_path() -> None:
    check_memory_url("memory:")
    with pytest.raises(ValueError, match="memory:"):
        check_memory_url("memory:///here")
