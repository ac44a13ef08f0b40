"""Bodies of chat upstreams, whole or in chunks, valid or not."""

from dataclasses import dataclass
from decimal import Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamInvalidReply
from app.extraction.text import visible_text
from app.protocol.chat_reply import ChatReply
from app.protocol.money import ReportedCost
from app.protocol.reply_parser import ReplyParser, read_reply
from app.protocol.text_end import TextEnd
from app.protocol.usage import Usage
from tests.support.memory_sink import MemorySink

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
    Case("no text", DONE, ""),
    Case("NaN", WHOLE.replace(b"{", b'{"score":NaN,"best":-Infinity,', 1), "Hi 图"),
    Case("a line break in a string", WHOLE.replace(b"Hi ", b"Hi\n\t"), "Hi\n\t图"),
    Case("text behind the document", WHOLE + b"\n\n<!-- cached -->", "Hi 图"),
    Case("a warning in front of the document", b"<b>Warning</b>: no {cache}\n" + WHOLE, "Hi 图"),
    Case("a guard in front of the document", b")]}'\n" + WHOLE, "Hi 图"),
    Case("a spare comma", WHOLE[:-1] + b",}", "Hi 图"),
    Case("damaged JSON behind the document", WHOLE + b'{"choices', "Hi 图"),
    Case("two documents glued together", b'{"message":{"content":"a"}}{"message":{"content":"b"}}', "ab"),
    Case("documents with a record separator", b'{"message":{"content":"a"}}\n\x1e{"message":{"content":"b"}}', "ab"),
    Case("a document and no document", WHOLE + b"[]", "Hi 图"),
    Case("numbers that are too long", WHOLE.replace(b"{", b'{"seed":%s,' % (b"9" * 600), 1), "Hi 图"),
    Case("NaN in an event", line("a").replace(b"{", b'{"score":NaN,', 1) + DONE, "a"),
    Case("two documents in an event", line("a").rstrip() + line("b").removeprefix(b"data: ") + DONE, "ab"),
    Case("a list in an event", b"data: [" + line("a")[6:].rstrip() + b"]\n\n" + DONE, "a"),
    Case("a line break in a string of an event", line("a").replace(b'"a"', b'"a\nb"') + DONE, "a\nb"),
    Case("a blank line in a string of an event", line("a").replace(b'"a"', b'"a\n\nb"') + DONE, "a\n\nb"),
    Case(
        "several blank lines in a string of an event",
        line("c") + line("a").replace(b'"a"', b'"a {\\"}]\n\nb\n- c: d\n\ne"') + line("f") + DONE,
        'ca {"}]\n\nb\n- c: d\n\nef',
    ),
    Case(
        "a blank line with CR LF in a string of an event", line("a").replace(b'"a"', b'"a\r\n\r\nb"') + DONE, "a\n\nb"
    ),
    Case(
        "a blank line between the fields of an event",
        line("a").replace(b'"delta"', b'\n\n"delta"') + line("b") + DONE,
        "ab",
    ),
    Case("a blank line in the last string of a stream", line("a").replace(b'"a"', b'"a\n\nb"').rstrip(), "a\n\nb"),
    Case(
        "an event behind lines of no field",
        line("a").replace(b'"a"', b'"a\n\nb"').rstrip() + b"\n" + line("c") + DONE,
        "a\n\nbc",
    ),
    Case("lines of no field behind an event that is no chat", b"data: ping\n\nstrange\n\n" + line("a") + DONE, "a"),
    Case("lines of no field behind a broken event", b"data: {]}\n\nstrange\n\n" + line("a") + DONE, "a"),
    Case("an event that is cut off and another one", b'data: {"choices\n\nstrange\n\n' + line("a") + DONE, "a"),
    Case("an event that is never whole", b'data: {"choices\n\n":, "": {}}\n\n' + line("a") + DONE, "a"),
    Case("a string in several lines of data", line("a").replace(b'"a"', b'"a\ndata: b"') + DONE, "a\nb"),
    Case("a line of no field behind the data", line("a").rstrip() + b"\nstrange: 1\n\n" + DONE, "a"),
    Case("a line of no field in front of the data", b"strange\n" + line("a") + DONE, "a"),
    Case("a byte order mark before events", b"\xef\xbb\xbf" + line("a") + DONE, "a"),
    Case("more after the last mark", line("a") + DONE + line("b") + b"data: {", "a"),
    Case("the last mark in quotes", line("a") + b'data:"[DONE]"\n\n' + line("b"), "a"),
]


