"""Define what an image store is, and what all stores have in common.

A store keeps images that need a URL, each under a random name, until they expire. The stores themselves are in
`disk.py`, `memory.py` and `bucket.py`; `stores.py` lists them.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import SecretStr

from app.errors import ImageUnavailable, ServiceUnavailable
from app.images.blob import Blob
from app.protocol.image_format import ImageInfo


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The settings of an image store.

    Attributes:
        url: Chooses the store by its scheme.
        ttl: Seconds after which an image expires.
        max_bytes: The bytes of all images. None means the default of the store.
        key: The credentials of a bucket.
        serve: Whether clients get presigned URLs of a bucket, or URLs of this server.
        now: Returns seconds since 1970, as file systems and object stores count them.
    """

    url: str
    ttl: float
    max_bytes: int | None = None
    key: SecretStr | None = None
    serve: Literal["presigned", "proxy"] = "presigned"
    now: Callable[[], float] = time.time


def _do_nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in a store, open for reading. It never changes under its name.

    Attributes:
        modified: When it was stored, in seconds since 1970.
        read: `read(offset, size)` returns less than `size` bytes only at the end. Raises `ServiceUnavailable` if the
            store cannot be reached.
        close: To be called after the last read.
    """

    name: str
    size: int
    modified: float
    read: Callable[[int, int], Awaitable[bytes]]
    close: Callable[[], None] = _do_nothing

    @property
    def etag(self) -> str:
        return f'"{self.name}"'


class ImageStore(Protocol):
    """Keep images until they expire."""

    async def put(self, blob: Blob, info: ImageInfo) -> str:
        """Store an image and return its name. The caller keeps the blob.

        Raises:
            ImageUnavailable: The image could not be stored.
        """
        ...

    async def url_for(self, name: str) -> str | None:
        """Return a URL of the store that works without a key, or None if this server has to serve the image.

        Raises:
            ImageUnavailable: The URL could not be signed.
        """
        ...

    async def get(self, name: str) -> StoredImage | None:
        """Open an image. Returns None if there is none of this name, or it has expired.

        Raises:
            ServiceUnavailable: The store cannot be reached.
        """
        ...

    async def free_bytes(self) -> int | None:
        """Return how many bytes can be stored, None if that is unknown."""
        ...

    async def delete_expired(self) -> int:
        """Delete expired images and return how many there were.

        Raises:
            ServiceUnavailable: The store cannot be reached.
        """
        ...

    def close(self) -> None: ...


#: 192 random bits, which cannot be guessed, and the format. Nothing else is ever looked up in a store.
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpg|webp|gif|avif|bmp|tif|heic)")

#: A link to a stored image.
_LINK = re.compile(rf"https?://[^?#]*/kept/({_NAME.pattern})(?:[?#].*)?")

#: Bytes of a stored image that are read at a time.
_READ_SIZE = 2**20

#: Formats that differ from their file extension.
_FORMAT_OF_EXTENSION = {"jpg": "jpeg", "tif": "tiff"}


def generate_name(info: ImageInfo) -> str:
    """Return a name that cannot be guessed, with the extension of the format."""
    return f"{secrets.token_urlsafe(24)}.{info.extension}"


def is_name(name: str) -> bool:
    """Return whether `generate_name` could have returned this name."""
    return _NAME.fullmatch(name) is not None


def name_in_url(url: str) -> str | None:
    """Return the name of a stored image that a link of this server or of another one leads to.

    The host does not matter: the name cannot be guessed, so a store that has it has the image of this link.
    """
    match = _LINK.fullmatch(url)
    return None if match is None else match[1]


async def copy_stored(stored: StoredImage, blob: Blob) -> None:
    """Append a stored image to a blob, and close the image.

    Raises:
        ServiceUnavailable: The store cannot be reached.
    """
    try:
        while blob.size < stored.size:
            blob.write(await stored.read(blob.size, min(_READ_SIZE, stored.size - blob.size)))
    finally:
        stored.close()


def media_type(name: str) -> str:
    """Return the media type of the image with this name."""
    # Not left to the standard library: before Python 3.13 it knows WebP only where a file of the system lists it.
    extension = name.rpartition(".")[2]
    return f"image/{_FORMAT_OF_EXTENSION.get(extension, extension)}"


def cache_control(ttl: float) -> str:
    """Return the Cache-Control header of an image that expires after `ttl` seconds and never changes."""
    return f"public, max-age={ttl:.0f}, immutable"


def store_failed(reason: str) -> ImageUnavailable:
    """Build the error for an image that could not be stored. `reason` is only for the log."""
    message = "The image was painted, but this server could not keep it."
    return ImageUnavailable(message, code="image_not_kept", detail=f"LIMNER_IMAGE_STORE: {reason}")


def store_unreachable(reason: str) -> ServiceUnavailable:
    """Build the error for a store that cannot be read. `reason` is only for the log."""
    message = "The image store cannot be reached. Please try again."
    return ServiceUnavailable(message, code="image_store_unavailable", detail=f"LIMNER_IMAGE_STORE: {reason}")
