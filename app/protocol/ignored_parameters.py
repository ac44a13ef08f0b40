"""Tell which parameters of a request have no effect, for the header `x-limner-ignored`."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from app.protocol.parameters import Destination, Parameter
from app.protocol.validation_errors import header_safe_name

#: Names in the header `x-limner-ignored`.
_MAX_IGNORED = 32

#: Where values go that have no effect, or may have none.
_MAY_HAVE_NO_EFFECT = (Destination.NONE, Destination.DIALECT)

#: Entries of the client's metadata that would override those of Limner.
_RESERVED_METADATA = {"size", "quality"}


def is_reserved_metadata(key: str) -> bool:
    return key.strip().lower() in _RESERVED_METADATA


def ignored_parameters(
    parameters: Iterable[Parameter], values: Mapping[str, Any], unread: Iterable[str]
) -> tuple[str, ...]:
    """Return the names of parameters that the client sent and that have no effect, made safe for a header.

    `values` are the checked values by the names of `parameters`; `unread` are all other names in the body. No more of
    them are read than fit into the header, since a body may have millions of keys.
    """
    names: dict[str, None] = {}
    for name in chain(_ignored_names(parameters, values), unread):
        if len(names) == _MAX_IGNORED:
            break
        names[header_safe_name(name)] = None
    return tuple(names)


def _ignored_names(parameters: Iterable[Parameter], values: Mapping[str, Any]) -> Iterator[str]:
    for parameter in parameters:
        if parameter.name in values and parameter.destination in _MAY_HAVE_NO_EFFECT:
            yield parameter.name
    if values.get("output_compression", 100) != 100 and values.get("output_format", "png") == "png":
        yield "output_compression"
    if values.get("partial_images") and not values.get("stream"):
        yield "partial_images"
    for key in filter(is_reserved_metadata, values.get("metadata", ())):
        yield f"metadata.{key}"
