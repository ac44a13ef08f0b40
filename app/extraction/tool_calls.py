"""Read the calls of tools in a reply: some upstreams show the image by a call whose arguments hold it."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from app.extraction.keys import words_of
from app.extraction.mentions import IMAGE_MARKUP, find_mentions
from app.extraction.structured import ImageField, walk_json

#: Names of tools whose arguments are images to work on, not their result.
_WORKS_ON_IMAGES = re.compile(
    r"edit|modif|chang|paint_?over|inpaint|outpaint|upscal|vary|variation|transform|remov|img2img|image_?(?:2|to)_?image"
    r"|descri|analy|search|recogni|caption|ocr|inspect|browse|fetch|read|open|crawl|look|vision|understand",
    re.IGNORECASE,
)
_RESULT_KEYS = frozenset("answer edited final generated output outputs result results".split())


def join_calls(calls: object) -> object:
    """Return a message's tool calls, with the pieces joined in which a stream sends their arguments."""
    if not isinstance(calls, list):
        return calls  # What only one tool has called may stand without a list.
    joined: list[Any] = []
    pieces: dict[int, list[str]] = {}
    for call in calls:
        index, name, arguments = _piece(call)
        if index is None:
            joined.append(call)
        elif index in pieces and not name:
            pieces[index].append(arguments)
        else:
            pieces[index] = [arguments]
            joined.append({"name": name, "arguments": pieces[index]})
    return [_joined(call) for call in joined]


def _piece(call: object) -> tuple[int | None, object, str]:
    """Return index, name and arguments of one piece of a call; the index of anything else is None."""
    function = call.get("function") if isinstance(call, dict) else None
    index = call.get("index") if isinstance(call, dict) else None
    if type(index) is int and isinstance(function, dict) and isinstance(function.get("arguments"), str):
        return index, function.get("name"), function["arguments"]
    return None, None, ""


def _joined(call: Any) -> Any:
    if isinstance(call, dict) and isinstance(call.get("arguments"), list):
        return {**call, "arguments": "".join(map(str, call["arguments"]))}
    return call


def images_in_calls(calls: Iterable[tuple[str, object]]) -> Iterator[ImageField]:
    """Yield the images in the arguments of calls, except those that the tool is to work on."""
    for name, arguments in calls:
        values = _parse(arguments)
        if _WORKS_ON_IMAGES.search(name):
            keys = values if isinstance(values, dict) else {}
            values = {key: keys[key] for key in keys if words_of(key) & _RESULT_KEYS}
        walker = walk_json(values)
        yield from walker.fields
        shown = [mention for text in walker.texts for mention in find_mentions(text) if mention.kind in IMAGE_MARKUP]
        yield from (ImageField(mention.url, "", declared=True) for mention in shown)


def _parse(arguments: object) -> object:
    if not isinstance(arguments, str):
        return arguments
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return None
