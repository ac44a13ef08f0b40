"""Find images in parameters that this server does not know, judged by what a value holds and not by its name.

An image that is overlooked costs money, since an image is then made from the prompt alone and paid for. A link that is
taken for one by mistake costs a request, which is refused with a sentence that says how to send it.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice

import orjson
import pybase64

from app.errors import InvalidRequest
from app.protocol.image_format import sniff
from app.protocol.validation_errors import header_safe_name

#: Values that are looked at, of all unknown parameters together: about 50 ms.
_MAX_VALUES = 100_000

#: The smallest PNG has 90 characters of base64, the smallest GIF 47.
_MIN_BASE64 = 40

#: No image, link to one or name of a file is shorter.
_MIN_LENGTH = 10

#: Characters and bytes from which base64 and a format are recognized.
_SAMPLE = 256
_HEAD = 48

#: Data URLs without a media type that are looked for in one text.
_MAX_MARKS = 100

_BASE64 = re.compile(r"[A-Za-z0-9+/=_%\\ \t\r\n-]+")
_IMAGE_URL = re.compile(r"data:image/[a-z0-9.+-]+[;,]", re.IGNORECASE)
_MARK = re.compile(r"base64,", re.IGNORECASE)
#: A link and its path, whatever its host is: `urlsplit` raises an error for some.
_LINK = re.compile(r"(?:https?|gs|s3)://(?!$)[^\s<>\"/?#]*([^\s<>\"?#]*)[^\s<>\"]*", re.IGNORECASE)
_FILE_ID = re.compile(r"file-(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,}")
_IMAGE_ENDING = re.compile(r"\.(?:png|jpe?g|jfif|webp|gif|avif|hei[cf]|jxl|bmp|tiff?|svg|dng|psd)$", re.IGNORECASE)
_OTHER_ENDING = re.compile(r"\.[a-z][a-z0-9]{0,10}$", re.IGNORECASE)

#: Words in names of fields that say image, whatever the link looks like. Those after the first line may also name a
#: page or a ticket, so they say nothing of values that go upstream anyway.
_SURE_WORDS = frozenset("image images img imgs picture pictures photo photos mask masks".split())
_IMAGE_WORDS = _SURE_WORDS | frozenset("init inpaint input inputs reference references ref refs control sketch".split())

#: Words in names of fields whose links lead to programs and pages. Only links without an image ending are in question.
_OTHER_WORDS = frozenset(
    "api app base callback callbacks checkpoint docs endpoint home homepage hook hooks host license lora loras model "
    "notification notify origin page ping proxy redirect referer referrer return server site terms title trace web "
    "webhook webhooks website".split()
)

#: Names under which an image in an edit without `images` can only be meant as the image to edit: all of its words.
_INPUT_WORDS = frozenset(
    "image images img imgs input inputs init reference references ref refs source src picture pictures photo photos "
    "url urls uri uris base64 b64 json data file files original".split()
)


def find_held_images(values: Mapping[str, object], sure_only: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the names of the parameters that hold an image, each with the place of its first one, safe in a message.

    Args:
        values: Parameters by name, as orjson has parsed them, or texts of a form.
        sure_only: Names of parameters that go upstream anyway: there a link counts only where a name says image.

    Raises:
        InvalidRequest: There are too many values to look at each.
    """
    found: dict[str, str] = {}
    count = 0
    for name, value in values.items():
        for path, each in _leaves(name, value):
            count += 1
            if count > _MAX_VALUES:
                raise _too_many(name)
            if isinstance(each, bytes) or _is_image(path, each, name in sure_only):
                found[name] = header_safe_name(path)
                break
    return found


def _too_many(name: str) -> InvalidRequest:
    param = header_safe_name(name)
    message = f"Unknown parameter: '{param}'. With it the request has more than {_MAX_VALUES} values. Leave it out."
    return InvalidRequest(message, param=param, code="unknown_parameter")


