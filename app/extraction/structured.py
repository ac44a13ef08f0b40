"""Find images in JSON values, by what the keys and types of objects say about the strings below them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pybase64

from app.extraction.base64_runs import Base64Run, resolve_run
from app.extraction.copies import MIN_RESULT, UNNAMED, edge_of_label
from app.extraction.keys import (
    BYTES_WORDS,
    CHANGED_KEYS,
    COPIES_WORDS,
    IMAGE_WORDS,
    LINK_WORDS,
    NAMING_WORDS,
    RESULT_KEY_WORDS,
    TEXT_WORDS,
    is_unrelated,
    names_secondary,
    unchanged_among,
    words_of,
    words_of_label,
)
from app.extraction.relative_links import is_path
from app.extraction.urls import MAX_URL_LENGTH, UrlKind, classify_url, has_image_ending, may_be_image
from app.protocol.base64_spelling import IMAGE_STARTS
from app.protocol.image_format import bytes_reader, is_complete, sniff

#: No upstream nests its replies deeper.
_MAX_DEPTH = 24
#: Values visited by one walker.
_MAX_VALUES = 5_000
#: Images, and texts, that one walker collects.
_MAX_FOUND = 250
#: Keys visited in one object.
_MAX_KEYS = 200

#: Objects of these types are never the result, whatever they contain.
_UNRELATED_TYPE = re.compile(
    r"(?:url|file|container_file)_?citation|citation|reasoning.*|thinking|redacted_thinking|(?:tool|function|custom_tool)_(?:use|call)"
    r"|input_.*|button|context|action\..*|(?:.*[_/.])?(?:video|audio|thumbnail|preview|partial_image|search|search_call|search_result)|web_search.*",
    re.IGNORECASE,
)
#: Media types of what is no image. Text may hold one, and a name that is no media type ("text") says nothing.
_OTHER_MEDIA = re.compile(
    r"(?:audio|video)\b|(?:font|model)/|application/(?!octet-stream|json|x-ndjson)", re.IGNORECASE
)
_MEDIA_TYPE_KEYS = ("mime_type", "mimeType", "media_type", "mediaType", "content_type", "contentType")
#: Keys for the page on which an image was found: the result of a search.
_ORIGIN_KEYS = ("origin_url", "originUrl", "source_page", "host_page_url", "hostPageUrl", "context_link", "contextLink")
_SEARCH_WORDS = frozenset({"citation", "citations", "search", "references"})
#: Keys whose value says who has written an object.
_AUTHOR_KEYS = ("role", "belongs_to", "author", "sender")
#: Keys whose value says what the image of an object is for.
_LABEL_KEYS = (
    "role",
    "kind",
    "type",
    "purpose",
    "label",
    "name",
    "title",
    "category",
    "tag",
    "stage",
    "node",
    "class_type",
)
#: Words of keys with a value of yes or no: yes says that an image is not the result, or, of the second, that it is.
_FLAGS = frozenset("draft input mask partial preview reference thumb thumbnail".split())
_FLAGS_OF_RESULTS = frozenset({"final", "result"})
#: What such a key may also have: "is_preview", "partial_image".
_IS_IMAGE = frozenset({"is", "image"})
_NO_WORDS = frozenset[str]()
#: Digits of an edge. Python refuses to convert thousands.
_MAX_DIGITS = 6
#: Keys whose value says how large the image of an object is.
_SIZE_KEYS = ("size", "resolution", "quality", "label", "name", "kind", "type")
#: States of a task whose image does not exist yet.
_UNFINISHED = frozenset("in_progress pending processing queued running starting submitted".split())
#: States of a task that has no image. What it was called with may stand beside.
_FAILED = frozenset("canceled cancelled error failed failure rejected".split())
#: The first bytes of image formats in base64, of BMP too, which are too short to be looked for in prose.
_MAGIC = (*IMAGE_STARTS, "Qk0")
#: In the first characters of an AVIF or HEIF file in base64: the letters "ftyp".
_FTYP = "GZ0eXB"
#: Under a key that says base64, a string longer than this counts as bytes although it does not begin like an image.
_MIN_NAMED_BYTES = 64

#: A further piece of base64 that was cut into several strings.
_PIECE = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_BASE64_PREFIX = re.compile(r"data:|(?:image/[a-z.+-]{1,20};)?base64,", re.IGNORECASE)
_URL = re.compile(r"\s*(?:https?:)?//[^\s<>\"]+[^\s<>\")\],.;]\s*", re.IGNORECASE)
#: Under a key that says what it is, a URL may end with anything.
_ONE_URL = re.compile(r"https?://[^\s<>\"]+", re.IGNORECASE)
_SPACED_URL = re.compile(r"\s*https?://[^\s<>\"]+(?: (?!\S*://)[^\s<>\"]+){1,20}\s*", re.IGNORECASE)
#: A string with one of these is a text that shows an image, whatever its key is called.
_IMAGE_MARKUP = ("](http", "](data:", "](/", "<img")


@dataclass(frozen=True, slots=True)
class ImageField:
    """A string that is an image: a URL, or base64.

    Attributes:
        path: The keys that lead to the string, joined by dots.
        declared: A key or a type says that the string is an image, so its looks do not matter.
        is_secondary: A key or a label says that the image is no result.
    """

    value: str | Base64Run
    path: str
    declared: bool
    is_secondary: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands in a document. `path`, `declared`, `is_secondary`: as of an image there."""

    path: str = ""
    declared: bool = False
    is_secondary: bool = False
    depth: int = 0

    @property
    def words(self) -> frozenset[str]:
        """The words of the last key."""
        return words_of(self.path.rpartition(".")[2])


