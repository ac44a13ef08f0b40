"""The pictures that an edit brings: files of a form, links, data URLs and bare base64, in every shape clients send."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from app.errors import InvalidRequest
from app.protocol.json_stream import ByteSource
from app.protocol.parameters import FormPart, Schema
from app.protocol.validation_errors import conflicting_values, empty_list, too_long, too_many_items, wrong_type

#: OpenAI's limit for `image_url`. Data URLs may fill the whole body.
MAX_LINK_LENGTH = 20_971_520

#: Shorter text is a file id, a file name or a mistake; the smallest PNG has 90 characters of base64.
_SHORTEST_BASE64 = 40

#: Characters that decide whether text is base64. Decoding looks at the rest.
_LOOKED_AT = 256

#: Bytes of two pictures that are compared at a time.
_PIECE = 64 * 1024

_BASE64 = re.compile(r"[A-Za-z0-9+/=_ \t\r\n-]+")
_LINK = re.compile(r"https?://[^\x00-\x20\x7f]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InputImage:
    """Either bytes that came with the request, or a URL that the client named: `http…`, or `data:` in lower case."""

    source: ByteSource | None = None
    url: str | None = None

    @property
    def is_link(self) -> bool:
        return self.url is not None and not self.url.startswith("data:")

    def resolve_spooled(self, spooled: Mapping[str, ByteSource]) -> "InputImage":
        """The bytes for which a stand-in came (see app.protocol.inline_images), under whatever media type."""
        payload = (self.url or "").partition(",")[2]
        source = next((source for url, source in spooled.items() if url.partition(",")[2] == payload), None)
        return self if source is None else InputImage(source=source)


@dataclass(frozen=True, slots=True)
class ImageParam:
    """The kind of a parameter that is a single picture (see app.protocol.parameters)."""

    holds_image: ClassVar[bool] = True

    def describe(self) -> str:
        return "one picture"

    def from_json(self, name: str, value: object) -> InputImage:
        return _read_item(name, value)

    def from_form(self, name: str, parts: Sequence[FormPart]) -> InputImage:
        """Of parts that agree, as of texts: clients exist that write one mask as both `mask` and `mask[]`."""
        first, *others = (_read_part(name, part) for part in parts)
        if not all(_is_same(first, other) for other in others):
            raise conflicting_values(name)
        return first

    def schema(self, form: bool) -> Schema:
        return _FILE if form else _ITEM


@dataclass(frozen=True, slots=True)
class ImageListParam:
    """The kind of a parameter that is one or more pictures (see app.protocol.parameters)."""

    holds_image: ClassVar[bool] = True

    maximum: int

    def describe(self) -> str:
        return f"1 to {self.maximum} pictures"

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
    """`image[1]` is placed by its number; the rest keeps its order."""
    match = re.search(r"\[([0-9]{1,9})\]$", part.name)
    return int(match[1]) if match else 0


def _read_part(name: str, part: FormPart) -> InputImage:
    """Node's client puts the link into the form as text where it was given a string."""
    if not isinstance(part.value, str):
        return InputImage(source=part.value)
    url = _read_url(name, part.value)
    if url is None:
        raise wrong_type(name, "a file", part.value)
    return InputImage(url=url)


def _is_same(one: InputImage, other: InputImage) -> bool:
    """Byte by byte: two masks may be equal but for a few pixels."""
    if one.source is None or other.source is None:
        return one == other
    if one.source.size != other.source.size:
        return False
    pieces = zip(one.source.chunks(_PIECE), other.source.chunks(_PIECE), strict=True)
    return all(mine == yours for mine, yours in pieces)


def _read_item(name: str, item: object) -> InputImage:
    """OpenAI's `{"image_url": …}`, and what clients make of it: `{"url": …}`, the chat form, bare strings."""
    if isinstance(item, str):
        return _read_text(name, item)
    if not isinstance(item, dict):
        raise wrong_type(name, "an object", item)
    given = [key for key in ("image_url", "url", "file_id") if item.get(key) is not None]
    if len(given) != 1:
        message = f"Invalid '{name}': exactly one of 'image_url' and 'file_id' is expected."
        raise InvalidRequest(message, param=name, code="invalid_value")
    path, value = f"{name}.{given[0]}", item[given[0]]
    if given == ["file_id"]:
        message = f"Invalid '{path}': this server keeps no files. Send the picture itself or a link in 'image_url'."
        raise InvalidRequest(message, param=path, code="invalid_value")
    if isinstance(value, dict):
        path, value = f"{path}.url", value.get("url")
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    return _read_text(path, value)


def _read_text(name: str, text: str) -> InputImage:
    url = _read_url(name, text)
    if url is None and len(text) >= _SHORTEST_BASE64 and _BASE64.fullmatch(text[:_LOOKED_AT]):
        url = f"data:;base64,{text}"
    if url is None:
        message = f"Invalid '{name}': expected an http or https link, or a data URL with base64."
        raise InvalidRequest(message, param=name, code="invalid_value")
    return InputImage(url=url)


def _read_url(name: str, text: str) -> str | None:
    """None for what is neither a link nor a data URL."""
    text = text.strip()
    match text[:5].lower():
        case "data:":
            return text if text.startswith("data:") else f"data:{text[5:]}"
        case "http:" | "https":
            if len(text) > MAX_LINK_LENGTH:
                raise too_long(name, MAX_LINK_LENGTH, len(text))
            return text if _LINK.fullmatch(text) else None
    return None
