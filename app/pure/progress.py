"""What a chat model says of its work while it paints: the newest line of a growing reply that is fit to be shown."""

import re

from app.protocol.chat_reply import ChatReply
from app.pure.base64_text import drop_out
from app.pure.complaints import without_secrets
from app.pure.hidden import drop_hidden

#: Characters of a reply, of a line, and lines, beyond which nobody tells of progress any more.
_REPLY, _LINE, _LINES = 16 * 1024, 100, 8
#: Characters that a line may have in common with the prompt: more is the prompt told again.
_IN_COMMON = 12

#: Addresses with and without a scheme, Markdown around them, markup, JSON, code, what is longer than words.
_NO_PROGRESS = re.compile(r"\]\(|://|data:|base64|[\w-]\.[a-z]{2}|[<{}`]|[a-z0-9+/=_-]{32}", re.IGNORECASE)
_ORNAMENTS = " \t>*_#-|~"
#: A line that still grows is believed where it ends like this.
_ENDS = ("%", "…", "...")


def progress(reply: ChatReply, prompt: str) -> str:
    """One short line of printable letters, empty where there is none: no link, no key, nothing of the prompt."""
    said = reply.messages[-1]["content"] if reply.messages else ""
    if len(said) > _REPLY:
        return ""
    *whole, growing = drop_hidden(drop_out(said)).split("\n")
    if growing.rstrip(_ORNAMENTS).endswith(_ENDS):
        whole.append(growing)
    asked = " ".join(prompt.casefold().split())
    lines = (_clean(line) for line in reversed(whole[-_LINES:]) if len(line) <= _LINE)
    return next((line for line in lines if _is_fit(line, asked, reply.secrets)), "")


def _clean(line: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in line)
    return " ".join(printable.replace("**", "").split()).strip(_ORNAMENTS)


def _is_fit(line: str, asked: str, secrets: tuple[str, ...]) -> bool:
    if not any(map(str.isalnum, line)) or _NO_PROGRESS.search(line) or without_secrets(line, secrets) != line:
        return False
    said = line.casefold()
    runs = (said[start : start + _IN_COMMON] for start in range(len(said) - _IN_COMMON + 1))
    return asked not in said and not any(run in asked for run in runs)
