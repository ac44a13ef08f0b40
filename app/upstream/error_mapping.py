"""Map the error answer of an upstream to an error of ours, and to whether another attempt is safe.

The words of the error decide first and its status second: relays put one kind of error under many statuses (an invalid
size as 429, a refusal as 451). `ERROR_RULES` is the table.
"""

import re
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from app.errors import (
    ApiError,
    Forbidden,
    InvalidRequest,
    ModerationBlocked,
    RateLimited,
    RequestTooLarge,
    RetrySafety,
    Unauthorized,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalidReply,
    UpstreamTimeout,
    UserError,
)
from app.protocol.redaction import MAX_LOGGED, loggable_text, public_text


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """One attempt at one upstream that failed.

    Attributes:
        retry_after: Seconds that the upstream asks to wait, however absurd.
        setting: The field of the upstream's configuration to look at: `base_url`, `api_key` or `model`.
    """

    error: ApiError
    retry_safety: RetrySafety = RetrySafety.UNSAFE
    retry_after: float | None = None
    setting: str | None = None

    def __post_init__(self) -> None:
        """Let the error carry the retry safety, for whoever remembers errors."""
        self.error.retry_safety = self.retry_safety


@dataclass(frozen=True, slots=True)
class UpstreamErrorBody:
    """The error answer of an upstream, parsed. Only `public_message` and the names may be shown to clients.

    Attributes:
        status: The HTTP status, or the one that an error inside a 200 names.
        searchable: Every short text of the error object, to be searched for words.
        public_message: Without keys and addresses, empty where there is none.
        retry_after: In seconds, however absurd.
        detail: For the log: status and body without keys.
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


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One kind of error answer. All conditions must hold.

    Attributes:
        statuses: The status is one of these.
        words: These are found in the texts of the error; `None` for any text.
        pass_through: Whether the request was sent with the caller's own key; `None` for both.
        setting: See `UpstreamFailure`.
    """

    name: str
    statuses: Container[int]
    words: re.Pattern[str] | None
    build_error: Callable[[UpstreamErrorBody], ApiError]
    retry_safety: RetrySafety = RetrySafety.UNSAFE
    pass_through: bool | None = None
    setting: str | None = None


def _moderation_blocked(body: UpstreamErrorBody) -> ApiError:
    details = body.moderation_details
    message = body.public_message or "Your request was rejected by the upstream's safety system."
    return ModerationBlocked(message, extra={"moderation_details": details} if details else None, detail=body.detail)


def _invalid_request(body: UpstreamErrorBody) -> ApiError:
    kind = UserError if body.type == UserError.type else InvalidRequest
    message = body.public_message or f"The upstream refused the request (status {body.status})."
    return kind(message, param=body.param, code=body.code, detail=body.detail)


def _rate_limited(body: UpstreamErrorBody) -> ApiError:
    message = "The upstream takes no more requests right now. Please try again later."
    return RateLimited(message, retry_after=body.retry_after or 1, detail=body.detail)


def _caller_rate_limited(body: UpstreamErrorBody) -> ApiError:
    message = body.public_message or "Rate limit reached. Please try again later."
    return RateLimited(message, retry_after=body.retry_after or 1, detail=body.detail)


def _caller_out_of_credit(body: UpstreamErrorBody) -> ApiError:
    # As OpenAI does: a 429 that no retry will cure.
    message = body.public_message or "You exceeded your current quota, please check your plan and billing details."
    code, headers = "insufficient_quota", {"x-should-retry": "false"}
    return RateLimited(message, type=code, code=code, headers=headers, detail=body.detail)


def _caller_key_refused(body: UpstreamErrorBody) -> ApiError:
    message = body.public_message or "Incorrect API key provided."
    if body.status == 403:
        return Forbidden(message, code=body.code, detail=body.detail)
    return Unauthorized(message, code="invalid_api_key", detail=body.detail)


def _our_words(kind: type[ApiError], message: str, code: str | None = None) -> Callable[[UpstreamErrorBody], ApiError]:
    """Build errors with a message of ours; `{status}` in the message is filled in.

    The upstream's own words stay in the log, since they are about the operator's account and network.
    """
    return lambda body: kind(message.format(status=body.status), code=code, detail=body.detail)


_OPERATOR = "Only the operator of this server can mend that."

