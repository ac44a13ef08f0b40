"""Read the input images of an edit: form files, links, data URLs and bare base64, in every shape that clients send."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from app.errors import InvalidRequest
from app.protocol.byte_sink import ByteSink
from app.protocol.held_images import is_base64_of_image
from app.protocol.parameters import FormPart, Schema
from app.protocol.validation_errors import conflicting_values, empty_list, too_long, too_many_items, wrong_type

#: OpenAI's limit for `image_url`. Data URLs may fill the whole body.
MAX_LINK_LENGTH = 20_971_520

#: Shorter text is a file id, a file name or a mistake; the smallest PNG has 90 characters of base64.
_MIN_BASE64 = 40

#: Characters from which base64 is recognized. The rest is checked when it is decoded.
_SAMPLE = 256

#: Bytes of two images that are compared at a time.
_CHUNK = 64 * 1024

_BASE64 = re.compile(r"[A-Za-z0-9+/=_ \t\r\n-]+")
_LINK = re.compile(r"https?://[^\x00-\x20\x7f]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image that the client sent: either bytes from the body, or a URL (`http…`, or `data:` in lower case)."""

    source: ByteSink | None = None
    url: str | None = None

    @property
    def is_link(self) -> bool:
        return self.url is not None and not self.url.startswith("data:")

    def resolve_spooled(self, spooled: Mapping[str, ByteSink]) -> "InputImage":
        """Return the image with its spooled bytes if its URL is a placeholder (see `inline_images`), else itself.

        `spooled` maps the data URLs of placeholders to bytes. The media type of the URLs is ignored, because clients
        label a placeholder with the media type of the image that it replaces.
        """
        payload = (self.url or "").partition(",")[2]
        source = next((source for url, source in spooled.items() if url.partition(",")[2] == payload), None)
        return self if source is None else InputImage(source=source)


@dataclass(frozen=True, slots=True)
class ImageParam:
    """The type of a parameter that is a single image (see `parameters.ParameterType`)."""

    holds_image: ClassVar[bool] = True

    def describe(self) -> str:
        return "one image"

    def from_json(self, name: str, value: object) -> InputImage:
        return _read_item(name, value)

    def from_form(self, name: str, parts: Sequence[FormPart]) -> InputImage:
        """Read the one image of all parts, which must agree: some clients send a mask as both `mask` and `mask[]`."""
        first, *others = (_read_part(name, part) for part in parts)
        if not all(_is_equal(first, other) for other in others):
            raise conflicting_values(name)
        return first

    def schema(self, form: bool) -> Schema:
        return _FILE if form else _ITEM


@dataclass(frozen=True, slots=True)
class ImageListParam:
    """The type of a parameter that is one or more images (see `parameters.ParameterType`)."""

    holds_image: ClassVar[bool] = True

    maximum: int

    def describe(self) -> str:
        return f"1 to {self.maximum} images"

    def from_json(self, name: str, value: object) -> tuple[InputImage, ...]:
        if isinstance(value, str | dict):
            return (_read_item(name, value),)
        if not isinstance(value, list):
            raise wrong_type(name, "an array of objects", value)
        self._check_length(name, len(value))
        return tuple(_read_item(f"{name}[{index}]", item) for index, item in enumerate(value))

    def from_form(self, name: str, parts: Sequence[FormPart]) -> tuple[InputImage, ...]:
        self._check_length(name, len(parts))
        ordered = sorted(parts, key=_index)
        return tuple(_read_part(f"{name}[{index}]", part) for index, part in enumerate(ordered))

    def _check_length(self, name: str, length: int) -> None:
        if length == 0:
            raise empty_list(name)
        if length > self.maximum:
            raise too_many_items(name, self.maximum, length)

    def schema(self, form: bool) -> Schema:
        return {"type": "array", "items": _FILE if form else _ITEM, "minItems": 1, "maxItems": self.maximum}


_FILE: Schema = {"type": "string", "format": "binary"}

_ITEM: Schema = {
    "type": "object",
    "properties": {
        "image_url": {
            "type": "string",
            "description": "A link, or a data URL with base64",
            "examples": ["https://example.com/cat.png"],
        }
    },
    "required": ["image_url"],
}


def _index(part: FormPart) -> int:
    """Return the sort key of a part: the number in `image[1]`; parts without a number keep their order."""
    match = re.search(r"\[([0-9]{1,9})\]$", part.name)
    return int(match[1]) if match else 0


def _read_part(name: str, part: FormPart) -> InputImage:
    # Given a string, the official Node client writes it into the form as text: a link.
    if not isinstance(part.value, str):
        return InputImage(source=part.value)
    url = _read_url(name, part.value)
    if url is None and is_base64_of_image(part.value):
        url = f"data:;base64,{part.value.strip()}"
    if url is None:
        raise wrong_type(name, "a file", part.value)
    return InputImage(url=url)


def _is_equal(one: InputImage, other: InputImage) -> bool:
    """Compare all bytes, because two masks may differ in a few pixels only."""
    if one.source is None or other.source is None:
        return one == other
    if one.source.size != other.source.size:
        return False
    chunks = zip(one.source.chunks(_CHUNK), other.source.chunks(_CHUNK), strict=True)
    return all(left == right for left, right in chunks)


#: The keys of an object that is one image: OpenAI's two, and those that other clients write. `file_id` is refused.
_SOURCES = (
    *("image_url", "url", "b64_json", "base64", "b64", "image_base64", "image", "file_id"),
    *("data", "source", "inline_data", "inlineData"),
)


def _read_item(name: str, item: object) -> InputImage:
    """Read OpenAI's `{"image_url": …}` and its variants, the forms of chat messages among them, and bare strings."""
    if isinstance(item, str):
        return _read_text(name, item)
    if not isinstance(item, dict):
        raise wrong_type(name, "an object", item)
    keys = [key for key in _SOURCES if item.get(key) is not None]
    if len(keys) != 1:
        message = f"Invalid '{name}': exactly one of 'image_url' and 'file_id' is expected."
        raise InvalidRequest(message, param=name, code="invalid_value")
    path, value = f"{name}.{keys[0]}", item[keys[0]]
    if keys == ["file_id"]:
        message = f"Invalid '{path}': this server keeps no files. Send the image itself or a link in 'image_url'."
        raise InvalidRequest(message, param=path, code="invalid_value")
    if isinstance(value, dict):
        inner = next((key for key in _SOURCES if value.get(key) is not None), "url")
        path, value = f"{path}.{inner}", value.get(inner)
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    return _read_text(path, value)


def _read_text(name: str, text: str) -> InputImage:
    url = _read_url(name, text)
    if url is None and len(text) >= _MIN_BASE64 and _BASE64.fullmatch(text[:_SAMPLE]):
        url = f"data:;base64,{text}"
    if url is None:
        message = f"Invalid '{name}': expected an http or https link, or a data URL with base64."
        raise InvalidRequest(message, param=name, code="invalid_value")
    return InputImage(url=url)


def _read_url(name: str, text: str) -> str | None:
    """Return the URL as `InputImage` holds it, or None if the text is neither a link nor a data URL."""
    text = text.strip()
    match text[:5].lower():
        case "data:":
            return text if text.startswith("data:") else f"data:{text[5:]}"
        case "http:" | "https":
            if len(text) > MAX_LINK_LENGTH:
                raise too_long(name, MAX_LINK_LENGTH, len(text))
            return text if _LINK.fullmatch(text) else None
    return None
