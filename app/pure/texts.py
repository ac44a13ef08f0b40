"""One text of a reply, made ready for searching: base64 cut out, hidden parts dropped, addresses found once."""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import orjson

from app.pure.base64_text import MARK, Piece, cut_out, piece_of
from app.pure.fields import Walk
from app.pure.hidden import drop_hidden, is_page
from app.pure.links import Look, look_of
from app.pure.mentions import Mention, find_mentions

#: Texts inside JSON inside texts: nobody means more.
_MAX_DEPTH = 3
#: Escapes of JSON and Markdown in addresses, where the text around them is no JSON that could be parsed.
_ESCAPES = (("\\u0026", "&"), *((f"\\{letter}", letter) for letter in "_&~=#*-.![]()"))
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#34;", '"'), ("&#39;", "'"), ("&#x27;", "'"))
_MAX_FENCES = 50
_FENCE = re.compile(r"```[ \t]*(?:json|jsonc|javascript)?[ \t]*\n")


class Text:
    """`pieces` are given where `raw` comes from a text whose base64 has been cut out already."""

    def __init__(self, raw: str, pieces: tuple[Piece, ...] | None = None, depth: int = 0) -> None:
        self._depth = depth
        if pieces is None:
            raw, pieces = cut_out(raw.replace("\\/", "/").replace("base64://", "data:;base64,"))
        self.pieces = pieces
        self.is_page = is_page(raw)
        self._raw = raw if not self.is_page and ("//" in raw or MARK in raw) else ""

    @cached_property
    def shown(self) -> str:
        """Empty where the text is a JSON document: then its keys say what is what."""
        text = "" if self._is_json else self._raw
        for sign, table in (("\\", _ESCAPES), ("&", _ENTITIES)):
            for escape, letter in table if sign in text else ():
                text = text.replace(escape, letter)
        return drop_hidden(text)

    @cached_property
    def mentions(self) -> list[Mention]:
        return find_mentions(self.shown)

    @cached_property
    def has_video(self) -> bool:
        return any(look_of(mention.url) is Look.VIDEO for mention in self.mentions)

    @cached_property
    def _document(self) -> Any:
        return _parse(self._raw.strip())

    @property
    def _is_json(self) -> bool:
        return isinstance(self._document, dict | list)

    @cached_property
    def whole(self) -> Walk:
        """Where the text is one JSON document."""
        return self._walk([self._document])

    @cached_property
    def inner(self) -> Walk:
        """JSON in fences or between words."""
        return self._walk([_parse(document) for document in _documents(self.shown)])

    def texts(self, walk: Walk) -> Iterator["Text"]:
        if self._depth < _MAX_DEPTH:
            yield from (Text(said, self.pieces, self._depth + 1) for said in walk.texts)

    def piece(self, mention: Mention) -> Piece | None:
        return piece_of(mention.url, self.pieces)

    def _walk(self, values: list[Any]) -> Walk:
        walk = Walk(self.pieces)
        for value in values:
            if isinstance(value, str):
                walk.texts.append(value)
            else:
                walk.enter(value)
        return walk


def _parse(document: str) -> Any:
    if document[:1] not in {"{", "[", '"'}:
        return None
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return None


def _documents(text: str) -> list[str]:
    """Each is tried once, so the work stays within a few times the text."""
    fenced = [part.partition("```")[0].strip() for part in _FENCE.split(text, _MAX_FENCES)[1:]]
    start, end = text.find("{"), text.rfind("}") + 1
    first = text.find("[{"), text.rfind("}]") + 2
    spans = [text[start:end], text[first[0] : first[1]] if first[0] >= 0 else ""]
    return [*fenced, *spans]
