"""The Images API as it answers: one JSON object, or one event a picture, in the official order of keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.json_stream import Base64String, ByteSource
from app.protocol.usage import Usage

#: What an upstream paints that was not told a quality: the dall-e name `standard` means the same.
_STANDARD_QUALITY = "medium"

#: How the paths of links to each output format end.
_ENDINGS = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}


@dataclass(frozen=True, slots=True)
class OutputImage:
    """One picture of an answer: its bytes or a URL, exactly what was asked.

    `info` is measured from the bytes and None where they did not pass through us.
    """

    form: str
    source: ByteSource | None = None
    url: str | Base64String | None = None
    info: ImageInfo | None = None

    @property
    def as_item(self) -> dict[str, Any]:
        return {"b64_json": Base64String(self.source)} if self.source is not None else {"url": self.url}


def effective_response_format(request: ImagesRequest, default: str) -> str:
    """`url` or `b64_json`. Events carry bytes always. `default` is for who did not ask; `auto` is what OpenAI gives for
    the model that the client named.
    """
    if request.stream:
        return "b64_json"
    if request.response_format is not None:
        return request.response_format
    if default != "auto":
        return default
    return "url" if request.model is None or request.model.startswith("dall-e") else "b64_json"


def link_matches_request(url: str, request: ImagesRequest) -> bool:
    """Whether a link may stay unseen: no format was asked for, or its path ends in the one that was, and no compression
    has an effect there.
    """
    wanted = request.output_format
    squeezed = wanted not in {None, "png"} and request.output_compression not in {None, 100}
    return not squeezed and (wanted is None or urlsplit(url).path.lower().endswith(_ENDINGS[wanted]))


def images_json(request: ImagesRequest, images: Sequence[OutputImage], usage: Usage, created: int) -> dict[str, Any]:
    """`created` is integer seconds: .NET and Go clients throw on anything else."""
    infos = [picture.info for picture in images if picture.info is not None]
    measured = _measured_fields(infos[0]) if infos and len(infos) == len(images) else {}
    document = {
        "created": created,
        "background": measured.get("background"),
        "data": [picture.as_item for picture in images],
        "output_format": measured.get("output_format"),
        "quality": request.quality,
        "size": measured.get("size") if len({info.size for info in infos}) == 1 else None,
        "usage": usage.as_images_api(),
        "safety_identifier": request.safety_identifier,
    }
    return {key: value for key, value in document.items() if value is not None}


def completed_event(
    request: ImagesRequest, image: OutputImage, usage: Usage, created: int
) -> tuple[str, dict[str, Any]]:
    """The event's name and its document."""
    name = f"{request.operation}.completed"
    document = {"type": name, **image.as_item, "created_at": created, "usage": usage.as_images_api()}
    return name, document | _image_fields(request, image)


def partial_event(request: ImagesRequest, image: OutputImage, index: int, created: int) -> tuple[str, dict[str, Any]]:
    """`index` counts from 0."""
    name = f"{request.operation}.partial_image"
    document = {"type": name, "partial_image_index": index, **image.as_item, "created_at": created}
    return name, document | _image_fields(request, image)


def error_event(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The nested form: a flat one is handed out by the Python client as if it were a picture."""
    return "error", {"type": "error", **body}


def _image_fields(request: ImagesRequest, image: OutputImage) -> dict[str, Any]:
    """All four are required in events; SDK types know no `auto` that we would mean."""
    measured = _measured_fields(image.info) if image.info is not None else {}
    return {
        "size": measured.get("size") or request.size_text,
        "quality": request.quality or _STANDARD_QUALITY,
        "background": measured.get("background", "opaque"),
        "output_format": measured.get("output_format") or request.output_format or "png",
    }


def _measured_fields(info: ImageInfo) -> dict[str, Any]:
    return {
        "background": "transparent" if info.alpha else "opaque",
        "output_format": info.format,
        "size": info.size,
    }
