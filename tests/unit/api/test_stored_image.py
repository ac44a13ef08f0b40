"""Responses with a stored image: whole, in part, not modified, and from a store that fails."""

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.datastructures import Headers

from app.api.stored_images import StoredImageResponse
from app.errors import ServiceUnavailable
from app.images.store import StoredImage, store_unreachable

NAME = "a" * 32 + ".png"
DATA = bytes(range(256)) * 10_000
MODIFIED = "Thu, 01 Jan 1970 00:16:40 GMT"


@dataclass(slots=True)
class FakeStore:
    """Holds one image and records its reads. Read number `fails` and later ones fail; only `cut` bytes exist."""

    fails: int = 99
    cut: int = len(DATA)
    reads: list[tuple[int, int]] = field(default_factory=list)
    closed: int = 0

    async def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        if len(self.reads) >= self.fails:
            raise store_unreachable("away")
        return DATA[: self.cut][offset : offset + size]

    def close(self) -> None:
        self.closed += 1

    def stored(self) -> StoredImage:
        return StoredImage(NAME, len(DATA), 1000.0, self.read, self.close)


@dataclass(slots=True)
class Sent:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False


def send_to(sent: Sent, store: FakeStore, request_headers: dict[str, str], method: str = "GET") -> None:
    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent.status = message["status"]
            sent.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            sent.body += message["body"]
            sent.ended = not message.get("more_body")

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the response must not read from the client")

    response = StoredImageResponse(store.stored(), Headers(request_headers), {"x-kept": "yes"})
    asyncio.run(response({"type": "http", "method": method}, receive, send))


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    request_headers: dict[str, str]
    status: int
    part: slice
    range: str | None = None


ETAG = f'"{NAME}"'
PART = {"range": "bytes=4-9"}
SIZE = len(DATA)
NOTHING = slice(0, 0)
CASES = [
    Case("the whole", {}, 200, slice(None)),
    Case("a part", PART, 206, slice(4, 10), f"bytes 4-9/{SIZE}"),
    Case("the whole as a range", {"range": "bytes=0-"}, 206, slice(None), f"bytes 0-{SIZE - 1}/{SIZE}"),
    Case("a range beyond the end", {"range": f"bytes={SIZE}-"}, 416, NOTHING, f"bytes */{SIZE}"),
    Case("a part of the same image", PART | {"if-range": ETAG}, 206, slice(4, 10), f"bytes 4-9/{SIZE}"),
    Case("a part of an image with the same time", PART | {"if-range": MODIFIED}, 206, slice(4, 10), f"bytes 4-9/{SIZE}"),
    Case("a part of another image", PART | {"if-range": '"other"'}, 200, slice(None)),
    Case("an image that the client has", {"if-none-match": ETAG}, 304, NOTHING),
    Case("an image that the client has among others, with a weak tag", {"if-none-match": f'"other", W/{ETAG}'}, 304, NOTHING),
    Case("any tag", {"if-none-match": "*"}, 304, NOTHING),
    Case("an image that the client does not have", {"if-none-match": '"other"'}, 200, slice(None)),
    Case("a part of an image that the client has", PART | {"if-none-match": ETAG}, 304, NOTHING),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_response_matches_the_request_headers(case: Case, method: str) -> None:
    sent, store = Sent(), FakeStore()
    send_to(sent, store, case.request_headers, method)
    part = DATA[case.part]
    assert (sent.status, sent.ended, store.closed) == (case.status, True, 1)
    assert sent.body == (part if method == "GET" else b"")
    assert sent.headers.get("content-range") == case.range
    assert sent.headers.get("content-length") == (None if case.status == 304 else str(len(part)))
    assert {
        name: sent.headers[name] for name in ("etag", "last-modified", "accept-ranges", "x-kept", "content-type")
    } == {
        "etag": ETAG,
        "last-modified": MODIFIED,
        "accept-ranges": "bytes",
        "x-kept": "yes",
        "content-type": "image/png",
    }
    assert bool(store.reads) == bool(method == "GET" and part)


def test_the_image_is_read_in_chunks_of_one_mebibyte() -> None:
    sent, store = Sent(), FakeStore()
    send_to(sent, store, {})
    assert store.reads == [(0, 2**20), (2**20, 2**20), (2**21, SIZE - 2**21)]


def test_a_store_that_fails_at_first_causes_an_error_response() -> None:
    sent, store = Sent(), FakeStore(fails=1)
    with pytest.raises(ServiceUnavailable):
        send_to(sent, store, {})
    assert (sent.status, store.closed) == (0, 1)


def test_a_store_that_fails_later_cuts_the_response() -> None:
    sent, store = Sent(), FakeStore(fails=3)
    with pytest.raises(ServiceUnavailable):
        send_to(sent, store, {})
    assert (len(sent.body), sent.ended, store.closed) == (2 * 2**20, False, 1)


def test_an_image_that_became_shorter_is_cut() -> None:
    """The server then closes the connection, because fewer bytes than announced were sent."""
    sent, store = Sent(), FakeStore(cut=2**20)
    send_to(sent, store, {})
    assert (sent.body, sent.headers["content-length"]) == (DATA[: 2**20], str(SIZE))
