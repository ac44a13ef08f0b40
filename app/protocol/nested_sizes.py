"""Find ratio and tier where requests of Google, OpenRouter and others have them: in objects such as `image_config`."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from app.protocol.parameters import FormPart
from app.protocol.validation_errors import conflicting_values

#: The objects with the sizes, and those around them, by `_key`.
_CONFIGS = frozenset({"imageconfig"})
_WRAPPERS = frozenset({"extrabody", "google", "generationconfig"})
#: What is in such an object, by `_key`, and the parameter that means the same.
_SIZES = {"aspectratio": "aspect_ratio", "imagesize": "image_size"}
#: Objects around an `image_config`, at most: `extra_body.google.generation_config`.
_MAX_DEPTH = 4
#: A name that may mean anything, unless a ratio stands there.
_RATIO_NAME, _RATIO = "ratio", re.compile(r"[0-9]{1,2}:[0-9]{1,2}")


def lift_sizes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a JSON body, with the sizes of such objects among them; the rest of the objects stays.

    Raises:
        InvalidRequest: A size contradicts the parameter of the same meaning.
    """
    found: dict[str, str] = {}
    left = {name: _take(name, value, found) for name, value in given.items()}
    present = {_SIZES[_key(name)]: value for name, value in given.items() if _key(name) in _SIZES}
    for name, value in found.items():
        if present.get(name, value) != value:
            raise conflicting_values(name)
    added = {name: value for name, value in found.items() if name not in present}
    return {name: value for name, value in left.items() if value is not None or given[name] is None} | added


def lift_form_sizes(parts: Iterable[FormPart]) -> Iterator[FormPart]:
    """Yield the parts of a form, with those sizes under the names of the parameters: from brackets, and from JSON."""
    for part in parts:
        steps = [_key(step) for step in re.findall(r"[^\[\]]+", part.name)]
        if len(steps) > 1 and steps[-2] in _CONFIGS and steps[-1] in _SIZES:
            yield replace(part, name=_SIZES[steps[-1]])
            continue
        found: dict[str, str] = {}
        is_object = len(steps) == 1 and steps[0] in _CONFIGS | _WRAPPERS
        left = _take(part.name, _parse(part.value) if is_object else part.value, found)
        yield from (FormPart(name, value) for name, value in found.items())
        if left is not None or not found:
            yield part


def _take(name: str, value: Any, found: dict[str, str], depth: int = 0) -> Any:
    """Return a value without the sizes in it, which are added to `found`; None if nothing else was in it."""
    key = _key(name)
    if key == _RATIO_NAME and isinstance(value, str) and _RATIO.fullmatch(value):
        found["aspect_ratio"] = value
        return None
    if key not in _CONFIGS | _WRAPPERS or not isinstance(value, dict) or depth >= _MAX_DEPTH:
        return value
    left: dict[str, Any] = {}
    for inner, each in value.items():
        if key in _WRAPPERS:
            rest = _take(inner, each, found, depth + 1)
        elif _key(inner) in _SIZES and isinstance(each, str):
            found[_SIZES[_key(inner)]] = each
            rest = None
        else:
            rest = each
        if rest is not None:
            left[inner] = rest
    return left or None


def _key(name: str) -> str:
    return name.replace("_", "").lower()


def _parse(value: Any) -> Any:
    """Return the object of a text that is JSON, and anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
