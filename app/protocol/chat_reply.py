"""The chat API as upstreams answer it, whole or in a stream: bytes → one ChatReply."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app.errors import UpstreamInvalidReply
from app.protocol import sse
from app.protocol.inline_images import ByteSink, InlineImageSpooler
from app.protocol.json_stream import ByteSource
from app.protocol.usage import NO_USAGE, Usage, read_usage

#: Keys of a document that never hold an image.
_FRAME = frozenset(
    """
    choices created error id model object provider service_tier system_fingerprint type usage usageMetadata
    """.split()
)
#: Keys of a choice that are read one by one.
_CHOICE = frozenset(
    """
    content_filter_results delta error finish_reason index logprobs message native_finish_reason text
    """.split()
)
#: Events of other APIs behind a chat address: the ends of a Responses stream carry the whole response.
_WHOLE = frozenset({"response.completed", "response.incomplete", "response.failed", "response.done"})
#: Keys of a part of a content that holds words and nothing else.
_WORDS = frozenset({"type", "text", "annotations", "logprobs", "index"})
#: Choices beyond these are no answer to one question.
_MAX_CHOICES = 32


#: An error that came with status 200 or in the middle of a stream: an error object, read by upstream/error_mapping.
ReplyError = Mapping[str, Any]


@dataclass(slots=True)
class _MessageBuilder:
    """One choice while it grows."""

    text: list[str] = field(default_factory=list)
    length: int = 0
    parts: list[Any] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def append(self, text: str) -> None:
        self.text.append(text)
        self.length += len(text)

    def snapshot(self) -> dict[str, Any]:
        """A snapshot: what comes later does not change it."""
        fields = {key: list(value) if isinstance(value, list) else value for key, value in self.fields.items()}
        return {**fields, "content": "".join(self.text), "parts": list(self.parts)}

    def add(self, piece: Mapping[str, Any], *, is_message: bool) -> None:
        content = piece.get("content")
        if isinstance(content, str):
            # A whole message at the end of a stream repeats what its deltas have said.
            if is_message and len(content) >= self.length and content.startswith("".join(self.text)):
                self.text.clear()
                self.length = 0
            self.append(content)
        elif isinstance(content, list | dict):
            self._add_parts(content if isinstance(content, list) else [content])
        self.merge({key: value for key, value in piece.items() if key not in {"content", "role"}})

    def merge(self, fields: Mapping[str, Any]) -> None:
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
            text = _text_of(part)
            if text is not None:
                texts.append(text)
            elif isinstance(part, dict) and isinstance(part.get("refusal"), str):
                self.merge({"refusal": part["refusal"]})
            else:
                self.parts.append(part)
        self.append("\n".join(texts))


def _text_of(part: object) -> str | None:
    """None for a part that is more than words."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.keys() - _WORDS or part.get("type") not in (None, "text", "output_text"):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