_out_of_credit = _our_words(
    UpstreamError, "This server's account with the upstream has no credit left.", "upstream_quota"
)
_unknown_model = _our_words(
    UpstreamError, f"The upstream does not offer the model that this server asks for. {_OPERATOR}", "upstream_model"
)
_key_refused = _our_words(UpstreamAuth, f"The upstream refused this server's key (status {{status}}). {_OPERATOR}")
_wrong_address = _our_words(
    UpstreamError, f"The upstream has nothing at the configured address (status {{status}}). {_OPERATOR}"
)
_redirected = _our_words(
    UpstreamInvalidReply, f"The upstream redirects elsewhere (status {{status}}), which is not followed. {_OPERATOR}"
)
_too_large = _our_words(RequestTooLarge, "The request is larger than the upstream takes. Send fewer or smaller images.")
_timed_out = _our_words(UpstreamTimeout, "The upstream took too long (status {status}). The image may have been made.")
_overloaded = _our_words(UpstreamError, "The upstream is overloaded (status {status}).", "upstream_overloaded")
_failed = _our_words(UpstreamError, "The upstream answered with an error (status {status}).")


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_REFUSAL = _any_of(
    *("moderation_blocked", "content[_ ]policy", "content[_ ]?filter", "responsible_?ai", "safety system"),
    *("safety_violation", "sensitive_words", "prohibited[_ ]content", "敏感词", "内容审核"),
)
_CREDIT = _any_of(
    *("insufficient[_ ](?:user[_ ])?(?:quota|balance|credit|funds)", "billing[_ ]hard[_ ]limit", "billing_not_active"),
    *("credit[_ ]balance", "spend_limit_exceeded", "exceeded your current quota", "pre_consume_token_quota"),
    *("token quota is not enough", "额度不足", "余额不足", "额度已用尽"),
)
_MODEL = _any_of("model_not_found", "no available channel", "model \\S{1,99} does not exist", "无可用渠道")
_KEY = _any_of(
    "invalid_api_key", "incorrect api key", "invalid api key", "api key not valid", "authentication_error", "无效的令牌"
)
_INVALID_VALUE = _any_of(
    *("invalid size", "invalid_size", "invalid value:", "invalid type for", "unsupported value", "unknown parameter"),
    *("invalid_value", "invalid_image", "context_length_exceeded", "maximum context length", "prompt is too long"),
    "string_above_max_length",
)
_RATE = _any_of("rate_limit_exceeded", "rate limit reached", "too many requests", "负载已饱和", "请求过于频繁")
_OVERLOAD = _any_of("server_is_overloaded", "overloaded_error", "slow_down")

_ANY = range(200, 1000)
_OUR_KEY, _CALLERS_KEY = False, True
_SAFE, _OTHER, _AMBIGUOUS = RetrySafety.SAFE, RetrySafety.OTHER_UPSTREAM, RetrySafety.AMBIGUOUS

