"""Read the body of a chat's reply while it arrives: JSON, events, or a text that is neither.

Each kind of body takes bytes in any cut, and makes a snapshot of the reply from what has come.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from app.errors import UpstreamInvalidReply
from app.protocol import sse
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import ChatReply
from app.protocol.inline_images import InlineImageSpooler
from app.protocol.loose_json import OpenDocument, find_documents, flatten, read_documents
from app.protocol.reply_accumulator import ReplyAccumulator, has_text_in_one_piece
from app.protocol.text_body import is_page, join_words, words_in
from app.protocol.text_end import TextEnd

#: What one event is counted as, beside the text in it: a stream of empty events must end, too.
_EVENT_SIZE = 16
#: Bytes of one value of a list or an object in Python.
_OBJECT_SIZE = 56


def invalid_reply(reason: str, raw: str) -> UpstreamInvalidReply:
    """Return the error for a body that cannot be read; its beginning is for the log."""
    message = "The upstream answered with a web page." if is_page(raw) else "The upstream's answer could not be read."
    return UpstreamInvalidReply(message, detail=f"{reason}: {raw[:2000]}")


class ReplyOrigin(NamedTuple):
    """What each snapshot of a reply has from its parser; see `ChatReply`."""

    raw: str
    spooled_images: Mapping[str, ByteSink]
    size: int
    secrets: tuple[str, ...]
    upstream_origin: str
    attempt: AttemptRecord | None


class JsonBody:
    """A body that is not a stream of events: one JSON document, a list of them, or several one behind the other."""

    def __init__(self, new_spooler: Callable[[], InlineImageSpooler] | None, has_base64: bool) -> None:
        """`has_base64`: base64 may begin in the body, as far as is known."""
        self._new_spooler, self._has_base64 = new_spooler, has_base64
        self._chunks: list[bytes] = []
        self.size = 0

    @property
    def objects_size(self) -> int:
        """Bytes of the lists, objects and numbers of the document, roughly: more than of its text if it is hostile."""
        return _OBJECT_SIZE * sum([chunk.count(sign) for chunk in self._chunks for sign in (b",", b"[", b"{")])

    @property
    def text(self) -> str:
        return b"".join(self._chunks).decode("utf-8", "replace")

    def feed(self, data: bytes) -> bool:
        self.size += len(data)
        self._chunks.append(data)
        return False

    def reply(self, origin: ReplyOrigin, ended: bool) -> ChatReply:
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
    documents: list[Any], origin: ReplyOrigin, new_spooler: Callable[[], InlineImageSpooler] | None = None
) -> ChatReply:
    accumulator = ReplyAccumulator(new_spooler)
    chats = [document for document in flatten(documents) if isinstance(document, dict)]
    if not chats:
        raise invalid_reply("not a JSON object", origin.raw)
    for document in chats:
        accumulator.take(document, is_piece=len(chats) > 1)
    accumulator.end()
    is_one = len(chats) == 1
    end = TextEnd.WHOLE if is_one else TextEnd.UNKNOWN
    return _build_reply(accumulator, origin, complete=True, end=end, is_one=is_one)


class EventStream:
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

    def reply(self, origin: ReplyOrigin, ended: bool) -> ChatReply:
        if ended and not self._is_chat:
            documents = find_documents(self.text)
            if not documents:
                raise invalid_reply("no event of a chat", origin.raw)
            return _read_documents_of_chat(documents, origin)
        complete = self.is_done or self._accumulator.finish_reason is not None or (ended and not self._has_cut)
        # Relays send the last mark themselves, also where their own upstream has broken off.
        end = TextEnd.UNKNOWN if self.is_done else TextEnd.CUT
        return _build_reply(self._accumulator, origin, complete=complete, has_content=self._has_cut, end=end)

    def _add(self, events: list[sse.Event]) -> bool:
        has_grown = False
        for event in events:
            if self.is_done:
                break
            has_grown = self._add_event(event) or has_grown
        self._is_chat = self._is_chat or self.is_done
        return has_grown

    def _add_event(self, event: sse.Event) -> bool:
        if event.data == sse.LAST_MARK:
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


def read_text(body: str, origin: ReplyOrigin) -> ChatReply:
    """Return a body that is neither JSON nor events as the text of a reply, without a message if it is a page."""
    if is_page(body) and not origin.spooled_images:
        return ChatReply(complete=False, is_doubtful=True, **origin._asdict())
    text = words_in(body)
    message = {"content": text, "parts": []}
    # A text that begins like JSON and cannot be read as JSON has no end.
    ends = (TextEnd.CUT,) if text.startswith(("{", "[")) else ()
    return ChatReply((message,), ends=ends, is_doubtful=True, **origin._asdict())


def _build_reply(
    accumulator: ReplyAccumulator,
    origin: ReplyOrigin,
    *,
    complete: bool,
    has_content: bool = False,
    end: TextEnd,
    is_one: bool = False,
) -> ChatReply:
    """Return the reply. `end`: that of a text without a reason; `is_one`: all of it is one document."""
    return ChatReply(
        messages=accumulator.messages(),
        bodies=tuple(accumulator.bodies),
        finish_reason=accumulator.finish_reason,
        usage=accumulator.usage,
        id=accumulator.id,
        cost=accumulator.cost,
        error=accumulator.error,
        raw=origin.raw,
        complete=complete,
        ends=accumulator.ends(end),
        # Texts there may be pieces of one that goes on in the next document.
        end_of_bodies=accumulator.end_of_text(end) if is_one else TextEnd.UNKNOWN,
        size=origin.size,
        has_content=has_content or accumulator.has_content,
        spooled_images=origin.spooled_images,
        secrets=origin.secrets,
        upstream_origin=origin.upstream_origin,
        attempt=origin.attempt,
    )
