"""Store images in the memory of this process, for trials. They are lost when it ends."""

from collections import OrderedDict

from app.images.blob import Blob
from app.images.store import StoreConfig, StoredImage, generate_name, is_name, store_failed
from app.protocol.image_format import ImageInfo

_MAX_BYTES = 256 * 2**20


class MemoryStore:
    """An image store of at most `max_bytes`, in which a new image replaces the oldest ones."""

    def __init__(self, config: StoreConfig) -> None:
        self._ttl = config.ttl
        self._max_bytes = config.max_bytes or _MAX_BYTES
        self._remaining = self._max_bytes
        self._now = config.now
        # Bytes and time of each image, the oldest first.
        self._images: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        if blob.size > self._max_bytes:
            raise store_failed(f"an image of {blob.size} bytes is more than LIMNER_IMAGE_STORE_MAX_BYTES")
        name = generate_name(info)
        self._remaining -= blob.size
        self._images[name] = blob.read_at(0, blob.size), self._now()
        while self._remaining < 0:
            self._delete_oldest()
        return name

    async def url_for(self, name: str) -> str | None:
        return None

    async def get(self, name: str) -> StoredImage | None:
        if not is_name(name) or name not in self._images:
            return None
        data, stored_at = self._images[name]
        if self._is_expired(stored_at):
            return None

        async def read(offset: int, size: int) -> bytes:
            return data[offset : offset + size]

        return StoredImage(name, len(data), stored_at, read)

    async def free_bytes(self) -> int | None:
        return None

    async def delete_expired(self) -> int:
        before = len(self._images)
        while self._images and self._is_expired(next(iter(self._images.values()))[1]):
            self._delete_oldest()
        return before - len(self._images)

    def close(self) -> None:
        self._images.clear()
        self._remaining = self._max_bytes

    def _delete_oldest(self) -> None:
        _, (data, _) = self._images.popitem(last=False)
        self._remaining += len(data)

    def _is_expired(self, stored_at: float) -> bool:
        return stored_at + self._ttl < self._now()


def check_memory_url(url: str) -> None:
    """Check that the URL is `memory:`.

    Raises:
        ValueError: It is another one.
    """
    if url != "memory:":
        raise ValueError("memory:")
