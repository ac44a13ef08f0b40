"""What a client is told about a kept picture, whatever part of it the client asks for."""

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
class Shelf:
    """One picture, and how it was read. From the read number `fails` on the store is away; `cut` bytes are there."""

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


def send_to(sent: Sent, shelf: Shelf, asked: dict[str, str], method: str = "GET") -> None:
    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent.status = message["status"]
            sent.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            sent.body += message["body"]
            sent.ended = not message.get("more_body")

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("nothing more is asked of the client")

    response = StoredImageResponse(shelf.stored(), Headers(asked), {"x-kept": "yes"})
    asyncio.run(response({"type": "http", "method": method}, receive, send))


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    asked: dict[str, str]
    status: int
    part: slice
    range: str | None = None


ETAG = f'"{NAME}"'
PART = {"range": "bytes=4-9"}
SIZE = len(DATA)
NOTHING = slice(0, 0)
CASES = [
    Case("all of it", {}, 200, slice(None)),
    Case("a part", PART, 206, slice(4, 10), f"bytes 4-9/{SIZE}"),
    Case("all of it as a part", {"range": "bytes=0-"}, 206, slice(None), f"bytes 0-{SIZE - 1}/{SIZE}"),
    Case("a part that is not there", {"range": f"bytes={SIZE}-"}, 416, NOTHING, f"bytes */{SIZE}"),
    Case("a part of the same picture", PART | {"if-range": ETAG}, 206, slice(4, 10), f"bytes 4-9/{SIZE}"),
    Case("a part of a picture of the same time", PART | {"if-range": MODIFIED}, 206, slice(4, 10), f"bytes 4-9/{SIZE}"),
    Case("a part of another picture", PART | {"if-range": '"other"'}, 200, slice(None)),
    Case("one that the client has", {"if-none-match": ETAG}, 304, NOTHING),
    Case("one that the client has among others, weakly", {"if-none-match": f'"other", W/{ETAG}'}, 304, NOTHING),
    Case("any", {"if-none-match": "*"}, 304, NOTHING),
    Case("one that the client has not", {"if-none-match": '"other"'}, 200, slice(None)),
    Case("a part of one that the client has", PART | {"if-none-match": ETAG}, 304, NOTHING),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_sent(case: Case, method: str) -> None:
    sent, shelf = Sent(), Shelf()
    send_to(sent, shelf, case.asked, method)
    part = DATA[case.part]
    assert (sent.status, sent.ended, shelf.closed) == (case.status, True, 1)
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
    assert bool(shelf.reads) == bool(method == "GET" and part)


def test_it_is_read_in_pieces_of_a_mebibyte() -> None:
    sent, shelf = Sent(), Shelf()
    send_to(sent, shelf, {})
    assert shelf.reads == [(0, 2**20), (2**20, 2**20), (2**21, SIZE - 2**21)]


def test_a_store_that_is_away_is_an_error_and_no_torn_picture() -> None:
    sent, shelf = Sent(), Shelf(fails=1)
    with pytest.raises(ServiceUnavailable):
        send_to(sent, shelf, {})
    assert (sent.status, shelf.closed) == (0, 1)


def test_a_store_that_goes_away_meanwhile_ends_the_answer() -> None:
    sent, shelf = Sent(), Shelf(fails=3)
    with pytest.raises(ServiceUnavailable):
        send_to(sent, shelf, {})
    assert (len(sent.body), sent.ended, shelf.closed) == (2 * 2**20, False, 1)


def test_a_picture_that_got_shorter_ends_where_it_ends() -> None:
    """The server cuts the connection: fewer bytes than were announced."""
    sent, shelf = Sent(), Shelf(cut=2**20)
    send_to(sent, shelf, {})
    assert (sent.body, sent.headers["content-length"]) == (DATA[: 2**20], str(SIZE))