#: The first rule that matches counts.
ERROR_RULES: tuple[ErrorRule, ...] = (
    ErrorRule("a redirect", range(300, 400), None, _redirected, _OTHER, setting="base_url"),
    ErrorRule("a refusal, by words", _ANY, _REFUSAL, _moderation_blocked),
    ErrorRule("a refusal, by status", {451}, None, _moderation_blocked),
    ErrorRule("we have no credit, by words", _ANY, _CREDIT, _out_of_credit, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("we have no credit, by status", {402}, None, _out_of_credit, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("the caller has no credit, by words", _ANY, _CREDIT, _caller_out_of_credit, pass_through=_CALLERS_KEY),
    ErrorRule("the caller has no credit, by status", {402}, None, _caller_out_of_credit, pass_through=_CALLERS_KEY),
    ErrorRule("a model closed to the caller", {403}, _MODEL, _caller_key_refused, pass_through=_CALLERS_KEY),
    ErrorRule("an unknown model", _ANY, _MODEL, _unknown_model, _OTHER, setting="model"),
    ErrorRule("our key refused, by words", _ANY, _KEY, _key_refused, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("our key refused, by status", {401, 403}, None, _key_refused, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("the caller's key refused, by words", _ANY, _KEY, _caller_key_refused, pass_through=_CALLERS_KEY),
    ErrorRule("the caller's key refused, by status", {401, 403}, None, _caller_key_refused, pass_through=_CALLERS_KEY),
    ErrorRule("a value that the upstream rejects", _ANY, _INVALID_VALUE, _invalid_request),
    ErrorRule("too large a request", {413}, None, _too_large),
    ErrorRule("too many requests of the caller", {429}, None, _caller_rate_limited, _SAFE, _CALLERS_KEY),
    ErrorRule("too many requests", {429}, None, _rate_limited, _SAFE),
    ErrorRule("overloaded", {503}, None, _overloaded, _SAFE),
    ErrorRule("too many requests, by words", _ANY, _RATE, _rate_limited),
    ErrorRule("overloaded, by words", _ANY, _OVERLOAD, _overloaded),
    # A 408 does not make a retry safe: relays answer so when the server behind them was slow.
    ErrorRule("too slow", {408, 504, 520, 522, 524}, None, _timed_out),
    ErrorRule("nothing at the address", {404, 405, 410}, None, _wrong_address, _OTHER, setting="base_url"),
    ErrorRule("a request that the upstream rejects", {400, 409, 415, 422}, None, _invalid_request),
    ErrorRule("a crash, perhaps before any work", {500, 502}, None, _failed, _AMBIGUOUS),
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
) -> UpstreamFailure:
    """Find what the error answer of an upstream means, by the first of `ERROR_RULES` that matches.

    An error object inside a 200 is classified by the status that it names, if any. There, a crash makes a retry unsafe:
    the upstream had begun to answer.

    Args:
        status: The HTTP status.
        headers: Found by lower-case names.
        body: The beginning is enough.
        pass_through: The request was sent with the caller's own key.
        now: Seconds since 1970, to compute `retry_after` from a date.
        secrets: Redacted wherever they occur, beside everything that looks like a key.
    """
    error_body = parse_error_body(status, headers, body, now=now, secrets=secrets)
    rule = next(rule for rule in ERROR_RULES if _matches(rule, error_body, pass_through=pass_through))
    is_late = status < 300 and rule.retry_safety is RetrySafety.AMBIGUOUS
    retry_safety = RetrySafety.UNSAFE if is_late else rule.retry_safety
    return UpstreamFailure(rule.build_error(error_body), retry_safety, error_body.retry_after, rule.setting)


def parse_error_body(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Collection[str] = ()
) -> UpstreamErrorBody:
    """Parse an error answer in any of the shapes that upstreams use. The arguments are those of `classify`."""
    error = _unwrap(_parse(body))
    return UpstreamErrorBody(
        status=status if status >= 300 else _status_in(error) or status,
        searchable=" ".join(_texts(error))[:MAX_LOGGED],
        public_message=public_text(_message_of(error), secrets),
        type=_name_of(error, "type", secrets),
        param=_name_of(error, "param", secrets),
        code=_name_of(error, "code", secrets),
        moderation_details=_moderation_details(error),
        retry_after=parse_retry_after(headers, now),
        detail=f"upstream answered {status}: {loggable_text(body.decode(errors='replace'), secrets)}",
    )


_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?")


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of `retry-after-ms` or `retry-after` (a number or a date), `None` if neither makes sense.

    `now`: seconds since 1970, used where the upstream does not send its own clock's `date`.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _SECONDS.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until = _parse_date(value)
    # The upstream's date is measured by the upstream's clock if possible, since ours may be wrong.
    since = _parse_date(headers.get("date", "")) or now
    return max(0.0, until - since) if until is not None else None


def _parse_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date.replace(tzinfo=date.tzinfo or UTC).timestamp()


def _matches(rule: ErrorRule, body: UpstreamErrorBody, *, pass_through: bool) -> bool:
    return (
        body.status in rule.statuses
        and rule.pass_through in {None, pass_through}
        and (rule.words is None or rule.words.search(body.searchable) is not None)
    )


#: `{"error": {"error": …}}` and `[{"error": …}]` occur; no upstream is known to nest deeper than this.
_MAX_DEPTH = 4
_MESSAGE_KEYS = ("message", "msg", "detail", "error", "title")
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_STATUS = re.compile(r"[45][0-9][0-9]")
#: Codes of OpenAI that belong to one status each.
_STATUS_OF_CODE = {"rate_limit_exceeded": 429, "server_is_overloaded": 503}
_MODERATION_STAGES = ("input", "output", "unknown")
_CATEGORY = re.compile(r"[A-Za-z0-9_/ -]{1,64}")
_MAX_CATEGORIES = 32


def _parse(body: bytes) -> object:
    """Return the JSON value, or the text of a body that is not JSON; an HTML page is an empty text."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode(errors="replace").strip()
        return "" if text.startswith("<") else text


def _unwrap(document: object) -> object:
    """Return the innermost error object or text."""
    for _ in range(_MAX_DEPTH):
        if isinstance(document, list):
            document = document[0] if document else ""
        elif isinstance(document, dict) and isinstance(document.get("error"), dict | list):
            document = document["error"]
        elif isinstance(document, dict) and isinstance(document.get("errors"), list):
            document = document["errors"]
    return document


def _texts(error: object) -> list[str]:
    """Return the strings of an error object, two levels deep: Azure and OpenRouter nest the reason beside a message."""
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
    """Return a field that is a plain name and not a key, `None` for anything else."""
    value = error.get(key) if isinstance(error, dict) else None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return None
    return value if loggable_text(value, secrets) == value else None


def _status_in(error: object) -> int | None:
    """Return the status that an error names: some relays answer 200 and put the status, or only a code, there."""
    values = [str(error.get(key)) for key in ("code", "status")] if isinstance(error, dict) else []
    status = next((int(value) for value in values if _STATUS.fullmatch(value)), None)
    return status or next((_STATUS_OF_CODE[value] for value in values if value in _STATUS_OF_CODE), None)


def _moderation_details(error: object) -> Mapping[str, Any] | None:
    """Return the two documented fields, `None` unless both are as documented."""
    details = error.get("moderation_details") if isinstance(error, dict) else None
    if not isinstance(details, dict):
        return None
    stage, categories = details.get("moderation_stage"), details.get("categories")
    if stage not in _MODERATION_STAGES or not isinstance(categories, list) or len(categories) > _MAX_CATEGORIES:
        return None
    if not all(isinstance(category, str) and _CATEGORY.fullmatch(category) for category in categories):
        return None
    return {"moderation_stage": stage, "categories": categories}
