"""Write a reply as text that another replica reads, so that it can deliver what was paid for."""

from collections.abc import Collection, Mapping
from dataclasses import astuple
from typing import Any

import orjson

from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import ChatReply
from app.protocol.redaction import redact_literally
from app.protocol.text_end import TextEnd
from app.protocol.usage import Usage

#: Bytes that a reply may hold. Texts of a chat have a few thousand; what is larger stays at its replica.
_MAX_SIZE = 2**20

#: What is written as it is. `secrets` are not written, and `attempt` is accounted for where the reply came.
_FIELDS = (
    "messages",
    "bodies",
    "finish_reason",
    "error",
    "raw",
    "complete",
    "ends",
    "end_of_bodies",
    "size",
    "has_content",
    "id",
    "is_doubtful",
    "upstream_origin",
)


def dump_reply(reply: ChatReply) -> str | None:
    """Return a reply as text, without its secrets and its spooled images.

    Returns:
        None where the reply is too large, or has what JSON cannot express: half a character, deep nesting.
    """
    if reply.size > _MAX_SIZE:
        return None
    document = {name: getattr(reply, name) for name in _FIELDS} | {"usage": astuple(reply.usage)}
    try:
        text = orjson.dumps(document).decode()
    except orjson.JSONEncodeError:
        return None
    if any(secret in text for secret in reply.secrets):
        text = orjson.dumps(_redact(document, reply.secrets)).decode()
    return text


def load_reply(text: str, spooled_images: Mapping[str, ByteSink]) -> ChatReply:
    """Return the reply that `dump_reply` has written. `spooled_images` are its own, by the same data URLs."""
    fields: dict[str, Any] = orjson.loads(text)
    fields |= {name: tuple(fields[name]) for name in ("messages", "bodies")} | {"usage": Usage(*fields["usage"])}
    fields |= {"ends": tuple(map(TextEnd, fields["ends"])), "end_of_bodies": TextEnd(fields["end_of_bodies"])}
    return ChatReply(**fields, spooled_images=spooled_images)


def _redact(value: Any, secrets: Collection[str]) -> Any:
    match value:
        case str():
            return redact_literally(value, secrets)
        case dict():
            return {name: _redact(each, secrets) for name, each in value.items()}
        case list() | tuple():
            return [_redact(each, secrets) for each in value]
    return value
