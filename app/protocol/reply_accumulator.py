"""Combine the JSON documents of a chat reply: one for JSON, one per event for a stream."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.protocol.chat_robots import as_choices
from app.protocol.inline_images import InlineImageSpooler
from app.protocol.money import ReportedCost, read_cost
from app.protocol.reply_errors import ReplyError, find_error
from app.protocol.stream_dialects import as_chat_chunk, continue_base64
from app.protocol.text_end import TextEnd, text_end
from app.protocol.usage import NO_USAGE, Usage, read_usage

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
    """The combined content of all JSON documents of a reply so far.

    Attributes:
        new_spooler: Makes the spoolers through which the texts of the messages go, since an image may arrive in the
            pieces of many events.
        id: The upstream's own name of the reply, if it has one.
        cost: What the upstream says it charged.
        size: Bytes of everything that is held, roughly.
    """

    new_spooler: Callable[[], InlineImageSpooler] | None = None
    size: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    id: str | None = None
    cost: ReportedCost | None = None
    error: ReplyError | None = None
    _choices: dict[int, "_MessageBuilder"] = field(default_factory=dict)
    _has_other_content: bool = False
    _has_gone_on: bool = False

    @property
    def has_content(self) -> bool:
        """Whether more arrived than an error and a role without text: then the upstream may have done work."""
        if self._has_other_content or any(message.has_content for message in self._choices.values()):
            return True
        return self.usage != NO_USAGE or (self.cost is not None and self.cost.amount > 0)

    @property
    def is_in_image(self) -> bool:
        """Whether base64 is arriving in some text."""
        return any(message.is_in_image for message in self._choices.values())

    def end(self) -> None:
        """Take in what was held back of the texts, since nothing follows."""
        for message in self._choices.values():
            message.end()

    def messages(self) -> tuple[dict[str, Any], ...]:
        return tuple([self._choices[index].snapshot() for index in sorted(self._choices)])

    def ends(self, end: TextEnd) -> tuple[TextEnd, ...]:
        """Return how the texts of the messages end. `end` is that of `end_of_text`."""
        end = self.end_of_text(end)
        return tuple([self._choices[index].end_of_text or end for index in sorted(self._choices)])

    def end_of_text(self, end: TextEnd) -> TextEnd:
        """Return how a text ends that has no reason of its own: `end`, if nothing else says how."""
        if self.finish_reason is not None:
            return text_end(self.finish_reason)
        is_doubtful = self.error is not None if end is TextEnd.WHOLE else self._has_gone_on
        return TextEnd.UNKNOWN if is_doubtful else end

    def add(self, document: Mapping[str, Any], size: int = 0) -> bool:
        """Add one document, which has `size` bytes, and return whether it had more than its envelope."""
        values, characters = self._amount()
        pieces, had_error = self._pieces, self.error is not None
        has_grown = self.take(document, is_piece=True)
        values_now, characters_now = self._amount()
        # Something else behind a text, such as its token counts, says that the text had come to its end.
        self._has_gone_on = self._pieces == pieces and (self._has_gone_on or (self.error is not None) is had_error)
        self.size += characters_now - characters + (size if values_now > values else 0)
        return has_grown

    @property
    def _pieces(self) -> int:
        return sum([each.pieces for each in self._choices.values()])

    def _amount(self) -> tuple[int, int]:
        """Return how many values and how many characters of text are held."""
        messages = self._choices.values()
        return len(self.bodies) + sum(each.values for each in messages), sum(each.characters for each in messages)

    def take(self, document: Mapping[str, Any], *, is_piece: bool = False) -> bool:
        """Add one document of a body that is measured elsewhere. `is_piece`: it is one of several."""
        document = as_chat_chunk(document)
        if "choices" not in document:
            document = as_choices(document, is_piece=is_piece)
        event_type = document.get("type")
        if isinstance(event_type, str) and event_type.startswith(("response.", "image_generation.", "image_edit.")):
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
            return self.take(response)
        self._has_other_content = True
        if event_type == "response.output_item.done" and isinstance(item, dict):
            self.bodies.append({"output": [item]})
            return True
        if event_type == "response.output_text.delta" and isinstance(delta, str):
            self._choice(0).append(delta)
            return True
        if not event_type.startswith("response.") and not event_type.endswith("partial_image"):
            self._add_usage_and_error(event)
            if event_type.endswith(".completed"):
                self.finish_reason = "stop"
            self.bodies.append({"data": [dict(event)]})
            return True
        return False

    def _add_usage_and_error(self, document: Mapping[str, Any]) -> bool:
        """Return whether the document has an error."""
        if self.id is None and isinstance(document.get("id"), str):
            self.id = document["id"] or None
        if document.get("object") == "response" and document.get("status") == "incomplete":
            self.finish_reason = "incomplete"
        if (counts := document.get("usage") or document.get("usageMetadata")) is not None:
            usage = read_usage(counts)
            self.usage = usage if usage != NO_USAGE else self.usage
            # A stream may repeat its usage while it grows: the last one is the whole.
            self.cost = read_cost(counts) or self.cost
        error = find_error(document)
        self.error = self.error or error
        return error is not None

    def _add_choice(self, position: int, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        message = self._choice(index if type(index) is int else position)
        for text in (choice.get("text"), choice.get("message"), choice.get("delta")):
            if isinstance(text, str):
                message.append(text)
        for name in ("delta", "message"):
            if isinstance(choice.get(name), dict):
                message.add(choice[name], is_message=name == "message")
        if not choice.keys() <= _CHOICE_KEYS:
            message.merge({key: value for key, value in choice.items() if key not in _CHOICE_KEYS})
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
            message.note_end(reason)
        self.error = self.error or find_error(choice)

    def _add_gemini_reason(self, candidates: object) -> None:
        """Add the finish reason of Gemini's candidates. Their images stay in the document, so they are in `bodies`."""
        for candidate in candidates if isinstance(candidates, list) else ():
            reason = candidate.get("finishReason") if isinstance(candidate, dict) else None
            self.finish_reason = reason if isinstance(reason, str) else self.finish_reason

    def _choice(self, index: int) -> "_MessageBuilder":
        if len(self._choices) >= _MAX_CHOICES:
            return self._choices.get(index, _MessageBuilder())
        if index not in self._choices:
            self._choices[index] = _MessageBuilder(self.new_spooler and self.new_spooler())
        return self._choices[index]


