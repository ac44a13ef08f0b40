"""Bodies of chat upstreams, whole or as they arrive, readable or not."""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamInvalidReply
from app.extraction.text import visible_text
from app.protocol.chat_reply import ChatReply, ReplyParser, read_reply
from app.protocol.usage import Usage

WHOLE = orjson.dumps(
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi 图"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }
)


def line(content: str | None, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"


DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Case:
    name: str
    body: bytes
    text: str


READABLE = [
    Case("one JSON object", WHOLE, "Hi 图"),
    Case("white space before it", b"\n \n" + WHOLE, "Hi 图"),
    Case("a byte order mark", b"\xef\xbb\xbf" + WHOLE, "Hi 图"),
    Case("comments before it", b": keep-alive\n\n: keep-alive\r\n\r\n" + WHOLE, "Hi 图"),
    Case("one object a line", b'{"message":{"content":"a"}}\n\n{"message":{"content":"b"}}\n', "ab"),
    Case("a list of chunks", b"[" + WHOLE + b"]", "Hi 图"),
    Case("half a pair of surrogates", rb'{"choices":[{"message":{"content":"\ud83d!"}}]}', "\ufffd!"),
    Case("a byte that is no text", WHOLE.replace("图".encode(), b"\xff"), "Hi \ufffd"),
    Case("events", line("a") + line("b") + DONE, "ab"),
    Case("comments before events", b": x\n\n" + line("a"), "a"),
    Case("an event without its end", line("a").rstrip(), "a"),
    Case("events that are no JSON", b"data: ping\n\n" + line("a"), "a"),
    Case("nothing said", DONE, ""),
]


@pytest.mark.parametrize("case", READABLE, ids=lambda case: case.name)
def test_a_body_is_read_whole_and_byte_by_byte(case: Case) -> None:
    reply = read_reply(case.body)
    assert visible_text(reply) == case.text
    assert reply.complete
    reader = ReplyParser()
    for at in range(len(case.body)):
        reader.feed(case.body[at : at + 1])
    assert reader.reply(ended=True) == reply


@settings(max_examples=60)
@given(st.sampled_from(READABLE), st.lists(st.integers(0, 250), max_size=4))
def test_a_body_is_read_in_any_cut(case: Case, cuts: list[int]) -> None:
    reader = ReplyParser()
    edges = [0, *sorted(cuts), len(case.body)]
    for start, end in zip(edges, edges[1:], strict=False):
        reader.feed(case.body[start:end])
    assert reader.reply(ended=True) == read_reply(case.body)


UNREADABLE = [
    b"",
    b"  \n",
    b": only a comment\n\n",
    b"<html><body>502</body></html>",
    b"upstream connect error",
    b"null",
    b"[]",
    b"[1]",
    b'"text"',
    b'{"choices":[{"message":{"content":"cut',
    rb'{"choices":"\ud83d',
    b"data: half\n\n",
]


@pytest.mark.parametrize("body", UNREADABLE, ids=repr)
def test_what_nobody_can_read_is_refused_and_kept_for_the_log(body: bytes) -> None:
    with pytest.raises(UpstreamInvalidReply) as caught:
        read_reply(body)
    assert "could not be read" in caught.value.message
    assert body.decode().strip()[:10] in str(caught.value.detail)


def test_usage_reason_and_error_are_read() -> None:
    reply = read_reply(WHOLE)
    assert (reply.usage, reply.finish_reason, reply.error) == (Usage(0, 3, 4), "stop", None)
    assert read_reply(b'{"error":{"message":"m","code":"c"}}').error == {"message": "m", "code": "c"}
    assert read_reply(b'event: error\ndata: {"message":"m"}\n\n').error == {"message": "m"}
    assert read_reply(b'event: error\ndata: {"error":{"message":"m"}}\n\n').error == {"message": "m"}


@dataclass(frozen=True)
class End:
    name: str
    body: bytes
    open: bool
    ended: bool


ENDS = [
    End("the last mark is there", line("a") + DONE, True, True),
    End("a reason is there", line("a", "stop"), True, True),
    End("neither is there", line("a"), False, True),
    End("a JSON body", WHOLE, True, True),
]


@pytest.mark.parametrize("case", ENDS, ids=lambda case: case.name)
def test_whether_a_reply_is_complete_is_said_by_marks_or_by_the_transport(case: End) -> None:
    reader = ReplyParser()
    reader.feed(case.body)
    assert reader.reply().complete is case.open
    assert reader.reply(ended=True).complete is case.ended


def test_feeding_says_whether_the_reply_grew() -> None:
    reader = ReplyParser()
    assert not reader.feed(b"")
    assert not reader.reply().complete
    assert not reader.feed(b": wait\n\n")
    assert not reader.feed(line("a")[:-1])
    assert reader.feed(b"\n")
    assert not reader.feed(DONE)
    assert visible_text(reader.reply()) == "a"


def test_snapshots_grow_and_keep_what_they_were() -> None:
    reader = ReplyParser()
    reader.feed(line("a"))
    before = reader.reply()
    reader.feed(line("b"))
    assert (visible_text(before), visible_text(reader.reply())) == ("a", "ab")


def test_the_first_bytes_are_kept_for_the_log() -> None:
    reply = read_reply(orjson.dumps({"choices": [{"message": {"content": "x" * 40_000}}]}))
    assert len(reply.raw) == 16 * 1024
    assert reply.raw.startswith('{"choices"')
    reader = ReplyParser()
    for _ in range(300):
        reader.feed(line("x" * 100))
    assert len(reader.reply(ended=True).raw) == 16 * 1024


@dataclass(frozen=True)
class Said:
    name: str
    body: dict[str, object]
    text: str


SAID = [
    Said("words", {"choices": [{"message": {"content": " Sorry. "}}]}, "Sorry."),
    Said("words after reasoning", {"choices": [{"message": {"content": "<think>no</think>Sorry."}}]}, "Sorry."),
    Said("several choices", {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}, "a\nb"),
    Said("words beside choices", {"output": [{"content": [{"type": "output_text", "text": "Sorry."}]}]}, "Sorry."),
    Said("words in Gemini's form", {"candidates": [{"content": {"parts": [{"text": "Sorry."}]}}]}, "Sorry."),
    Said("nothing", {"choices": []}, ""),
]


@pytest.mark.parametrize("case", SAID, ids=lambda case: case.name)
def test_the_words_of_a_reply_are_without_reasoning(case: Said) -> None:
    assert visible_text(read_reply(orjson.dumps(case.body))) == case.text


def test_refusals_are_told_apart_from_words() -> None:
    reply = read_reply(orjson.dumps({"choices": [{"message": {"content": None, "refusal": "No."}}, {"message": {}}]}))
    assert (reply.refusal, visible_text(reply)) == ("No.", "")
    assert ChatReply().refusal is None


def test_large_pictures_go_where_the_caller_wants_them() -> None:
    class Memory(bytearray):
        size = property(len)

        def write(self, data: bytes) -> None:
            self += data

        def read_at(self, offset: int, size: int) -> bytes:
            return bytes(self[offset : offset + size])

        def chunks(self, size: int) -> Iterator[bytes]:
            return (self.read_at(offset, size) for offset in range(0, len(self), size))

    reader = ReplyParser(Memory)
    for start in range(0, len(WHOLE), 9):
        reader.feed(WHOLE[start : start + 9])
    reply = reader.reply(ended=True)
    assert (visible_text(reply), reply.spooled_images) == ("Hi 图", {})


@pytest.mark.parametrize(
    ("noise", "complete"), [(b'data: {"choices":[{"delta":{"con', False), (b"data: ping\n\n", True)]
)
def test_an_event_that_was_cut_off_is_no_end(noise: bytes, complete: bool) -> None:
    reader = ReplyParser()
    reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n' + noise)
    assert reader.reply(ended=True).complete is complete


@pytest.mark.parametrize(("body", "complete"), [(WHOLE, True), (WHOLE[:-1], False), (b"null", False), (b"[]", False)])
def test_a_document_that_is_there_whole_needs_no_end(body: bytes, complete: bool) -> None:
    reader = ReplyParser()
    reader.feed(body)
    reply = reader.reply()
    assert (reply.complete, bool(reply.messages)) == (complete, complete)
