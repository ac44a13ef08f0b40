"""Read replies that are still growing: partial images and progress."""

import re
from collections.abc import Sequence

from app.extraction.base64_runs import strip_base64
from app.extraction.candidates import FoundImage
from app.extraction.text import strip_hidden
from app.protocol.chat_reply import ChatReply
from app.protocol.redaction import redact_secrets

#: Progress is looked for in replies and in lines of at most this many characters, and in this many lines at the end.
_MAX_REPLY, _MAX_LINE, _MAX_LINES = 16 * 1024, 100, 8
#: Characters that a line may have in common with the prompt. A line with more repeats the prompt.
_MAX_IN_COMMON = 12

#: URLs with and without a scheme, Markdown around them, markup, JSON, code, and anything longer than words.
_NO_PROGRESS = re.compile(r"\]\(|://|data:|base64|[\w-]\.[a-z]{2}|[<{}`]|[a-z0-9+/=_-]{32}", re.IGNORECASE)
_ORNAMENTS = " \t>*_#-|~"
#: A line that may still grow counts as complete if it ends like this.
_LINE_ENDS = ("%", "…", "...")


class PartialImageTracker:
    """Find the partial images in the snapshots of one growing reply.

    Every image but the newest is a partial image, since the newest may be the final one. Each is returned once.
    """

    def __init__(self, count: int) -> None:
        """`count`: how many partial images are wanted in all; `remaining` of them are still wanted."""
        self.remaining = count
        self._returned: set[str] = set()
        self._newest: FoundImage | None = None

    def superseded(self, images: Sequence[FoundImage]) -> list[FoundImage]:
        """Return the images that a newer one has superseded since the last call, in order, `remaining` at most.

        `images`: all images of the present snapshot, in order.
        """
        superseded = []
        for image in images:
            newest = self._newest
            if image.url in self._returned or image == newest:
                continue
            self._newest = image
            # A URL that continues the newest one is the same image: the snapshot before had cut the URL.
            if newest is not None and not image.url.startswith(newest.url):
                self._returned.add(newest.url)
                superseded.append(newest)
        wanted = superseded[: self.remaining]
        self.remaining -= len(wanted)
        return wanted


def progress_line(reply: ChatReply, prompt: str) -> str:
    """Return the newest line of a growing reply that reports progress, empty if none does.

    The line is short and printable, and contains no link, no key and nothing of the prompt.
    """
    text = reply.messages[-1]["content"] if reply.messages else ""
    if len(text) > _MAX_REPLY:
        return ""
    *lines, growing = strip_hidden(strip_base64(text)).split("\n")
    if growing.rstrip(_ORNAMENTS).endswith(_LINE_ENDS):
        lines.append(growing)
    plain_prompt = " ".join(prompt.casefold().split())
    newest_first = (_clean(line) for line in reversed(lines[-_MAX_LINES:]) if len(line) <= _MAX_LINE)
    return next((line for line in newest_first if _is_presentable(line, plain_prompt, reply.secrets)), "")


def _clean(line: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in line)
    return " ".join(printable.replace("**", "").split()).strip(_ORNAMENTS)


def _is_presentable(line: str, prompt: str, secrets: tuple[str, ...]) -> bool:
    if not any(map(str.isalnum, line)) or _NO_PROGRESS.search(line) or redact_secrets(line, secrets) != line:
        return False
    folded = line.casefold()
    parts = (folded[start : start + _MAX_IN_COMMON] for start in range(len(folded) - _MAX_IN_COMMON + 1))
    return prompt not in folded and not any(part in prompt for part in parts)
