"""What a parser holds is bounded, whatever arrives: one picture over many events, endless bodies, and their cost."""

import gzip
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from random import Random

import orjson
import pybase64
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamInvalidReply
from app.extraction.forms import find_images
from app.images.blob import Blob
from app.protocol.chat_reply import ChatReply
from app.protocol.reply_parser import ReplyParser
from app.upstream.decoding import ContentDecoder
from tests.support.base64_spellings import WITH_LETTERS, Spelling, base64_of, each_spelling
from tests.support.large_images import png
from tests.support.memory_sink import MemorySink

IMAGE = png(Random(5).randbytes(200_000))
#: In place of `MAX_LEFT`, so that the tests are quick.
LIMIT = 2**18
URL = "data:image/png;base64,"
DONE = b"data: [DONE]\n\n"


def delta(text: str, **more: object) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": text, **more}}]}) + b"\n\n"


def stream(text: str, *edges: int) -> bytes:
    """Return a stream whose events have the parts of a text."""
    bounds = (0, *sorted(edges), len(text))
    return b"".join(delta(text[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)) + DONE


def read(data: bytes, *edges: int) -> ChatReply:
    parser = ReplyParser(MemorySink)
    bounds = (0, *sorted(edges), len(data))
    for a, b in zip(bounds, bounds[1:], strict=False):
        parser.feed(data[a:b])
    return parser.reply(ended=True)


def images_of(reply: ChatReply) -> list[bytes]:
    return [reply.spooled_images[image.url].read_at(0, 10**7) for image in find_images(reply)]


@pytest.mark.parametrize("size", [3, 100, 1_000, 16_384, 100_000, 200_000])
def test_one_picture_may_come_in_many_events(size: int) -> None:
    text = f"![x]({URL}{base64_of(IMAGE)})\nDone."
    reply = read(stream(text, *range(size, len(text), size)))
    assert images_of(reply) == [IMAGE]
    assert len(reply.messages[0]["content"]) < 400
    assert reply.messages[0]["content"].endswith(")\nDone.")


@each_spelling
def test_a_spelled_picture_may_come_in_many_events(spelling: Spelling) -> None:
    text = f"![x]({URL}{spelling.spell(base64_of(IMAGE))})"
    assert images_of(read(stream(text, *range(7_001, len(text), 7_001)))) == [IMAGE]


@pytest.mark.parametrize("spelling", WITH_LETTERS, ids=lambda spelling: spelling.name)
@pytest.mark.parametrize("size", [20, 77_000, 201_032, 201_058, 201_066])
def test_a_spelled_picture_may_come_in_two_unequal_events(spelling: Spelling, size: int) -> None:
    """The second event may be too small to be a piece of its own, and be cut inside a line or an escape."""
    text = f"{spelling.spell(base64_of(IMAGE))} is the picture"
    assert images_of(read(stream(text, size))) == [IMAGE]
    assert images_of(read(stream(text, len(text) - size))) == [IMAGE]


@settings(max_examples=40)
@given(
    st.sampled_from(WITH_LETTERS),
    st.lists(st.integers(0, 270_000), max_size=6),
    st.lists(st.integers(0, 280_000), max_size=6),
)
def test_events_and_chunks_may_be_cut_anywhere(spelling: Spelling, events: list[int], chunks: list[int]) -> None:  # fmt: skip
    text = f"{spelling.spell(base64_of(IMAGE))} is the picture"
    assert images_of(read(stream(text, *events), *chunks)) == [IMAGE]


def parts(*texts: str) -> bytes:
    content = [{"type": "text", "text": text} for text in texts]
    return orjson.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})


def read_small(data: bytes, size: int = 10_000) -> ChatReply:
    """Read a reply with a small limit, so that large pieces need not be that large."""
    parser = ReplyParser(MemorySink, max_left=LIMIT)
    for at in range(0, len(data), size):
        parser.feed(data[at : at + size])
    return parser.reply(ended=True)


LARGE = png(Random(8).randbytes(900_000))
LARGE_TEXT = f"Here: ![x]({URL}{base64_of(LARGE)})\nDone."


