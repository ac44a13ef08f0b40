"""An upstream's error answer, translated into our own tree of errors: by what it says, and only then by its status."""

import re
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Self

import orjson

from app.errors import (
    ApiError,
    Forbidden,
    InvalidRequest,
    ModerationBlocked,
    RateLimited,
    RequestTooLarge,
    Unauthorized,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalidReply,
    UpstreamTimeout,
    UserError,
)
from app.protocol.redaction import MAX_LOGGED, loggable_text, public_text

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
class UpstreamErrorBody:
    """`message` may be shown and is empty where there is none; `words` and `detail` are not for clients.

    `words` is every short text of the error object, to be searched. `retry_after` is in seconds, however absurd.
    """

    status: int
    searchable: str = ""
    public_message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | None = None
    moderation_details: Mapping[str, Any] | None = None
    retry_after: float | None = None
    detail: str = ""

    @classmethod
    def parse(
        cls, status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Collection[str] = ()
    ) -> Self:
        """`headers` answers to lower-case names; `now` is seconds since 1970; `secrets` are blotted out literally."""
        error = _unwrap(_parse(body))
        texts = _texts(error)
        return cls(
            status=status if status >= 300 else _status_in(error) or status,
            searchable=" ".join(texts)[:MAX_LOGGED],
            public_message=public_text(_message_of(error), secrets),
            type=_name_of(error, "type", secrets),
            param=_name_of(error, "param", secrets),
            code=_name_of(error, "code", secrets),
            moderation_details=_moderation_details(error),
            retry_after=parse_retry_after(headers, now),
            detail=f"upstream answered {status}: {loggable_text(body.decode(errors='replace'), secrets)}",
        )


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
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
    return value if loggable_text(value, secrets) == value else None


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


class RetrySafety(Enum):
    """Whether the same question may be asked again: not where a picture may have been paid for."""

    SAFE = "surely no work was done"
    OTHER_UPSTREAM = "surely no work was done, and only another upstream can help"
    AMBIGUOUS = "probably no work was done: the operator decides"
    UNSAFE = "work may have been done, or a repeat would end the same way"


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """One attempt that failed. `retry_after` in seconds, as the upstream asked, however absurd."""

    error: ApiError
    retry_safety: RetrySafety = RetrySafety.UNSAFE
    retry_after: float | None = None


def _block(complaint: UpstreamErrorBody) -> ApiError:
    details = complaint.moderation_details
    message = complaint.public_message or "Your request was rejected by the upstream's safety system."
    return ModerationBlocked(
        message, extra={"moderation_details": details} if details else None, detail=complaint.detail
    )


def _refuse(complaint: UpstreamErrorBody) -> ApiError:
    kind = UserError if complaint.type == UserError.type else InvalidRequest
    message = complaint.public_message or f"The upstream refused the request (status {complaint.status})."
    return kind(message, param=complaint.param, code=complaint.code, detail=complaint.detail)


def _limit(complaint: UpstreamErrorBody) -> ApiError:
    message = "The upstream takes no more requests right now. Please try again later."
    return RateLimited(message, retry_after=complaint.retry_after or 1, detail=complaint.detail)


def _limit_caller(complaint: UpstreamErrorBody) -> ApiError:
    message = complaint.public_message or "Rate limit reached. Please try again later."
    return RateLimited(message, retry_after=complaint.retry_after or 1, detail=complaint.detail)


def _charge_caller(complaint: UpstreamErrorBody) -> ApiError:
    """As OpenAI does: a 429 that no repeat will mend."""
    message = complaint.public_message or "You exceeded your current quota, please check your plan and billing details."
    name, never = "insufficient_quota", {"x-should-retry": "false"}
    return RateLimited(message, type=name, code=name, headers=never, detail=complaint.detail)


def _deny_caller(complaint: UpstreamErrorBody) -> ApiError:
    message = complaint.public_message or "Incorrect API key provided."
    if complaint.status == 403:
        return Forbidden(message, code=complaint.code, detail=complaint.detail)
    return Unauthorized(message, code="invalid_api_key", detail=complaint.detail)


