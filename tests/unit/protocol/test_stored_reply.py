"""A reply that one replica writes and another reads loses nothing that a delivery needs, and shows no key."""

from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from app.errors import UpstreamInvalidReply
from app.protocol.chat_reply import ChatReply
from app.protocol.reply_parser import ReplyParser
from app.protocol.stored_reply import dump_reply, load_reply
from app.protocol.text_end import TextEnd
from app.protocol.usage import Usage
from tests.support.memory_sink import MemorySink

LINK = "![fox](https://h/fox.png?key=sk-1)"


def read(body: bytes, *, ended: bool = True) -> ChatReply:
    parser = ReplyParser(secrets=("sk-secret", "other"), upstream_origin="https://h")
    parser.feed(body)
    try:
        return parser.reply(ended=ended)
    except UpstreamInvalidReply:
        return parser.reply()


def chat(content: Any = LINK, **more: Any) -> bytes:
    return orjson.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}], **more})


@dataclass(frozen=True)
class Case:
    name: str
    reply: ChatReply


CASES = [
    Case("a usual reply", read(chat())),
    Case("usage, an id and an error", read(chat(id="c-1", usage={"prompt_tokens": 7, "completion_tokens": 9}, error={"code": 429, "message": "no"}))),
    Case("images beside the text", read(chat(images=[{"image_url": {"url": "https://h/a.png"}}], data=[{"url": "https://h/b.png"}]))),
    Case("more text than is kept for the log", read(chat("狐" * 20_000 + LINK))),
    Case("a stream that was cut", read(b'data: {"choices":[{"delta":{"content":"![fox](https://h/fox.png)"}}]}\n\n', ended=False)),
    Case("a stream without its last mark", read(b'data: {"choices":[{"delta":{"content":"https://h/fox"}}]}\n\n')),
    Case("a text in place of a chat", read(f"Here it is: {LINK}".encode())),
    Case("a path that only its upstream serves", read(chat("![fox](/files/fox.png)"))),
    Case("nothing yet", ChatReply(complete=False)),
    Case("numbers that are none", replace(ChatReply(), messages=({"content": "", "seed": 2**60, "score": -0.5},))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_reply_is_read_as_it_was_written(case: Case) -> None:
    text = dump_reply(case.reply)
    assert text is not None
    assert load_reply(text, {}) == replace(case.reply, secrets=())


def test_the_cases_are_what_their_names_say() -> None:
    facts = {case.name: (case.reply.complete, case.reply.ends, case.reply.is_doubtful) for case in CASES}
    assert facts["a stream that was cut"] == (False, (TextEnd.CUT,), False)
    assert facts["a stream without its last mark"] == (True, (TextEnd.CUT,), False)
    assert facts["a text in place of a chat"] == (True, (), True)
    assert CASES[1].reply.usage != Usage()


def test_the_images_that_came_with_a_reply_are_those_of_the_reader() -> None:
    sink = MemorySink()
    reply = ChatReply(({"content": "![x](data:image/png;base64,#1)"},), spooled_images={"data:1": MemorySink()})
    text = dump_reply(reply)
    assert text is not None
    assert load_reply(text, {"data:1": sink}).spooled_images == {"data:1": sink}


@pytest.mark.parametrize("secret", ["sk-secret", "other"])
def test_a_secret_is_not_written_wherever_the_upstream_repeats_it(secret: str) -> None:
    reply = read(chat(f"your key {secret}", detail=[{"was": secret}], error={"message": secret}))
    text = dump_reply(reply)
    assert text is not None
    assert "secret" not in text
    assert "other" not in text
    read_again = load_reply(text, {})
    assert read_again.messages[0]["content"] == "your key [key]"
    assert read_again.bodies[0]["detail"] == [{"was": "[key]"}]
    assert read_again.complete is True


@pytest.mark.parametrize(
    "reply",
    [
        ChatReply(size=2**20 + 1),
        ChatReply(({"content": "\ud83d"},)),
        ChatReply(({"content": "", "parts": [orjson.loads("[" * 500 + "]" * 500)]},)),
    ],
    ids=["more than a megabyte", "half a character", "lists in lists in lists"],
)
def test_a_reply_that_cannot_be_written_says_so(reply: ChatReply) -> None:
    assert dump_reply(reply) is None