@pytest.mark.parametrize("case", READABLE, ids=lambda case: case.name)
def test_a_body_is_read_whole_and_byte_by_byte(case: Case) -> None:
    reply = read_reply(case.body)
    assert visible_text(reply) == case.text
    assert reply.complete
    parser = ReplyParser()
    for at in range(len(case.body)):
        parser.feed(case.body[at : at + 1])
    assert parser.reply(ended=True) == reply


@settings(max_examples=60)
@given(st.sampled_from(READABLE), st.lists(st.integers(0, 250), max_size=4))
def test_a_body_is_read_in_any_cut(case: Case, cuts: list[int]) -> None:
    parser = ReplyParser()
    edges = [0, *sorted(cuts), len(case.body)]
    for start, end in zip(edges, edges[1:], strict=False):
        parser.feed(case.body[start:end])
    assert parser.reply(ended=True) == read_reply(case.body)


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
    b"NaN",
    b"[" * 9_000,
    b'{"choices":[{"message":{"content":"\n',
]


@pytest.mark.parametrize("body", UNREADABLE, ids=repr)
def test_an_invalid_body_is_refused_and_kept_for_the_log(body: bytes) -> None:
    with pytest.raises(UpstreamInvalidReply) as caught:
        read_reply(body)
    assert "could not be read" in caught.value.message
    assert body.decode().strip()[:10] in str(caught.value.detail)


COSTLY_STREAM = (
    b'data: {"id": "gen-1", "choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": {"cost": 0.01}}\n\n'
    b'data: {"id": "gen-2", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    b'data: {"id": "gen-1", "choices": [], "usage": {"prompt_tokens": 3, "cost": 0.1, "cost_details": {}}}\n\n' + DONE
)


@pytest.mark.parametrize("size", [1, 7, len(COSTLY_STREAM)])
def test_cost_and_id_are_read_from_a_stream_cut_anywhere(size: int) -> None:
    parser = ReplyParser()
    for start in range(0, len(COSTLY_STREAM), size):
        parser.feed(COSTLY_STREAM[start : start + size])
    reply = parser.reply(ended=True)
    assert (reply.id, reply.cost) == ("gen-1", ReportedCost(Decimal("0.1")))


BILLS = [
    ("a JSON reply", b'{"id":"chatcmpl-1","choices":[{"message":{"content":"Hi"}}],"usage":{"cost":0.04}}', "chatcmpl-1", "0.04"),
    ("no id and no cost", WHOLE, None, None),
    ("an empty id", b'{"id":"","choices":[{"message":{"content":"Hi"}}]}', None, None),
    ("an id that is no text", b'{"id":7,"choices":[{"message":{"content":"Hi"}}],"usage":null}', None, None),
    ("an error that was charged", b'{"error":{"message":"m"},"usage":{"cost":0.04}}', None, "0.04"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "reply_id", "cost"), BILLS, ids=[row[0] for row in BILLS])
def test_cost_and_id_are_read_from_json(name: str, body: bytes, reply_id: str | None, cost: str | None) -> None:
    reply = read_reply(body)
    assert (reply.id, reply.cost) == (reply_id, cost and ReportedCost(Decimal(cost)))


def test_an_error_that_was_charged_is_no_failure_before_the_work() -> None:
    assert read_reply(b'{"error":{"message":"m"},"usage":{"cost":0.04}}').has_content
    assert not read_reply(b'{"error":{"message":"m"},"usage":{"cost":0}}').has_content


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
def test_an_end_mark_or_the_end_of_the_transport_makes_a_reply_complete(case: End) -> None:
    parser = ReplyParser()
    parser.feed(case.body)
    assert parser.reply().complete is case.open
    assert parser.reply(ended=True).complete is case.ended


