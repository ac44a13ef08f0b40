"""Remove keys and internal addresses from foreign text before a client or the log receives it."""

import re
from collections.abc import Collection

#: Characters of an upstream's text that are shown to a client, and that are written to the log.
_MAX_PUBLIC, MAX_LOGGED = 500, 2000

_Patterns = tuple[tuple[re.Pattern[str], str], ...]

KEY_PATTERNS = (
    (re.compile(r"\bbearer\s+[^\s\"',;]+", re.IGNORECASE), "Bearer [key]"),
    (re.compile(r"\b(?:sk-|AIza)[^\s\"',;]+"), "[key]"),
)
#: Any address may belong to the operator's own network, so none is shown.
ADDRESS_PATTERNS = (
    (re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>]+", re.IGNORECASE), "[address]"),
    (re.compile(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]+)?"), "[address]"),
    (re.compile(r"\[?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7}(?:\]:[0-9]+)?", re.IGNORECASE), "[address]"),
    (re.compile(r"\blocalhost\b(?::[0-9]+)?", re.IGNORECASE), "[address]"),
    (re.compile(r"\b[a-z][a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63}){0,8}:[0-9]{2,5}\b", re.IGNORECASE), "[address]"),
    (re.compile(r"\b[a-z0-9_.-]{1,99}\.(?:internal|local|localdomain|lan|svc|corp)\b", re.IGNORECASE), "[address]"),
    (re.compile(r"\blookup\s+[^\s:]+", re.IGNORECASE), "lookup [address]"),
    (re.compile(r"\b(?:org|proj)[-_][a-z0-9]{8,}", re.IGNORECASE), "[account]"),
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")
#: Characters. Shorter sentences, like "Error." and "Bad request.", do not say what is wrong.
_LEAST_SENTENCE = 16
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def redact_literally(text: str, secrets: Collection[str]) -> str:
    """Replace the given secrets by `[key]`, and nothing else."""
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return text


def redact_keys(text: str, secrets: Collection[str] = ()) -> str:
    """Replace API keys by `[key]`: the given `secrets` literally, and whatever looks like a key."""
    return _replace(text, secrets, KEY_PATTERNS)


def redact_secrets(text: str, secrets: Collection[str] = ()) -> str:
    """Replace keys and addresses of internal networks, but keep links: one may lead to an image that was not found."""
    return _CONTROLS.sub(" ", _replace(text, secrets, (*KEY_PATTERNS, *ADDRESS_PATTERNS[1:])))


def public_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return at most 500 characters on one line, without keys and addresses, fit to be shown to a client."""
    line = " ".join(_CONTROLS.sub(" ", _replace_in_short(text, secrets, (*KEY_PATTERNS, *ADDRESS_PATTERNS))).split())
    return line if len(line) <= _MAX_PUBLIC else f"{line[: _MAX_PUBLIC - 1]}…"


def first_sentence(text: str) -> str:
    """Return the beginning of a text up to the end of a sentence, and more where that is too short to say anything."""
    end = next((match.end() for match in _SENTENCE_END.finditer(text) if match.end() >= _LEAST_SENTENCE), len(text))
    return text[:end].rstrip()


def loggable_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return the first 2,000 characters without keys, for the log. Addresses stay, because operators need them."""
    return _replace_in_short(text, secrets, KEY_PATTERNS)


def _replace_in_short(text: str, secrets: Collection[str], patterns: _Patterns) -> str:
    # Secrets are replaced before the text is cut, because half a secret would not be found. The patterns
    # see only what is kept.
    return _replace(redact_literally(text, secrets)[:MAX_LOGGED], (), patterns)


def _replace(text: str, secrets: Collection[str], patterns: _Patterns) -> str:
    text = redact_literally(text, secrets)
    for pattern, placeholder in patterns:
        text = pattern.sub(placeholder, text)
    return text
