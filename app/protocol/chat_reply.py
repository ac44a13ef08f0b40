"""Parse replies of chat completions, in one JSON body or in a stream: bytes in any cut become a `ChatReply`.

`ReplyParser` finds out whether a body is JSON or events and parses both. `ReplyAccumulator` combines the JSON documents
of a body: one for JSON, one per event for a stream. `SnapshotThrottle` decides when a growing reply is worth a look.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app.errors import UpstreamInvalidReply
from app.protocol import sse
from app.protocol.inline_images import ByteSink, InlineImageSpooler
from app.protocol.usage import NO_USAGE, Usage, read_usage

#: Bytes of a body that are kept for the log.
_MAX_RAW = 16 * 1024
#: What keeps a connection alive before the reply, in front of events and of JSON.
_LEAD = re.compile(rb"\A(?:[ \t\r\n\xef\xbb\xbf]+|:[^\r\n]*[\r\n])+")
#: One half of a surrogate pair, where an upstream cut a text between the two. No JSON parser accepts it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

#: An error that came with status 200 or in the middle of a stream: an error object, read by `upstream/error_mapping`.
ReplyError = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What an upstream replied, or has replied so far.

    Attributes:
        messages: One per choice. `content` is its joined text, `parts` are the other parts of its content.
        bodies: Every document without its choices, if anything in it may hold images.
        raw: The first 16 KiB as they arrived, for the log.
        complete: The upstream finished the reply, so nothing is missing.
        has_content: More arrived than an error, so the upstream may have done work that is billed.
        spooled_images: Large images, by the data URLs of the placeholders that replace them in the text.
        secrets: Keys that the reply may contain and that must not be shown to a client.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    bodies: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    error: ReplyError | None = None
    raw: str = ""
    complete: bool = True
    has_content: bool = True
    spooled_images: Mapping[str, ByteSink] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_reproducible(self) -> bool:
        """Whether `raw` is all that arrived, so that parsing it gives the same reply again."""
        # Bytes, not characters: text in most languages other than English has more bytes than characters.
        return self.complete and not self.spooled_images and len(self.raw.encode()) < _MAX_RAW

    @property
    def refusal(self) -> str | None:
        refusals = [message["refusal"] for message in self.messages if isinstance(message.get("refusal"), str)]
        return "\n".join(filter(None, refusals)) or None


def read_reply(body: bytes) -> ChatReply:
    """Parse a whole body, JSON or events.

    Raises:
        UpstreamInvalidReply: The body is neither.
    """
    parser = ReplyParser()
    parser.feed(body)
    return parser.reply(ended=True)


class ReplyParser:
    """Parser of a body that arrives in chunks, cut anywhere.

    The cost of `feed` depends on its chunk only; chunks are joined in `reply`.
    """

    def __init__(self, new_sink: Callable[[], ByteSink] | None = None) -> None:
        """With `new_sink`, large images are written to sinks while they arrive. Without it they stay in the text."""
        self._spooler = None if new_sink is None else InlineImageSpooler(new_sink)
        self._body: _JsonBody | _EventStream | None = None
        self._raw: list[bytes] = []
        self._raw_capacity = _MAX_RAW
        self._comment = b""

    def feed(self, data: bytes) -> bool:
        """Take the next chunk and return whether the reply has grown by content."""
        if self._spooler is not None:
            data = self._spooler.feed(data)
        if self._raw_capacity > 0:
            self._raw.append(data[: self._raw_capacity])
            self._raw_capacity -= len(data)
        if self._body is None:
            data = _LEAD.sub(b"", self._comment + data)
            self._comment = data[:1] if data.startswith(b":") else b""
            if not data or self._comment:
                return False
            self._body = _JsonBody() if data[:1] in b"{[<" else _EventStream()
        return self._body.feed(data)

    def reply(self, *, ended: bool = False) -> ChatReply:
        """Return a snapshot of the reply as far as it has arrived.

        `ended`: the transport ended cleanly, so a stream without its last mark is complete too.

        Raises:
            UpstreamInvalidReply: The transport ended, and the body is neither JSON nor an event stream of a chat.
        """
        raw = b"".join(self._raw).decode("utf-8", "replace")
        if self._body is None:
            if ended:
                raise _invalid("an empty body", raw)
            return ChatReply(raw=raw, complete=False)
        spooled = {} if self._spooler is None else self._spooler.spooled
        return replace(self._body.reply(raw, ended), spooled_images=spooled)


def _invalid(reason: str, raw: str) -> UpstreamInvalidReply:
    return UpstreamInvalidReply("The upstream's answer could not be read.", detail=f"{reason}: {raw[:2000]}")


class _JsonBody:
    """A body that is not a stream of events: one JSON document, a list of them, or one per line."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> bool:
        self._chunks.append(data)
        return False

    def reply(self, raw: str, ended: bool) -> ChatReply:
        body = b"".join(self._chunks)
        # A connection may break after the whole document (wrong length, no last chunk). The reply is complete then, and
        # it has been paid for.
        if not ended and not isinstance(_parse(body.decode("utf-8", "replace")), dict):
            return ChatReply(raw=raw, complete=False)
        accumulator = ReplyAccumulator()
        for document in _parse_documents(body, raw):
            accumulator.add(document)
        return _build_reply(accumulator, raw, complete=True)


