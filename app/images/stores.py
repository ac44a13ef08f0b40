"""List the image stores, and open the one that the scheme of a URL chooses.

A new store is one more row of `STORES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app.images.disk import DiskStore, parse_disk_url
from app.images.memory import MemoryStore, check_memory_url
from app.images.store import ImageStore, StoreConfig


@dataclass(frozen=True, slots=True)
class StoreType:
    """A kind of image store.

    Attributes:
        url_format: How its URL is written, for error messages.
        check_url: Raises ValueError if a URL does not have that format.
        open: Raises OSError if the store cannot be opened.
    """

    url_format: str
    check_url: Callable[[str], object]
    open: Callable[[StoreConfig], ImageStore]


# The library of buckets takes four megabytes, so it is imported only when a bucket is configured.


def _check_bucket_url(url: str) -> object:
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
    """Check the URL of a store without opening it.

    Raises:
        ValueError: The URL is not understood. The message gives the formats that are.
    """
    store_type = STORES.get(url.partition(":")[0])
    if store_type is None:
        raise ValueError(", ".join(store_type.url_format for store_type in STORES.values()))
    store_type.check_url(url)


def open_store(config: StoreConfig) -> ImageStore:
    """Open the store of a URL that `check_store_url` accepts.

    Raises:
        OSError: The store cannot be opened.
    """
    return STORES[config.url.partition(":")[0]].open(config)