@pytest.mark.parametrize(
    "edges",
    [
        (600_000,), (300_001, 600_002), (290_003, 580_000, 870_001), (100, 600_000), (600_000, len(LARGE_TEXT) - 20),
        (600_000, len(LARGE_TEXT) - 8), (200_000, 400_001, 600_002, 800_003, 1_000_004), (599_999, 600_103, 610_000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_stream", [True, False], ids=["events", "JSON parts"])
def test_a_picture_may_come_in_pieces_that_are_larger_than_what_is_kept(
    edges: tuple[int, ...], is_stream: bool
) -> None:
    bounds = (0, *edges, len(LARGE_TEXT))
    pieces = [LARGE_TEXT[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    data = b"".join(map(delta, pieces)) + DONE if is_stream else parts(*pieces)
    for size in (10_000, 65_536, len(data)):
        reply = read_small(data, size)
        assert images_of(reply) == [LARGE]
        assert len(reply.messages[0]["content"]) < 500
        assert reply.messages[0]["content"].endswith("Done.")


#: Lines of an event are none within its text.
@pytest.mark.parametrize("spelling", [each for each in WITH_LETTERS if each.name != "lines of an event"], ids=lambda spelling: spelling.name)  # fmt: skip
def test_a_spelled_picture_may_come_in_large_pieces(spelling: Spelling) -> None:
    text = f"![x]({URL}{spelling.spell(base64_of(LARGE))})"
    half = next(at for at in range(len(text) // 2, len(text)) if text[at - 8 : at + 8].isalnum())
    assert images_of(read_small(delta(text[:half]) + delta(text[half:]) + DONE)) == [LARGE]


def test_two_pictures_in_large_pieces_are_two() -> None:
    other = png(Random(9).randbytes(900_000))
    texts = [f"![x]({URL}{base64_of(image)})" for image in (LARGE, other)]
    pieces = [text[a:b] for text in texts for a, b in ((0, 700_000), (700_000, None))]
    assert images_of(read_small(b"".join(map(delta, pieces)) + DONE)) == [LARGE, other]


def test_a_picture_in_large_pieces_begins_behind_another_one_that_is_cut_off() -> None:
    text = base64_of(LARGE)
    pieces = [URL + text[:700_000], text[:700_000], text[700_000:], " Done."]
    assert images_of(read_small(b"".join(map(delta, pieces)) + DONE)) == [LARGE]


def test_large_pieces_of_pictures_that_never_end_are_left_out() -> None:
    pieces = [f"![x]({URL}{base64_of(LARGE)[:700_000]}", f"![y]({URL}{base64_of(LARGE)[:700_000]}", "Sorry."]
    for data in (b"".join(map(delta, pieces)) + DONE, parts(*pieces)):
        reply = read_small(data)
        assert images_of(reply) == []
        assert len(reply.messages[0]["content"]) < 500


@pytest.mark.parametrize("cut", [700_000, 700_001, 700_002, 700_003])
@pytest.mark.parametrize("padding", ["=", "=="])
def test_large_pieces_with_padding_between_them_are_no_picture(cut: int, padding: str) -> None:
    text = f"{URL}{base64_of(LARGE)}"
    pieces = [
        text[:cut] + padding,
        text[cut : cut + 300_001] + padding,
        text[cut + 300_001 :] + padding,
        "QUJD" * 500,
        " Sorry.",
    ]
    reply = read_small(b"".join(map(delta, pieces)) + DONE)
    assert images_of(reply) == []
    assert reply.messages[0]["content"].endswith("Sorry.")


def test_large_base64_that_is_no_picture_is_left_out() -> None:
    reply = read_small(delta("A fox", sound="ABCD" * 200_000) + delta("", more="abcd" * 100) + DONE)
    assert reply.messages[0]["content"] == "A fox"
    assert len(reply.messages[0]["sound"]) < 20
    assert images_of(reply) == []


def test_signs_of_pieces_that_are_not_there_or_were_joined_are_text() -> None:
    signs = "\ue000piece 0\ue001", "\ue000piece 7\ue001"
    texts = (signs[1], LARGE_TEXT[:700_000], LARGE_TEXT[700_000:], signs[1], " b", signs[0], "c")
    reply = read_small(b"".join(map(delta, texts)) + DONE)
    assert images_of(reply) == [LARGE]
    assert reply.messages[0]["content"].startswith(signs[1])
    assert reply.messages[0]["content"].endswith(f"Done.{signs[1]} b{signs[0]}c")


def test_pictures_of_several_choices_may_come_in_turns() -> None:
    texts = [f"{URL}{base64_of(png(Random(seed).randbytes(80_000)))}" for seed in (1, 2)]
    events = []
    for start in range(0, len(texts[0]), 9_000):
        for index, text in enumerate(texts):
            choice = {"index": index, "delta": {"content": text[start : start + 9_000]}}
            events.append(b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n")
    assert images_of(read(b"".join(events) + DONE)) == [png(Random(seed).randbytes(80_000)) for seed in (1, 2)]


def test_a_picture_that_a_whole_message_repeats_is_one() -> None:
    text = f"![x]({URL}{base64_of(IMAGE)})"
    whole = orjson.dumps({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]})
    reply = read(stream(text, *range(0, len(text), 5_000)).removesuffix(DONE) + b"data: " + whole + b"\n\n" + DONE)
    assert images_of(reply) == [IMAGE]
    assert len(reply.messages[0]["content"]) < 300


def test_a_picture_is_there_where_the_stream_breaks_off_behind_it() -> None:
    parser = ReplyParser(MemorySink)
    parser.feed(stream(f"{URL}{base64_of(IMAGE)}", 100_000).removesuffix(DONE))
    assert find_images(parser.reply()) == []
    assert parser.reply().has_content
    parser.end()
    assert images_of(parser.reply()) == [IMAGE]


def test_a_picture_in_an_error_object_is_spooled() -> None:
    reply = read(orjson.dumps({"error": {"message": "full", "image": f"{URL}{base64_of(IMAGE)}"}}))
    assert [blob.size for blob in reply.spooled_images.values()] == [len(IMAGE)]
    assert len(orjson.dumps(reply.error)) < 400


@dataclass(frozen=True)
class Endless:
    name: str
    start: bytes
    more: bytes


ENDLESS = [
    Endless("white space", b"", b" \n" * 8_000),
    Endless("a comment", b":", b"x" * 16_000),
    Endless("comments", b"", b": keep-alive\n\n" * 1_000),
    Endless("comments between events", delta("a"), b": keep-alive\n\n" * 1_000),
    Endless("empty lines", delta("a"), b"\n" * 16_000),
    Endless("a string", b'{"choices":[{"message":{"content":"', b"fox " * 4_000),
    Endless("brackets", b"", b"[" * 16_000),
    Endless("numbers", b"[1", b",1" * 8_000),
    Endless("white space behind the document", b"{}", b" " * 16_000),
    Endless("a line of an event", b'data: {"choices":[{"delta":{"content":"', b"fox " * 4_000),
    Endless("a line of no field", delta("a"), b"x" * 16_000),
    Endless("lines of data", delta("a"), b"data: x\n" * 2_000),
    Endless("events that are no JSON", delta("a"), b"data: ping\n\n" * 1_500),
    Endless("text in events", delta("a"), delta("fox " * 250) * 16),
    Endless("short texts in events", delta("a"), delta("fox ") * 200),
    Endless("empty events", delta("a"), b"data: {}\n\n" * 1_500),
    Endless("fields", delta("a"), delta("", more=["x" * 1_000]) * 16),
    Endless("a growing field", delta("a"), b"".join(delta("", more="x" * length) for length in (9, 15_000))),
    Endless("documents beside choices", delta("a"), b'data: {"data":[{"x":"%s"}]}\n\n' % (b"x" * 15_000)),
    Endless("HTML", b"<html>", b"<p>" * 5_000),
    Endless("base64 that is no picture", b'{"a":"', b'base64,%s"' % (b"ABCD" * 20_000)),
]


def feed_until_the_end(parser: ReplyParser, chunks: Iterable[bytes]) -> int:
    """Return how many bytes were fed when the parser refused more."""
    received = 0

    def feed_all() -> None:
        nonlocal received
        for chunk in chunks:
            received += len(chunk)
            parser.feed(chunk)

    with pytest.raises(UpstreamInvalidReply, match="larger than"):
        feed_all()
    return received


@pytest.mark.parametrize("case", ENDLESS, ids=lambda case: case.name)
def test_an_endless_reply_is_refused(case: Endless) -> None:
    parser = ReplyParser(Blob, max_left=LIMIT)
    received = feed_until_the_end(parser, chain([case.start], islice(repeat(case.more), 2_000)))
    assert received > LIMIT / 2
    assert parser.reply().complete is (case.start == b"{}")


def test_thoughts_may_be_longer_than_what_is_kept() -> None:
    events = (delta("", reasoning_content="Hm, a fox " * 2) for _ in range(6_000))
    parser = ReplyParser(Blob, max_left=LIMIT)
    size = 0
    for event in events:
        size += len(event)
        parser.feed(event)
    parser.feed(delta("https://h/a.png") + DONE)
    assert size > LIMIT
    assert [image.url for image in find_images(parser.reply(ended=True))] == ["https://h/a.png"]


def peak_of(work: Callable[[], object]) -> int:
    """Return the most bytes that Python held during a call."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BIG = png(Random(6).randbytes(3 * 2**20))
BIG_TEXT = base64_of(BIG)


def feed(chunks: Iterator[bytes]) -> None:
    parser = ReplyParser(Blob)
    for chunk in chunks:
        parser.feed(chunk)
    reply = parser.reply(ended=True)
    (image,) = find_images(reply)
    assert reply.spooled_images[image.url].size == len(BIG)
    for blob in reply.spooled_images.values():
        assert isinstance(blob, Blob)
        blob.close()


@each_spelling
def test_a_picture_takes_little_memory_in_every_spelling(spelling: Spelling) -> None:
    data = f'{{"choices":[{{"message":{{"content":"![x]({URL}{spelling.spell(BIG_TEXT)})"}}}}]}}'.encode()
    assert peak_of(lambda: feed(data[at : at + 65_536] for at in range(0, len(data), 65_536))) < 2 * 2**20


@pytest.mark.parametrize("size", [1_000, 16_384, 65_536])
def test_a_picture_takes_little_memory_in_many_events(size: int) -> None:
    def events() -> Iterator[bytes]:
        yield delta(f"![x]({URL}")
        for start in range(0, len(BIG_TEXT), size):
            yield delta(BIG_TEXT[start : start + size])
        yield delta(")") + DONE

    assert peak_of(lambda: feed(events())) < 2 * 2**20


@pytest.mark.parametrize("text", [b" ", b"fox ", b": x\n\n", b"[", b"data: {}\n\n"])
def test_a_compressed_flood_takes_little_memory(text: bytes) -> None:
    bomb = gzip.compress(text * (64 * LIMIT // len(text)))

    peak = peak_of(lambda: feed_until_the_end(ReplyParser(Blob, max_left=LIMIT), ContentDecoder("gzip").feed(bomb)))
    assert peak < 32 * LIMIT


def test_pictures_without_number_are_decoded_once() -> None:
    small = pybase64.b64encode_as_string(png(b"x"))
    reply = read(orjson.dumps({"choices": [{"message": {"content": f"{URL}{small} " * 300}}]}))
    assert reply.spooled_images == {}
    assert [image.url for image in find_images(reply)] == [f"{URL}{small}"]


def test_the_size_of_a_reply_counts_its_objects() -> None:
    plain = read(orjson.dumps({"choices": [{"message": {"content": "x" * 9_000}}]}))
    lists = read(orjson.dumps({"choices": [{"message": {"content": "x", "z": [[]] * 3_000}}]}))
    assert 9_000 < plain.size < 30_000
    assert lists.size > 150_000


def test_a_reply_without_its_text_keeps_what_it_has_cost() -> None:
    whole = read(orjson.dumps({"choices": [{"message": {"content": "fox"}}], "usage": {"prompt_tokens": 3}}))
    rest = whole.without_text()
    assert (rest.usage, rest.messages, rest.raw, rest.size) == (whole.usage, (), "", 0)


def test_a_parser_knows_whether_it_is_in_an_image() -> None:
    states = []
    parser = ReplyParser(MemorySink)
    for chunk in (b'{"a":"base64,', base64_of(IMAGE)[:5_000].encode(), b'"'):
        parser.feed(chunk)
        states.append(parser.is_in_image)
    assert states == [True, True, False]
    assert not ReplyParser().is_in_image
