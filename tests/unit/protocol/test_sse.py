"""Events are read from bytes in any cut, and written."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.protocol.sse import Decoder, Event, StreamingEvent, comment


@dataclass(frozen=True)
class Case:
    name: str
    body: bytes
    events: list[Event]


CASES = [
    Case("one event", b"data: a\n\n", [Event("a")]),
    Case("an event with a name", b"event: x\ndata: a\n\n", [Event("a", "x")]),
    Case("a name applies to its own event only", b"event: x\ndata: a\n\ndata: b\n\n", [Event("a", "x"), Event("b")]),
    Case("several lines of data", b"data: a\ndata: b\n\n", [Event("a\nb")]),
    Case("only one leading space belongs to the framing", b"data:  a\n\n", [Event(" a")]),
    Case("no space", b"data:a\n\n", [Event("a")]),
    Case("a field without a colon", b"data\n\n", [Event("")]),
    Case("a comment", b": hi\n\ndata: a\n\n", [Event("a")]),
    Case("other fields", b"id: 1\nretry: 5\nfoo: x\ndata: a\n\n", [Event("a")]),
    Case("a name without data", b"event: ping\n\ndata: a\n\n", [Event("a")]),
    Case("blank lines alone", b"\n\n\n\n", []),
    Case("lines that end in CR LF", b"data: a\r\ndata: b\r\n\r\n", [Event("a\nb")]),
    Case("lines that end in CR", b"data: a\rdata: b\r\r", [Event("a\nb")]),
    Case("a byte order mark", b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    Case("a second mark is data", b"data: \xef\xbb\xbfa\n\n", [Event("\ufeffa")]),
    Case("characters of several bytes", "data: 图🎨\n\n".encode(), [Event("图🎨")]),
    Case("bytes that are not UTF-8", b"data: \xffa\n\n", [Event("\ufffda")]),
    Case(
        "a data stream, which has no events",
        b'0:"a"\nd:{"b": 1}\n8:[1]\n',
        [
            Event('{"type": "data-stream-0", "value": "a"}'),
            Event('{"type": "data-stream-d", "value": {"b": 1}}'),
            Event('{"type": "data-stream-8", "value": [1]}'),
        ],
    ),
    Case("a field of one letter without JSON", b"a: x\n0:1\ndata: a\n\n", [Event("a")]),
    Case("a line of a data stream inside an event", b'data: a\n0:"x"\n\n', [Event("a", loose_data='a\n0:"x"')]),
    Case("an event without its blank line", b"data: a\n", [Event("a")]),
    Case("an event without its line end", b"data: a", [Event("a")]),
    Case("the last mark", b"data: [DONE]\n\n", [Event("[DONE]")]),
    Case("the last mark without a blank line", b"data: a\n\ndata: [DONE]\ndata: b\n\n", [Event("a"), Event("[DONE]"), Event("b")]),
    Case("the last mark behind an event without its blank line", b"data: a\ndata: [DONE]\n\n", [Event("a"), Event("[DONE]")]),
    Case("the last mark in quotes", b'data:"[DONE]"\r\n\r\n', [Event("[DONE]")]),
    Case("the last mark in small letters, with a tab", b"data:\t[done]\n\n", [Event("[DONE]")]),
    Case("the last mark with a name", b"event: done\ndata: [DONE]\n\ndata: a\n\n", [Event("[DONE]"), Event("a")]),
    Case("the words of the last mark", b"data: [DONE\n\ndata: say [DONE]\n\n", [Event("[DONE"), Event("say [DONE]")]),
]  # fmt: skip


def read(body: bytes, cuts: list[int]) -> list[Event]:
    decoder = Decoder()
    edges = [0, *sorted(cuts), len(body)]
    events = [each for start, end in zip(edges, edges[1:], strict=False) for each in decoder.feed(body[start:end])]
    return events + decoder.end()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_events_are_read_whole_and_byte_by_byte(case: Case) -> None:
    assert read(case.body, []) == case.events
    assert read(case.body, list(range(len(case.body)))) == case.events


@settings(max_examples=60)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 40), max_size=4))
def test_events_are_read_in_any_cut(case: Case, cuts: list[int]) -> None:
    assert read(case.body, cuts) == case.events


LOOSE_CASES = [
    Case("lines behind a blank line", b"data: a\n\nb\nc\n\nd", [Event("a"), Event("", loose_data="b\nc"), Event("", loose_data="d")]),
    Case("lines in front of the data", b"event: x\nb\ndata: a\n\n", [Event("", "x", "b"), Event("a", "x")]),
    Case("lines within the data", b"data: a\nb\ndata: c\n\n", [Event("a\nc", loose_data="a\nb\nc")]),
    Case("other fields alone", b"id: 1\n\nevent: x\n\n: b\n\n", []),
]  # fmt: skip


@pytest.mark.parametrize("case", LOOSE_CASES, ids=lambda case: case.name)
def test_lines_of_no_field_are_kept_where_they_are_wanted(case: Case) -> None:
    for size in (1, len(case.body)):
        decoder = Decoder(keeps_loose_lines=True)
        pieces = [case.body[at : at + size] for at in range(0, len(case.body), size)]
        events = [event for piece in pieces for event in decoder.feed(piece)]
        assert events + decoder.end() == case.events


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("mark", [b"data: [DONE]", b"data:[DONE]", b'data:  "[DONE]'])
def test_the_last_mark_needs_no_end_of_its_line(mark: bytes, end: bytes) -> None:
    """Else a server that leaves the connection open would be waited for."""
    decoder = Decoder()
    events = [event for byte in b"data: a\n\n" + mark for event in decoder.feed(bytes([byte]))]
    assert events == [Event("a"), Event("[DONE]")]
    assert (decoder.size, decoder.pending) == (0, 0)
    assert [*decoder.feed(end), *decoder.end()] == []


def test_lines_of_no_field_are_counted_until_they_are_an_event() -> None:
    decoder = Decoder(keeps_loose_lines=True)
    decoder.feed(b"data: a\n\nb\n")
    assert decoder.size == len(b"b\n")
    decoder.feed(b"\n")
    assert decoder.size == 0


def test_what_is_written_can_be_read() -> None:
    body = comment() + b"".join(StreamingEvent("image_generation.completed", {"a": 1}).chunks()) + comment("bye")
    assert read(body, []) == [Event('{"a":1}', "image_generation.completed")]


def test_the_exact_bytes_that_are_written() -> None:
    event = StreamingEvent("error", {"type": "error"})
    written = b"".join(event.chunks())
    assert written == b'event: error\ndata: {"type":"error"}\n\n'
    assert event.length == len(written)
    assert comment() == b": keep-alive\n\n"


def test_bytes_that_are_no_data_of_a_finished_event_are_counted() -> None:
    decoder = Decoder()
    decoder.feed("data: é\n\ndata: é\nid: 1\nevent: x\n\n".encode())
    assert decoder.size == len("id: 1\nevent: x\n")
    decoder = Decoder()
    decoder.feed(b": wait\n\n\r\ndata: half")
    assert decoder.size == len(b": wait\n\n\ndata: half")
