"""Where a picture is kept that needs a URL of its own: the stores, each chosen by the scheme of its URL."""

from collections.abc import Callable
from dataclasses import dataclass

from app.images.disk import DiskStore, parse_disk_url
from app.images.memory import MemoryStore, check_memory_url
from app.images.store import ImageStore, StoreConfig


@dataclass(frozen=True, slots=True)
class StoreType:
    """`form`: how its URL is written. `read` raises ValueError for a URL that is not, `open` OSError."""

    url_format: str
    check_url: Callable[[str], object]
    open: Callable[[StoreConfig], ImageStore]


def _check_bucket_url(url: str) -> object:
    """Loaded where a bucket is asked for: its library takes four megabytes."""
    from app.images.bucket import parse_bucket_url  # noqa: PLC0415

    return parse_bucket_url(url)


def _open_bucket(config: StoreConfig) -> ImageStore:
    from app.images.bucket import BucketStore  # noqa: PLC0415

    return BucketStore(config)


STORES: dict[str, StoreType] = {
    "disk": StoreType("disk:///absolute/path", parse_disk_url, DiskStore),
    "memory": StoreType("memory:", check_memory_url, MemoryStore),
    "s3": StoreType("s3://bucket/prefix?endpoint=https://…&region=…", _check_bucket_url, _open_bucket),
    "gs": StoreType("gs://bucket/prefix", _check_bucket_url, _open_bucket),
    "az": StoreType("az://container/prefix?account=…", _check_bucket_url, _open_bucket),
}


def check_store_url(url: str) -> None:
    """Raises ValueError with the forms that are understood."""
    kind = STORES.get(url.partition(":")[0])
    if kind is None:
        raise ValueError(", ".join(kind.url_format for kind in STORES.values()))
    kind.check_url(url)


def open_store(config: StoreConfig) -> ImageStore:
    return STORES[config.url.partition(":")[0]].open(config)