@dataclass(slots=True)
class ReplyAccumulator:
    """What all documents so far say together."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    error: ReplyError | None = None
    _choices: dict[int, _MessageBuilder] = field(default_factory=dict)
    _worked: bool = False

    @property
    def has_content(self) -> bool:
        """Whether more came than a complaint, and than a role that has yet to speak: then work may have been done."""
        said = any(value for message in self.messages() for value in message.values())
        return self._worked or said or self.usage != NO_USAGE

    def messages(self) -> tuple[dict[str, Any], ...]:
        return tuple(self._choices[index].snapshot() for index in sorted(self._choices))

    def add(self, document: Mapping[str, Any]) -> bool:
        """True when it brought more than its frame."""
        kind = document.get("type")
        if isinstance(kind, str) and kind.startswith(("response.", "image_")):
            return self._take_event(kind, document)
        complains = self._note(document)
        choices = document.get("choices")
        if isinstance(choices, list):
            for position, choice in enumerate(choices[:_MAX_CHOICES]):
                if isinstance(choice, dict):
                    self._take_choice(position, choice)
        self._take_gemini(document.get("candidates"))
        if not isinstance(choices, list) and isinstance(document.get("message"), dict):  # Ollama's form
            self._take_choice(0, {"delta": document["message"], "finish_reason": document.get("done_reason")})
            document = {key: value for key, value in document.items() if key != "message"}
        body = {key: value for key, value in document.items() if key not in _FRAME and value}
        if body:
            self.bodies.append(body)
            self._worked = self._worked or not complains
        return bool(choices or body or self.error)

    def _take_event(self, kind: str, event: Mapping[str, Any]) -> bool:
        """Previews are left out: the finished picture follows, or the stream broke off."""
        response, item, delta = event.get("response"), event.get("item"), event.get("delta")
        if kind in _WHOLE and isinstance(response, dict):
            self.finish_reason = self.finish_reason or kind.removeprefix("response.")
            return self.add(response)
        self._worked = True
        if kind == "response.output_item.done" and isinstance(item, dict):
            self.bodies.append({"output": [item]})
            return True
        if kind == "response.output_text.delta" and isinstance(delta, str):
            self._choice(0).append(delta)
            return True
        if kind.endswith(".completed") and not kind.startswith("response."):
            self._note(event)
            self.finish_reason = "stop"
            self.bodies.append({"data": [dict(event)]})
            return True
        return False

    def _note(self, document: Mapping[str, Any]) -> bool:
        """Whether it complains."""
        usage = read_usage(document.get("usage") or document.get("usageMetadata"))
        self.usage = usage if usage != NO_USAGE else self.usage
        error = find_error(document)
        self.error = self.error or error
        return error is not None

    def _take_choice(self, position: int, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        message = self._choice(index if type(index) is int else position)
        for spoken in (choice.get("text"), choice.get("message")):
            if isinstance(spoken, str):
                message.append(spoken)
        for name in ("delta", "message"):
            if isinstance(choice.get(name), dict):
                message.add(choice[name], is_message=name == "message")
        message.merge({key: value for key, value in choice.items() if key not in _CHOICE})
        reason = choice.get("finish_reason")
        self.finish_reason = reason if isinstance(reason, str) and reason else self.finish_reason
        self.error = self.error or find_error(choice)

    def _take_gemini(self, candidates: object) -> None:
        """Its pictures are found beside the choices; only the reason stands apart."""
        for candidate in candidates if isinstance(candidates, list) else ():
            reason = candidate.get("finishReason") if isinstance(candidate, dict) else None
            self.finish_reason = reason if isinstance(reason, str) else self.finish_reason

    def _choice(self, index: int) -> _MessageBuilder:
        if len(self._choices) >= _MAX_CHOICES:
            return self._choices.get(index, _MessageBuilder())
        return self._choices.setdefault(index, _MessageBuilder())


_FINE = (None, 0, 200, "0", "200", "success", "")
_FAILED = ("error", "fail", "failed", *range(400, 600))
#: Where a document has no error object, these of its keys are one.
_COMPLAINT = ("message", "msg", "detail", "error", "title", "type", "param", "code", "status")


def find_error(document: Mapping[str, Any]) -> ReplyError | None:
    """`{"error": …}` as an object, a list of them or a text, likewise `errors` and `detail`, or a code and a message
    where choices belong.
    """
    error = _error_of(document)
    return None if error is None else _shallow(error)


def _error_of(document: Mapping[str, Any]) -> dict[str, Any] | None:
    for name in ("error", "errors", "detail"):
        told = document.get(name)
        first = told[0] if isinstance(told, list) and told else told
        if isinstance(first, dict) and first:
            return first
        if isinstance(first, str) and first:
            return {**_complaint(document), "message": first}
    has_failed = (
        document.get("error") is True
        or document.get("success") is False
        or document.get("code") not in _FINE
        or document.get("status") in _FAILED
    )
    speaks = any(isinstance(document.get(name), str) for name in ("message", "msg"))
    return _complaint(document) if has_failed and speaks else None


def _complaint(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in _COMPLAINT if key in document}


def _shallow(value: Any, levels: int = 8) -> Any:
    """Nobody's errors are deeper, and not all that can be read could be written again."""
    if isinstance(value, dict):
        return {key: _shallow(each, levels - 1) for key, each in value.items()} if levels else {}
    if isinstance(value, list):
        return [_shallow(each, levels - 1) for each in value] if levels else []
    return value