#: Where a document begins.
_TOP = _Place()


@dataclass(slots=True)
class JsonWalker:
    """Collect the images of JSON values, and the texts that may contain more.

    Attributes:
        runs: Base64 that was cut out of the text from which the values were parsed.
        fields: The images, in order.
        texts: Strings to search as text.
        unknown: URLs that may lead to anything, under keys that do not say to what, and paths under keys of images or
            links.
        calls: Names and arguments of calls of tools.
        skipped: What is no result by its key or its type.
    """

    runs: Sequence[Base64Run] = ()
    fields: list[ImageField] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    calls: list[tuple[str, object]] = field(default_factory=list)
    skipped: list[object] = field(default_factory=list)
    _pieces: list[str] = field(default_factory=list)
    _remaining: int = _MAX_VALUES

    def walk(self, value: object, place: _Place = _TOP) -> None:
        if place.depth > _MAX_DEPTH or self._is_full():
            return
        if isinstance(value, str):
            self._add_string(value, place)
        elif isinstance(value, list):
            self._add_bytes(value, place)
            self._walk_list(value, place)
        elif isinstance(value, dict):
            if type(value.get("0")) is int:
                self._add_bytes(list(value.values()), place)
            self._walk_object(value, place)
        if place.depth == 0:
            self._join_pieces()

    def _is_full(self) -> bool:
        self._remaining -= 1
        return self._remaining < 0 or len(self.fields) >= _MAX_FOUND or len(self.texts) >= _MAX_FOUND

    def _walk_list(self, items: Sequence[object], place: _Place) -> None:
        # Other items are not visited: arrays of numbers are long.
        visited = [item for item in items if isinstance(item, str | list | dict)]
        labels = {id(item): _label_of(item) for item in visited if isinstance(item, dict)}
        unchanged = unchanged_among(labels) if len(labels) > 1 else frozenset()
        for item in _without_small_copies(visited):
            is_secondary = place.is_secondary or id(item) in unchanged
            self.walk(item, replace(place, is_secondary=is_secondary, depth=place.depth + 1))

    def _walk_object(self, value: Mapping[str, Any], place: _Place) -> None:
        """Walk the keys by preference. Behind a string that is an image, strings of image keys are its variants."""
        arguments = value.get("arguments") or (value.get("input") if value.get("type") == "tool_use" else None)
        if arguments and isinstance(value.get("name"), str):
            self.calls.append((value["name"], arguments))
        if _is_unrelated(value, place.words):
            self.skipped.append(value)
            return
        declared = place.declared or _declares_image(value)
        is_labeled_secondary = place.is_secondary or names_secondary(_label_of(value))
        has_image, is_search = False, _is_search(value)
        value = _without_smaller_copies(value)
        keys = {key: words_of(key) for key in islice(value, _MAX_KEYS)}
        secondary = {key for key in keys if names_secondary(keys[key])}
        order: Iterable[str] = keys
        if len(keys) > 1:
            secondary |= unchanged_among(keys)
            order = sorted(keys, key=lambda key: (key in secondary, _preference(key, keys[key])))
        for key in order:
            words = keys[key]
            is_variant = isinstance(value[key], str) and bool(words & (LINK_WORDS | IMAGE_WORDS | BYTES_WORDS))
            if is_unrelated(words):
                self.skipped.append(value[key])
                continue
            if is_variant and (has_image or _is_unready(value, key, words)):
                continue
            if is_search and words & IMAGE_WORDS and isinstance(value[key], list) and not _holds_bytes(value[key]):
                continue
            count = len(self.fields)
            is_copy = has_image and bool(words & COPIES_WORDS)
            is_secondary = is_labeled_secondary or key in secondary or is_copy
            inner = _Place(
                path=f"{place.path}.{key}" if place.path else key,
                declared=declared or bool(words & IMAGE_WORDS),
                is_secondary=is_secondary and not words & CHANGED_KEYS,
                depth=place.depth + 1,
            )
            self.walk(value[key], inner)
            # Numbered keys (`image1`, `image2`) are different images.
            has_image = has_image or (is_variant and len(self.fields) > count and not key[-1:].isdigit())

    def _add_bytes(self, numbers: Sequence[object], place: _Place) -> None:
        """Add an image that is written as a list of its bytes, as JavaScript writes a Buffer or a Uint8Array."""
        if not numbers or type(numbers[0]) is not int:
            return
        try:
            data = bytes(numbers if sniff(bytes(numbers[:16])) else ())  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return
        if data:
            self._add(Base64Run("", pybase64.b64encode_as_string(data)), place)

    def _add(self, value: str | Base64Run, place: _Place) -> None:
        self.fields.append(ImageField(value, place.path, place.declared, place.is_secondary))

    def _continues(self, value: str, path: str) -> bool:
        """Check for a piece of the base64 that the last field begins; if it is one, keep it."""
        last = self.fields[-1] if self.fields else None
        if last is None or last.path != path or not isinstance(last.value, Base64Run) or not _PIECE.fullmatch(value):
            return False
        if not self._pieces and _is_whole(last.value):
            return False
        self._pieces.append(value)
        return True

    def _join_pieces(self) -> None:
        """Complete the last field by its further pieces."""
        if self._pieces and isinstance(run := self.fields[-1].value, Base64Run):
            joined = Base64Run(run.prefix, "".join([run.payload, *self._pieces]))
            self.fields[-1] = replace(self.fields[-1], value=joined)
            self._pieces.clear()

    def _add_string(self, value: str, place: _Place) -> None:
        words, declared = place.words, place.declared
        if not value.startswith(_MAGIC) and self._continues(value, place.path):
            return
        self._join_pieces()
        if self.runs and (run := resolve_run(value.strip(), self.runs)):
            self._add(run, place)
        elif _is_base64(value, bool(words & BYTES_WORDS)):
            prefix, _, payload = value.rpartition(",")
            self._add(Base64Run(prefix and prefix + ",", payload), place)
        elif _is_url(value) or (words & (LINK_WORDS | IMAGE_WORDS) and _ONE_URL.fullmatch(value, 0, MAX_URL_LENGTH)):
            kind = classify_url(value)
            is_named = bool(words & NAMING_WORDS) and words <= RESULT_KEY_WORDS and kind is not UrlKind.PAGE
            if declared or is_named or kind in (UrlKind.IMAGE, UrlKind.VIDEO, UrlKind.OTHER_FILE):
                self._add(value.strip(), place)
            elif may_be_image(value) and len(self.unknown) < _MAX_FOUND:
                self.unknown.append(value.strip())
        elif (declared or words & (LINK_WORDS | IMAGE_WORDS)) and is_path(value):
            self.unknown.append(value)
        elif (words & TEXT_WORDS and "id" not in words) or any(markup in value for markup in _IMAGE_MARKUP):
            self.texts.append(value)


