"""What an upstream's error answer says, whichever shape it has, cleaned of what a client must not see."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Self

import orjson

#: Characters of an upstream's words that a client is shown, and that the log keeps.
_SHOWN, _LOGGED = 500, 2000

_KEYS = (
    (re.compile(r"\bbearer\s+[^\s\"',;]+", re.IGNORECASE), "Bearer [key]"),
    (re.compile(r"\b(?:sk-|AIza)[^\s\"',;]+"), "[key]"),
)
#: Any address may be one of the operator's own network, so none is shown.
_ADDRESSES = (
    (re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>]+", re.IGNORECASE), "[address]"),
    (re.compile(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]+)?"), "[address]"),
    (re.compile(r"\[?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7}(?:\]:[0-9]+)?", re.IGNORECASE), "[address]"),
    (re.compile(r"\blocalhost\b(?::[0-9]+)?", re.IGNORECASE), "[address]"),
    (re.compile(r"\b[a-z][a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63}){0,8}:[0-9]{2,5}\b", re.IGNORECASE), "[address]"),
    (re.compile(r"\b[a-z0-9_.-]{1,99}\.(?:internal|local|localdomain|lan|svc|corp)\b", re.IGNORECASE), "[address]"),
    (re.compile(r"\blookup\s+[^\s:]+", re.IGNORECASE), "lookup [address]"),
    (re.compile(r"\b(?:org|proj)[-_][a-z0-9]{8,}", re.IGNORECASE), "[account]"),
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

_STATUS = re.compile(r"[45][0-9][0-9]")
#: Codes of OpenAI that belong to one status each.
_STATUSES = {"rate_limit_exceeded": 429, "server_is_overloaded": 503}
_STAGES = ("input", "output", "unknown")
_CATEGORY = re.compile(r"[A-Za-z0-9_/ -]{1,64}")
_CATEGORIES = 32
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?")
_MESSAGE_KEYS = ("message", "msg", "detail", "error", "title")
#: `{"error": {"error": …}}` and `[{"error": …}]` are seen; deeper is nobody's dialect.
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Complaint:
    """`message` may be shown and is empty where there is none; `words` and `detail` are not for clients.

    `words` is every short text of the error object, to be searched. `retry_after` is in seconds, however absurd.
    """

    status: int
    words: str = ""
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | None = None
    moderation_details: Mapping[str, Any] | None = None
    retry_after: float | None = None
    detail: str = ""

    @classmethod
    def read(
        cls, status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Collection[str] = ()
    ) -> Self:
        """`headers` answers to lower-case names; `now` is seconds since 1970; `secrets` are blotted out literally."""
        error = _unwrap(_parse(body))
        texts = _texts(error)
        return cls(
            status=status if status >= 300 else _status_in(error) or status,
            words=" ".join(texts)[:_LOGGED],
            message=_show(_message_of(error), secrets),
            type=_name_of(error, "type", secrets),
            param=_name_of(error, "param", secrets),
            code=_name_of(error, "code", secrets),
            moderation_details=_moderation_details(error),
            retry_after=read_retry_after(headers, now),
            detail=f"upstream answered {status}: {_blot(body.decode(errors='replace'), secrets, _KEYS)}",
        )


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds or a date); None where there is nothing sensible."""
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _SECONDS.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    at = _read_date(value)
    # Measured by the upstream's own clock where it is told: ours may go wrong.
    since = _read_date(headers.get("date", "")) or now
    return max(0.0, at - since) if at is not None else None


def _read_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date.replace(tzinfo=date.tzinfo or UTC).timestamp()


def _parse(body: bytes) -> object:
    """The JSON, or the text where it is not a page for browsers."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode(errors="replace").strip()
        return "" if text.startswith("<") else text


def _unwrap(document: object) -> object:
    """The innermost error object or text."""
    for _ in range(_DEPTH):
        if isinstance(document, list):
            document = document[0] if document else ""
        elif isinstance(document, dict) and isinstance(document.get("error"), dict | list):
            document = document["error"]
        elif isinstance(document, dict) and isinstance(document.get("errors"), list):
            document = document["errors"]
    return document


def _texts(error: object) -> list[str]:
    """Two levels deep: Azure and OpenRouter put the reason into an object beside the message."""
    if isinstance(error, str):
        return [error]
    if not isinstance(error, dict):
        return []
    inner = [value for node in error.values() if isinstance(node, dict) for value in node.values()]
    return [value for value in (*error.values(), *inner) if isinstance(value, str)]


def _message_of(error: object) -> str:
    if isinstance(error, str):
        return error
    found = [error.get(key) for key in _MESSAGE_KEYS] if isinstance(error, dict) else []
    return next((text for text in found if isinstance(text, str) and text), "")


def _name_of(error: object, key: str, secrets: Collection[str]) -> str | None:
    value = error.get(key) if isinstance(error, dict) else None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return None
    return value if _blot(value, secrets, _KEYS) == value else None


def _status_in(error: object) -> int | None:
    """Some relays answer 200 and put the status into the error, or nothing but a code."""
    found = [str(error.get(key)) for key in ("code", "status")] if isinstance(error, dict) else []
    told = next((int(value) for value in found if _STATUS.fullmatch(value)), None)
    return told or next((_STATUSES[value] for value in found if value in _STATUSES), None)


def _moderation_details(error: object) -> Mapping[str, Any] | None:
    """The two documented fields, or None where they are not as documented."""
    details = error.get("moderation_details") if isinstance(error, dict) else None
    if not isinstance(details, dict):
        return None
    stage, categories = details.get("moderation_stage"), details.get("categories")
    if stage not in _STAGES or not isinstance(categories, list) or len(categories) > _CATEGORIES:
        return None
    if not all(isinstance(category, str) and _CATEGORY.fullmatch(category) for category in categories):
        return None
    return {"moderation_stage": stage, "categories": categories}


def without_keys(text: str, secrets: Collection[str]) -> str:
    return _replace(text, secrets, _KEYS)


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """Keys and inner addresses go. Links stay: one may lead to a picture that nobody has recognised."""
    return _CONTROLS.sub(" ", _replace(text, secrets, (*_KEYS, *_ADDRESSES[1:])))


def _show(message: str, secrets: Collection[str]) -> str:
    text = " ".join(_CONTROLS.sub(" ", _blot(message, secrets, (*_KEYS, *_ADDRESSES))).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _blot(text: str, secrets: Collection[str], patterns: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return _replace(text[:_LOGGED], (), patterns)


def _replace(text: str, secrets: Collection[str], patterns: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[key]")
    for pattern, stand_in in patterns:
        text = pattern.sub(stand_in, text)
    return text
