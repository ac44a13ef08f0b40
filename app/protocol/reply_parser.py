"""Parse replies of chat completions: bytes in any cut become a `ChatReply`.

`ReplyParser` finds out whether a body is JSON or events. What it holds is bounded, whatever arrives: images go into
sinks, and all the rest may have `MAX_LEFT` bytes.
"""

import re
from collections.abc import Callable
from functools import partial

from app.errors import UpstreamInvalidReply
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.byte_sink import ByteSink
from app.protocol.chat_reply import MAX_RAW, ChatReply
from app.protocol.image_body import ImageBody
from app.protocol.image_pieces import Piece
from app.protocol.inline_images import InlineImageSpooler, may_hold_base64
from app.protocol.reply_bodies import EventStream, JsonBody, ReplyOrigin, invalid_reply, read_text
from app.protocol.reply_encoding import ReplyBytes, is_plain_text

#: Bytes of a reply without its images. A million words are less.
MAX_LEFT = 4 * 2**20
#: Bytes of a whole body that are parsed at a time, so that one that is too large is given up early.
_CHUNK = 2**20
#: The share of these that base64 without a complete image may take. The rest is for the text around it.
_PUT_BACK = (15, 16)
#: What keeps a connection alive before the reply, in front of events and of JSON.
_LEAD = re.compile(rb"\A(?:[ \t\r\n\xef\xbb\xbf]+|:[^\r\n]*[\r\n])+")


def read_reply(body: bytes, new_sink: Callable[[], ByteSink] | None = None) -> ChatReply:
    """Parse a whole body, JSON or events; `new_sink` is that of `ReplyParser`.

    Raises:
        UpstreamInvalidReply: The body is neither, or too large without its images.
    """
    parser = ReplyParser(new_sink)
    for offset in range(0, len(body), _CHUNK):
        parser.feed(body[offset : offset + _CHUNK])
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
        self._body: JsonBody | EventStream | None = None
        self._raw: list[bytes] = []
        self._raw_capacity = MAX_RAW
        self._comment, self._lead_size = b"", 0

    @property
    def is_done(self) -> bool:
        """Whether the last mark of a stream has come. What follows is not read."""
        return isinstance(self._body, EventStream) and self._body.is_done

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
        return self._body.decoder.pending if isinstance(self._body, EventStream) else 0

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
        if isinstance(self._body, EventStream):
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
            self._body = JsonBody(self._new_spooler, self._has_base64) if is_json else EventStream(self._new_spooler)
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
                raise invalid_reply("an empty body", raw)
            return ChatReply(raw=raw, complete=False, secrets=self._secrets, attempt=self._attempt)
        size = self.size + len(raw) + self._body.objects_size
        origin = ReplyOrigin(raw, self._spooled, size, self._secrets, self._upstream_origin, self._attempt)
        try:
            return self._body.reply(origin, ended)
        except UpstreamInvalidReply:
            self._doubtful = read_text(self._body.text, origin)
            raise

    def _image_reply(self, image: ImageBody, ended: bool) -> ChatReply:
        if not image.is_whole:
            if ended:
                raise invalid_reply("an image whose end is missing", "")
            return ChatReply(complete=False, secrets=self._secrets, attempt=self._attempt)
        message, spooled = image.message()
        return ChatReply((message,), spooled_images=spooled, secrets=self._secrets, attempt=self._attempt)
