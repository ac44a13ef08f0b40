"""Turn documents of chat robots and agent frameworks into chunks of chat completions: Dify, Coze, LangChain, Gemini.

Their documents have no `choices`, but the words of a reply piece by piece, or the whole conversation as a list.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from app.protocol.reply_errors import find_error

Document = Mapping[str, Any]

#: How messages of a conversation name who has written them, or what kind they are of.
_HUMAN = frozenset({"user", "human", "system", "developer", "question"})
_TOOL = frozenset({"tool", "tool_response", "tool_output", "function"})
#: What is no part of the reply: suggestions for the next question, signs of the end, calls.
_ASIDE = frozenset({"follow_up", "verbose", "knowledge", "function_call", "tool_call"})
#: Where conversations stand.
_LISTS = ("messages", "data", "output", "result")
#: Keys of the words of a reply, where each document of a stream has the next piece of them.
_PIECES = ("answer", "response", "completion")
#: Keys that may hold the next piece of the words, or a value of their own.
_OTHER_PIECES = ("delta", "content", "text", "data", "token", "chunk", "message", "output", "result", "value", "v")
_MAX_DEPTH = 3
#: Types of events whose texts are not words of the reply.
_OTHER_EVENT = re.compile(
    r"think|reason|tool|call|audio|transcript|source|user|human|error|response\.|image_(?:generation|edit)\.",
    re.IGNORECASE,
)


def as_choices(document: Document, *, is_piece: bool) -> Document:
    """Return the document with `choices`, or unchanged if no robot has written it.

    `is_piece`: it is one of several documents of a reply.
    """
    for key in _LISTS:
        value = document.get(key)
        messages = value.get("messages") if isinstance(value, dict) else value
        if isinstance(messages, list) and _is_conversation(messages):
            return _with_messages(document, {key}, _joined(_contents_of(messages)))
    if document.get("role") == "assistant" and isinstance(document.get("content"), str):
        return _with_messages(document, {"content", "role", "type"}, _contents_of([document]))
    if is_piece and isinstance(document.get("candidates"), list):
        return _gemini(document)
    piece = next((key for key in _PIECES if isinstance(document.get(key), str)), None)
    if not is_piece:
        return document
    if piece is None:
        return _with_piece(document)
    delta = {"index": 0, "delta": {"content": document[piece]}}
    return {**_without(document, {piece}), "choices": [delta]}


def _with_piece(document: Document) -> Document:
    """Take out what may be the next piece of a text. One with a URL stays as well: it may be a text of its own."""
    found = None if isinstance(document.get("message"), dict) else _take_piece(document, _MAX_DEPTH)
    if found is None or find_error(document) is not None:
        return document
    piece, rest = found
    return {**rest, "choices": [{"index": 0, "delta": {"content": piece}}]}


def _take_piece(document: Document, depth: int) -> tuple[str, Document] | None:
    """Return the text of an event, however deep, and the event without it; None if there is no text."""
    if any(_OTHER_EVENT.search(str(document.get(key))) for key in ("type", "event", "role")):
        return None
    for key in _OTHER_PIECES:
        value = document.get(key)
        if isinstance(value, str):
            return value, document if "//" in value else _without(document, {key})
        found = _take_piece(value, depth - 1) if isinstance(value, dict) and depth > 1 else None
        if found is not None:
            return found[0], {**document, key: found[1]}
    return None


def _gemini(document: Document) -> Document:
    """Take the words out of Gemini's candidates, which a stream may cut within a URL. Images stay where they are."""
    candidates = list(map(_split_words, document["candidates"]))
    choices = [{"index": index, "delta": {"content": words}} for index, (words, _) in enumerate(candidates) if words]
    return {**document, "choices": choices, "candidates": [candidate for _, candidate in candidates]}


def _split_words(candidate: Any) -> tuple[str, Any]:
    """Return the words of a candidate, and the candidate without them."""
    content = candidate.get("content") if isinstance(candidate, dict) else None
    if not isinstance(content, dict) or not isinstance(content.get("parts"), list):
        return "", candidate
    parts = content["parts"]
    words = "".join(part["text"] for part in parts if _is_text(part))
    return words, {**candidate, "content": {**content, "parts": [part for part in parts if not _is_text(part)]}}


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and not part.get("thought")


def _joined(contents: Iterable[object]) -> Iterator[object]:
    """Yield the texts of several messages as one, in lines of their own, and then the rest."""
    found = list(contents)
    texts = [content for content in found if isinstance(content, str)]
    yield "\n\n".join(texts)
    yield from (content for content in found if not isinstance(content, str))


def _with_messages(document: Document, keys: Container[str], contents: Iterable[object]) -> Document:
    """Return the document with messages in place of some of its keys. A whole message may repeat pieces before it."""
    choices = [{"index": 0, "message": {"content": content}} for content in contents]
    return {**_without(document, keys), "choices": choices}


def _without(document: Document, keys: Container[str]) -> Document:
    return {key: value for key, value in document.items() if key not in keys}


def _is_conversation(messages: list[Any]) -> bool:
    return bool(messages) and all(isinstance(each, dict) and "content" in each and _kinds(each) for each in messages)


def _kinds(message: Document) -> set[str]:
    """Return who has written a message, and of which kind it is."""
    return {value.lower() for value in (message.get("role"), message.get("type")) if isinstance(value, str)}


def _contents_of(messages: list[Document]) -> Iterator[object]:
    """Yield what came after the last message of a person."""
    people = [index for index, each in enumerate(messages) if _kinds(each) & _HUMAN]
    for message in messages[people[-1] + 1 if people else 0 :]:
        kinds, content = _kinds(message), message["content"]
        if kinds & _TOOL and not isinstance(content, str):
            yield [{"type": "tool_result", "content": content}]
        # What a tool has written counts less than what the answer shows, as in any text.
        elif not kinds & _ASIDE:
            yield content
