"""Build responses of the Images API: one JSON object, or one event per image, with OpenAI's order of keys."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.json_stream import Base64String, ByteSource
from app.protocol.size_fit import SizeMode, upscaling
from app.protocol.usage import Usage
from app.protocol.values import value_class

#: The quality that upstreams use if none is requested. dall-e's name `standard` means the same.
_STANDARD_QUALITY = "medium"

#: The endings of the paths of links to each output format.
_ENDINGS = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}


@value_class
class OutputImage:
    """One image of a response: its bytes or a URL, whichever was requested.

    Attributes:
        form: Name of the reply form in which the image was found.
        url: A path, if this server has stored the image: its address depends on who reads the response.
        info: What the bytes say about the image; None if only its URL is known.
        credentials: Whether a signed manifest of the upstream was `kept` or `stripped`, the operator has `signed` the
            image, or there was `none`; None if its bytes are not known.
        ignored: Names of parameters that had to be ignored to keep it.
        received: What the bytes of the upstream said, before Limner changed them; None as for `info`.
        stored: The name of its copy in the image store, if another replica has put it there.
    """

    form: str
    source: ByteSource | None = None
    url: str | Base64String | None = None
    info: ImageInfo | None = None
    received: ImageInfo | None = None
    stored: str | None = None
    credentials: str | None = None
    ignored: tuple[str, ...] = ()

    @property
    def delivered_source(self) -> ByteSource | None:
        """The bytes that a response holds: those of the image, or of its data URL; None for a link."""
        return self.url.source if isinstance(self.url, Base64String) else self.source

    def as_item(self, server_url: str = "") -> dict[str, Any]:
        """Return the item of the response. `server_url` is how its reader reaches this server, without a final slash.

        It is put in front of a path here and not when the image is made: a client with another `Host` may have started
        the job.
        """
        if self.source is not None:
            return {"b64_json": Base64String(self.source)}
        return {"url": f"{server_url}{self.url}" if self.is_stored else self.url}

    @property
    def is_stored(self) -> bool:
        """Whether this server has stored the image, so that its URL is a path."""
        return isinstance(self.url, str) and self.url.startswith("/")


def effective_response_format(request: ImagesRequest, default: str) -> str:
    """Return `url` or `b64_json`. Streams always carry bytes.

    `default` applies if the client requests no format. If it is `auto`, a task gets links, as its clients expect; any
    other request gets the format that OpenAI uses for the model that the client named.
    """
    if request.stream:
        return "b64_json"
    if request.response_format is not None:
        return request.response_format
    if default == "auto" and request.as_task:
        return "url"
    return default_response_format(request.model, default)


def default_response_format(model: str | None, default: str) -> str:
    """Return the format for clients that request none, by the model that they name."""
    if default != "auto":
        return default
    return "url" if model is None or model.startswith("dall-e") else "b64_json"


def link_matches_request(url: str, request: ImagesRequest) -> bool:
    """Return whether a link can be passed on without a download, because the image needs no conversion.

    That is so if the client wishes no exact size, no output format or the one in which the link's path ends, and no
    compression that has an effect on this format.
    """
    if request.size_mode is not SizeMode.NATIVE:
        return False
    requested = request.output_format
    compressed = requested not in {None, "png"} and request.output_compression not in {None, 100}
    return not compressed and (requested is None or _path_of(url).endswith(_ENDINGS[requested]))


def _path_of(url: str) -> str:
    return url.partition("#")[0].partition("?")[0].lower()


def unmet_wishes(request: ImagesRequest, info: ImageInfo) -> tuple[str, ...]:
    """Return the names of the parameters that only a conversion of an image could fulfill."""
    image_format = request.output_format
    unmet = {
        "output_format": image_format not in {None, info.format},
        "output_compression": request.output_compression not in {None, 100} and (image_format or info.format) != "png",
        "size": not request.is_size_native and info.size != str(request.size),
    }
    return tuple(name for name, is_unmet in unmet.items() if is_unmet)


def credentials_report(images: Sequence[OutputImage]) -> str:
    """Return the value of `x-limner-credentials`: what became of signed manifests; empty if nothing is known."""
    return ", ".join(dict.fromkeys([image.credentials for image in images if image.credentials is not None]))


def alpha_report(images: Sequence[OutputImage]) -> str:
    """Return the value of `x-limner-alpha`: whether images have an alpha channel; empty if none could be measured."""
    return ", ".join(dict.fromkeys(["yes" if image.info.alpha else "no" for image in images if image.info is not None]))


def size_report(request: ImagesRequest, images: Sequence[OutputImage] = ()) -> str:
    """Return the value of `x-limner-size`: what was asked for, what was sent, and what came, as far as it is known.

    `fitted` is the size to which Limner has brought the image, `upscaled` how much larger that has made it.
    """
    facts = {"asked": request.asked_size, **size_facts(request, images)}
    texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in facts.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items() if text)


def size_facts(request: ImagesRequest, images: Sequence[OutputImage]) -> dict[str, Any]:
    """Return the size that was sent, the measured sizes that came, and those that Limner made of them, each once."""
    sent = request.upstream_size_text or "auto"
    if request.size_mode is SizeMode.NATIVE and not any(image.info or image.received for image in images):
        return {"sent": sent, "got": []}
    got, made = _sizes(image.received for image in images), _sizes(image.info for image in images)
    facts: dict[str, Any] = {"sent": sent, "got": got}
    if made != got or (request.size_mode is not SizeMode.NATIVE and made in ([], [str(request.size)])):
        facts["fitted"] = made
    fitted = [image for image in images if image.info != image.received]
    factor = max((_upscaling(request, image.received) for image in fitted), default=1.0)
    return facts if factor == 1 else facts | {"upscaled": math.ceil(factor * 100) / 100}


def _sizes(infos: Iterable[ImageInfo | None]) -> list[str]:
    return list(dict.fromkeys(info.size for info in infos if info is not None and info.size is not None))


def _upscaling(request: ImagesRequest, info: ImageInfo | None) -> float:
    if request.size is None or request.size_mode is SizeMode.NATIVE or info is None:
        return 1.0
    pixels = (info.width, info.height) if info.width and info.height else (request.size.width, request.size.height)
    return upscaling(pixels, request.size, request.size_mode)


def images_json(
    request: ImagesRequest, images: Sequence[OutputImage], usage: Usage, created: int, server_url: str = ""
) -> dict[str, Any]:
    """Build the JSON body. `created` must be integer seconds: .NET and Go clients fail on anything else."""
    infos = [image.info for image in images if image.info is not None]
    measured = _measured_fields(infos[0]) if infos and len(infos) == len(images) else {}
    document = {
        "created": created,
        "background": measured.get("background"),
        "data": [image.as_item(server_url) for image in images],
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
    """Return the name and the document of the event with a final image."""
    name = f"{request.operation}.completed"
    document = {"type": name, **image.as_item(), "created_at": created, "usage": usage.as_images_api()}
    identifier = {"safety_identifier": request.safety_identifier} if request.safety_identifier else {}
    return name, document | _image_fields(request, image) | identifier


def partial_event(request: ImagesRequest, image: OutputImage, index: int, created: int) -> tuple[str, dict[str, Any]]:
    """Return the name and the document of the event with a partial image. `index` counts from 0."""
    name = f"{request.operation}.partial_image"
    document = {"type": name, "partial_image_index": index, **image.as_item(), "created_at": created}
    return name, document | _image_fields(request, image)


def error_event(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the document of an error event.

    The error object is nested in the document: the official Python client would return a flat one as if it were an
    image.
    """
    return "error", {"type": "error", **body}


def _image_fields(request: ImagesRequest, image: OutputImage) -> dict[str, Any]:
    # The types of the SDKs require all four in an event, and their `auto` would not describe an image.
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
