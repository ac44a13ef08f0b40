"""Where a picture is kept that needs a URL of its own: the stores, each chosen by the scheme of its URL."""

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

#: 192 random bits and what the picture is: nobody guesses a name, and nothing else is ever looked up.
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpg|webp|gif|avif|bmp|tif|heic)")

#: Endings that are not the format's own name.
_FORMATS = {"jpg": "jpeg", "tif": "tiff"}


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What the operator says about the store. `ttl` is in seconds; `max_bytes` None: what fits the kind of store.

    `now` gives seconds since the epoch, the time in which file systems and object stores count.
    """

    url: str
    ttl: float
    max_bytes: int | None = None
    key: SecretStr | None = None
    serve: Literal["presigned", "proxy"] = "presigned"
    now: Callable[[], float] = time.time


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A kept picture, which never changes under its name. `modified` is in seconds since the epoch.

    `read(offset, size)` gives less than `size` only at the end, and raises Unavailable; `close` when all is read.
    """

    name: str
    size: int
    modified: float
    read: Callable[[int, int], Awaitable[bytes]]
    close: Callable[[], None] = _nothing

    @property
    def etag(self) -> str:
        return f'"{self.name}"'


def generate_name(info: ImageInfo) -> str:
    return f"{secrets.token_urlsafe(24)}.{info.extension}"


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def media_type(name: str) -> str:
    """Not left to the standard library: before 3.13 it knows WebP only where the system has a file that lists it."""
    ending = name.rpartition(".")[2]
    return f"image/{_FORMATS.get(ending, ending)}"


def cache_control(ttl: float) -> str:
    return f"public, max-age={ttl:.0f}, immutable"


def store_failed(reason: str) -> ImageUnavailable:
    message = "The image was painted, but this server could not keep it."
    return ImageUnavailable(message, code="image_not_kept", detail=f"LIMNER_IMAGE_STORE: {reason}")


def store_unreachable(reason: str) -> ServiceUnavailable:
    message = "The image store cannot be reached. Please try again."
    return ServiceUnavailable(message, code="image_store_unavailable", detail=f"LIMNER_IMAGE_STORE: {reason}")


class ImageStore(Protocol):
    async def put(self, blob: Blob, info: ImageInfo) -> str:
        """The name under which the picture is found from now on, until its time is over. Raises ImageUnavailable."""
        ...

    async def url_for(self, name: str) -> str | None:
        """An address of the store's own that works for a stranger; None where this server has to serve the picture.

        Raises ImageUnavailable.
        """
        ...

    async def get(self, name: str) -> StoredImage | None:
        """None where there is no such picture, or its time is over. Raises Unavailable."""
        ...

    async def delete_expired(self) -> int:
        """Remove what is older than its time; how many pictures that were. Raises Unavailable."""
        ...

    def close(self) -> None: ...