class _EventStream:
    """A body of server-sent events."""

    def __init__(self) -> None:
        self._decoder = sse.Decoder()
        self._accumulator = ReplyAccumulator()
        self._is_done = False
        self._is_chat = False
        self._has_cut_event = False

    def feed(self, data: bytes) -> bool:
        return self._add(self._decoder.feed(data))

    def reply(self, raw: str, ended: bool) -> ChatReply:
        if ended:
            self._add(self._decoder.end())
            if not self._is_chat:
                raise _invalid("no event of a chat", raw)
        has_end_mark = self._is_done or self._accumulator.finish_reason is not None
        complete = has_end_mark or (ended and not self._has_cut_event)
        return _build_reply(self._accumulator, raw, complete=complete, has_content=self._has_cut_event)

    def _add(self, events: list[sse.Event]) -> bool:
        has_grown = False
        for event in events:
            self._is_done = self._is_done or event.data.strip() == "[DONE]"
            document = _parse(event.data)
            if isinstance(document, dict):
                document = {"error": document} if event.name == "error" and "error" not in document else document
                self._is_chat = True
                has_grown = self._accumulator.add(document) or has_grown
            else:
                # Some upstreams keep the connection alive with events that are not JSON; those are ignored.
                self._has_cut_event = self._has_cut_event or event.data.lstrip().startswith("{")
        self._is_chat = self._is_chat or self._is_done
        return has_grown


def _build_reply(accumulator: "ReplyAccumulator", raw: str, *, complete: bool, has_content: bool = False) -> ChatReply:
    return ChatReply(
        messages=accumulator.messages(),
        bodies=tuple(accumulator.bodies),
        finish_reason=accumulator.finish_reason,
        usage=accumulator.usage,
        error=accumulator.error,
        raw=raw,
        complete=complete,
        has_content=has_content or accumulator.has_content,
    )