def test_feed_returns_whether_the_reply_has_grown() -> None:
    parser = ReplyParser()
    assert not parser.feed(b"")
    assert not parser.reply().complete
    assert not parser.feed(b": wait\n\n")
    assert not parser.feed(line("a")[:-1])
    assert parser.feed(b"\n")
    assert not parser.feed(DONE)
    assert visible_text(parser.reply()) == "a"


def test_later_chunks_do_not_change_a_snapshot() -> None:
    parser = ReplyParser()
    parser.feed(line("a"))
    before = parser.reply()
    parser.feed(line("b"))
    assert (visible_text(before), visible_text(parser.reply())) == ("a", "ab")


def test_the_first_bytes_are_kept_for_the_log() -> None:
    reply = read_reply(orjson.dumps({"choices": [{"message": {"content": "x" * 40_000}}]}))
    assert len(reply.raw) == 16 * 1024
    assert reply.raw.startswith('{"choices"')
    parser = ReplyParser()
    for _ in range(300):
        parser.feed(line("x" * 100))
    assert len(parser.reply(ended=True).raw) == 16 * 1024


def test_the_representation_of_a_reply_shows_no_secret() -> None:
    assert "sk-secret" not in repr(ChatReply(secrets=("sk-secret",)))


@dataclass(frozen=True)
class TextCase:
    name: str
    body: dict[str, object]
    text: str


TEXTS = [
    TextCase("text", {"choices": [{"message": {"content": " Sorry. "}}]}, "Sorry."),
    TextCase("text after reasoning", {"choices": [{"message": {"content": "<think>no</think>Sorry."}}]}, "Sorry."),
    TextCase("several choices", {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}, "a\nb"),
    TextCase("text beside choices", {"output": [{"content": [{"type": "output_text", "text": "Sorry."}]}]}, "Sorry."),
    TextCase("text in Gemini's form", {"candidates": [{"content": {"parts": [{"text": "Sorry."}]}}]}, "Sorry."),
    TextCase("nothing", {"choices": []}, ""),
]


@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case.name)
def test_the_visible_text_of_a_reply_is_without_reasoning(case: TextCase) -> None:
    assert visible_text(read_reply(orjson.dumps(case.body))) == case.text


def test_refusals_are_not_part_of_the_text() -> None:
    reply = read_reply(orjson.dumps({"choices": [{"message": {"content": None, "refusal": "No."}}, {"message": {}}]}))
    assert (reply.refusal, visible_text(reply)) == ("No.", "")
    assert ChatReply().refusal is None


def test_a_reply_without_large_images_is_the_same_with_sinks() -> None:
    parser = ReplyParser(MemorySink)
    for start in range(0, len(WHOLE), 9):
        parser.feed(WHOLE[start : start + 9])
    reply = parser.reply(ended=True)
    assert (visible_text(reply), reply.spooled_images) == ("Hi 图", {})


@pytest.mark.parametrize(
    ("noise", "complete"), [(b'data: {"choices":[{"delta":{"con', False), (b"data: ping\n\n", True)]
)
def test_a_stream_that_ends_within_an_event_is_not_complete(noise: bytes, complete: bool) -> None:
    parser = ReplyParser()
    parser.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n' + noise)
    assert parser.reply(ended=True).complete is complete


@pytest.mark.parametrize(("body", "complete"), [(WHOLE, True), (WHOLE[:-1], False), (b"null", False), (b"[]", False)])
def test_a_whole_document_is_complete_without_an_end_of_the_transport(body: bytes, complete: bool) -> None:
    parser = ReplyParser()
    parser.feed(body)
    reply = parser.reply()
    assert (reply.complete, bool(reply.messages)) == (complete, complete)


@dataclass(frozen=True)
class OpenEnd:
    name: str
    body: bytes
    end: TextEnd


