"""Find images in JSON values, by what the keys and types of objects say about the strings below them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from app.extraction.base64_runs import Base64Run, resolve_run
from app.extraction.urls import MAX_URL_LENGTH, UrlKind, classify_url, may_be_image

#: No upstream nests its replies deeper.
_MAX_DEPTH = 24
#: Values visited by one walker.
_MAX_VALUES = 5_000
#: Images, and texts, that one walker collects.
_MAX_FOUND = 250
#: Keys visited in one object.
_MAX_KEYS = 200

#: A word of a key: camelCase, snake_case and kebab-case are all split.
_KEY_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")

#: A key with one of these words holds something beside the result: the input, reasoning, a citation, a thumbnail.
_AUXILIARY_WORDS = frozenset(
    """
    api arguments audio avatar callback cancel citation citations cover debug doc docs documentation draft
    error errors favicon get grounding help homepage icon init input inputs logo logprobs mask messages
    moderation page parameters partial permalink policy poster preview previews prompt reasoning ref reference
    referenced references refusal request search self sources status support terms thinking thought thoughts
    thumb thumbnail thumbnails thumbs tmb usage video videos watermark web webhook website
    """.split()
)
_IMAGE_WORDS = frozenset(
    """
    artwork gif image images img imgs jpeg jpg photo photos pic pics picture pictures png webp
    """.split()
)
_LINK_WORDS = frozenset("href link links src uri uris url urls".split())
_BYTES_WORDS = frozenset("b64 base64 bytes blob".split())
#: A key with one of these words holds text of the model, which is searched like the text of a message.
_TEXT_WORDS = frozenset(
    """
    answer body caption content data markdown message msg output outputs reply response result results text
    value
    """.split()
)
_NAMING_WORDS = _LINK_WORDS | _TEXT_WORDS
#: A key of these words alone names the result. "recharge_url" does not: what it leads to must be looked at.
_RESULT_KEY_WORDS = (
    _NAMING_WORDS
    | _IMAGE_WORDS
    | frozenset(
        """
        asset cdn delivery direct download external file final full generated hd hosted media object oss original
        presigned public raw remote s3 s signed temp temporary
        """.split()
    )
)
#: Objects of these types are never the result, whatever they contain.
_AUXILIARY_TYPE = re.compile(
    r"(?:url|file|container_file)_?citation|citation|reasoning.*|thinking|redacted_thinking|(?:tool|function|custom_tool)_(?:use|call)"
    r"|input_.*|(?:.*[_/.])?(?:video|audio|thumbnail|preview|partial_image|search|search_call|search_result)|web_search.*",
    re.IGNORECASE,
)
#: States of a task whose image does not exist yet.
_UNFINISHED = frozenset(
    """
    error failed failure in_progress pending processing queued running starting submitted
    """.split()
)
#: The first bytes of image formats in base64.
_MAGIC = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "Qk0")
#: In the first characters of an AVIF or HEIF file in base64: the letters "ftyp".
_FTYP = "GZ0eXB"
#: Under a key that says base64, a string longer than this counts as bytes although it does not begin like an image.
_MIN_NAMED_BYTES = 64

_BASE64_PREFIX = re.compile(r"data:|(?:image/[a-z.+-]{1,20};)?base64,", re.IGNORECASE)
_URL = re.compile(r"\s*(?:https?:)?//[^\s<>\"]+[^\s<>\")\],.;]\s*", re.IGNORECASE)
#: A string with one of these is a text that shows an image, whatever its key is called.
_IMAGE_MARKUP = ("](http", "](data:", "<img")


@dataclass(frozen=True, slots=True)
class ImageField:
    """A string that is an image: a URL, or base64.

    Attributes:
        path: The keys that lead to the string, joined by dots.
        declared: A key or a type says that the string is an image, so its looks do not matter.
    """

    value: str | Base64Run
    path: str
    declared: bool


@dataclass(slots=True)
class JsonWalker:
    """Collect the images of JSON values, and the texts that may contain more.

    Attributes:
        runs: Base64 that was cut out of the text from which the values were parsed.
        fields: The images, in order.
        texts: Strings to search as text.
        unknown: URLs that may lead to anything, under keys that do not say to what.
    """

    runs: Sequence[Base64Run] = ()
    fields: list[ImageField] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _remaining: int = _MAX_VALUES

    def walk(self, value: object, path: str = "", *, declared: bool = False, depth: int = 0) -> None:
        if depth > _MAX_DEPTH or self._is_full():
            return
        if isinstance(value, str):
            self._add_string(value, path, declared)
        elif isinstance(value, list):
            for item in value:
                # Other items are not visited: arrays of numbers are long and contain no images.
                if isinstance(item, str | list | dict):
                    self.walk(item, path, declared=declared, depth=depth + 1)
        elif isinstance(value, dict):
            self._walk_object(value, path, declared, depth)

    def _is_full(self) -> bool:
        self._remaining -= 1
        return self._remaining < 0 or len(self.fields) >= _MAX_FOUND or len(self.texts) >= _MAX_FOUND

    def _walk_object(self, value: Mapping[str, Any], path: str, declared: bool, depth: int) -> None:
        """Walk the keys by preference. Behind a string that is an image, strings of image keys are its variants."""
        if _is_auxiliary(value):
            return
        declared = declared or _declares_image(value)
        has_image = False
        for key in sorted(islice(value, _MAX_KEYS), key=_preference):
            words = _words(key)
            is_variant = isinstance(value[key], str) and bool(words & (_LINK_WORDS | _IMAGE_WORDS | _BYTES_WORDS))
            if words & _AUXILIARY_WORDS or (is_variant and (has_image or _is_unready(value, key, words))):
                continue
            count = len(self.fields)
            inner = declared or bool(words & _IMAGE_WORDS)
            self.walk(value[key], f"{path}.{key}" if path else key, declared=inner, depth=depth + 1)
            # Numbered keys (`image1`, `image2`) are different images.
            has_image = has_image or (is_variant and len(self.fields) > count and not key[-1:].isdigit())

    def _add_string(self, value: str, path: str, declared: bool) -> None:
        words = _words(path.rpartition(".")[2])
        if self.runs and (run := resolve_run(value.strip(), self.runs)):
            self.fields.append(ImageField(run, path, declared))
        elif _is_base64(value, bool(words & _BYTES_WORDS)):
            prefix, _, payload = value.rpartition(",")
            self.fields.append(ImageField(Base64Run(prefix and prefix + ",", payload), path, declared))
        elif _is_url(value):
            kind = classify_url(value)
            is_named = bool(words & _NAMING_WORDS) and words <= _RESULT_KEY_WORDS and kind is not UrlKind.PAGE
            if declared or is_named or kind in {UrlKind.IMAGE, UrlKind.VIDEO, UrlKind.OTHER_FILE}:
                self.fields.append(ImageField(value.strip(), path, declared))
            elif may_be_image(value) and len(self.unknown) < _MAX_FOUND:
                self.unknown.append(value.strip())
        elif words & _TEXT_WORDS or any(markup in value for markup in _IMAGE_MARKUP):
            self.texts.append(value)


def is_auxiliary_key(key: str) -> bool:
    """Check for a key whose value is not the result, such as `thumbnail_url`."""
    return not _AUXILIARY_WORDS.isdisjoint(_words(key))


def _is_auxiliary(value: Mapping[str, Any]) -> bool:
    type_name = value.get("type")
    media_type = value.get("mime_type") or value.get("mimeType") or value.get("media_type") or value.get("content_type")
    return (
        value.get("thought") is True
        or value.get("role") in ("user", "system", "developer")
        or (isinstance(type_name, str) and _AUXILIARY_TYPE.fullmatch(type_name) is not None)
        or (isinstance(media_type, str) and re.match(r"image/|application/octet-stream", media_type) is None)
    )


def _declares_image(value: Mapping[str, Any]) -> bool:
    return any(isinstance(value.get(key), str) and "image" in value[key] for key in ("type", "mime_type", "mimeType"))


def _is_unready(value: Mapping[str, Any], key: str, words: frozenset[str]) -> bool:
    """Check for the URL of an unfinished task: it leads to a page about the task."""
    status = value.get("status") or value.get("state")
    is_unfinished = isinstance(status, str) and status.lower() in _UNFINISHED
    return is_unfinished and not words & (_IMAGE_WORDS | _BYTES_WORDS) and classify_url(value[key]) is not UrlKind.IMAGE


def _preference(key: str) -> int:
    """Order keys: bytes first, since they save a download; then a key that says image; then one that says only link."""
    words = _words(key)
    return 0 if words & _BYTES_WORDS else 1 if words & _IMAGE_WORDS else 2 if key == "url" else 3


@lru_cache(1024)
def _words(key: str) -> frozenset[str]:
    """Split a key into lower-case words, each with and without its number at the end."""
    words = [word.lower() for word in _KEY_WORD.findall(key[:80])]
    return frozenset(words + [word.rstrip("0123456789") for word in words])


def _is_base64(value: str, is_named: bool) -> bool:
    """Check for base64 by its first characters. `is_named`: the key says that the value is bytes."""
    start = value[:80].lstrip()
    if _BASE64_PREFIX.match(start) or start.startswith(_MAGIC) or _FTYP in start[:16]:
        return True
    return is_named and len(value) > _MIN_NAMED_BYTES and "://" not in start


def _is_url(value: str) -> bool:
    return len(value) <= MAX_URL_LENGTH and _URL.fullmatch(value) is not None