#: Keys of a part of a message's content that has text and nothing else.
_TEXT_PART_KEYS = frozenset({"type", "text", "annotations", "logprobs", "index"})


#: Fields with the model's thoughts, which may be longer than everything else and contain no result.
_THOUGHTS = re.compile(r"reasoning|thinking|thoughts")


@dataclass(slots=True)
class _MessageBuilder:
    """The message of one choice while it grows.

    Attributes:
        spooler: Takes large images out of the text while it arrives in pieces.
        values: Number of parts and fields that were added.
        characters: Length of all texts.
        end_of_text: How the text ends, None while there is no reason for it.
        pieces: Number of times that the text has grown.
    """

    spooler: InlineImageSpooler | None = None
    text: list[str] = field(default_factory=list)
    parts: list[Any] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    values: int = 0
    characters: int = 0
    end_of_text: TextEnd | None = None
    pieces: int = 0
    _length: int = 0
    _has_thoughts: bool = False

    @property
    def is_in_image(self) -> bool:
        return self.spooler is not None and self.spooler.is_in_image

    @property
    def has_content(self) -> bool:
        has_more = self._has_thoughts or self.is_in_image or any(self.fields.values())
        return bool(self._length or self.parts) or has_more

    def append(self, text: str) -> None:
        self.pieces += bool(text)
        self._append(text if self.spooler is None else self.spooler.feed(text.encode()).decode())

    def end(self) -> None:
        """Take in what was held back of the text."""
        if self.spooler is not None:
            self._append(self.spooler.end().decode())

    def note_end(self, reason: str) -> None:
        """Note why the model has stopped. Relays may add a reason of their own to the one that says that it was cut."""
        if self.end_of_text is not TextEnd.CUT:
            self.end_of_text = text_end(reason)

    def _append(self, text: str) -> None:
        if text:
            self.text.append(text)
            self._length += len(text)
            self.characters += len(text)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy that later changes of this message do not affect."""
        fields = {key: list(value) if isinstance(value, list) else value for key, value in self.fields.items()}
        return {**fields, "content": "".join(self.text), "parts": list(self.parts)}

    def add(self, message: Mapping[str, Any], *, is_message: bool) -> None:
        """Add a delta, or with `is_message` a whole message."""
        content = message.get("content")
        if isinstance(content, str):
            if is_message and (self._length or self.spooler is not None):
                self._drop_repeated(content)
            self.append(content)
        elif isinstance(content, list | dict):
            self._add_parts(content if isinstance(content, list) else [content], is_message=is_message)
        text = message.get("text")
        is_text = not content and isinstance(text, str) and not _THOUGHTS.search(str(message.get("type")))
        if is_text:
            self.append(str(text))
        if isinstance(parts := message.get("parts"), list):
            # The texts of the parts are the content once more, where there is one.
            self._add_parts([part for part in parts if not content or _text_of_part(part) is None])
        read = {"content", "parts", "role", *(["text"] if is_text else [])}
        self.merge({key: value for key, value in message.items() if key not in read})

    def _drop_repeated(self, content: str) -> None:
        """Drop the text so far where a whole message at the end of a stream repeats it."""
        self.end()
        if len(content) >= self._length and content.startswith("".join(self.text)):
            self.text.clear()
            self.characters -= self._length
            self._length = 0

    def merge(self, fields: Mapping[str, Any]) -> None:
        """Add further fields: lists and refusals are continued, other values replaced, thoughts dropped."""
        for key, value in fields.items():
            old = self.fields.get(key)
            if isinstance(value, str | list) and _THOUGHTS.search(key):
                self._has_thoughts = self._has_thoughts or bool(value)
            elif isinstance(old, list) and isinstance(value, list):
                old.extend(value)
                self.values += 1
            elif isinstance(old, str) and isinstance(value, str):
                self.fields[key] = old + value if key == "refusal" else continue_base64(old, value)
                self.characters += max(0, len(self.fields[key]) - len(old))
            elif value is not None:
                self.fields[key] = list(value) if isinstance(value, list) else value
                self.values += 1

    def _add_parts(self, parts: list[Any], *, is_message: bool = False) -> None:
        texts = []
        for part in parts:
            text = _text_of_part(part)
            if text is not None:
                texts.append(text)
            elif isinstance(part, dict) and isinstance(part.get("refusal"), str):
                self.merge({"refusal": part["refusal"]})
            else:
                self.parts.append(part)
                self.values += 1
        if is_message and texts:
            self._drop_repeated("\n".join(texts))
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


def has_text_in_one_piece(documents: list[Any]) -> bool:
    """Check for the usual chat completion: one choice, whose message has a text."""
    match documents:
        case [{"choices": [{"message": {"content": str()}, **others}]}]:
            return others.keys().isdisjoint(("text", "delta"))
    return False
