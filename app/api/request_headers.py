"""The headers of a request, of which a dozen are looked up for each request for images."""

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

_KEY = "limner.headers"


class RequestHeaders(Headers):
    """Find a header without a walk over all of them. Names are given in lower case, as ASGI has them."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        super().__init__(raw=raw)
        # Of several headers of one name, the first counts.
        first = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(raw)}
        self._first = first
        self._has_repeated = len(first) < len(raw)
        self.get = first.get  # type: ignore[method-assign]  # the dictionary itself is asked, without a call of ours

    def __getitem__(self, key: str) -> str:
        return self._first[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._first

    def getlist(self, key: str) -> list[str]:
        """Return all headers of that name."""
        if key not in self._first:
            return []
        return super().getlist(key) if self._has_repeated else [self._first[key]]


def forget_headers(scope: Scope) -> None:
    """Drop the index of the headers, which takes 2 KiB, of a request that is about to wait."""
    scope.pop(_KEY, None)


def headers_of(scope: Scope) -> RequestHeaders:
    """Return the headers of a request, indexed when they are asked for first."""
    headers: RequestHeaders | None = scope.get(_KEY)
    if headers is None:
        headers = scope[_KEY] = RequestHeaders(list(scope["headers"]))
    return headers