ERROR = b'data: {"error":{"message":"connection lost"}}\n\n'
SECOND = b'data: {"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":"stop"}]}\n\n'
OPEN_ENDS = [
    OpenEnd("a reason", line("a", "stop"), TextEnd.WHOLE),
    OpenEnd("the reason of Anthropic", line("a", "end_turn"), TextEnd.WHOLE),
    OpenEnd("the last mark without a reason", line("a") + DONE, TextEnd.UNKNOWN),
    OpenEnd("neither", line("a"), TextEnd.CUT),
    OpenEnd("a reason that nobody knows", line("a", "gone fishing") + DONE, TextEnd.UNKNOWN),
    OpenEnd("the filter of the upstream", line("a", "content_filter") + DONE, TextEnd.UNKNOWN),
    OpenEnd("an error as the reason", line("a", "error") + DONE, TextEnd.UNKNOWN),
    OpenEnd("an error before the last mark", line("a") + ERROR + DONE, TextEnd.UNKNOWN),
    OpenEnd("an error behind a reason", line("a", "stop") + ERROR + DONE, TextEnd.WHOLE),
    OpenEnd("an error and nothing more", line("a") + ERROR, TextEnd.CUT),
    OpenEnd("the limit of tokens", line("a", "length") + DONE, TextEnd.CUT),
    OpenEnd("the limit of tokens in Gemini's words", line("a", "MAX_TOKENS") + DONE, TextEnd.CUT),
    OpenEnd("the limit of tokens, and the reason of a relay", line("a", "length") + line("", "stop") + DONE, TextEnd.CUT),
    OpenEnd("an incomplete response", line("a", "incomplete") + DONE, TextEnd.CUT),
    OpenEnd("a reason of another message", line("a") + SECOND, TextEnd.WHOLE),
    OpenEnd("the limit of tokens beside a whole message", line("a", "length") + SECOND + DONE, TextEnd.CUT),
    OpenEnd("token counts behind the text", line("a") + b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n', TextEnd.UNKNOWN),
    OpenEnd("token counts in front of the text", b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n' + line("a"), TextEnd.CUT),
    OpenEnd("token counts with each piece", line("a").replace(b"{", b'{"usage":{"total_tokens":3},', 1), TextEnd.CUT),
    OpenEnd("the end of a robot's message", b'data: {"answer":"a"}\n\ndata: {"event":"message_end"}\n\n', TextEnd.UNKNOWN),
    OpenEnd("lines of JSON", b'{"message":{"content":"a"}}\n{"message":{"content":"b"},"done":false}', TextEnd.UNKNOWN),
    OpenEnd("a JSON body", WHOLE, TextEnd.WHOLE),
    OpenEnd("a JSON body without a reason", WHOLE.replace(b'"stop"', b"null"), TextEnd.WHOLE),
    OpenEnd("a JSON body with an error and no reason", WHOLE.replace(b'"stop"', b"null")[:-1] + b',"error":"lost"}', TextEnd.UNKNOWN),
    OpenEnd("a JSON body at the limit of tokens", WHOLE.replace(b'"stop"', b'"length"'), TextEnd.CUT),
]  # fmt: skip


@pytest.mark.parametrize("case", OPEN_ENDS, ids=lambda case: case.name)
def test_which_complete_replies_may_end_in_the_middle_of_a_word(case: OpenEnd) -> None:
    reply = read_reply(case.body)
    assert reply.complete
    assert reply.end_of(0) is case.end


def response(text: str, status: str) -> dict[str, object]:
    content = [{"type": "output_text", "text": text}]
    return {"object": "response", "status": status, "output": [{"type": "message", "content": content}]}


def test_a_response_at_the_end_of_a_stream_replaces_the_pieces_of_its_text() -> None:
    pieces = [{"type": "response.output_text.delta", "delta": piece} for piece in ("Here: ", "a")]
    last = {"type": "response.completed", "response": response("Here: a", "completed")}
    reply = read_reply(b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in (*pieces, last)))
    assert visible_text(reply) == "Here: a"
    assert reply.end_of(0) is TextEnd.WHOLE


@dataclass(frozen=True)
class OtherEnd:
    name: str
    body: bytes
    end: TextEnd


CANDIDATE = b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"%b"}]}'
OTHER_ENDS = [
    OtherEnd("a candidate of Gemini", CANDIDATE % b"STOP", TextEnd.WHOLE),
    OtherEnd("a candidate at the limit of tokens", CANDIDATE % b"MAX_TOKENS", TextEnd.CUT),
    OtherEnd("an incomplete response", orjson.dumps(response("a", "incomplete")), TextEnd.CUT),
    OtherEnd("a response", orjson.dumps(response("a", "completed")), TextEnd.WHOLE),
    OtherEnd("events, which may be pieces", line("a", "stop"), TextEnd.UNKNOWN),
    OtherEnd("several documents", b'{"data":"a"}\n{"data":"b"}', TextEnd.UNKNOWN),
]


