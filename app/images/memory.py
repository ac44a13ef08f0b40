"""Pictures in this process: for trying things out, gone when it ends."""

from collections import OrderedDict

from app.images.blob import Blob
from app.images.store import StoreConfig, Stored, is_name, new_name, not_kept
from app.protocol.image_format import ImageInfo

_MAX_BYTES = 256 * 2**20


class MemoryStore:
    """At most `max_bytes`, the oldest go first."""

    def __init__(self, config: StoreConfig) -> None:
        self._ttl = config.ttl
        self._max_bytes = config.max_bytes or _MAX_BYTES
        self._room = self._max_bytes
        self._now = config.now
        self._pictures: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def keep(self, blob: Blob, info: ImageInfo) -> str:
        if blob.size > self._max_bytes:
            raise not_kept(f"a picture of {blob.size} bytes is more than LIMNER_IMAGE_STORE_MAX_BYTES")
        name = new_name(info)
        self._room -= blob.size
        self._pictures[name] = blob.read_at(0, blob.size), self._now()
        while self._room < 0:
            self._remove_oldest()
        return name

    async def link(self, name: str) -> str | None:
        return None

    async def find(self, name: str) -> Stored | None:
        if not is_name(name) or name not in self._pictures:
            return None
        data, kept_at = self._pictures[name]
        if self._is_over(kept_at):
            return None

        async def read(offset: int, size: int) -> bytes:
            return data[offset : offset + size]

        return Stored(name, len(data), kept_at, read)

    async def sweep(self) -> int:
        before = len(self._pictures)
        while self._pictures and self._is_over(next(iter(self._pictures.values()))[1]):
            self._remove_oldest()
        return before - len(self._pictures)

    def close(self) -> None:
        self._pictures.clear()
        self._room = self._max_bytes

    def _remove_oldest(self) -> None:
        _, (data, _) = self._pictures.popitem(last=False)
        self._room += len(data)

    def _is_over(self, kept_at: float) -> bool:
        return kept_at + self._ttl < self._now()


def read_nothing(url: str) -> None:
    """Raises ValueError."""
    if url != "memory:":
        raise ValueError("memory:")
