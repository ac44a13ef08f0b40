"""Where a picture is kept that needs a URL of its own: the stores, each chosen by the scheme of its URL."""

from collections.abc import Callable
from dataclasses import dataclass

from app.images.disk import DiskStore, read_folder
from app.images.memory import MemoryStore, read_nothing
from app.images.store import Store, StoreConfig


@dataclass(frozen=True, slots=True)
class Kind:
    """`form`: how its URL is written. `read` raises ValueError for a URL that is not, `open` OSError."""

    form: str
    read: Callable[[str], object]
    open: Callable[[StoreConfig], Store]


def _read_place(url: str) -> object:
    """Loaded where a bucket is asked for: its library takes four megabytes."""
    from app.images.bucket import read_place  # noqa: PLC0415

    return read_place(url)


def _open_bucket(config: StoreConfig) -> Store:
    from app.images.bucket import BucketStore  # noqa: PLC0415

    return BucketStore(config)


STORES: dict[str, Kind] = {
    "disk": Kind("disk:///absolute/path", read_folder, DiskStore),
    "memory": Kind("memory:", read_nothing, MemoryStore),
    "s3": Kind("s3://bucket/prefix?endpoint=https://…&region=…", _read_place, _open_bucket),
    "gs": Kind("gs://bucket/prefix", _read_place, _open_bucket),
    "az": Kind("az://container/prefix?account=…", _read_place, _open_bucket),
}


def check_url(url: str) -> None:
    """Raises ValueError with the forms that are understood."""
    kind = STORES.get(url.partition(":")[0])
    if kind is None:
        raise ValueError(", ".join(kind.form for kind in STORES.values()))
    kind.read(url)


def open_store(config: StoreConfig) -> Store:
    return STORES[config.url.partition(":")[0]].open(config)
