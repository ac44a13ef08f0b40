"""The contract of image stores. Every store listed in STORES is tested."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app.errors import ImageUnavailable
from app.images.bucket import CLOUD_PROVIDERS
from app.images.store import ImageStore, StoreConfig
from app.images.stores import STORES, check_store_url, open_store
from tests.support.servers import run_limner
from tests.support.store_fixtures import JPEG, PNG, blob_of, put, read, signing

DATA = bytes(range(256)) * 8
LARGE = DATA * 5000

BUCKETS = {"s3", "gs", "az"}


@pytest.fixture(params=sorted(STORES))
def config(request: pytest.FixtureRequest) -> StoreConfig:
    """Return a configuration of each store, from the fixture named after its scheme."""
    store_config: StoreConfig = request.getfixturevalue(f"{request.param}_store")
    return store_config


@contextmanager
def opened(config: StoreConfig) -> Iterator[ImageStore]:
    store = open_store(config)
    try:
        yield store
    finally:
        store.close()


def test_an_image_is_stored_under_a_name_that_cannot_be_guessed(config: StoreConfig) -> None:
    with opened(config) as store:
        names = [put(store, DATA), put(store, DATA), put(store, LARGE, JPEG)]
        assert len(set(names)) == 3
        assert [name.rpartition(".")[2] for name in names] == ["png", "png", "jpg"]
        assert min(len(name) for name in names) >= 36
        assert [read(store, name) == data for name, data in zip(names, (DATA, DATA, LARGE), strict=True)] == [True] * 3


def test_an_image_is_read_in_parts(config: StoreConfig) -> None:
    with opened(config) as store:
        name = put(store, DATA)

        async def read_parts() -> tuple[int, float, list[bytes]]:
            stored = await store.get(name)
            assert stored is not None
            parts = [await stored.read(*part) for part in ((0, 4), (255, 3), (len(DATA) - 2, 100))]
            stored.close()
            return stored.size, stored.modified, parts

        size, _, parts = asyncio.run(read_parts())
    assert (size, parts) == (len(DATA), [DATA[:4], DATA[255:258], DATA[-2:]])


def test_many_images_are_stored_concurrently(config: StoreConfig) -> None:
    with opened(config) as store:

        async def put_all() -> list[str]:
            blobs = [blob_of(bytes([number]) * 1000) for number in range(20)]
            return await asyncio.gather(*(store.put(blob, PNG) for blob in blobs))

        names = asyncio.run(put_all())
        assert [read(store, name) for name in names] == [bytes([number]) * 1000 for number in range(20)]


@pytest.mark.parametrize("name", ["a.png", "../secret.png", "a" * 32 + ".svg", "a" * 32, "", "a" * 32 + ".png"])
def test_other_names_are_not_found(config: StoreConfig, name: str, tmp_path: Path) -> None:
    with opened(config) as store:
        if config.url.startswith("disk:"):
            (tmp_path / "state" / "secret.png").write_bytes(b"secret")
            (tmp_path / "state" / "images" / ("a" * 32 + ".svg")).write_bytes(b"secret")
        assert asyncio.run(store.get(name)) is None


def test_only_the_room_on_a_disk_is_known(config: StoreConfig) -> None:
    with opened(config) as store:
        free = asyncio.run(store.free_bytes())
    assert (free is not None and free > len(LARGE)) is config.url.startswith("disk:")


def test_an_expired_image_is_not_found_and_is_deleted(config: StoreConfig) -> None:
    separator = "&" if "?" in config.url else "?"
    deleting = f"{config.url}{separator}sweep=true" if config.url.partition(":")[0] in BUCKETS else config.url
    now = 0.0
    with opened(replace(config, url=deleting, now=lambda: now)) as store:
        name = put(store, DATA)
        assert asyncio.run(store.delete_expired()) == 0
        assert read(store, name) == DATA
        now = time.time() + config.ttl + 10
        assert read(store, name) is None
        assert asyncio.run(store.delete_expired()) == 1
        now = 0
        assert read(store, name) is None


def test_a_presigned_url_works_without_a_key(config: StoreConfig) -> None:
    scheme = config.url.partition(":")[0]
    with opened(config) as store, opened(signing(config)) as signer:
        name = put(store, DATA)
        url = asyncio.run(signer.url_for(name))
    assert (url is not None) == (scheme in BUCKETS)
    if url is not None:
        assert urlsplit(url).path.endswith(f"/{name}")
        answer = httpx.get(url, trust_env=False)
        assert (answer.status_code, answer.content) == (200, DATA)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "public, max-age=86400, immutable"
        assert httpx.get(url.partition("?")[0], trust_env=False).status_code == 403


def test_there_is_no_url_of_the_store_when_this_server_serves_images(config: StoreConfig) -> None:
    with opened(replace(config, serve="proxy")) as store:
        assert asyncio.run(store.url_for("a" * 32 + ".png")) is None


def test_images_of_every_store_are_served_alike(config: StoreConfig) -> None:
    options = {"image_store": config.url, "image_store_key": config.key, "store_serve": "proxy"}
    with run_limner("http://127.0.0.1:9", **options) as limner:
        name = put(limner.services.store, LARGE)
        with httpx.Client(base_url=limner.url, trust_env=False) as http:
            whole, head = http.get(f"/kept/{name}"), http.head(f"/kept/{name}")
            part = http.get(f"/kept/{name}", headers={"range": "bytes=3000000-3000003"})
            cached = http.get(f"/kept/{name}", headers={"if-none-match": whole.headers["etag"]})
            missing = http.get(f"/kept/{'A' * 32}.png")
    assert (whole.status_code, whole.content == LARGE) == (200, True)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(LARGE)))
    assert (part.status_code, part.content) == (206, LARGE[3_000_000:3_000_004])
    assert (cached.status_code, cached.content) == (304, b"")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "image_not_found")
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["etag"] == f'"{name}"'
    assert whole.headers["cache-control"] == "public, max-age=86400, immutable"
    assert whole.headers["x-content-type-options"] == "nosniff"


def test_a_store_reports_its_failure_without_its_secret(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, config: StoreConfig
) -> None:
    monkeypatch.setattr("app.images.bucket._RETRIES", {"max_retries": 0})
    scheme = config.url.partition(":")[0]
    broken = {
        "disk": replace(config, max_bytes=1024),
        "memory": replace(config, max_bytes=1024),
        "s3": replace(config, url="s3://pictures?endpoint=http://127.0.0.1:9"),
        "gs": replace(config, url="gs://pictures?endpoint=http://127.0.0.1:9"),
        "az": replace(config, url="az://pictures?endpoint=http://127.0.0.1:9"),
    }
    with opened(broken[scheme]) as store, pytest.raises(ImageUnavailable) as caught:
        put(store, DATA)
    assert (caught.value.status, caught.value.code) == (500, "image_not_kept")
    assert "secret" not in f"{caught.value.message}{caught.value.detail}"
    assert str(caught.value.detail).startswith("LIMNER_IMAGE_STORE: ")


@dataclass(frozen=True, slots=True)
class Url:
    name: str
    url: str
    url_format: str


INVALID = [
    Url("no scheme", "/var/pictures", "disk:///absolute/path, memory:, s3://"),
    Url("an unknown scheme", "ftp://host/pictures", "disk:///absolute/path, memory:, s3://"),
    Url("a relative path", "disk://pictures", "disk:///absolute/path"),
    Url("no folder", "disk:", "disk:///absolute/path"),
    Url("memory with a path", "memory:///here", "memory:"),
    Url("no bucket", "s3:///prefix", "s3://bucket/prefix"),
    Url("a key in the address", "s3://key:word@bucket", "keys belong elsewhere"),
    Url("an unknown option", "s3://bucket?secret=x", "with the options endpoint, public, region, sweep"),
    Url("an option of another provider", "gs://bucket?region=x", "with the options endpoint, public, sweep"),
    Url("an invalid endpoint", "az://bucket?endpoint=minio:9000", "endpoint and public are http(s) addresses"),
    Url("an endpoint with a key", "s3://bucket?public=https://key:word@host", "endpoint and public are http(s) addresses"),
    Url("an invalid value of sweep", "s3://bucket?sweep=often", "sweep is true or false"),
    Url("a fragment", "s3://bucket#prefix", "s3://bucket/prefix"),
]  # fmt: skip


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.name)
def test_an_invalid_url_is_rejected_with_the_formats(case: Url) -> None:
    with pytest.raises(ValueError, match=re.escape(case.url_format)) as caught:
        check_store_url(case.url)
    assert "word" not in str(caught.value)


def test_every_cloud_provider_is_a_store_with_the_same_url_format() -> None:
    assert {scheme: cloud.url_format for scheme, cloud in CLOUD_PROVIDERS.items()}.items() <= {
        scheme: kind.url_format for scheme, kind in STORES.items()
    }.items()