#: What a picture looks like in a stream, most often.
_HINT = re.compile(rb"https?:|data:image|b64_json|image_url")


def split_lines(chunk: bytes) -> Sequence[bytes]:
    """Several events may arrive at once: each is worth a look of its own, or a picture on the way is never seen."""
    return chunk.splitlines(keepends=True) if b"\n" in chunk else (chunk,)


@dataclass(slots=True)
class SnapshotThrottle:
    """Looking costs the length of the whole reply, so it is done where something like a picture came, a bounded number
    of times, and else each time the reply has grown by an eighth: all looks together stay linear.
    """

    came: int = 0
    seen: int = 0
    hints: int = 64
    hinted: bool = False

    def should_snapshot(self, piece: bytes, *, grown: bool) -> bool:
        self.came += len(piece)
        self.hinted = self.hinted or _HINT.search(piece) is not None
        if not grown:
            return False
        if self.hinted and self.hints:
            self.hints -= 1
        elif self.came * 8 < self.seen * 9:
            return False
        self.hinted, self.seen = False, self.came
        return True


__all__ = ["ChatReply", "ReplyError", "ReplyParser", "Usage", "read_reply"]

#: As much of a body is kept for the log.
_RAW = 16 * 1024
#: What keeps a connection alive before an answer, in front of events and of JSON.
_LEAD = re.compile(rb"\A(?:[ \t\r\n\xef\xbb\xbf]+|:[^\r\n]*[\r\n])+")
#: Half of a pair, where an upstream cut a text between the two: not Unicode, so no JSON parser takes it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True)
class ChatReply:
    """`messages`: one a choice, `content` its joined text, `parts` what else was in it; `bodies`: all beside choices.

    `complete`: the upstream said all it wanted to. `raw`: the first 16 KiB as they came, for the log. `has_begun`: more
    came than a complaint, so work may have been done.
    `secrets`: keys that may be in the words and belong into nobody's hands.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    bodies: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    error: ReplyError | None = None
    raw: str = ""
    complete: bool = True
    has_content: bool = True
    spooled_images: Mapping[str, ByteSource] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_reproducible(self) -> bool:
        """Whether `raw` is all that came, so that reading it gives the same reply again."""
        return self.complete and not self.spooled_images and len(self.raw) < _RAW

    @property
    def refusal(self) -> str | None:
        refusals = [message["refusal"] for message in self.messages if isinstance(message.get("refusal"), str)]
        return "\n".join(filter(None, refusals)) or None


def read_reply(body: bytes) -> ChatReply:
    """A whole body, JSON or SSE, whichever it is. Raises UpstreamBroken where nobody can read it."""
    reader = ReplyParser()
    reader.feed(body)
    return reader.reply(ended=True)


class ReplyParser:
    """A body as it arrives, in any cut. Each feed costs what it brings; pieces are joined in `reply`."""

    def __init__(self, new_sink: Callable[[], ByteSink] | None = None) -> None:
        """`new_sink`: where large pictures go while they arrive; without it they stay in the text."""
        self._spooler = None if new_sink is None else InlineImageSpooler(new_sink)
        self._read: _JsonBody | _EventStream | None = None
        self._raw: list[bytes] = []
        self._room = _RAW
        self._comment = b""

    def feed(self, data: bytes) -> bool:
        """True when the reply grew by something."""
        if self._spooler is not None:
            data = self._spooler.feed(data)
        if self._room > 0:
            self._raw.append(data[: self._room])
            self._room -= len(data)
        if self._read is None:
            data = _LEAD.sub(b"", self._comment + data)
            self._comment = data[:1] if data.startswith(b":") else b""
            if not data or self._comment:
                return False
            self._read = _JsonBody() if data[:1] in b"{[<" else _EventStream()
        return self._read.feed(data)

    def reply(self, *, ended: bool = False) -> ChatReply:
        """What is there so far. `ended`: the transport ended cleanly, so that a stream without its last mark is whole.

        Raises UpstreamBroken where it ended and nobody can read it.
        """
        raw = b"".join(self._raw).decode("utf-8", "replace")
        if self._read is None:
            if ended:
                raise _broken("an empty body", raw)
            return ChatReply(raw=raw, complete=False)
        spooled = {} if self._spooler is None else self._spooler.spooled
        return replace(self._read.reply(raw, ended), spooled_images=spooled)


def _broken(what: str, raw: str) -> UpstreamInvalidReply:
    return UpstreamInvalidReply("The upstream's answer could not be read.", detail=f"{what}: {raw[:2000]}")


@dataclass(slots=True)
class _JsonBody:
    """A body that does not come in events, or one JSON document a line."""

    chunks: list[bytes] = field(default_factory=list)

    def feed(self, data: bytes) -> bool:
        self.chunks.append(data)
        return False

    def reply(self, raw: str, ended: bool) -> ChatReply:
        body = b"".join(self.chunks)
        # What broke off behind the whole document (a wrong length, no last chunk) has said all, and it is paid for.
        if not ended and not isinstance(_parse(body.decode("utf-8", "replace")), dict):
            return ChatReply(raw=raw, complete=False)
        joined = ReplyAccumulator()
        for document in _documents(body, raw):
            joined.add(document)
        return _reply(joined, raw, complete=True)


def _reply(joined: ReplyAccumulator, raw: str, *, complete: bool, has_begun: bool = False) -> ChatReply:
    return ChatReply(
        messages=joined.messages(),
        bodies=tuple(joined.bodies),
        finish_reason=joined.finish_reason,
        usage=joined.usage,
        error=joined.error,
        raw=raw,
        complete=complete,
        has_content=has_begun or joined.has_content,
    )


def _documents(body: bytes, raw: str) -> list[dict[str, Any]]:
    value = _parse(body.decode("utf-8", "replace"))
    if value is None:
        value = [_parse(line) for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    documents = value if isinstance(value, list) else [value]
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise _broken("not a JSON object", raw)
    return documents


def _parse(text: str) -> Any:
    """None where it is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if not _SURROGATE.search(text):
            return None
    try:
        return orjson.loads(_SURROGATE.sub(r"\\ufffd", text))
    except orjson.JSONDecodeError:
        return None


