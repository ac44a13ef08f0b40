"""A body that has come as a whole gives the same reply as one that comes in pieces, with less work."""

from dataclasses import dataclass, replace
from random import Random

import orjson
import pybase64
import pytest

from app.errors import UpstreamInvalidReply
from app.protocol.inline_images import InlineImageSpooler, placeholder_png
from app.protocol.reply_parser import ReplyParser
from tests.support.base64_spellings import SPELLINGS
from tests.support.memory_sink import MemorySink
from tests.support.reply_corpus import read_corpus

NOISE = Random(3).randbytes(90_000)


def png(size: int) -> str:
    small = placeholder_png(99)
    noise = NOISE[:size]
    return pybase64.b64encode_as_string(
        small[:-12] + size.to_bytes(4, "big") + b"tEXt" + noise + b"\0\0\0\0" + small[-12:]
    )


SMALL, LARGE = png(300), png(90_000)


@dataclass(frozen=True)
class Body:
    name: str
    body: bytes


def body(content: object, **more: object) -> bytes:
    return orjson.dumps({"choices": [{"message": {"content": content}, **more}]})


CORPUS = [
    Body(reply.id, reply.body)
    for name in ("replies.jsonl", "more_replies.jsonl")
    for reply in read_corpus(name)
    if reply.body.startswith(b"{")
]
HALF = len(SMALL) // 2
BODIES = [
    Body("a link", body("![fox](https://h/a.png)")),
    Body("a small image", body(f"![fox](data:image/png;base64,{SMALL})")),
    Body("a large image", body(f"![fox](data:image/png;base64,{LARGE})")),
    Body("an image in the URL-safe alphabet", body(f"data:image/png;base64,{SMALL.replace('+', '-').replace('/', '_')}")),
    Body("nothing but base64", body(LARGE)),
    Body("a mark with an escape", body("X").replace(b'"X"', b'"data:image/png;\\u0062ase64,' + SMALL.encode() + b'"')),
    Body("first bytes with an escape", body("X").replace(b'"X"', b'"\\u0069' + SMALL[1:].encode() + b'"')),
    Body("an image in two parts", body([{"type": "text", "text": SMALL[:HALF]}, {"type": "text", "text": SMALL[HALF:]}])),
    Body("an image behind a part", body([{"type": "text", "text": "base64,"}, {"type": "text", "text": SMALL}])),
    Body("a mark in two fields of a choice", body(f"ase64,{SMALL.replace('+', '-')}", text="data:image/png;b")),
    Body("a mark in a delta and a message", body(f"ase64,{SMALL}", delta={"content": "data:image/png;b"})),
    Body("two choices of one index", orjson.dumps({"choices": [{"index": 0, "delta": {"content": each}} for each in (LARGE[:9], LARGE[9:])]})),
    Body("two documents", b"".join(orjson.dumps({"choices": [{"delta": {"content": each}}]}) for each in ("data:image/png;b", f"ase64,{SMALL}"))),
    Body("two messages", orjson.dumps({"choices": [{"message": {"content": "a"}}, {"message": {"content": "https://h/b.png"}}]})),
    Body("no text", body(None)),
    Body("an error", b'{"error": {"message": "no"}}'),
]  # fmt: skip


def outcome_of(parser: ReplyParser) -> object:
    """Return all that is known of a reply, with the bytes of its images, or the error."""
    try:
        reply = parser.reply(ended=True)
    except UpstreamInvalidReply as error:
        return error.message, error.detail
    images = {url: sink.read_at(0, sink.size) for url, sink in reply.spooled_images.items()}
    return replace(reply, spooled_images={}), reply.size, images


@pytest.mark.parametrize("case", [*BODIES, *CORPUS], ids=lambda case: case.name)
def test_a_whole_body_gives_the_same_reply_as_its_pieces(case: Body) -> None:
    whole, pieces = ReplyParser(MemorySink), ReplyParser(MemorySink)
    assert whole.feed_all(case.body) is False
    pieces.feed(case.body[:-1])
    pieces.feed(case.body[-1:])
    assert outcome_of(whole) == outcome_of(pieces)


def test_a_spelled_image_in_a_whole_body_gives_the_same_reply() -> None:
    for spelling in SPELLINGS:
        text = f'{{"choices":[{{"message":{{"content":"![x](data:image/png;base64,{spelling.spell(SMALL)})"}}}}]}}'
        whole, pieces = ReplyParser(MemorySink), ReplyParser(MemorySink)
        whole.feed_all(text.encode())
        pieces.feed(text.encode())
        assert whole.reply(ended=True).messages == pieces.reply(ended=True).messages, spelling.name


def test_a_parser_without_sinks_takes_a_whole_body() -> None:
    parser = ReplyParser()
    parser.feed_all(BODIES[0].body)
    assert parser.reply(ended=True).messages[0]["content"] == "![fox](https://h/a.png)"


def test_the_usual_reply_passes_no_spooler(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[bytes] = []
    monkeypatch.setattr(InlineImageSpooler, "feed", lambda _, data: fed.append(data))
    parser = ReplyParser(MemorySink)
    parser.feed_all(BODIES[0].body)
    assert parser.reply(ended=True).messages[0]["content"] == "![fox](https://h/a.png)"
    assert fed == []
