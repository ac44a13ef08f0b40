"""Parse replies of chat completions, in one JSON body or in a stream: bytes in any cut become a `ChatReply`.

`ReplyParser` finds out whether a body is JSON or events and parses both. What it holds is bounded, whatever arrives:
images go into sinks, and all the rest may have `MAX_LEFT` bytes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

from app.errors import UpstreamInvalidReply
from app.protocol import sse
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.image_body import ImageBody
from app.protocol.inline_images import ByteSink, InlineImageSpooler, Piece, may_hold_base64
from app.protocol.loose_json import OpenDocument, find_documents, flatten, read_documents
from app.protocol.money import ReportedCost
from app.protocol.reply_accumulator import ReplyAccumulator, has_text_in_one_piece
from app.protocol.reply_encoding import ReplyBytes, is_plain_text
from app.protocol.reply_errors import ReplyError
from app.protocol.text_body import is_page, join_words, words_in
from app.protocol.usage import NO_USAGE, Usage
from app.protocol.values import value_class

#: Bytes of a reply without its images. A million words are less.
MAX_LEFT = 4 * 2**20
#: The share of these that base64 without a complete image may take. The rest is for the text around it.
_PUT_BACK = (15, 16)
#: Bytes of a body that are kept for the log.
_MAX_RAW = 16 * 1024
#: What one event is counted as, beside the text in it: a stream of empty events must end, too.
_EVENT_SIZE = 16
#: Bytes of one value of a list or an object in Python.
_OBJECT_SIZE = 56
#: What keeps a connection alive before the reply, in front of events and of JSON.
_LEAD = re.compile(rb"\A(?:[ \t\r\n\xef\xbb\xbf]+|:[^\r\n]*[\r\n])+")
#: What may begin a path without a host, which only whoever knows the upstream can read.
_PATHS = re.compile(r"\]\(\s*<?/[^/]|[\"'=]/[^/]")
#: Reasons that say that the model was stopped in the middle of a word, or of a URL.
_CUT_REASON = re.compile(r"length|limit|max|incomplete|truncat", re.IGNORECASE)


@value_class
class ChatReply:
    """What an upstream replied, or has replied so far.

    Attributes:
        messages: One per choice. `content` is its joined text, `parts` are the other parts of its content.
        bodies: Every document without its choices, if anything in it may hold images.
        raw: The first 16 KiB as they arrived, for the log.
        complete: The upstream finished the reply, so nothing is missing.
        has_open_end: The text of a complete reply may end in the middle of a URL.
        size: Bytes of memory that the reply holds, roughly, without its spooled images.
        has_content: More arrived than an error, so the upstream may have done work that is billed.
        spooled_images: Large images, by the data URLs of the placeholders that replace them in the text.
        secrets: Keys that the reply may contain and that must not be shown to a client.
        id: The upstream's own name of the reply, if it has one.
        cost: What the upstream says it charged.
        is_doubtful: The body is a text, which a server in between may have written unless it has an image or declines.
        upstream_origin: Scheme, host and port of the upstream, where paths without a host are read; empty if unknown.
        attempt: Where the reply came from, with what it has cost; None for a reply that another replica has stored.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    bodies: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    error: ReplyError | None = None
    raw: str = ""
    complete: bool = True
    has_open_end: bool = False
    size: int = field(default=0, compare=False)
    has_content: bool = True
    spooled_images: Mapping[str, ByteSink] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    id: str | None = None
    cost: ReportedCost | None = None
    is_doubtful: bool = False
    upstream_origin: str = ""
    attempt: AttemptRecord | None = field(default=None, compare=False, repr=False)

    @property
    def is_reproducible(self) -> bool:
        """Whether `raw` is all that arrived, so that parsing it gives the same reply again."""
        # Bytes, not characters: text in most languages other than English has more bytes than characters.
        is_read_whole = self.complete and not self.is_doubtful and not self.spooled_images
        if self.upstream_origin and _PATHS.search(self.raw):
            return False
        return is_read_whole and len(self.raw.encode()) < _MAX_RAW

    def without_text(self) -> "ChatReply":
        """Return what remains to be known of a reply whose images have been taken out."""
        return ChatReply(
            finish_reason=self.finish_reason,
            usage=self.usage,
            complete=self.complete,
            has_open_end=self.has_open_end,
            has_content=self.has_content,
            secrets=self.secrets,
            id=self.id,
            cost=self.cost,
            attempt=self.attempt,
        )

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

    def __init__(
        self,
        new_sink: Callable[[], ByteSink] | None = None,
        max_left: int = MAX_LEFT,
        secrets: tuple[str, ...] = (),
        attempt: AttemptRecord | None = None,
        *,
        charset: str = "",
        upstream_origin: str = "",
    ) -> None:
        """With `new_sink`, large images are written to sinks while they arrive. Without it they stay in the text.

        Args:
            new_sink: Makes what takes an image.
            max_left: Bytes that the reply may have without its spooled images.
            secrets: Those of its replies.
            attempt: That of its replies.
            charset: The charset that the upstream declares.
            upstream_origin: That of its replies.
        """
        self._upstream_origin = upstream_origin
        self._bytes = ReplyBytes(charset, new_sink)
        self._doubtful: ChatReply | None = None
        self._max_left = max_left
        self._secrets, self._attempt = secrets, attempt
        self._spooled: dict[str, ByteSink] = {}
        self._new_spooler: Callable[..., InlineImageSpooler] | None = None
        self._spooler: InlineImageSpooler | None = None
        self._pieces: list[Piece] = []
        if new_sink is not None:
            max_put_back = max_left * _PUT_BACK[0] // _PUT_BACK[1]
            self._new_spooler = partial(InlineImageSpooler, new_sink, self._spooled, max_put_back, self._pieces)
            self._spooler = self._new_spooler(keeps_pieces=True)
        self._has_base64 = True
        self._body: _JsonBody | _EventStream | None = None
        self._raw: list[bytes] = []
        self._raw_capacity = _MAX_RAW
        self._comment, self._lead_size = b"", 0

    @property
    def is_done(self) -> bool:
        """Whether the last mark of a stream has come. What follows is not read."""
        return isinstance(self._body, _EventStream) and self._body.is_done

    @property
    def is_in_image(self) -> bool:
        """Whether an image is arriving: a chunk of it costs little, however large it is."""
        return self._bytes.image is not None or (self._spooler is not None and self._spooler.is_in_image)

    @property
    def size(self) -> int:
        """Bytes that were read, without images and without what repeats with each event."""
        return self._lead_size + (0 if self._body is None else self._body.size)

    @property
    def pending(self) -> int:
        """Bytes of the event that has begun, which the next chunk may end."""
        return self._body.decoder.pending if isinstance(self._body, _EventStream) else 0

    def feed(self, data: bytes) -> bool:
        """Take the next chunk and return whether the reply has grown by content.

        Raises:
            UpstreamInvalidReply: The reply without its images is larger than `max_left`.
        """
        data = self._bytes.feed(data)
        has_grown = self._add(data if self._spooler is None else self._spooler.feed(data))
        if self.size > self._max_left:
            detail = f"more than {self._max_left} bytes beside its images"
            raise UpstreamInvalidReply("The upstream's reply is larger than this server takes.", detail=detail)
        return has_grown

    def feed_all(self, data: bytes) -> bool:
        """Take a body that has come as a whole, as `feed` does. Where no base64 begins in it, nothing is held back."""
        if self._spooler is not None and is_plain_text(data) and not may_hold_base64(data):
            self._spooler, self._has_base64 = None, False
        return self.feed(data)

    def end(self) -> None:
        """Take in what was held back, since nothing follows: the body has ended or has broken off."""
        if rest := self._bytes.end():
            self._add(rest if self._spooler is None else self._spooler.feed(rest))
        if self._spooler is not None:
            self._add(self._spooler.end())
        if isinstance(self._body, _EventStream):
            self._body.end()

    def _add(self, data: bytes) -> bool:
        if self._raw_capacity > 0:
            self._raw.append(data[: self._raw_capacity])
            self._raw_capacity -= len(data)
        if self._body is None:
            data = self._without_lead(data)
            if not data or self._comment:
                return False
            is_json = data[:1] in b"{[<"
            self._body = _JsonBody(self._new_spooler, self._has_base64) if is_json else _EventStream(self._new_spooler)
        return self._body.feed(data)

    def _without_lead(self, data: bytes) -> bytes:
        left = _LEAD.sub(b"", self._comment + data)
        self._comment = left[:1] if left.startswith(b":") else b""
        self._lead_size += len(data) if not left or self._comment else 0
        return left

    def reply(self, *, ended: bool = False) -> ChatReply:
        """Return a snapshot of the reply as far as it has arrived.

        `ended`: the transport ended cleanly, so a stream without its last mark is complete too.

        Raises:
            UpstreamInvalidReply: The transport ended, and the body is neither JSON nor an event stream of a chat.
        """
        if ended:
            self.end()
        raw = b"".join(self._raw).decode("utf-8", "replace")
        if self._bytes.image is not None:
            return self._image_reply(self._bytes.image, ended)
        if self._doubtful is not None:
            return self._doubtful
        if self._body is None:
            if ended:
                raise _invalid("an empty body", raw)
            return ChatReply(raw=raw, complete=False, secrets=self._secrets, attempt=self._attempt)
        size = self.size + len(raw) + self._body.objects_size
        origin = _Origin(raw, self._spooled, size, self._secrets, self._upstream_origin, self._attempt)
        try:
            return self._body.reply(origin, ended)
        except UpstreamInvalidReply:
            self._doubtful = _read_text(self._body.text, origin)
            raise

    def _image_reply(self, image: ImageBody, ended: bool) -> ChatReply:
        if not image.is_whole:
            if ended:
                raise _invalid("an image whose end is missing", "")
            return ChatReply(complete=False, secrets=self._secrets, attempt=self._attempt)
        message, spooled = image.message()
        return ChatReply((message,), spooled_images=spooled, secrets=self._secrets, attempt=self._attempt)