@dataclass(slots=True)
class _EventStream:
    decoder: sse.Decoder = field(default_factory=sse.Decoder)
    joined: ReplyAccumulator = field(default_factory=ReplyAccumulator)
    is_done: bool = False
    is_read: bool = False
    is_cut: bool = False

    def feed(self, data: bytes) -> bool:
        return self._take(self.decoder.feed(data))

    def reply(self, raw: str, ended: bool) -> ChatReply:
        if ended:
            self._take(self.decoder.end())
            if not self.is_read:
                raise _broken("no event of a chat", raw)
        said_so = self.is_done or self.joined.finish_reason is not None
        complete = said_so or (ended and not self.is_cut)
        return _reply(self.joined, raw, complete=complete, has_begun=self.is_cut)

    def _take(self, events: list[sse.Event]) -> bool:
        grew = False
        for event in events:
            self.is_done = self.is_done or event.data.strip() == "[DONE]"
            document = _parse(event.data)
            if isinstance(document, dict):
                document = {"error": document} if event.name == "error" and "error" not in document else document
                self.is_read = True
                grew = self.joined.add(document) or grew
            else:
                # Other things that are not JSON are somebody's way to keep the connection alive.
                self.is_cut = self.is_cut or event.data.lstrip().startswith("{")
        self.is_read = self.is_read or self.is_done
        return grew
