"""Build the body of a chat request for an image, in the dialect of each family of upstreams."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from app.protocol.image_format import read_info
from app.protocol.image_request import ImagesRequest
from app.protocol.inline_images import ByteSink
from app.protocol.json_stream import Base64String, StreamingJson
from app.protocol.sizes import Size


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where a family of upstreams reads size and quality, and what else its requests need.

    All of them are asked to stream by `stream` alone, because none documents `stream_options`.
    """

    #: Put the size in front of the prompt, and the prompt in single quotes. `auto` is written too: a prompt that begins
    #: with a size of its own is then inside the quotes, so that size has no effect.
    size_prefix: bool = False
    #: Send `metadata.size`, `auto` too, for the same reason.
    size_in_metadata: bool = False
    quality_in_metadata: bool = False
    #: Send OpenRouter's `image_config`: aspect ratio, tier and quality.
    image_config: bool = False
    modalities: tuple[str, ...] = ()
    #: What is requested instead where a model cannot answer with these.
    other_modalities: tuple[str, ...] = ()


DIALECTS: dict[str, Dialect] = {
    "gpt-image-2-chat": Dialect(size_prefix=True, quality_in_metadata=True),
    "metadata": Dialect(size_in_metadata=True, quality_in_metadata=True),
    # https://openrouter.ai/docs/guides/overview/multimodal/image-generation
    # Models that only paint want `image` alone; for others OpenRouter documents both.
    "openrouter": Dialect(image_config=True, modalities=("image", "text"), other_modalities=("image",)),
}

#: Added to the prompt of a request with a mask. The mask is always the last image.
MASK_INSTRUCTION = (
    "The last picture is a mask for the first one: change only the area where the mask is transparent, "
    "and keep everything else exactly as it is."
)

#: The same for markup, which is also the last image.
MARKUP_INSTRUCTION = (
    "The last picture lies over the first one and is transparent but for its marks: drawings, arrows or notes. "
    "Do what they ask for, and leave the marks themselves out of the result."
)

#: The aspect ratios that all image models of OpenRouter have in common.
ASPECT_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")

#: OpenRouter's tiers have about 1, 4 and 16 million pixels. 3840x2160, sold as 4K, has 8.
RESOLUTION_TIERS = ((2 * 1024**2, "1K"), (6 * 1024**2, "2K"))
TOP_TIER = "4K"
_SMALLEST_TIER = "1K"


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """What is asked of an upstream, before a dialect and a model are chosen.

    `image_urls` are links or base64 that is encoded while it is sent, mask or markup last.
    """

    request: ImagesRequest
    image_urls: tuple[str | Base64String, ...] = ()
    stream: bool = False
    _bodies: dict[tuple[str, str, bool], StreamingJson] = field(default_factory=dict, compare=False, repr=False)

    def body(self, dialect: str, model: str, *, other_modalities: bool = False) -> StreamingJson:
        """Return the request body for an upstream of this dialect. Kept, since retries and `n` > 1 send it again."""
        key = dialect, model, other_modalities
        if key not in self._bodies:
            traits = DIALECTS[dialect]
            traits = replace(traits, modalities=traits.other_modalities) if other_modalities else traits
            self._bodies[key] = StreamingJson(_chat_body(self, traits, model))
        return self._bodies[key]


def _chat_body(question: ChatQuestion, traits: Dialect, model: str) -> dict[str, Any]:
    request = question.request
    images = [{"type": "image_url", "image_url": {"url": url}} for url in question.image_urls]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": _text(request, traits)}, *images]}],
    }
    optional = {
        "modalities": list(traits.modalities),
        "image_config": _image_config(request) if traits.image_config else {},
        "metadata": _metadata(request, traits),
        "user": request.user,
    }
    return body | {key: value for key, value in optional.items() if value} | {"stream": question.stream}


def _text(request: ImagesRequest, traits: Dialect) -> str:
    instructions = {MASK_INSTRUCTION: request.mask, MARKUP_INSTRUCTION: request.markup}
    prompt = "\n\n".join([request.prompt, *(text for text, image in instructions.items() if image is not None)])
    return f"{_asked_size(request)} '{prompt}'" if traits.size_prefix else prompt


def _asked_size(request: ImagesRequest) -> str:
    return "auto" if request.size is None else str(request.size.upstream_size)


def _metadata(request: ImagesRequest, traits: Dialect) -> dict[str, str]:
    ours = {
        "size": _asked_size(request) if traits.size_in_metadata else None,
        "quality": request.quality if traits.quality_in_metadata else None,
    }
    return {**request.metadata, **{key: value for key, value in ours.items() if value is not None}}


def _image_config(request: ImagesRequest) -> dict[str, str]:
    config = {"aspect_ratio": _nearest_ratio(request.size), "image_size": _tier(request), "quality": request.quality}
    return {key: value for key, value in config.items() if value is not None}


def _nearest_ratio(size: Size | None) -> str | None:
    return None if size is None else min(ASPECT_RATIOS, key=lambda ratio: _distance(ratio, size.upstream_size))


def _tier(request: ImagesRequest) -> str | None:
    """Return the tier that the client named, else that of its pixels. A ratio alone leaves the tier to the model."""
    if request.resolution is not None:
        return _SMALLEST_TIER if request.resolution == "512" else request.resolution
    if request.size is None or request.asked_size == request.aspect_ratio:
        return None
    pixels = request.size.upstream_size.width * request.size.upstream_size.height
    return next((tier for max_pixels, tier in RESOLUTION_TIERS if pixels <= max_pixels), TOP_TIER)


def _distance(ratio: str, size: Size) -> float:
    """Compare aspect ratios on a logarithmic scale: twice as wide is as far away as half as wide."""
    width, height = map(int, ratio.split(":"))
    return abs(math.log(width * size.height / (height * size.width)))


def to_image_url(image: ByteSink | str) -> Base64String | str:
    """Return a link unchanged, and bytes as a data URL with the media type that the bytes have.

    What clients say of the type is not used: they send `application/octet-stream`, and label a JPEG as PNG.
    """
    if isinstance(image, str):
        return image
    info = read_info(image.read_at)
    media_type = "application/octet-stream" if info is None else info.media_type
    return Base64String(image, f"data:{media_type};base64,")
