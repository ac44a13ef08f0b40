"""The headers of a request, of which a dozen are looked up for each request for images."""

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

_KEY = "limner.headers"


class RequestHeaders(Headers):
    """Finds a header without a walk over all of them. Names are given in lower case, as ASGI has them."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        super().__init__(raw=raw)
        # Of several headers of one name, the first counts.
        self._first = dict(reversed(raw))

    def __getitem__(self, key: str) -> str:
        return self._first[key.encode("latin-1")].decode("latin-1")

    def __contains__(self, key: Any) -> bool:
        return key.encode("latin-1") in self._first

    def get(self, key: str, default: Any = None) -> Any:
        """Return the header of that name, or the default."""
        value = self._first.get(key.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def getlist(self, key: str) -> list[str]:
        """Return all headers of that name."""
        return super().getlist(key) if key.encode("latin-1") in self._first else []


def headers_of(scope: Scope) -> RequestHeaders:
    """Return the headers of a request, made once."""
    headers: RequestHeaders | None = scope.get(_KEY)
    if headers is None:
        headers = scope[_KEY] = RequestHeaders(list(scope["headers"]))
    return headers
