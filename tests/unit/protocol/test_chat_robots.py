"""Documents of chat robots, agent frameworks and Gemini: whole, and in pieces."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from app.protocol.reply_accumulator import ReplyAccumulator

IMAGE = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo"}}


@dataclass(frozen=True)
class Case:
    """`text`: that of the first message; `parts`: its other parts; `bodies`: what is left beside the messages."""

    name: str
    documents: list[dict[str, Any]]
    text: str = ""
    parts: list[Any] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)


def tool_result(content: object) -> dict[str, object]:
    return {"type": "tool_result", "content": content}


def says(role: str, content: str, kind: str = "") -> dict[str, str]:
    return {"role": role, "content": content} | ({"type": kind} if kind else {})


def gemini(*parts: object) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, "index": 0}]}


CASES = [
    Case(
        "a conversation of Coze",
        [
            {
                "code": 0,
                "data": {
                    "messages": [
                        says("assistant", "{}", "function_call"),
                        says("assistant", '{"u": 1}', "tool_response"),
                        says("assistant", "Done", "answer"),
                        says("assistant", "Another one?", "follow_up"),
                    ]
                },
            }
        ],
        '{"u": 1}\n\nDone',
    ),
    Case(
        "pieces of Coze, and the whole that repeats them",
        [says("assistant", "Do", "answer"), says("assistant", "ne", "answer"), says("assistant", "Done", "answer")],
        "Done",
    ),
    Case("two answers", [{"messages": [says("assistant", "https://h/a"), says("assistant", "Done")]}], "https://h/a\n\nDone"),
    Case("a sign of the end of Coze", [says("assistant", '{"msg_type": "end"}', "verbose")]),
    Case(
        "a conversation of LangChain",
        [
            {
                "messages": [
                    {"type": "human", "content": "draft"},
                    {"type": "ai", "content": "Old"},
                    {"type": "human", "content": "a fox"},
                    {"type": "tool", "content": [IMAGE]},
                    {"type": "tool", "content": "New"},
                    {"type": "ai", "content": "Done"},
                ]
            }
        ],
        "New\n\nDone",
        [tool_result([IMAGE])],
    ),
    Case(
        "a conversation beside images",
        [{"messages": [says("user", "a fox")], "data": [{"url": "u"}]}],
        bodies=[{"data": [{"url": "u"}]}],
    ),
    Case("pieces of Dify", [{"event": "message", "answer": "Do"}, {"event": "message", "answer": "ne"}], "Done", bodies=[{"event": "message"}] * 2),
    Case("one answer of Dify", [{"answer": "Done"}], bodies=[{"answer": "Done"}]),
    Case("pieces of Ollama", [{"response": "Do", "done": False}, {"response": "ne", "done": True}], "Done", bodies=[{"done": True}]),
    Case(
        "pieces of Gemini",
        [gemini({"text": "Do"}), gemini({"text": "Hm", "thought": True}, {"text": "ne"}), gemini(IMAGE)],
        "Done",
        bodies=[gemini(), gemini({"text": "Hm", "thought": True}), gemini(IMAGE)],
    ),
    Case("pieces that are none of Gemini", [{"candidates": [7, {"content": None}, {"content": {"parts": {}}}]}, {"a": 1}],
         bodies=[{"candidates": [7, {"content": None}, {"content": {"parts": {}}}]}, {"a": 1}]),
    Case("a list that is no conversation", [{"data": [{"content": "x"}], "output": ["u"]}], bodies=[{"data": [{"content": "x"}], "output": ["u"]}]),
    Case("an empty list", [{"messages": [], "n": 1}], bodies=[{"n": 1}]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_words_become_a_message(case: Case) -> None:
    accumulator = ReplyAccumulator()
    for document in case.documents:
        accumulator.take(document, is_piece=len(case.documents) > 1)
    first = next(iter(accumulator.messages()), {"content": "", "parts": []})
    assert (first["content"], first["parts"]) == (case.text, case.parts)
    assert accumulator.bodies == case.bodies
