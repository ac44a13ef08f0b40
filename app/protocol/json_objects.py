"""Walk through the objects of a JSON value, wherever upstreams put what matters."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def values_of(value: Any) -> Iterable[Any]:
    """Return what a JSON value holds directly."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def objects_in(
    document: Any, *, limit: int, depth: int, values_of: Callable[[Any], Iterable[Any]] = values_of
) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON value, the outer ones first, until there were `limit`.

    Those deeper than `depth` are left out; `values_of` tells what lies in a value.
    """
    level, count = [document], 0
    for _ in range(depth):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if count == limit:
                    return
                count += 1
                yield value
            inner += values_of(value)
        level = inner
