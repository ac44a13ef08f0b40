"""The parsers that are fuzzed, their inputs, and what must hold for any input: only an `ApiError` may be raised."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import orjson

from app.api.body import parse_multipart
from app.errors import ApiError
from app.extraction.forms import explain
from app.extraction.text import visible_text
from app.images.blob import Blob
from app.images.ssrf import AddressBlocked, check_url
from app.protocol.chat_reply import ChatReply
from app.protocol.data_url import decode_data_url
from app.protocol.image_format import sniff
from app.protocol.inline_images import InlineImageSpooler
from app.protocol.parameters import Operation
from app.protocol.reply_parser import ReplyParser, read_reply
from app.protocol.request_parser import read_form, read_json
from app.protocol.sse import Decoder
from fuzz.mutation import Stock
from tests.support.reply_corpus import read_corpus
from tests.support.sample_images import noise, saved

IMAGES = [saved(noise((40, 40)), form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]


@dataclass(frozen=True, slots=True)
class Target:
    """One parser. `check` feeds it one input and raises if something does not hold."""

    name: str
    stock: Stock
    check: Callable[[Random, bytes], None]


def cuts(random: Random, data: bytes) -> Iterator[bytes]:
    """Cut the data into random chunks as a network does, sometimes single bytes."""
    largest = random.choice((1, 7, 1000, len(data) + 1)) if len(data) < 20_000 else 65_536
    while data:
        size = random.randint(1, largest)
        yield data[:size]
        data = data[size:]


def check_reply(random: Random, data: bytes) -> None:
    """Check that a reply is the same whole and in chunks, and that every found image is a link or decodes.

    Spooling may discard a damaged image depending on where a chunk ends, so with it only errors are looked for.
    """
    spooled = _read_chunks(random, data, Blob)
    if spooled is not None:
        explain(spooled)
    whole, chunked = _read_whole(data), _read_chunks(random, data)
    assert type(whole) is type(chunked)
    if not isinstance(whole, ChatReply) or not isinstance(chunked, ChatReply):
        return
    assert (visible_text(whole), whole.refusal, whole.usage) == (visible_text(chunked), chunked.refusal, chunked.usage)
    found = explain(whole).images
    assert [image.url for image in found] == [image.url for image in explain(chunked).images]
    for image in found:
        if image.url.startswith("data:"):
            decode_data_url(image.url)
        else:
            assert image.url.startswith(("http://", "https://"))
            assert not re.search(r"[\x00-\x20\x7f-\x9f]", image.url)


def _read_whole(data: bytes) -> ChatReply | None:
    try:
        return read_reply(data)
    except ApiError:
        return None


def _read_chunks(random: Random, data: bytes, new_sink: Callable[[], Blob] | None = None) -> ChatReply | None:
    parser = ReplyParser(new_sink)
    try:
        for chunk in cuts(random, data):
            parser.feed(chunk)
        return parser.reply(ended=True)
    except ApiError:
        return None


def check_events(random: Random, data: bytes) -> None:
    whole, chunked = Decoder(), Decoder()
    events = [event for chunk in cuts(random, data) for event in chunked.feed(chunk)] + chunked.end()
    assert events == whole.feed(data) + whole.end()


def check_form(random: Random, data: bytes) -> None:
    blobs: list[Blob] = []

    def new_blob() -> Blob:
        blobs.append(Blob(in_memory=1024))
        return blobs[-1]

    async def body() -> AsyncIterator[bytes]:
        for chunk in cuts(random, data):
            yield chunk

    with suppress(ApiError):
        parts = asyncio.run(
            parse_multipart(body(), "B", InlineImageSpooler(new_blob), new_blob=new_blob, max_part=MAX_PART)
        )
        read_form(Operation.EDIT, parts)
    for blob in blobs:
        blob.close()


MAX_PART = 100_000


def check_request(random: Random, data: bytes) -> None:
    """Feed the body in chunks through the spooler, then read the request."""
    spooler = InlineImageSpooler(Blob)
    text = b"".join(spooler.feed(chunk) for chunk in cuts(random, data)) + spooler.end()
    for operation in Operation:
        with suppress(ApiError, orjson.JSONDecodeError):
            request = read_json(operation, orjson.loads(text))
            assert all(name.isascii() and name.isprintable() for name in request.ignored)
            assert request.size is None or request.size.width * request.size.height <= 8_294_400


def check_image(_: Random, data: bytes) -> None:
    info = sniff(data)
    assert info is None or info.size is None or all(int(edge) > 0 for edge in info.size.split("x"))


def check_address(_: Random, data: bytes) -> None:
    with suppress(AddressBlocked):
        target = check_url(data.decode("utf-8", "replace"))
        assert target.url.startswith(("http://", "https://"))


_REPLIES = [row.body for name in ("replies.jsonl", "more_replies.jsonl") for row in read_corpus(name)]
_FORM = (
    b'--B\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na hat\r\n'
    b'--B\r\ncontent-disposition: form-data; name="image[]"; filename="a.png"\r\ncontent-type: image/png\r\n\r\n'
    + IMAGES[0]
    + b'\r\n--B\r\ncontent-disposition: form-data; name="n"\r\n\r\n1\r\n--B--\r\n'
)
_REQUESTS = [
    b'{"prompt":"a","n":1,"size":"1024x1024","quality":"high","metadata":{"a":"b"},"stream":false}',
    b'{"prompt":"a","images":[{"image_url":"data:image/png;base64,iVBORw0KGgoAAAA="}],"mask":{"image_url":"https://h/a.png"}}',
]
_ADDRESSES = [b"http://127.0.0.1/", b"https://[::ffff:1.2.3.4]:8443/a?b#c", b"http://user@xn--bcher-kva.example:80/", b"http://0x7f.1/"]  # fmt: skip

_JSON = [b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u0000", b"\\ud800", b"null", b"true", b"1e999", b"-0", b",", b":", b"\xff"]  # fmt: skip
_MARKS = [b"![", b"](", b"<img src=", b"data:image/png;base64,", b"https://", b"```", b"(", b")", b"<", b"&amp;", b"%0a", b"=="]  # fmt: skip
_LINES = [b"\r", b"\n", b"\r\n", b"\n\n", b"data: ", b"data: [DONE]\n\n", b": ", b"event: error\n", b"\xef\xbb\xbf"]
_PARTS = [b"\r\n--B\r\n", b"--B--", b"\r\n", b'name="image[0]"', b"filename*=UTF-8''a", b"; ", b":", b"\r\n\r\n", b"\0"]
_DOTS = [b".", b":", b"[", b"]", b"@", b"%", b"\\", b"//", b"0x", b"::", "。".encode(), "①".encode(), b"\0", b" ", b"#"]
_BYTES = [b"\0", b"\xff", b"\xff\xd9", b"IHDR", b"IEND", b"VP8X", b"\xff\xff\xff\xff", b"ftypavif"]

TARGETS = (
    Target("replies", Stock(_REPLIES, _JSON + _MARKS + _LINES), check_reply),
    Target("events", Stock([body for body in _REPLIES if body.startswith(b"data:")], _JSON + _LINES), check_events),
    Target("forms", Stock([_FORM], _PARTS), check_form),
    Target("requests", Stock(_REQUESTS, _JSON + _MARKS), check_request),
    Target("images", Stock(IMAGES, _BYTES), check_image),
    Target("addresses", Stock(_ADDRESSES, _DOTS), check_address),
)
