"""Documents of Anthropic's Messages and of Vercel's AI SDK become chunks of chat completions."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.stream_dialects import as_chat_chunk, continue_base64

URL = "https://img.example.com/g/7f3a91c2.png"


def chunk(delta: dict[str, Any], reason: object = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def part(value: dict[str, Any]) -> dict[str, Any]:
    return chunk({"content": [value]})


def call(index: int, **function: Any) -> dict[str, Any]:
    return chunk({"tool_calls": [{"index": index, "function": function}]})


@dataclass(frozen=True)
class Case:
    name: str
    document: dict[str, Any]
    chunk: dict[str, Any]


IMAGE = {"type": "image", "source": {"type": "url", "url": URL}}
FILE = part({"type": "image_url", "image_url": {"url": URL}})

CASES = [
    Case("a chunk stays one", {"type": "ping", "choices": []}, {"type": "ping", "choices": []}),
    Case("an unknown type stays", {"type": "answer", "content": "x"}, {"type": "answer", "content": "x"}),
    Case("text of another protocol", {"type": "TEXT_MESSAGE_CONTENT", "delta": "a"}, chunk({"content": "a"})),
    Case("its thoughts stay", {"type": "THINKING_TEXT_MESSAGE", "delta": "a"}, {"type": "THINKING_TEXT_MESSAGE", "delta": "a"}),
    Case("a type that is no text stays", {"type": 1}, {"type": 1}),
    Case(
        "a whole message",
        {"type": "message", "role": "assistant", "content": [IMAGE], "stop_reason": "end_turn", "usage": {"a": 1}},
        {
            "choices": [{"index": 0, "message": {"content": [IMAGE]}, "finish_reason": "end_turn"}],
            "usage": {"a": 1},
        },
    ),
    Case("another message", {"type": "message", "text": "x"}, {"type": "message", "text": "x"}),
    Case("a message begins", {"type": "message_start", "message": {"id": "m", "usage": {"a": 1}}}, {"usage": {"a": 1}}),
    Case(
        "a message ends with its reason",
        {"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {"a": 1}},
        {**chunk({}, "refusal"), "usage": {"a": 1}},
    ),
    Case("the last event", {"type": "message_stop"}, {}),
    Case("text begins", {"type": "content_block_start", "content_block": {"type": "text", "text": "a"}}, chunk({"content": "a"})),
    Case("an image", {"type": "content_block_start", "index": 1, "content_block": IMAGE}, part(IMAGE)),
    Case("thoughts begin", {"type": "content_block_start", "content_block": {"type": "thinking"}}, {}),
    Case(
        "a call begins",
        {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "show", "input": {}}},
        call(2, name="show", arguments=""),
    ),
    Case("text", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "b"}}, chunk({"content": "b"})),
    Case("text that is none", {"type": "content_block_delta", "delta": {"type": "text_delta"}}, {}),
    Case("thoughts", {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": URL}}, {}),
    Case(
        "arguments of a call",
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{"}},
        call(2, arguments="{"),
    ),
    Case("any other delta", {"type": "content_block_delta", "delta": {"type": "image_delta", "url": URL}}, part({"type": "image_delta", "url": URL})),
    Case("a damaged delta", {"type": "content_block_delta", "delta": "x"}, {}),
    Case("Vercel: text", {"type": "text-delta", "id": "1", "delta": "a"}, chunk({"content": "a"})),
    Case("Vercel: text by its older name", {"type": "text-delta", "textDelta": "a"}, chunk({"content": "a"})),
    Case("Vercel: thoughts", {"type": "reasoning-delta", "delta": URL}, {}),
    Case("Vercel: a source", {"type": "source-url", "url": URL}, {}),
    Case("Vercel: a file", {"type": "file", "url": URL, "mediaType": "image/png"}, FILE),
    Case("Vercel: a nested file", {"type": "file", "file": {"base64": URL, "mimeType": "image/png"}}, FILE),
    Case("Vercel: a file of another kind", {"type": "file", "url": URL, "mediaType": "text/plain"}, {}),
    Case("Vercel: an empty file", {"type": "file", "mediaType": "image/png"}, {}),
    Case("a file of another API", {"type": "file", "url": URL}, {"type": "file", "url": URL}),
    Case("Vercel: data", {"type": "data-picture", "data": {"url": URL}}, part({"data": {"url": URL}})),
    Case(
        "Vercel: what a tool has made",
        {"type": "tool-output-available", "output": {"url": URL}},
        part({"type": "tool_result", "content": {"url": URL}}),
    ),
    Case(
        "Vercel: a call",
        {"type": "tool-input-available", "toolName": "show", "input": {"url": URL}},
        part({"type": "tool_use", "name": "show", "input": {"url": URL}}),
    ),
    Case("Vercel: a call in pieces", {"type": "tool-input-delta", "inputTextDelta": URL}, {}),
    Case("Vercel: an error", {"type": "error", "errorText": "busy"}, {"error": {"message": "busy"}}),
    Case("an error of another API", {"type": "error", "error": {"message": "busy"}}, {"type": "error", "error": {"message": "busy"}}),
    Case("Vercel: the end", {"type": "finish"}, {**chunk({}, "stop"), "usage": {}}),
    Case("data stream: text", {"type": "data-stream-0", "value": "a"}, chunk({"content": "a"})),
    Case("data stream: data", {"type": "data-stream-2", "value": [URL]}, part({"data": [URL]})),
    Case("data stream: an error", {"type": "data-stream-3", "value": "busy"}, {"error": {"message": "busy"}}),
    Case("data stream: thoughts", {"type": "data-stream-g", "value": URL}, {}),
    Case(
        "data stream: a call",
        {"type": "data-stream-9", "value": {"toolName": "show", "args": {"url": URL}}},
        part({"type": "tool_use", "name": "show", "input": {"url": URL}}),
    ),
    Case(
        "data stream: what a tool has made",
        {"type": "data-stream-a", "value": {"toolCallId": "1", "result": {"url": URL}}},
        part({"type": "tool_result", "content": {"url": URL}}),
    ),
    Case("data stream: a file", {"type": "data-stream-k", "value": {"data": URL, "mimeType": "image/png"}}, FILE),
    Case(
        "data stream: the end",
        {"type": "data-stream-d", "value": {"finishReason": "length", "usage": {"promptTokens": 3, "completionTokens": None}}},
        {**chunk({}, "length"), "usage": {"prompt_tokens": 3}},
    ),
    Case("data stream: a damaged end", {"type": "data-stream-d", "value": 1}, {**chunk({}, "stop"), "usage": {}}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_document_becomes_a_chunk(case: Case) -> None:
    assert as_chat_chunk(case.document) == case.chunk


VALUES = st.none() | st.integers(0, 3) | st.text(max_size=5) | st.dictionaries(st.sampled_from(["type", "value", "delta", "url", "text"]), st.text(max_size=5))  # fmt: skip


@given(
    st.sampled_from(sorted({case.document["type"] for case in CASES if isinstance(case.document["type"], str)})),
    st.dictionaries(
        st.sampled_from(["delta", "content_block", "message", "value", "file", "usage", "content"]), VALUES
    ),
)
def test_no_document_makes_the_translation_fail(kind: str, more: dict[str, Any]) -> None:
    assert isinstance(as_chat_chunk({"type": kind, **more}), dict)


@pytest.mark.parametrize(
    ("old", "piece", "value"),
    [
        ("iVBORw0KGgoAAA", "AAA=", "iVBORw0KGgoAAAAAA="),
        ("data:image/png;base64,iVBORw0KGgo", "AAA", "data:image/png;base64,iVBORw0KGgoAAA"),
        ("iVBORw0KGgoAAA", "iVBORw0KGgoBBB", "iVBORw0KGgoBBB"),
        ("iVBORw0KGgoAAA", "a text", "a text"),
        ("a", "b", "b"),
    ],
)
def test_base64_in_pieces_is_continued(old: str, piece: str, value: str) -> None:
    assert continue_base64(old, piece) == value