def _invalid(reason: str, raw: str) -> UpstreamInvalidReply:
    return UpstreamInvalidReply("The upstream's answer could not be read.", detail=f"{reason}: {raw[:2000]}")


class _Origin(NamedTuple):
    """What each snapshot of a reply has from its parser; see `ChatReply`."""

    raw: str
    spooled_images: Mapping[str, ByteSink]
    size: int
    secrets: tuple[str, ...]
    upstream_origin: str
    attempt: AttemptRecord | None


class _JsonBody:
    """A body that is not a stream of events: one JSON document, a list of them, or several one behind the other."""

    def __init__(self, new_spooler: Callable[[], InlineImageSpooler] | None, has_base64: bool) -> None:
        """`has_base64`: base64 may begin in the body, as far as is known."""
        self._new_spooler, self._has_base64 = new_spooler, has_base64
        self._chunks: list[bytes] = []
        self.size = 0

    @property
    def objects_size(self) -> int:
        """Bytes of the lists, objects and numbers of the document, roughly: more than of its text if it is hostile."""
        return _OBJECT_SIZE * sum(chunk.count(sign) for chunk in self._chunks for sign in (b",", b"[", b"{"))

    @property
    def text(self) -> str:
        return b"".join(self._chunks).decode("utf-8", "replace")

    def feed(self, data: bytes) -> bool:
        self.size += len(data)
        self._chunks.append(data)
        return False

    def reply(self, origin: _Origin, ended: bool) -> ChatReply:
        text = self.text
        documents, rest = read_documents(text)
        # A connection may break after the whole document (wrong length, no last chunk). The reply is complete then, and
        # it has been paid for.
        if not ended and (len(documents) != 1 or not isinstance(documents[0], dict) or rest.startswith("{")):
            return ChatReply(complete=False, **origin._asdict())
        # A text without escapes, and in one piece, has no base64 that its body has not.
        is_plain = not self._has_base64 and "\\" not in text and has_text_in_one_piece(documents)
        new_spooler = None if is_plain else self._new_spooler
        return _read_documents_of_chat(documents or find_documents(text), origin, new_spooler)