def is_input_name(name: str) -> bool:
    """Return whether each word of a name says that its image is one to edit."""
    words = _words(name)
    return bool(words) and words <= _INPUT_WORDS


def name_words(name: str) -> frozenset[str]:
    """Return the words of a name without its numbers: `image_1` and `image_2` are the same field twice."""
    return frozenset(_words(name))


def _words(path: str) -> set[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path)
    return {word.lower() for word in re.findall(r"b64|base64|[A-Za-z]+", apart)}


def _leaves(name: str, value: object) -> Iterator[tuple[str, str | bytes]]:
    """Yield each text within a value, with its path, and the first bytes of each array of bytes.

    Texts that are JSON are looked into, since forms have no other way to carry objects. Anything else gives an empty
    text, because it counts.
    """
    left: list[Iterator[tuple[str, object]]] = [iter([(name, value)])]
    while left:
        path, each = next(left[-1], (None, None))
        if path is None:
            left.pop()
            continue
        yield path, each if isinstance(each, str) else _byte_head(each)
        left.append(_children(path, parse_text(each) if isinstance(each, str) else each))


def _children(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        return ((f"{path}.{key}", item) for key, item in value.items())
    return ((f"{path}[{index}]", item) for index, item in enumerate(value if isinstance(value, list) else ()))


def parse_text(text: str) -> object:
    """Return the object or array that a text holds as JSON, else None."""
    stripped = text.strip()
    if not stripped.startswith(("{", "[")) or not stripped.endswith(("}", "]")):
        return None
    try:
        return orjson.loads(stripped)
    except orjson.JSONDecodeError:
        return None


def _byte_head(value: object) -> str | bytes:
    """Return the first bytes of an image that JSON carries as numbers, as Node writes a Buffer, else an empty text."""
    if isinstance(value, dict):
        items = list(islice(value.values(), _HEAD)) if "0" in value else []
    else:
        items = value[:_HEAD] if isinstance(value, list) else []
    numbers = [item for item in items if type(item) is int and 0 <= item < 256]
    return bytes(numbers) if len(numbers) == _HEAD and sniff(bytes(numbers)) else ""


def _is_image(path: str, text: str, sure_only: bool) -> bool:
    if len(text) < _MIN_LENGTH:
        return False
    text = text.strip()
    if link := _LINK.fullmatch(text):
        return _is_image_link(path, link[1], sure_only)
    if _IMAGE_URL.search(text) or is_base64_of_image(text):
        return True
    marks = islice(_MARK.finditer(text), _MAX_MARKS)
    if any(is_base64_of_image(text[mark.end() : mark.end() + _SAMPLE]) for mark in marks):
        return True
    return bool(_FILE_ID.fullmatch(text)) and not sure_only


def is_base64_of_image(text: str) -> bool:
    """Return whether a text begins with base64, in any of its spellings, whose first bytes are those of an image."""
    run = _BASE64.match(text[:_SAMPLE])
    if run is None or len(run[0]) < _MIN_BASE64:
        return False
    # Up to what is no base64 after all: a percent sign in prose, or padding.
    plain = re.split("[%=]", re.sub(r"[\s\\]", "", _unescape(run[0])), maxsplit=1)[0].translate(_STANDARD_ALPHABET)
    plain = plain[: _HEAD * 4 // 3]
    return sniff(pybase64.b64decode(plain[: len(plain) // 4 * 4])) is not None


def _unescape(text: str) -> str:
    return re.sub("%2F", "/", re.sub("%2B", "+", text, flags=re.IGNORECASE), flags=re.IGNORECASE)


_STANDARD_ALPHABET = str.maketrans("-_", "+/")


def _is_image_link(path: str, target: str, sure_only: bool) -> bool:
    words = _words(path)
    if words & (_SURE_WORDS if sure_only else _IMAGE_WORDS):
        return True
    if sure_only:
        return False
    if _IMAGE_ENDING.search(target):
        return True
    return bool(target.strip("/")) and not _OTHER_ENDING.search(target) and not words & _OTHER_WORDS