def _parse_documents(body: bytes, raw: str) -> list[dict[str, Any]]:
    value = _parse(body.decode("utf-8", "replace"))
    if value is None:
        value = [_parse(line) for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    documents = value if isinstance(value, list) else [value]
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise _invalid("not a JSON object", raw)
    return documents


def _parse(text: str) -> Any:
    """Parse JSON, with half surrogate pairs replaced by U+FFFD. Return None for anything else."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if not _SURROGATE.search(text):
            return None
    try:
        return orjson.loads(_SURROGATE.sub(r"\\ufffd", text))
    except orjson.JSONDecodeError:
        return None


#: Keys of a document that never hold an image.
_ENVELOPE_KEYS = frozenset(
    """
    choices created error id model object provider service_tier system_fingerprint type usage usageMetadata
    """.split()
)
#: Keys of a choice that are read one by one, or never hold an image.
_CHOICE_KEYS = frozenset(
    """
    content_filter_results delta error finish_reason index logprobs message native_finish_reason text
    """.split()
)
#: Events of the Responses API, which some upstreams send from a chat address. The last one has the whole response.
_LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.done"})
#: Further choices are ignored: no reply to one request has so many.
_MAX_CHOICES = 32


@dataclass(slots=True)
class ReplyAccumulator:
    """The combined content of all JSON documents of a reply so far."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    error: ReplyError | None = None
    _choices: dict[int, "_MessageBuilder"] = field(default_factory=dict)
    _has_other_content: bool = False

    @property
    def has_content(self) -> bool:
        """Whether more arrived than an error and a role without text: then the upstream may have done work."""
        has_message = any(value for message in self.messages() for value in message.values())
        return self._has_other_content or has_message or self.usage != NO_USAGE

    def messages(self) -> tuple[dict[str, Any], ...]:
        return tuple(self._choices[index].snapshot() for index in sorted(self._choices))

    def add(self, document: Mapping[str, Any]) -> bool:
        """Add one document and return whether it had more than its envelope."""
        event_type = document.get("type")
        if isinstance(event_type, str) and event_type.startswith(("response.", "image_")):
            return self._add_event(event_type, document)
        has_error = self._add_usage_and_error(document)
        choices = document.get("choices")
        if isinstance(choices, list):
            for position, choice in enumerate(choices[:_MAX_CHOICES]):
                if isinstance(choice, dict):
                    self._add_choice(position, choice)
        self._add_gemini_reason(document.get("candidates"))
        if not isinstance(choices, list) and isinstance(document.get("message"), dict):  # The form of Ollama.
            self._add_choice(0, {"delta": document["message"], "finish_reason": document.get("done_reason")})
            document = {key: value for key, value in document.items() if key != "message"}
        body = {key: value for key, value in document.items() if key not in _ENVELOPE_KEYS and value}
        if body:
            self.bodies.append(body)
            self._has_other_content = self._has_other_content or not has_error
        return bool(choices or body or self.error)

    def _add_event(self, event_type: str, event: Mapping[str, Any]) -> bool:
        """Add an event of the Responses or Images API. Partial images are ignored: the final one follows."""
        response, item, delta = event.get("response"), event.get("item"), event.get("delta")
        if event_type in _LAST_EVENTS and isinstance(response, dict):
            self.finish_reason = self.finish_reason or event_type.removeprefix("response.")
            return self.add(response)
        self._has_other_content = True
        if event_type == "response.output_item.done" and isinstance(item, dict):
            self.bodies.append({"output": [item]})
            return True
        if event_type == "response.output_text.delta" and isinstance(delta, str):
            self._choice(0).append(delta)
            return True
        if event_type.endswith(".completed") and not event_type.startswith("response."):
            self._add_usage_and_error(event)
            self.finish_reason = "stop"
            self.bodies.append({"data": [dict(event)]})
            return True
        return False

    def _add_usage_and_error(self, document: Mapping[str, Any]) -> bool:
        """Return whether the document has an error."""
        usage = read_usage(document.get("usage") or document.get("usageMetadata"))
        self.usage = usage if usage != NO_USAGE else self.usage
        error = find_error(document)
        self.error = self.error or error
        return error is not None

    def _add_choice(self, position: int, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        message = self._choice(index if type(index) is int else position)
        for text in (choice.get("text"), choice.get("message")):
            if isinstance(text, str):
                message.append(text)
        for name in ("delta", "message"):
            if isinstance(choice.get(name), dict):
                message.add(choice[name], is_message=name == "message")
        message.merge({key: value for key, value in choice.items() if key not in _CHOICE_KEYS})
        reason = choice.get("finish_reason")
        self.finish_reason = reason if isinstance(reason, str) and reason else self.finish_reason
        self.error = self.error or find_error(choice)

    def _add_gemini_reason(self, candidates: object) -> None:
        """Add the finish reason of Gemini's candidates. Their images stay in the document, so they are in `bodies`."""
        for candidate in candidates if isinstance(candidates, list) else ():
            reason = candidate.get("finishReason") if isinstance(candidate, dict) else None
            self.finish_reason = reason if isinstance(reason, str) else self.finish_reason

    def _choice(self, index: int) -> "_MessageBuilder":
        if len(self._choices) >= _MAX_CHOICES:
            return self._choices.get(index, _MessageBuilder())
        return self._choices.setdefault(index, _MessageBuilder())


#: Keys of a part of a message's content that has text and nothing else.
_TEXT_PART_KEYS = frozenset({"type", "text", "annotations", "logprobs", "index"})


@dataclass(slots=True)
class _MessageBuilder:
    """The message of one choice while it grows."""

    text: list[str] = field(default_factory=list)
    length: int = 0
    parts: list[Any] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def append(self, text: str) -> None:
        self.text.append(text)
        self.length += len(text)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy that later changes of this message do not affect."""
        fields = {key: list(value) if isinstance(value, list) else value for key, value in self.fields.items()}
        return {**fields, "content": "".join(self.text), "parts": list(self.parts)}

    def add(self, message: Mapping[str, Any], *, is_message: bool) -> None:
        """Add a delta, or with `is_message` a whole message."""
        content = message.get("content")
        if isinstance(content, str):
            # A whole message at the end of a stream repeats the text of its deltas.
            if is_message and len(content) >= self.length and content.startswith("".join(self.text)):
                self.text.clear()
                self.length = 0
            self.append(content)
        elif isinstance(content, list | dict):
            self._add_parts(content if isinstance(content, list) else [content])
        self.merge({key: value for key, value in message.items() if key not in {"content", "role"}})

    def merge(self, fields: Mapping[str, Any]) -> None:
        """Add further fields: lists and refusals are continued, other values replaced."""
        for key, value in fields.items():
            old = self.fields.get(key)
            if isinstance(old, list) and isinstance(value, list):
                old.extend(value)
            elif key == "refusal" and isinstance(old, str) and isinstance(value, str):
                self.fields[key] = old + value
            elif value is not None:
                self.fields[key] = list(value) if isinstance(value, list) else value

    def _add_parts(self, parts: list[Any]) -> None:
        texts = []
        for part in parts:
            text = _text_of_part(part)
            if text is not None:
                texts.append(text)
            elif isinstance(part, dict) and isinstance(part.get("refusal"), str):
                self.merge({"refusal": part["refusal"]})
            else:
                self.parts.append(part)
        self.append("\n".join(texts))


def _text_of_part(part: object) -> str | None:
    """Return the text of a part, or None if the part has anything beside text."""
    if isinstance(part, str):
        return part
    if (
        not isinstance(part, dict)
        or part.keys() - _TEXT_PART_KEYS
        or part.get("type") not in (None, "text", "output_text")
    ):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


_SUCCESS_CODES = (None, 0, 200, "0", "200", "success", "")
_FAILURE_STATUSES = ("error", "fail", "failed", *range(400, 600))
#: If a document with an error has no error object, these of its keys make one.
_ERROR_KEYS = ("message", "msg", "detail", "error", "title", "type", "param", "code", "status")


def find_error(document: Mapping[str, Any]) -> ReplyError | None:
    """Return the error object of a document, or None.

    Upstreams write `error`, `errors` or `detail`, each an object, a list of objects or a text, or a code and a message
    in place of choices.
    """
    error = _find_error_object(document)
    return None if error is None else _limit_depth(error)


def _find_error_object(document: Mapping[str, Any]) -> dict[str, Any] | None:
    for name in ("error", "errors", "detail"):
        value = document.get(name)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and first:
            return first
        if isinstance(first, str) and first:
            return {**_error_fields(document), "message": first}
    has_failed = (
        document.get("error") is True
        or document.get("success") is False
        or document.get("code") not in _SUCCESS_CODES
        or document.get("status") in _FAILURE_STATUSES
    )
    has_message = any(isinstance(document.get(name), str) for name in ("message", "msg"))
    return _error_fields(document) if has_failed and has_message else None


def _error_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in _ERROR_KEYS if key in document}


def _limit_depth(value: Any, levels: int = 8) -> Any:
    """Cut a value off below `levels`: real errors are not so deep, and orjson reads deeper nesting than it writes."""
    if isinstance(value, dict):
        return {key: _limit_depth(each, levels - 1) for key, each in value.items()} if levels else {}
    if isinstance(value, list):
        return [_limit_depth(each, levels - 1) for each in value] if levels else []
    return value


#: What most images in a stream begin with.
_IMAGE_MARK = re.compile(rb"https?:|data:image|b64_json|image_url")


def split_lines(chunk: bytes) -> Sequence[bytes]:
    """Split a chunk into lines, because it may hold several events, and a partial image may be in any of them."""
    return chunk.splitlines(keepends=True) if b"\n" in chunk else (chunk,)


@dataclass(slots=True)
class SnapshotThrottle:
    """Limit how often a growing reply is searched for images.

    A search costs the length of the whole reply. It is done after something that looks like an image, but only a
    limited number of times, and otherwise each time the reply has grown by an eighth. All searches of a reply together
    therefore stay linear in its length.
    """

    received: int = 0
    searched: int = 0
    marks_left: int = 64
    has_mark: bool = False

    def should_snapshot(self, chunk: bytes, *, grown: bool) -> bool:
        """Count one chunk and return whether to search now. `grown`: the chunk added content to the reply."""
        self.received += len(chunk)
        self.has_mark = self.has_mark or _IMAGE_MARK.search(chunk) is not None
        if not grown:
            return False
        if self.has_mark and self.marks_left:
            self.marks_left -= 1
        elif self.received * 8 < self.searched * 9:
            return False
        self.has_mark, self.searched = False, self.received
        return True