def _read_documents_of_chat(
    documents: list[Any], origin: _Origin, new_spooler: Callable[[], InlineImageSpooler] | None = None
) -> ChatReply:
    accumulator = ReplyAccumulator(new_spooler)
    chats = [document for document in flatten(documents) if isinstance(document, dict)]
    if not chats:
        raise _invalid("not a JSON object", origin.raw)
    for document in chats:
        accumulator.take(document, is_piece=len(chats) > 1)
    accumulator.end()
    return _build_reply(accumulator, origin, complete=True)


class _EventStream:
    """A body of server-sent events.

    Attributes:
        is_done: The last mark has come.
        objects_size: Bytes of lists and objects beside the text of the events.
    """

    objects_size = 0

    def __init__(self, new_spooler: Callable[[], InlineImageSpooler] | None = None) -> None:
        self.is_done = False
        self.decoder = sse.Decoder(keeps_loose_lines=True)
        self._accumulator = ReplyAccumulator(new_spooler)
        self._is_chat = False
        self._has_cut_event = False
        self._open: OpenDocument | None = None
        self._events_size = 0
        self._unread: list[bytes] = []
        self._words: list[str] = []

    @property
    def text(self) -> str:
        """What has arrived, until a document of a chat has come. Of events without JSON their data."""
        return join_words(self._words) or b"".join(self._unread).decode("utf-8", "replace")

    @property
    def size(self) -> int:
        return self.decoder.size + self._events_size + self._accumulator.size

    def feed(self, data: bytes) -> bool:
        has_grown = self._add(self.decoder.feed(data))
        if self._is_chat:
            self._unread.clear()
        else:
            self._unread.append(data)
        return has_grown

    def end(self) -> None:
        self._add(self.decoder.end())
        if self.is_done and self._words:
            self._accumulator.add({"choices": [{"delta": {"content": join_words(self._words)}}]})
            self._words.clear()
        self._accumulator.end()

    def reply(self, origin: _Origin, ended: bool) -> ChatReply:
        if ended and not self._is_chat:
            documents = find_documents(self.text)
            if not documents:
                raise _invalid("no event of a chat", origin.raw)
            return _read_documents_of_chat(documents, origin)
        has_end_mark = self.is_done or self._accumulator.finish_reason is not None
        complete = has_end_mark or (ended and not self._has_cut)
        return _build_reply(
            self._accumulator, origin, complete=complete, has_content=self._has_cut, has_end_mark=has_end_mark
        )

    def _add(self, events: list[sse.Event]) -> bool:
        has_grown = False
        for event in events:
            if self.is_done:
                break
            has_grown = self._add_event(event) or has_grown
        self._is_chat = self._is_chat or self.is_done
        return has_grown

    def _add_event(self, event: sse.Event) -> bool:
        if event.data.strip(' "') == "[DONE]":
            self.is_done = True
            return False
        if event.loose_data and not event.data:
            return self._continue(event)
        self._has_cut_event, self._open = self._has_cut, None
        documents = [each for each in flatten(_documents_of(event)) if isinstance(each, dict)]
        if not documents:
            # Some upstreams keep the connection alive with events that are not JSON; those are ignored.
            self._events_size += len(event.data)
            if event.data.lstrip().startswith("{"):
                self._open = OpenDocument()
                self._open.add(event.loose_data or event.data)
            elif not self._is_chat:
                self._words.append(event.loose_data or event.data)
            return False
        return self._add_documents(documents, event)

    @property
    def _has_cut(self) -> bool:
        """Whether the JSON of an event was cut off."""
        return self._has_cut_event or self._open is not None

    def _continue(self, event: sse.Event) -> bool:
        """Take lines of no field: the rest of a JSON document with a blank line, or else nothing that matters."""
        document = self._open
        self._events_size += len(event.loose_data)
        if document is None or not document.is_open:
            return False
        if document.add(event.loose_data):
            return False
        whole = sse.Event(document.text, event.name)
        self._events_size -= document.size
        self._open = None
        return self._add_event(whole)

    def _add_documents(self, documents: list[Any], event: sse.Event) -> bool:
        self._is_chat = True
        self._words.clear()
        has_grown = False
        for document in documents:
            is_bare_error = event.name == "error" and "error" not in document
            has_grown = (
                self._accumulator.add({"error": document} if is_bare_error else document, len(event.data)) or has_grown
            )
        self._events_size += 0 if self._accumulator.is_in_image else _EVENT_SIZE
        return has_grown


