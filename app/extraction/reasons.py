"""Find what a reply says beside its words of why it has no image: reasons to stop, failed image calls, tasks begun.

It is looked for in every document of the reply, at any depth: OpenRouter's `native_finish_reason`,
Gemini's `promptFeedback`, the `incomplete_details` and failed calls of the Responses API, tickets of task relays.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from app.protocol.chat_reply import ChatReply
from app.protocol.json_objects import objects_in
from app.protocol.moderation import MODERATION, read_moderation_details
from app.protocol.sse import Decoder


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, as the upstream writes it.

    Attributes:
        name: The key under which it stands.
        is_refusal: A safety system has stopped the reply.
        is_sentence: It is a sentence for people and no code.
        details: OpenAI's `moderation_details`, if it has them.
    """

    name: str
    value: str
    is_refusal: bool = False
    is_sentence: bool = False
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ReplyReasons:
    """All reasons of a reply, each once, and the id of the task that was begun in place of an image, if any."""

    reasons: tuple[Reason, ...] = ()
    task: str | None = None


def find_reasons(reply: ChatReply) -> ReplyReasons:
    """Find the reasons of a reply without an image."""
    nodes = [node for document in (*_documents(reply.raw), *reply.bodies) for node in _nodes(document)]
    # Relays of tasks put a document about the task into the text.
    nodes += _nodes([_parse(str(message.get("content", ""))) for message in reply.messages])
    found = [reason for node in nodes for reason in _reasons_of(node)]
    if reply.finish_reason is not None:
        found.insert(0, _reason("finish_reason", reply.finish_reason))
    named = {(each.name, each.value): each for each in found if each.value.lower() not in _NORMAL}
    task = next(filter(None, map(_task_of, nodes)), None)
    return ReplyReasons(tuple(named.values())[:_MAX_REASONS], task)


#: Reasons that an error names, objects of a document that are read, and the depth to which they are.
_MAX_REASONS, _MAX_NODES, _MAX_DEPTH = 4, 400, 10
#: A reply that ended as it should.
_NORMAL = frozenset(
    """
    stop end end_turn endturn eos complete completed done finish finished success succeeded none null stop_sequence
    finish_reason_unspecified block_reason_unspecified
    """.split()
)
_CODE_KEYS = frozenset("finish_reason finishReason native_finish_reason stop_reason stopReason".split())
#: Whatever they hold, a safety system has written it.
_BLOCK_KEYS = frozenset(
    "blockReason block_reason raiFilteredReason raiMediaFilteredReasons rai_filtered_reason".split()
)
_SENTENCE_KEYS = frozenset("finishMessage finish_message blockReasonMessage block_reason_message".split())
_REFUSAL = re.compile(
    r"safety|content_?filter|filter reason|prohibit|blocklist|spii|recitation|moderat|sensitive|refus|guardrail",
    re.IGNORECASE,
)
#: What relays say of a failure within a 200, beside a number.
_COMPLAINT_KEYS = ("status_msg", "error_msg")
_STATUS_KEYS = ("status", "task_status", "taskStatus", "state")
_FAILED = re.compile(r"fail(?:ed|ure)?|incomplete|error|rejected|blocked", re.IGNORECASE)
#: What a failed task says of the cause: a code and a message, or one of them.
_WHY_KEY = re.compile(r"fail|err(?:or|_|$)|reason|msg|message|code|detail|cause|descri", re.IGNORECASE)
_MAX_WHY = 2
#: Values of yes or no with which safety systems mark what they have stopped.
_UNSAFE_FLAG = re.compile(r"nsfw|flagged|moderated|censored|unsafe|^filtered$|content_filtered", re.IGNORECASE)
_SAFE_FLAG = re.compile(r"respect_moderation|(?:is_?)?(?:[a-z]{1,20}_)?safe|passed_moderation", re.IGNORECASE)
_TASK_KEYS = ("task_id", "taskId")
_TASK_OBJECT = re.compile(r"(?:\w+\.)?task", re.IGNORECASE)


def _documents(raw: str) -> list[Any]:
    """Return the JSON documents of a reply, as far as its beginning was kept."""
    whole = _parse(raw.strip())
    if whole is not None:
        return [whole]
    decoder = Decoder()
    return [_parse(event.data) for event in (*decoder.feed(raw.encode()), *decoder.end())]


def _parse(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _nodes(document: Any) -> Iterator[dict[str, Any]]:
    return objects_in(document, limit=_MAX_NODES, depth=_MAX_DEPTH)


def _reasons_of(node: Mapping[str, Any]) -> Iterator[Reason]:
    for key, value in node.items():
        if isinstance(value, str) and value and key in _CODE_KEYS | _BLOCK_KEYS | _SENTENCE_KEYS:
            yield _reason(key, value)
        elif isinstance(value, list) and key.rstrip("s") in _CODE_KEYS:
            yield from (_reason(key, each) for each in value if isinstance(each, str) and each)
    incomplete = node.get("incomplete_details")
    if isinstance(incomplete, dict) and isinstance(incomplete.get("reason"), str):
        yield _reason("incomplete_details", incomplete["reason"])
    status = next((node[key] for key in _STATUS_KEYS if isinstance(node.get(key), str)), "")
    if _FAILED.fullmatch(status) or MODERATION.search(status):
        yield from _failed_call(node, status)
    elif node.get("error") and isinstance(node["error"], dict | str):
        yield from _failed_call(node, "")
    yield from (Reason(key, str(value).lower(), is_refusal=True) for key, value in node.items() if _is_flag(key, value))
    yield from (_reason(key, node[key]) for key in _COMPLAINT_KEYS if isinstance(node.get(key), str) and node[key])


def _reason(name: str, value: str) -> Reason:
    is_sentence = name in _SENTENCE_KEYS or name in _COMPLAINT_KEYS
    is_refusal = name in _BLOCK_KEYS or bool((MODERATION if is_sentence else _REFUSAL).search(value))
    return Reason(name, value, is_refusal, is_sentence)


def _is_flag(key: str, value: object) -> bool:
    """Return whether a value of yes or no says that a safety system has stopped an image."""
    if value is False:
        return _SAFE_FLAG.fullmatch(key) is not None
    return (value is True or (isinstance(value, list) and True in value)) and _UNSAFE_FLAG.search(key) is not None


def _failed_call(call: Mapping[str, Any], status: str) -> Iterator[Reason]:
    """Yield why a call of a tool, such as `image_generation_call`, a task of a relay or one image of several failed."""
    given = call.get("error")
    error = given if isinstance(given, dict) else {"message": given} if isinstance(given, str) else call
    details = read_moderation_details(error) or read_moderation_details(call)
    causes = (value for key, value in error.items() if _WHY_KEY.search(key) and isinstance(value, str) and value)
    texts = [*islice(causes, _MAX_WHY)]
    value = ": ".join(texts) or status
    is_refusal = details is not None or bool(MODERATION.search(f"{status} {value}"))
    if texts or is_refusal or isinstance(call.get("type"), str):
        name = call["type"] if isinstance(call.get("type"), str) else "status" if status else "error"
        yield Reason(name, value, is_refusal, False, details)


def _task_of(node: Mapping[str, Any]) -> str | None:
    """Return the id of a task that goes on."""
    if any(_FAILED.fullmatch(str(node.get(key))) for key in _STATUS_KEYS):
        return None
    keys = (*_TASK_KEYS, "id") if _TASK_OBJECT.fullmatch(str(node.get("object"))) else _TASK_KEYS
    return next((str(node[key]) for key in keys if isinstance(node.get(key), str | int) and node[key]), None)