def _say(kind: type[ApiError], message: str, code: str | None = None) -> Callable[[UpstreamErrorBody], ApiError]:
    """The upstream's own words stay in the log: they speak of the operator's account and network."""
    return lambda complaint: kind(message.format(status=complaint.status), code=code, detail=complaint.detail)


_MEND = "Only the operator of this server can mend that."

_no_credit = _say(UpstreamError, "This server's account with the upstream has no credit left.", "upstream_quota")
_wrong_model = _say(
    UpstreamError,
    f"The upstream does not offer the model that this server asks for. {_MEND}",
    "upstream_model",
)
_wrong_key = _say(UpstreamAuth, f"The upstream refused this server's key (status {{status}}). {_MEND}")
_wrong_address = _say(
    UpstreamError,
    f"The upstream has nothing at the configured address (status {{status}}). {_MEND}",
)
_redirected = _say(
    UpstreamInvalidReply,
    f"The upstream redirects elsewhere (status {{status}}), which is not followed. {_MEND}",
)
_too_large = _say(RequestTooLarge, "The request is larger than the upstream takes. Send fewer or smaller images.")
_too_slow = _say(UpstreamTimeout, "The upstream took too long (status {status}). The image may have been made.")
_overloaded = _say(UpstreamError, "The upstream is overloaded (status {status}).", "upstream_overloaded")
_failed = _say(UpstreamError, "The upstream answered with an error (status {status}).")


def _words(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(texts), re.IGNORECASE)


_REFUSAL = _words(
    *("moderation_blocked", "content[_ ]policy", "content[_ ]?filter", "responsible_?ai", "safety system"),
    *("safety_violation", "sensitive_words", "prohibited[_ ]content", "敏感词", "内容审核"),
)
_CREDIT = _words(
    *("insufficient[_ ](?:user[_ ])?(?:quota|balance|credit|funds)", "billing[_ ]hard[_ ]limit", "billing_not_active"),
    *("credit[_ ]balance", "spend_limit_exceeded", "exceeded your current quota", "pre_consume_token_quota"),
    *("token quota is not enough", "额度不足", "余额不足", "额度已用尽"),
)
_MODEL = _words("model_not_found", "no available channel", "model \\S{1,99} does not exist", "无可用渠道")
_KEY = _words(
    "invalid_api_key", "incorrect api key", "invalid api key", "api key not valid", "authentication_error", "无效的令牌"
)
_WRONG_VALUE = _words(
    *("invalid size", "invalid_size", "invalid value:", "invalid type for", "unsupported value", "unknown parameter"),
    *("invalid_value", "invalid_image", "context_length_exceeded", "maximum context length", "prompt is too long"),
    "string_above_max_length",
)
_RATE = _words("rate_limit_exceeded", "rate limit reached", "too many requests", "负载已饱和", "请求过于频繁")
_OVERLOAD = _words("server_is_overloaded", "overloaded_error", "slow_down")

_ANY = range(200, 1000)
_OUR_KEY, _CALLERS_KEY = False, True


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """Matches where the status is one of `statuses`, `words` are found, and the key is whose `pass_through` says.

    `place`: what of the upstream's configuration is at fault.
    """

    name: str
    statuses: Container[int]
    pattern: re.Pattern[str] | None
    build_error: Callable[[UpstreamErrorBody], ApiError]
    retry_safety: RetrySafety = RetrySafety.UNSAFE
    pass_through: bool | None = None
    setting: str | None = None


