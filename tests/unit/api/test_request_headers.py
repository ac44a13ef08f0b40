"""The headers of a request are found at once, and are those that Starlette finds."""

import pytest
from starlette.datastructures import Headers
from starlette.types import Scope

from app.api.request_headers import RequestHeaders, forget_headers, headers_of

RAW = [(b"host", b"a.example"), (b"x-tag", b"one"), (b"x-tag", b"tw\xf6"), (b"accept", b"*/*")]


@pytest.mark.parametrize("raw", [RAW, RAW[:2]], ids=["one of them is there twice", "each is there once"])
@pytest.mark.parametrize("name", ["host", "x-tag", "accept", "x-none"])
def test_a_header_is_the_one_that_starlette_finds(name: str, raw: list[tuple[bytes, bytes]]) -> None:
    ours, theirs = RequestHeaders(raw), Headers(raw=raw)
    assert ours.get(name) == theirs.get(name)
    assert ours.get(name, "else") == theirs.get(name, "else")
    assert ours.getlist(name) == theirs.getlist(name)
    assert (name in ours) is (name in theirs)
    assert ours.keys() == theirs.keys()


def test_a_header_that_is_missing_is_a_key_error() -> None:
    assert RequestHeaders(RAW)["x-tag"] == "one"
    with pytest.raises(KeyError):
        RequestHeaders(RAW)["x-none"]


def test_the_headers_of_a_request_are_indexed_once() -> None:
    scope: Scope = {"type": "http", "headers": RAW}
    first = headers_of(scope)
    assert headers_of(scope) is first
    forget_headers(scope)
    assert headers_of(scope) is not first
    assert headers_of(scope) == first
