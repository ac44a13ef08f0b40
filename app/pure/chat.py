"""The chat API as upstreams answer it, whole or in a stream: bytes → one ChatReply."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app.errors import UpstreamBroken
from app.pure import sse
from app.pure.base64_text import drop_out
from app.pure.fields import Walk
from app.pure.hidden import drop_hidden
from app.pure.joining import Joined, ReplyError
from app.pure.json_holes import Source
from app.pure.standins import Lifter, Sink
from app.pure.usage import NO_USAGE, Usage

__all__ = ["ChatReply", "ReplyError", "ReplyReader", "Usage", "read_reply"]

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
    has_begun: bool = True
    lifted: Mapping[str, Source] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_told_by_raw(self) -> bool:
        """Whether `raw` is all that came, so that reading it gives the same reply again."""
        return self.complete and not self.lifted and len(self.raw) < _RAW

    @property
    def text(self) -> str:
        """What the model says in words, without reasoning and without pictures written as base64."""
        walk = Walk()
        walk.enter(list(self.bodies))
        said = [message["content"] for message in self.messages] + walk.texts
        return "\n".join(filter(None, (drop_hidden(drop_out(text)).strip() for text in said)))

    @property
    def refusal(self) -> str | None:
        refusals = [message["refusal"] for message in self.messages if isinstance(message.get("refusal"), str)]
        return "\n".join(filter(None, refusals)) or None


def read_reply(body: bytes) -> ChatReply:
    """A whole body, JSON or SSE, whichever it is. Raises UpstreamBroken where nobody can read it."""
    reader = ReplyReader()
    reader.feed(body)
    return reader.reply(ended=True)


class ReplyReader:
    """A body as it arrives, in any cut. Each feed costs what it brings; pieces are joined in `reply`."""

    def __init__(self, new_sink: Callable[[], Sink] | None = None) -> None:
        """`new_sink`: where large pictures go while they arrive; without it they stay in the text."""
        self._lifter = None if new_sink is None else Lifter(new_sink)
        self._read: _Json | _Stream | None = None
        self._raw: list[bytes] = []
        self._room = _RAW
        self._comment = b""

    def feed(self, data: bytes) -> bool:
        """True when the reply grew by something."""
        if self._lifter is not None:
            data = self._lifter.feed(data)
        if self._room > 0:
            self._raw.append(data[: self._room])
            self._room -= len(data)
        if self._read is None:
            data = _LEAD.sub(b"", self._comment + data)
            self._comment = data[:1] if data.startswith(b":") else b""
            if not data or self._comment:
                return False
            self._read = _Json() if data[:1] in b"{[<" else _Stream()
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
        lifted = {} if self._lifter is None else self._lifter.lifted
        return replace(self._read.reply(raw, ended), lifted=lifted)


def _broken(what: str, raw: str) -> UpstreamBroken:
    return UpstreamBroken("The upstream's answer could not be read.", detail=f"{what}: {raw[:2000]}")


@dataclass(slots=True)
class _Json:
    """A body that does not come in events, or one JSON document a line."""

    pieces: list[bytes] = field(default_factory=list)

    def feed(self, data: bytes) -> bool:
        self.pieces.append(data)
        return False

    def reply(self, raw: str, ended: bool) -> ChatReply:
        body = b"".join(self.pieces)
        # What broke off behind the whole document (a wrong length, no last chunk) has said all, and it is paid for.
        if not ended and not isinstance(_parse(body.decode("utf-8", "replace")), dict):
            return ChatReply(raw=raw, complete=False)
        joined = Joined()
        for document in _documents(body, raw):
            joined.take(document)
        return _reply(joined, raw, complete=True)


def _reply(joined: Joined, raw: str, *, complete: bool, has_begun: bool = False) -> ChatReply:
    return ChatReply(
        messages=joined.messages(),
        bodies=tuple(joined.bodies),
        finish_reason=joined.finish_reason,
        usage=joined.usage,
        error=joined.error,
        raw=raw,
        complete=complete,
        has_begun=has_begun or joined.has_begun,
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
class _Stream:
    decoder: sse.Decoder = field(default_factory=sse.Decoder)
    joined: Joined = field(default_factory=Joined)
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
                grew = self.joined.take(document) or grew
            else:
                # Other things that are not JSON are somebody's way to keep the connection alive.
                self.is_cut = self.is_cut or event.data.lstrip().startswith("{")
        self.is_read = self.is_read or self.is_done
        return grew
