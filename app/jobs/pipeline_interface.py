"""Declare what the pipeline needs from outside, what the operator decides for it, and what it brings."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest
from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.usage import Usage
from app.protocol.values import value_class


class PipelineIO(Protocol):
    """Everything the pipeline needs from outside. Implemented by `JobIO`; tests implement it in memory.

    Images are `ByteSink`s that `new_blob`, `fetch` and the other methods have made; the pipeline closes none of them.
    """

    async def ask(self, chat: ChatRequest, on_reply: Callable[[ChatReply], Awaitable[None]]) -> None:
        """Await `on_reply` with snapshots of one reply while it grows, the complete reply last.

        Raises `UpstreamError` and its kind, also after snapshots.
        """
        ...

    async def fetch(self, url: str, *, is_result: bool) -> ByteSink:
        """Download an image; only that of a result may need the upstream's key. Raises `ImageUnavailable`."""
        ...

    async def is_public(self, url: str) -> bool:
        """Return whether a client can download what is behind a link: it is not private, and needs no key of ours."""
        ...

    async def probe(self, url: str, *, patient: bool) -> ByteSink:
        """Download what may be an image, but only the first bytes of anything else.

        `patient`: try again where the image may appear later. Raises `ImageUnavailable`.
        """
        ...

    def new_blob(self) -> ByteSink:
        """Return an empty blob that lives as long as the job."""
        ...

    async def prepare(self, image: ByteSink, index: int, *, size_of: ByteSink | None = None) -> ByteSink:
        """Return the input image as upstreams accept it: upright, PNG, JPEG or WebP, within the size limits.

        `index` is used in error messages. With `size_of` (masks, markup) the result has exactly that image's size.

        Raises:
            UserError: The bytes are not a readable image.
        """
        ...

    async def check_mask(self, mask: ByteSink, image: ByteSink, *, exact: bool) -> None:
        """Compare a mask with its image; `exact`: make sure that `apply_mask` can use both.

        Raises:
            UserError: They do not fit, or cannot be used.
        """
        ...

    async def apply_mask(self, result: ByteSink, original: ByteSink, mask: ByteSink) -> ByteSink:
        """Return the result with the original's pixels wherever the mask is opaque."""
        ...

    async def convert(self, image: ByteSink, request: ImagesRequest) -> ByteSink:
        """Return the image in the format and size that was asked for: the very same blob where nothing is to do."""
        ...

    async def sign(
        self, image: ByteSink, original: ByteSink, *, is_ingredient: bool, is_masked: bool
    ) -> ByteSink | None:
        """Return a copy of a converted image that the operator has signed, None if it could not be signed."""
        ...

    async def store(self, image: ByteSink, info: ImageInfo) -> str:
        """Put the image into the image store and return its URL, a path on this server. Raises `ImageUnavailable`."""
        ...

    def report_bug(self, bug: Exception) -> None:
        """Log an unexpected exception, which is a bug."""
        ...


@dataclass(frozen=True, slots=True)
class PipelinePolicy:
    """What the operator has decided. The settings of the same names are described in docs/settings.md."""

    stream: Literal["auto", "always", "never"] = "auto"
    default_format: Literal["auto", "url", "b64_json"] = "auto"
    rehost: Literal["never", "needed", "always"] = "needed"
    mask: Literal["guide", "exact"] = "guide"
    credentials: Literal["strip", "keep"] = "strip"
    sign: Literal["never", "stripped", "converted"] = "never"
    pass_links: bool = False
    fetch_timeout: float = 120.0


@dataclass(frozen=True, slots=True)
class PartialImage:
    """An earlier version of the image, sent in a stream."""

    image: OutputImage


@value_class
class GenerationResult:
    """All images of a request, in order of arrival.

    Attributes:
        failed: How many of its chat requests brought no image.
        created: When the images were ready, in seconds since 1970: the same in each response that delivers them.
    """

    images: tuple[OutputImage, ...]
    usage: Usage
    failed: int = 0
    created: int = field(default_factory=lambda: int(time.time()), compare=False)


#: What a run brings, and what takes it.
Item = PartialImage | GenerationResult
Emit = Callable[[Item], None]