@pytest.mark.parametrize("case", OTHER_ENDS, ids=lambda case: case.name)
def test_how_texts_beside_the_messages_end(case: OtherEnd) -> None:
    assert read_reply(case.body).end_of_bodies is case.end


MARKS = [
    b"data: [DONE]",
    b"data: [DONE]\n",
    b"data:[DONE]\r\n",
    b"data: [done]\n\n",
    b'data: "[DONE]"\n\n',
    b'event: done\ndata:"[DONE]"',
]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("has_sink", [False, True])
@pytest.mark.parametrize("is_bytewise", [False, True])
def test_the_last_mark_is_seen_before_anything_follows(mark: bytes, has_sink: bool, is_bytewise: bool) -> None:
    """A connection that stays open behind it has nothing more to say."""
    parser = ReplyParser(MemorySink if has_sink else None)
    states = []
    for piece in (line("a", "stop"), *([bytes([byte]) for byte in mark] if is_bytewise else [mark])):
        parser.feed(piece)
        states.append(parser.is_done)
    assert (states[0], states[-1]) == (False, True)
    assert visible_text(parser.reply(ended=True)) == "a"


def test_each_message_has_an_end_of_its_own() -> None:
    reply = read_reply(line("a", "length") + SECOND + DONE)
    assert [reply.end_of(index) for index in range(3)] == [TextEnd.CUT, TextEnd.WHOLE, TextEnd.WHOLE]


def test_nothing_is_read_behind_the_last_mark() -> None:
    parser = ReplyParser()
    states = []
    for chunk in (b": wait\n\n", line("a"), DONE + line("b"), line("c")):
        parser.feed(chunk)
        states.append(parser.is_done)
    assert states == [False, False, True, True]
    assert visible_text(parser.reply(ended=True)) == "a"


@pytest.mark.parametrize("thoughts", ["Hm.", [{"text": "Hm."}]], ids=["text", "list"])
def test_thoughts_are_not_kept(thoughts: object) -> None:
    event = b"data: " + orjson.dumps({"choices": [{"delta": {"reasoning_content": thoughts}}]}) + b"\n\n"
    reply = read_reply(event * 1_000 + DONE)
    assert reply.has_content
    assert "reasoning_content" not in reply.messages[0]
    assert reply.size < 40_000
    assert not read_reply(event.replace(b"Hm.", b"").replace(b'[{"text":""}]', b"[]") + DONE).has_content


def test_it_is_known_how_much_the_next_chunk_may_parse() -> None:
    parser = ReplyParser()
    sizes = []
    for chunk in (b"data: {}\n", b": wait\n", b"data: ", b"12345", b"\n", b"\n", b"data"):
        parser.feed(chunk)
        sizes.append(parser.pending)
    assert sizes == [9, 9, 15, 20, 21, 0, 4]


def test_a_body_of_json_is_parsed_at_its_end() -> None:
    parser = ReplyParser()
    parser.feed(b'{"choices": ')
    assert parser.pending == 0
