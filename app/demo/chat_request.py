"""Parse a chat request as the documentation of `gpt-image-2-chat` describes it, or reject it with OpenAI's errors."""

import binascii
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pybase64

DEFAULT_SIZE = (1024, 1024)
MIN_PIXELS, MAX_PIXELS, MAX_EDGE, MAX_RATIO, GRID = 655_360, 8_294_400, 3840, 3, 16

QUALITIES = ("low", "medium", "high", "auto")

#: OpenRouter's names for sizes, as the number of pixels.
IMAGE_SIZES = {"1K": 1024**2, "2K": 2048**2, "4K": MAX_PIXELS}

#: A size, a space, the prompt in quotes. The last quote of the text ends the prompt, which may contain quotes.
_QUOTED = re.compile(r"(auto|[0-9]+x[0-9]+) '(.*)'[^']*", re.DOTALL)
#: The documentation's own command line loses its quotes in a shell, and works nevertheless.
_UNQUOTED = re.compile(r"([0-9]+x[0-9]+) ([^'].*)", re.DOTALL)
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


class DemoApiError(Exception):
    """An error response: a status and OpenAI's error object."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",  # noqa: A002  the field's name in the API
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code} | extra}
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class DemoChatRequest:
    """A parsed chat request. `image_urls` are the URLs as sent: data URLs and others."""

    model: str
    prompt: str
    width: int
    height: int
    quality: str
    image_urls: tuple[str, ...]
    stream: bool
    has_image_modality: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for: the size in pixels, the quality, and the prompt without what was said of them."""

    width: int
    height: int
    quality: str
    prompt: str


def read_model(body: object) -> str:
    """Return the name of the model. Raises `DemoApiError`."""
    return read_string(_fields(body), "model")


def read_anywhere(body: Mapping[str, Any], text: str) -> Wish:
    """Read what is asked for wherever `gpt-image-2-chat` or OpenRouter reads it. Raises `DemoApiError`."""
    settings = _read_metadata(body)
    openrouter = read_object(body, "image_config")
    prefix, prompt = split_prefix(text)
    width, height = _read_size(prefix, settings, openrouter)
    return Wish(width, height, _read_quality(settings, openrouter), prompt)


def parse_chat_request(body: object, read: Callable[[Mapping[str, Any], str], Wish] = read_anywhere) -> DemoChatRequest:
    """Parse the JSON body of a request; `read` finds what it asks for.

    Raises:
        DemoApiError: The body breaks one of the documented rules.
    """
    fields, model = _fields(body), read_model(body)
    text, image_urls = _read_messages(fields)
    wish = read(fields, text)
    return DemoChatRequest(
        model=model,
        prompt=wish.prompt,
        width=wish.width,
        height=wish.height,
        quality=wish.quality,
        image_urls=image_urls,
        stream=_boolean(fields, "stream"),
        has_image_modality="image" in _list(fields, "modalities"),
    )


