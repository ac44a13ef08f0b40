"""Replies that are still growing, or broke off: what of them can be believed, and what was only on the way."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.extraction.base64_runs import strip_base64
from app.extraction.forms import FoundImage
from app.extraction.text import strip_hidden
from app.protocol.chat_reply import ChatReply
from app.protocol.redaction import redact_secrets

#: Behind any of these, an address or a run of base64 is whole.
_ENDS = " \n\r\t\"'<>)]}|`*,，。、；！？）】」』》"

#: An address that stops here is whole, as far as anybody can tell.
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")


def without_open_end(reply: ChatReply) -> ChatReply:
    """The reply without its open end, where an address may stand of which half is still to come."""
    return reply if reply.complete else replace(reply, messages=tuple(map(_settle, reply.messages)))


def _settle(message: Mapping[str, Any]) -> Mapping[str, Any]:
    text = message.get("content")
    if not isinstance(text, str) or text.lower().endswith(_PICTURES):
        return message
    return {**message, "content": text[: max(text.rfind(end) for end in _ENDS) + 1]}


class PartialImageTracker:
    """All but the newest picture, which may be the final one; each is named once, `wanted` in all."""

    def __init__(self, wanted: int) -> None:
        self.remaining = wanted
        self._named: set[str] = set()
        self._newest: FoundImage | None = None

    def superseded(self, images: Sequence[FoundImage]) -> list[FoundImage]:
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
        given = overtaken[: self.remaining]
        self.remaining -= len(given)
        return given


#: Characters of a reply, of a line, and lines, beyond which nobody tells of progress any more.
_REPLY, _LINE, _LINES = 16 * 1024, 100, 8
#: Characters that a line may have in common with the prompt: more is the prompt told again.
_IN_COMMON = 12

#: Addresses with and without a scheme, Markdown around them, markup, JSON, code, what is longer than words.
_NO_PROGRESS = re.compile(r"\]\(|://|data:|base64|[\w-]\.[a-z]{2}|[<{}`]|[a-z0-9+/=_-]{32}", re.IGNORECASE)
_ORNAMENTS = " \t>*_#-|~"
#: A line that still grows is believed where it ends like this.
_LINE_ENDS = ("%", "…", "...")


def progress_line(reply: ChatReply, prompt: str) -> str:
    """One short line of printable letters, empty where there is none: no link, no key, nothing of the prompt."""
    said = reply.messages[-1]["content"] if reply.messages else ""
    if len(said) > _REPLY:
        return ""
    *whole, growing = strip_hidden(strip_base64(said)).split("\n")
    if growing.rstrip(_ORNAMENTS).endswith(_LINE_ENDS):
        whole.append(growing)
    asked = " ".join(prompt.casefold().split())
    lines = (_clean(line) for line in reversed(whole[-_LINES:]) if len(line) <= _LINE)
    return next((line for line in lines if _is_fit(line, asked, reply.secrets)), "")


def _clean(line: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in line)
    return " ".join(printable.replace("**", "").split()).strip(_ORNAMENTS)


def _is_fit(line: str, asked: str, secrets: tuple[str, ...]) -> bool:
    if not any(map(str.isalnum, line)) or _NO_PROGRESS.search(line) or redact_secrets(line, secrets) != line:
        return False
    said = line.casefold()
    runs = (said[start : start + _IN_COMMON] for start in range(len(said) - _IN_COMMON + 1))
    return asked not in said and not any(run in asked for run in runs)
