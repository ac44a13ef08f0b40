"""Turn documents of other chat APIs into chunks of chat completions: Anthropic's Messages and Vercel's AI SDK.

Some upstreams answer in the form of the API behind them. A document without content becomes an empty one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Document = Mapping[str, Any]

#: How the parts of Vercel's older data stream begin: one character, a colon, and JSON. `sse.Decoder` makes documents of
#: them, with this type and the character behind it.
DATA_STREAM = "data-stream-"
_IMAGE_START = re.compile(r"iVBORw0KGgo|/9j/|UklGR|R0lGOD|data:image/")
#: Events of other protocols of agents, such as AG-UI, with the next piece of the text.
_TEXT_EVENT = re.compile(r"text|message|content|answer", re.IGNORECASE)
_OTHER_EVENT = re.compile(r"think|reason|tool|call|response\.|audio|transcript", re.IGNORECASE)
_PIECE = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def as_chat_chunk(document: Document) -> Document:
    """Return the document as a chunk of a chat completion, unchanged if it is of no other API."""
    kind = document.get("type")
    if not isinstance(kind, str) or "choices" in document:
        return document
    translate = _TRANSLATIONS.get(kind)
    if translate is None and kind.startswith("data-") and not kind.startswith(DATA_STREAM):
        return _ui_data(document)
    if translate is None and kind.startswith(("reasoning-", "source-", "tool-input-", DATA_STREAM)):
        return {}
    if translate is None and isinstance(document.get("delta"), str) and _TEXT_EVENT.search(kind):
        return document if _OTHER_EVENT.search(kind) else _text(document["delta"])
    return document if translate is None else translate(document)


def continue_base64(old: str, piece: str) -> str:
    """Return the value of a field that arrives again: its next piece is appended if it is base64 of an image."""
    is_next = _IMAGE_START.match(old) and not _IMAGE_START.match(piece) and _PIECE.fullmatch(piece)
    return old + piece if is_next else piece


def _chunk(delta: Document, reason: object = None) -> Document:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _text(text: object) -> Document:
    return _chunk({"content": text}) if isinstance(text, str) else {}


def _part(part: Document) -> Document:
    return _chunk({"content": [part]})


def _call(index: object, function: Document) -> Document:
    return _chunk({"tool_calls": [{"index": index, "function": function}]})


def _nothing(document: Document) -> Document:
    return {}


def _dict(value: object) -> Document:
    return value if isinstance(value, dict) else {}


# Anthropic's Messages


def _message(document: Document) -> Document:
    """Read a whole message."""
    if document.get("role") != "assistant" or not isinstance(document.get("content"), list):
        return document
    message = {"content": document["content"]}
    choice = {"index": 0, "message": message, "finish_reason": document.get("stop_reason")}
    return {"choices": [choice], "usage": document.get("usage")}


def _message_start(document: Document) -> Document:
    return {"usage": _dict(document.get("message")).get("usage")}


def _message_delta(document: Document) -> Document:
    reason = _dict(document.get("delta")).get("stop_reason")
    return {**_chunk({}, reason), "usage": document.get("usage")}


def _block_start(document: Document) -> Document:
    block = _dict(document.get("content_block"))
    match block.get("type"):
        case "text":
            return _text(block.get("text"))
        case "tool_use":
            return _call(document.get("index"), {"name": block.get("name"), "arguments": ""})
        case "thinking" | "redacted_thinking" | None:
            return {}
    return _part(block)


def _block_delta(document: Document) -> Document:
    delta = _dict(document.get("delta"))
    match delta.get("type"):
        case "text_delta":
            return _text(delta.get("text"))
        case "input_json_delta":
            return _call(document.get("index"), {"arguments": delta.get("partial_json")})
        case "thinking_delta" | "signature_delta" | "citations_delta" | None:
            return {}
    return _part(delta)


# Vercel's AI SDK


def _ui_text(document: Document) -> Document:
    return _text(document.get("delta", document.get("textDelta")))


def _ui_file(document: Document) -> Document:
    """Read a file by its media type, which has another name than in parts of chat messages."""
    file = {**document, **_dict(document.get("file"))}
    media_type = file.get("mediaType") or file.get("mimeType")
    if not isinstance(media_type, str):
        return document
    if not media_type.startswith(("image/", "application/octet-stream")):
        return {}
    data = next((file[key] for key in ("url", "data", "base64") if isinstance(file.get(key), str)), None)
    return {} if data is None else _part({"type": "image_url", "image_url": {"url": data}})


def _ui_tool_output(document: Document) -> Document:
    return _part({"type": "tool_result", "content": document.get("output", document.get("result"))})


def _ui_tool_input(document: Document) -> Document:
    arguments = document.get("input", document.get("args"))
    return _part({"type": "tool_use", "name": document.get("toolName"), "input": arguments})


def _ui_data(document: Document) -> Document:
    return _part({"data": document.get("data", document.get("value"))})


def _ui_error(document: Document) -> Document:
    return {"error": {"message": document.get("errorText", document.get("value"))}}


def _ui_finish(document: Document) -> Document:
    usage = _dict(document.get("usage"))
    tokens = {"prompt_tokens": usage.get("promptTokens"), "completion_tokens": usage.get("completionTokens")}
    counted = {key: value for key, value in tokens.items() if type(value) is int}
    return {**_chunk({}, document.get("finishReason") or "stop"), "usage": counted}


def _of_value(translate: Callable[[Document], Document]) -> Callable[[Document], Document]:
    """Translate the value of a part of the data stream."""
    return lambda document: translate(_dict(document.get("value")))


_TRANSLATIONS: Mapping[str, Callable[[Document], Document]] = {
    "message": _message,
    "message_start": _message_start,
    "message_delta": _message_delta,
    "message_stop": _nothing,
    "ping": _nothing,
    "content_block_start": _block_start,
    "content_block_delta": _block_delta,
    "content_block_stop": _nothing,
    "text-delta": _ui_text,
    "text-start": _nothing,
    "text-end": _nothing,
    "start": _nothing,
    "start-step": _nothing,
    "finish-step": _nothing,
    "file": _ui_file,
    "tool-output-available": _ui_tool_output,
    "tool-result": _ui_tool_output,
    "tool-input-available": _ui_tool_input,
    "tool-call": _ui_tool_input,
    "error": lambda document: _ui_error(document) if "errorText" in document else document,
    "finish": _ui_finish,
    f"{DATA_STREAM}0": lambda document: _text(document.get("value")),
    f"{DATA_STREAM}2": _ui_data,
    f"{DATA_STREAM}3": _ui_error,
    f"{DATA_STREAM}9": _of_value(_ui_tool_input),
    f"{DATA_STREAM}a": _of_value(_ui_tool_output),
    f"{DATA_STREAM}d": _of_value(_ui_finish),
    f"{DATA_STREAM}k": _of_value(_ui_file),
}
