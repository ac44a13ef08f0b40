"""Replies that are still growing, or broke off: what of them can be believed, and what was only on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.protocol.chat_reply import ChatReply
from app.pure.replies import FoundImage

#: Behind any of these, an address or a run of base64 is whole.
_ENDS = " \n\r\t\"'<>)]}|`*,，。、；！？）】」』》"

#: An address that stops here is whole, as far as anybody can tell.
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")


def settled(reply: ChatReply) -> ChatReply:
    """The reply without its open end, where an address may stand of which half is still to come."""
    return reply if reply.complete else replace(reply, messages=tuple(map(_settle, reply.messages)))


def _settle(message: Mapping[str, Any]) -> Mapping[str, Any]:
    text = message.get("content")
    if not isinstance(text, str) or text.lower().endswith(_PICTURES):
        return message
    return {**message, "content": text[: max(text.rfind(end) for end in _ENDS) + 1]}


class Previews:
    """All but the newest picture, which may be the final one; each is named once, `wanted` in all."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._named: set[str] = set()
        self._newest: FoundImage | None = None

    def overtaken_by(self, images: Sequence[FoundImage]) -> list[FoundImage]:
        """Those that turn out not to be the newest, in the order in which they came."""
        overtaken = []
        for image in images:
            newest = self._newest
            if image.url in self._named or image == newest:
                continue
            self._newest = image
            # An address that goes on was the same picture all along.
            if newest is not None and not image.url.startswith(newest.url):
                self._named.add(newest.url)
                overtaken.append(newest)
        given = overtaken[: self.wanted]
        self.wanted -= len(given)
        return given
