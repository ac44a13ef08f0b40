"""Chunks of a chat stream, or whole documents, joined to the messages that they are pieces of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.pure.usage import NO_USAGE, Usage, read_usage

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


#: An error that came with status 200 or in the middle of a stream: an error object, to be read by app.pure.complaints.
ReplyError = Mapping[str, Any]


@dataclass(slots=True)
class _Message:
    """One choice while it grows."""

    text: list[str] = field(default_factory=list)
    length: int = 0
    parts: list[Any] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        self.text.append(text)
        self.length += len(text)

    def whole(self) -> dict[str, Any]:
        """A snapshot: what comes later does not change it."""
        fields = {key: list(value) if isinstance(value, list) else value for key, value in self.fields.items()}
        return {**fields, "content": "".join(self.text), "parts": list(self.parts)}

    def take(self, piece: Mapping[str, Any], *, is_message: bool) -> None:
        content = piece.get("content")
        if isinstance(content, str):
            # A whole message at the end of a stream repeats what its deltas have said.
            if is_message and len(content) >= self.length and content.startswith("".join(self.text)):
                self.text.clear()
                self.length = 0
            self.say(content)
        elif isinstance(content, list | dict):
            self._take_parts(content if isinstance(content, list) else [content])
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

    def _take_parts(self, parts: list[Any]) -> None:
        texts = []
        for part in parts:
            text = _text_of(part)
            if text is not None:
                texts.append(text)
            elif isinstance(part, dict) and isinstance(part.get("refusal"), str):
                self.merge({"refusal": part["refusal"]})
            else:
                self.parts.append(part)
        self.say("\n".join(texts))


def _text_of(part: object) -> str | None:
    """None for a part that is more than words."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.keys() - _WORDS or part.get("type") not in (None, "text", "output_text"):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


@dataclass(slots=True)
class Joined:
    """What all documents so far say together."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    error: ReplyError | None = None
    _choices: dict[int, _Message] = field(default_factory=dict)
    _worked: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether more came than a complaint, and than a role that has yet to speak: then work may have been done."""
        said = any(value for message in self.messages() for value in message.values())
        return self._worked or said or self.usage != NO_USAGE

    def messages(self) -> tuple[dict[str, Any], ...]:
        return tuple(self._choices[index].whole() for index in sorted(self._choices))

    def take(self, document: Mapping[str, Any]) -> bool:
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
            return self.take(response)
        self._worked = True
        if kind == "response.output_item.done" and isinstance(item, dict):
            self.bodies.append({"output": [item]})
            return True
        if kind == "response.output_text.delta" and isinstance(delta, str):
            self._choice(0).say(delta)
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
        error = read_error(document)
        self.error = self.error or error
        return error is not None

    def _take_choice(self, position: int, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        message = self._choice(index if type(index) is int else position)
        for spoken in (choice.get("text"), choice.get("message")):
            if isinstance(spoken, str):
                message.say(spoken)
        for name in ("delta", "message"):
            if isinstance(choice.get(name), dict):
                message.take(choice[name], is_message=name == "message")
        message.merge({key: value for key, value in choice.items() if key not in _CHOICE})
        reason = choice.get("finish_reason")
        self.finish_reason = reason if isinstance(reason, str) and reason else self.finish_reason
        self.error = self.error or read_error(choice)

    def _take_gemini(self, candidates: object) -> None:
        """Its pictures are found beside the choices; only the reason stands apart."""
        for candidate in candidates if isinstance(candidates, list) else ():
            reason = candidate.get("finishReason") if isinstance(candidate, dict) else None
            self.finish_reason = reason if isinstance(reason, str) else self.finish_reason

    def _choice(self, index: int) -> _Message:
        if len(self._choices) >= _MAX_CHOICES:
            return self._choices.get(index, _Message())
        return self._choices.setdefault(index, _Message())


_FINE = (None, 0, 200, "0", "200", "success", "")
_FAILED = ("error", "fail", "failed", *range(400, 600))
#: Where a document has no error object, these of its keys are one.
_COMPLAINT = ("message", "msg", "detail", "error", "title", "type", "param", "code", "status")


def read_error(document: Mapping[str, Any]) -> ReplyError | None:
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
