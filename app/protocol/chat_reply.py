"""What a chat has replied: its messages, how it ended, and what is known of it."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from app.protocol.attempt_costs import AttemptRecord
from app.protocol.byte_sink import ByteSink
from app.protocol.money import ReportedCost
from app.protocol.reply_errors import ReplyError
from app.protocol.text_end import TextEnd
from app.protocol.usage import NO_USAGE, Usage
from app.protocol.values import value_class

#: Bytes of a body that are kept for the log.
MAX_RAW = 16 * 1024


@value_class
class ChatReply:
    """What an upstream replied, or has replied so far.

    Attributes:
        messages: One per choice. `content` is its joined text, `parts` are the other parts of its content.
        bodies: Every document without its choices, if anything in it may hold images.
        raw: The first 16 KiB as they arrived, for the log.
        complete: The upstream finished the reply, so nothing is missing.
        ends: How the text of each message of a complete reply ends; of one without an entry, nothing is missing.
        end_of_bodies: How the texts of `bodies` end.
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
    ends: tuple[TextEnd, ...] = ()
    end_of_bodies: TextEnd = TextEnd.WHOLE
    size: int = field(default=0, compare=False)
    has_content: bool = True
    spooled_images: Mapping[str, ByteSink] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    id: str | None = None
    cost: ReportedCost | None = None
    is_doubtful: bool = False
    upstream_origin: str = ""
    attempt: AttemptRecord | None = field(default=None, compare=False, repr=False)

    def without_text(self) -> "ChatReply":
        """Return the reply without its texts and images, which nobody needs once the result is there."""
        return ChatReply(
            finish_reason=self.finish_reason,
            usage=self.usage,
            complete=self.complete,
            has_content=self.has_content,
            secrets=self.secrets,
            id=self.id,
            cost=self.cost,
            attempt=self.attempt,
        )

    def end_of(self, index: int) -> TextEnd:
        """Return how the text of a message ends."""
        if not self.complete:
            return TextEnd.CUT
        return self.ends[index] if index < len(self.ends) else TextEnd.WHOLE

    @property
    def refusal(self) -> str | None:
        refusals = [message["refusal"] for message in self.messages if isinstance(message.get("refusal"), str)]
        return "\n".join(filter(None, refusals)) or None