#: The first that matches counts. Relays put one fault under many statuses (an invalid size as 429, a refusal as 451),
#: so words go before statuses. 408 is not safe to repeat: relays answer it when what is behind them was slow.
ERROR_RULES: tuple[ErrorRule, ...] = (
    ErrorRule("a redirect", range(300, 400), None, _redirected, RetrySafety.OTHER_UPSTREAM, setting="base_url"),
    ErrorRule("a refusal, said", _ANY, _REFUSAL, _block),
    ErrorRule("a refusal, by status", {451}, None, _block),
    ErrorRule("no credit of ours, said", _ANY, _CREDIT, _no_credit, RetrySafety.OTHER_UPSTREAM, _OUR_KEY, "api_key"),
    ErrorRule("no credit of ours, by status", {402}, None, _no_credit, RetrySafety.OTHER_UPSTREAM, _OUR_KEY, "api_key"),
    ErrorRule("no credit of the caller's, said", _ANY, _CREDIT, _charge_caller, pass_through=_CALLERS_KEY),
    ErrorRule("no credit of the caller's, by status", {402}, None, _charge_caller, pass_through=_CALLERS_KEY),
    ErrorRule("a model that the caller may not use", {403}, _MODEL, _deny_caller, pass_through=_CALLERS_KEY),
    ErrorRule("a model that is not there", _ANY, _MODEL, _wrong_model, RetrySafety.OTHER_UPSTREAM, setting="model"),
    ErrorRule("our key, said", _ANY, _KEY, _wrong_key, RetrySafety.OTHER_UPSTREAM, _OUR_KEY, "api_key"),
    ErrorRule("our key, by status", {401, 403}, None, _wrong_key, RetrySafety.OTHER_UPSTREAM, _OUR_KEY, "api_key"),
    ErrorRule("the caller's key, said", _ANY, _KEY, _deny_caller, pass_through=_CALLERS_KEY),
    ErrorRule("the caller's key, by status", {401, 403}, None, _deny_caller, pass_through=_CALLERS_KEY),
    ErrorRule("a value that the upstream does not take", _ANY, _WRONG_VALUE, _refuse),
    ErrorRule("too large", {413}, None, _too_large),
    ErrorRule("too many of the caller's", {429}, None, _limit_caller, RetrySafety.SAFE, pass_through=_CALLERS_KEY),
    ErrorRule("too many", {429}, None, _limit, RetrySafety.SAFE),
    ErrorRule("overloaded", {503}, None, _overloaded, RetrySafety.SAFE),
    ErrorRule("too many, said under another status", _ANY, _RATE, _limit),
    ErrorRule("overloaded, said under another status", _ANY, _OVERLOAD, _overloaded),
    ErrorRule("too slow", {408, 504, 520, 522, 524}, None, _too_slow),
    ErrorRule("nothing there", {404, 405, 410}, None, _wrong_address, RetrySafety.OTHER_UPSTREAM, setting="base_url"),
    ErrorRule("a request that the upstream does not take", {400, 409, 415, 422}, None, _refuse),
    ErrorRule("a crash before any work, perhaps", {500, 502}, None, _failed, RetrySafety.AMBIGUOUS),
    ErrorRule("anything else", _ANY, None, _failed),
)


def classify(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    pass_through: bool,
    now: float,
    secrets: Collection[str] = (),
    places: Mapping[str, str] | None = None,
) -> UpstreamFailure:
    """`body` may be the beginning only. `now` is seconds since 1970, for dates; `secrets` never leave, wherever said.
    `places`: where the operator has written the address, the key and the model, by the names in ROWS; for the log.

    An error object inside a 200 is translated likewise, with the status that it names, if it names one; but nobody may
    ask again after a crash there, since an answer had begun.
    """
    complaint = UpstreamErrorBody.parse(status, headers, body, now=now, secrets=secrets)
    row = next(row for row in ERROR_RULES if _matches(row, complaint, pass_through=pass_through))
    if place := (places or {}).get(row.setting or ""):
        complaint = replace(complaint, detail=f"see {place}: {complaint.detail}")
    again = RetrySafety.UNSAFE if status < 300 and row.retry_safety is RetrySafety.AMBIGUOUS else row.retry_safety
    return UpstreamFailure(row.build_error(complaint), again, complaint.retry_after)


def _matches(row: ErrorRule, complaint: UpstreamErrorBody, *, pass_through: bool) -> bool:
    return (
        complaint.status in row.statuses
        and row.pass_through in {None, pass_through}
        and (row.pattern is None or row.pattern.search(complaint.searchable) is not None)
    )
