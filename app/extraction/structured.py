"""Images in structured values: what the keys of a JSON object say about the strings below them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from app.extraction.base64_runs import Base64Run, resolve_run
from app.extraction.urls import MAX_LENGTH, UrlKind, classify_url

#: Deeper values are no reply of any upstream.
_MAX_DEPTH = 24
#: Values looked at in one reply.
_MAX_VALUES = 5_000
#: Images and texts in one reply.
_MAX_FOUND = 250
#: Keys of one object.
_MAX_KEYS = 200

_KEY_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")

#: A key with one of these words holds something else than the result: what was sent, thought, quoted, a small copy.
_ASIDE = frozenset(
    """
    api arguments audio avatar callback cancel citation citations cover debug doc docs documentation draft
    error errors favicon get grounding help homepage icon init input inputs logo logprobs mask messages
    moderation page parameters partial permalink policy poster preview previews prompt reasoning ref reference
    referenced references refusal request search self sources status support terms thinking thought thoughts
    thumb thumbnail thumbnails thumbs tmb usage video videos watermark web webhook website
    """.split()
)
_DECLARED = frozenset(
    """
    artwork gif image images img imgs jpeg jpg photo photos pic pics picture pictures png webp
    """.split()
)
_LINK = frozenset("href link links src uri uris url urls".split())
_BYTES = frozenset("b64 base64 bytes blob".split())
#: What the model says: searched like the text of a message.
_SPOKEN = frozenset(
    """
    answer body caption content data markdown message msg output outputs reply response result results text
    value
    """.split()
)
#: Objects of these types are not the result, whatever they hold.
_ASIDE_TYPE = re.compile(
    r"(?:url|file|container_file)_?citation|citation|reasoning.*|thinking|redacted_thinking|(?:tool|function|custom_tool)_(?:use|call)"
    r"|input_.*|(?:.*[_/.])?(?:video|audio|thumbnail|preview|partial_image|search|search_call|search_result)|web_search.*",
    re.IGNORECASE,
)
_UNFINISHED = frozenset(
    """
    error failed failure in_progress pending processing queued running starting submitted
    """.split()
)
#: The first bytes of images in base64.
_MAGIC = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "Qk0")


_PREFIX = re.compile(r"data:|(?:image/[a-z.+-]{1,20};)?base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*(?:https?:)?//[^\s<>\"]+[^\s<>\")\],.;]\s*", re.IGNORECASE)
#: A text that shows an image says so under any key.
_SIGNS = ("](http", "](data:", "<img")


@dataclass(frozen=True, slots=True)
class ImageField:
    """`declared`: a key or a type says that it is an image, whatever it looks like."""

    value: str | Base64Run
    path: str
    declared: bool


@dataclass(slots=True)
class JsonWalker:
    """What one structured value holds: images, and texts that may hold more.

    `pieces`: what was cut out of the text that the value was read from.
    """

    runs: Sequence[Base64Run] = ()
    fields: list[ImageField] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _left: int = _MAX_VALUES

    def walk(self, value: object, path: str = "", *, declared: bool = False, depth: int = 0) -> None:
        if depth > _MAX_DEPTH or self._is_full():
            return
        if isinstance(value, str):
            self._string(value, path, declared)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, str | list | dict):  # arrays of numbers are long, and no images
                    self.walk(item, path, declared=declared, depth=depth + 1)
        elif isinstance(value, dict):
            self._object(value, path, declared, depth)

    def _is_full(self) -> bool:
        self._left -= 1
        return self._left < 0 or len(self.fields) >= _MAX_FOUND or len(self.texts) >= _MAX_FOUND

    def _object(self, value: Mapping[str, Any], path: str, declared: bool, depth: int) -> None:
        if _is_aside(value):
            return
        declared = declared or _says_image(value)
        has_image = False
        for key in sorted(islice(value, _MAX_KEYS), key=_preference):
            words = _words(key)
            is_variant = isinstance(value[key], str) and bool(words & (_LINK | _DECLARED | _BYTES))
            if words & _ASIDE or (has_image and is_variant) or (is_variant and _is_unready(value, key, words)):
                continue
            count = len(self.fields)
            inner = declared or bool(words & _DECLARED)
            self.walk(value[key], f"{path}.{key}" if path else key, declared=inner, depth=depth + 1)
            has_image = has_image or (is_variant and len(self.fields) > count and not key[-1:].isdigit())

    def _string(self, value: str, path: str, declared: bool) -> None:
        words = _words(path.rpartition(".")[2])
        if self.runs and (piece := self._piece(value)):
            self.fields.append(ImageField(piece, path, declared))
        elif _is_base64(value, bool(words & _BYTES)):
            head, _, payload = value.rpartition(",")
            self.fields.append(ImageField(Base64Run(head and head + ",", payload), path, declared))
        elif _is_address(value):
            is_named = declared or bool(words & (_LINK | _SPOKEN))
            if is_named or classify_url(value) is UrlKind.IMAGE:
                self.fields.append(ImageField(value.strip(), path, declared))
        elif words & _SPOKEN or any(sign in value for sign in _SIGNS):
            self.texts.append(value)

    def _piece(self, value: str) -> Base64Run | None:
        return resolve_run(value.strip(), self.runs)


def _is_aside(value: Mapping[str, Any]) -> bool:
    kind = value.get("type")
    media = value.get("mime_type") or value.get("mimeType") or value.get("media_type") or value.get("content_type")
    return (
        value.get("thought") is True
        or value.get("role") in ("user", "system", "developer")
        or (isinstance(kind, str) and _ASIDE_TYPE.fullmatch(kind) is not None)
        or (isinstance(media, str) and re.match(r"image/|application/octet-stream", media) is None)
    )


def _says_image(value: Mapping[str, Any]) -> bool:
    return any(isinstance(value.get(key), str) and "image" in value[key] for key in ("type", "mime_type", "mimeType"))


def _is_unready(value: Mapping[str, Any], key: str, words: frozenset[str]) -> bool:
    """The address of a task that still runs is a page about it."""
    status = value.get("status") or value.get("state")
    is_running = isinstance(status, str) and status.lower() in _UNFINISHED
    return is_running and not words & (_DECLARED | _BYTES) and classify_url(value[key]) is not UrlKind.IMAGE


def is_auxiliary_key(key: str) -> bool:
    return not _ASIDE.isdisjoint(_words(key))


def _preference(key: str) -> int:
    """Bytes at hand save a download; a key that says image is surer than one that says only link."""
    words = _words(key)
    return 0 if words & _BYTES else 1 if words & _DECLARED else 2 if key == "url" else 3


@lru_cache(1024)
def _words(key: str) -> frozenset[str]:
    words = [word.lower() for word in _KEY_WORD.findall(key[:80])]
    return frozenset(words + [word.rstrip("0123456789") for word in words])


def _is_base64(value: str, is_named: bool) -> bool:
    start = value[:80].lstrip()
    if _PREFIX.match(start):
        return True
    return start.startswith(_MAGIC) or "GZ0eXB" in start[:16] or (is_named and len(value) > 64 and "://" not in start)


def _is_address(value: str) -> bool:
    return len(value) <= MAX_LENGTH and _ADDRESS.fullmatch(value) is not None
