"""What a person pastes of a chat as a ChatReply: a body, a stream, one message of it, or the words alone."""

from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import UpstreamBroken
from app.protocol.chat_reply import ChatReply, read_reply


@dataclass(frozen=True, slots=True)
class Pasted:
    """`kind`: as what it was read, in plain words."""

    kind: str
    reply: ChatReply


def read_pasted(pasted: bytes) -> Pasted:
    """Never fails: what is nothing else is what a model said."""
    pasted = pasted.removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(pasted)
    except orjson.JSONDecodeError:
        return _read_unparsed(pasted)
    kind, choice = _as_choice(value)
    if choice is None:
        return _read_unparsed(pasted)
    try:
        return _in_body(kind, choice)
    except orjson.JSONEncodeError:
        # More can be read than be written: it nests too deeply.
        return _read_unparsed(pasted)


def _as_choice(value: object) -> tuple[str, dict[str, Any] | None]:
    """None for what is a whole body, or nothing of a chat."""
    if isinstance(value, str):
        return "a JSON text", {"message": {"content": value}}
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        return "a list of content parts", {"message": {"content": value}}
    if isinstance(value, dict) and "choices" not in value:
        if "message" in value or "delta" in value:
            return "one choice", value
        if "content" in value or "role" in value:
            return "one message", {"message": value}
    return "", None


def _read_unparsed(pasted: bytes) -> Pasted:
    try:
        reply = read_reply(pasted)
    except UpstreamBroken:
        return _in_body("plain words", {"message": {"content": pasted.decode("utf-8", "replace")}})
    return Pasted("a body in JSON" if pasted.lstrip()[:1] in b"{[" else "a stream of events", reply)


def _in_body(kind: str, choice: dict[str, Any]) -> Pasted:
    return Pasted(kind, read_reply(orjson.dumps({"choices": [choice]})))
