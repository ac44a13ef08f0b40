"""What of a request has no effect, named so that a header can carry it."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from app.pure.parameters import Goes, Parameter
from app.pure.wording import clean_name

#: Names in the header.
_MOST = 32

#: Entries of the client's metadata that would choose over ours.
_OURS = {"size", "quality"}


def is_ours(key: str) -> bool:
    return key.strip().lower() in _OURS


def without_effect(rows: Iterable[Parameter], said: Mapping[str, Any], unread: Iterable[str]) -> tuple[str, ...]:
    """`said`: values by the names of `rows`; `unread`: what else the client sent.

    Looks no further than it needs to: a body may have millions of keys.
    """
    clean: dict[str, None] = {}
    for name in chain(_idle(rows, said), unread):
        if len(clean) == _MOST:
            break
        clean[clean_name(name)] = None
    return tuple(clean)


def _idle(rows: Iterable[Parameter], said: Mapping[str, Any]) -> Iterator[str]:
    for row in rows:
        if row.goes is Goes.NOWHERE and row.name in said:
            yield row.name
    if said.get("output_compression", 100) != 100 and said.get("output_format", "png") == "png":
        yield "output_compression"
    if said.get("partial_images") and not said.get("stream"):
        yield "partial_images"
    for key in filter(is_ours, said.get("metadata", ())):
        yield f"metadata.{key}"