def _fields(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise DemoApiError("We could not parse the JSON body of your request.")
    return body


def split_prefix(text: str) -> tuple[str | None, str]:
    """Split the text of a message into the size in front of the prompt (or None) and the prompt."""
    found = _QUOTED.fullmatch(text) or _UNQUOTED.fullmatch(text)
    return (found[1], found[2]) if found else (None, text)


def decode_data_url(url: str) -> bytes | None:
    """Return the bytes of a data URL, or None for another URL.

    Raises:
        DemoApiError: The base64 of the data URL is damaged.
    """
    head = _DATA_URL.match(url)
    if not head:
        return None
    try:
        return pybase64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise unsupported_image() from None


def unsupported_image() -> DemoApiError:
    formats = "['png', 'jpeg', 'gif', 'webp']"
    message = (
        f"You uploaded an unsupported image. Please make sure your image has of one the following formats: {formats}."
    )
    return DemoApiError(message, code="invalid_image_format")


def _read_messages(body: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the text of the last user message, and the images of all user messages, which are its context."""
    messages = _list(body, "messages")
    if not messages:
        raise DemoApiError(
            "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
        )
    parts_of_messages = [list(_read_parts(m)) for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    texts = [value for kind, value in (parts_of_messages or [[]])[-1] if kind == "text"]
    if not any(texts):
        raise DemoApiError("There is no text in the last user message.", param="messages", code="invalid_value")
    return "\n".join(texts), tuple(value for parts in parts_of_messages for kind, value in parts if kind == "image_url")


def _read_parts(message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    content = message.get("content")
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else _list(message, "content"):
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get(kind) if kind in {"text", "image_url"} else None
        if kind == "image_url" and isinstance(value, dict):
            value = value.get("url")
        if not isinstance(value, str) or kind is None:
            raise DemoApiError("Invalid content part.", param="messages", code="invalid_value")
        yield kind, value


def _read_size(prefix: str | None, settings: Mapping[str, Any], openrouter: Mapping[str, Any]) -> tuple[int, int]:
    if prefix is None and "aspect_ratio" in {**openrouter, **settings} and "size" not in settings:
        return _from_ratio(read_string(openrouter, "aspect_ratio"), read_string(openrouter, "image_size", "1K"))
    size = prefix or read_string(settings, "size", read_string(openrouter, "size", "auto"))
    if size == "auto":
        return DEFAULT_SIZE
    return parse_size(size)


def parse_size(size: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT.

    Raises:
        DemoApiError: The size breaks one of the documented limits.
    """
    found = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", size)
    if not found:
        raise _bad_size(size, "Expected WIDTHxHEIGHT, for example '1824x1024'.")
    width, height = int(found[1]), int(found[2])
    limits = (
        (width % GRID or height % GRID, "Width and height must both be divisible by 16."),
        (max(width, height) > MAX_EDGE, "The longest edge must be less than or equal to 3840."),
        (width * height < MIN_PIXELS, "Requested resolution is below the current minimum pixel budget."),
        (width * height > MAX_PIXELS, "Requested resolution exceeds the current pixel budget."),
        (max(width, height) > MAX_RATIO * min(width, height), "The aspect ratio must be between 1:3 and 3:1."),
    )
    for broken, reason in limits:
        if broken:
            raise _bad_size(size, reason)
    return width, height


def _from_ratio(ratio: str, image_size: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", ratio)
    pixels = IMAGE_SIZES.get(image_size)
    if not found or pixels is None:
        raise DemoApiError("Invalid image_config.", param="image_config", code="invalid_value")
    across, down = int(found[1]), int(found[2])
    scale = min(math.sqrt(pixels / (across * down)), MAX_EDGE / max(across, down))
    width, height = (int(side * scale) // GRID * GRID for side in (across, down))
    return parse_size(f"{width}x{height}")


def _bad_size(size: str, reason: str) -> DemoApiError:
    message = f"Invalid size '{size:.64}'. {reason}"
    return DemoApiError(message, type="image_generation_user_error", param="size", code="invalid_value")


def _read_metadata(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata within OpenAI's limits: 16 pairs, keys of 64 characters, string values of 512."""
    metadata = read_object(body, "metadata")
    for name in metadata:
        if len(name) > 64 or len(read_string(metadata, name)) > 512:
            raise DemoApiError(
                f"Invalid 'metadata.{name:.64}': string too long.", param="metadata", code="string_above_max_length"
            )
    if len(metadata) > 16:
        raise DemoApiError(
            "Invalid 'metadata': too many properties.", param="metadata", code="object_above_max_properties"
        )
    return metadata


def _read_quality(settings: Mapping[str, Any], openrouter: Mapping[str, Any]) -> str:
    quality = read_string(settings, "quality", read_string(openrouter, "quality", "auto"))
    if quality not in QUALITIES:
        *names, last = (f"'{name}'" for name in QUALITIES)
        message = f"Invalid value: '{quality:.64}'. Supported values are: {', '.join(names)}, and {last}."
        raise DemoApiError(message, param="quality", code="invalid_value")
    return quality


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise _bad_type(name, "an array")
    return value or []


def read_object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object of a body, empty if it is missing. Raises `DemoApiError`."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad_type(name, "an object")
    return value


def read_string(body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return a string of a body; without a default it must be there. Raises `DemoApiError`."""
    value = body.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise DemoApiError(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    if not isinstance(value, str):
        raise _bad_type(name, "a string")
    return value


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad_type(name, "a boolean")
    return value is True


def _bad_type(name: str, expected: str) -> DemoApiError:
    return DemoApiError(f"Invalid type for '{name}': expected {expected}.", param=name, code="invalid_type")