def _documents_of(event: sse.Event) -> list[Any]:
    documents, rest = read_documents(event.data) if event.data.lstrip()[:1] in {"{", "["} else ([], "")
    # A line break within a string of the JSON ends a line of the event.
    return read_documents(event.loose_data)[0] if event.loose_data and (rest or not documents) else documents


def _read_text(body: str, origin: _Origin) -> ChatReply:
    """Return a body that is neither JSON nor events as the text of a reply, without a message if it is a page."""
    if is_page(body) and not origin.spooled_images:
        return ChatReply(complete=False, is_doubtful=True, **origin._asdict())
    text = words_in(body)
    message = {"content": text, "parts": []}
    return ChatReply((message,), has_open_end=text.startswith(("{", "[")), is_doubtful=True, **origin._asdict())


def _build_reply(
    accumulator: ReplyAccumulator,
    origin: _Origin,
    *,
    complete: bool,
    has_content: bool = False,
    has_end_mark: bool = True,
) -> ChatReply:
    reason = accumulator.finish_reason
    return ChatReply(
        messages=accumulator.messages(),
        bodies=tuple(accumulator.bodies),
        finish_reason=reason,
        usage=accumulator.usage,
        id=accumulator.id,
        cost=accumulator.cost,
        error=accumulator.error,
        raw=origin.raw,
        complete=complete,
        has_open_end=not has_end_mark or (reason is not None and _CUT_REASON.search(reason) is not None),
        size=origin.size,
        has_content=has_content or accumulator.has_content,
        spooled_images=origin.spooled_images,
        secrets=origin.secrets,
        upstream_origin=origin.upstream_origin,
        attempt=origin.attempt,
    )