#: What a value without anything in it gives. Nothing is added to it.
NO_JSON = JsonWalker()


def walk_json(value: object) -> JsonWalker:
    """Return what a JSON value contains."""
    if not value:
        return NO_JSON
    walker = JsonWalker()
    walker.walk(value)
    return walker


def is_unrelated_key(key: str) -> bool:
    """Check for a key whose value is not the result, such as `thumbnail_url`."""
    return is_unrelated(words_of(key))


def _is_unrelated(value: Mapping[str, Any], words: frozenset[str]) -> bool:
    """Check for an object without a result. `words`: those of its key. What a tool has put out is the model's input."""
    type_name = value.get("type")
    if type_name == "input_image" and not words.isdisjoint(CHANGED_KEYS):
        type_name = "image"
    media_type = next((value[key] for key in _MEDIA_TYPE_KEYS if value.get(key)), None)
    return (
        value.get("thought") is True
        or any(value.get(key) in ("user", "system", "developer", "human") for key in _AUTHOR_KEYS)
        or (isinstance(type_name, str) and _UNRELATED_TYPE.fullmatch(type_name) is not None)
        or (isinstance(media_type, str) and _OTHER_MEDIA.match(media_type) is not None and not _is_card(value))
        or _is_from_page(value)
    )


def _is_card(value: Mapping[str, Any]) -> bool:
    """Check for a message of a chat program, which is JSON under a media type of its own."""
    return isinstance(value.get("content"), dict)


def _is_from_page(value: Mapping[str, Any]) -> bool:
    """Check for an image with the page on which a search has found it."""
    image = value.get("image_url") or value.get("imageUrl") or value.get("url")
    pages = [value[key] for key in _ORIGIN_KEYS if isinstance(value.get(key), str)]
    return isinstance(image, str) and has_image_ending(image) and any(not has_image_ending(page) for page in pages)


def _label_of(value: Mapping[str, Any]) -> frozenset[str]:
    """Return the words with which an object says what its image is for."""
    labels = [value[key] for key in _LABEL_KEYS if key in value and isinstance(value[key], str)]
    for key in [key for key in value if value[key] is True or value[key] is False]:
        # "has_mask" and "preview_available" are about other images.
        words = words_of(key) - _IS_IMAGE
        if words and words <= (_FLAGS if value[key] else _FLAGS_OF_RESULTS):
            labels.append("draft")
    return _NO_WORDS.union(*map(words_of_label, labels)) if labels else _NO_WORDS


def _without_smaller_copies(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove all but the largest of images whose keys are sizes: "small", "large", "image_hd"."""
    links = [key for key in islice(value, _MAX_KEYS) if _holds_link(value[key])]
    if len(links) < 2:
        return value
    # "Original" is no size of the image after a change.
    unchanged = unchanged_among({key: words_of(key) for key in links})
    edges = {key: 0 if key in unchanged else edge_of_label(key.replace("_", " ")) for key in links}
    if any(edges.values()):
        # A key that says no size holds the image itself; only the full size is larger.
        edges |= {key: UNNAMED for key, edge in edges.items() if not edge and words_of(key) <= LINK_WORDS | IMAGE_WORDS}
    largest = max(edges.values())
    return {key: each for key, each in value.items() if not 0 < edges.get(key, 0) < largest}


def _without_small_copies(items: Sequence[object]) -> Iterator[object]:
    """Yield the items of a list without images that say that they are smaller than any result, beside a larger one."""
    edges = [_edge_of_item(item) for item in items]
    is_any_large = any(edge >= MIN_RESULT for edge in edges)
    return (item for item, edge in zip(items, edges, strict=True) if not (is_any_large and 0 < edge < MIN_RESULT))


def _edge_of_item(item: object) -> int:
    """Return the longer edge that an object with an image says, 0 where it says none."""
    if not isinstance(item, dict) or not any(map(_is_link, islice(item.values(), _MAX_KEYS))):
        return 0
    numbers = [str(item.get(key)) for key in ("width", "height")]
    edges = [int(number) for number in numbers if number.isdecimal() and len(number) <= _MAX_DIGITS]
    labels = [item[key] for key in _SIZE_KEYS if isinstance(item.get(key), str)]
    return max([*edges, *map(edge_of_label, labels)], default=0)


def _holds_link(value: object) -> bool:
    return _is_link(value) or (isinstance(value, dict) and any(map(_is_link, islice(value.values(), _MAX_KEYS))))


def _is_link(value: object) -> bool:
    return isinstance(value, str) and "//" in value[:8] and _is_url(value)


def _is_search(value: Mapping[str, Any]) -> bool:
    """Check for an answer of a search: images by link beside what it cites are from the web."""
    return any(isinstance(each, list) and each and words_of(key) & _SEARCH_WORDS for key, each in value.items())


def _holds_bytes(items: Sequence[object]) -> bool:
    """Check for images whose bytes are in the reply: those were made for it."""
    texts = [each for item in items for each in (item.values() if isinstance(item, dict) else (item,))]
    texts += [each for text in texts if isinstance(text, dict) for each in text.values()]
    return any(isinstance(text, str) and _is_base64(text, is_named=False) for text in texts)


def _declares_image(value: Mapping[str, Any]) -> bool:
    names = [value[key] for key in ("type", *_MEDIA_TYPE_KEYS) if isinstance(value.get(key), str)]
    return any("image" in name.lower() for name in names)


def _is_unready(value: Mapping[str, Any], key: str, words: frozenset[str]) -> bool:
    """Check for the URL of an unfinished task: it leads to a page about the task, or to its input if it has failed."""
    status = value.get("status") or value.get("state")
    state = status.lower() if isinstance(status, str) else ""
    if state in _FAILED:
        return not words & BYTES_WORDS
    is_unfinished = state in _UNFINISHED and not words & (IMAGE_WORDS | BYTES_WORDS)
    return is_unfinished and classify_url(value[key]) is not UrlKind.IMAGE


def _preference(key: str, words: frozenset[str]) -> int:
    """Order keys: bytes first, since they save a download; then a key that says image; then one that says only link."""
    return 0 if words & BYTES_WORDS else 1 if words & IMAGE_WORDS else 2 if key == "url" else 3


def _is_whole(run: Base64Run) -> bool:
    try:
        data = run.decode()
    except ValueError:
        return False
    return is_complete(bytes_reader(data), len(data))


def _is_base64(value: str, is_named: bool) -> bool:
    """Check for base64 by its first characters. `is_named`: the key says that the value is bytes."""
    start = value[:80].lstrip()
    if _BASE64_PREFIX.match(start) or start.startswith(_MAGIC) or _FTYP in start[:16]:
        return True
    return is_named and len(value) > _MIN_NAMED_BYTES and "://" not in start


def _is_url(value: str) -> bool:
    """Check for a string that is nothing but a URL. A URL with blanks is one if it ends like an image."""
    is_spaced = _SPACED_URL.fullmatch(value, 0, MAX_URL_LENGTH) and classify_url(value.strip()) is UrlKind.IMAGE
    return len(value) <= MAX_URL_LENGTH and bool(_URL.fullmatch(value) or is_spaced)
