"""Map the error answer of an upstream to an error of ours, and to whether another attempt is safe.

Each rule of `ERROR_RULES` rests on evidence: a status that can mean one thing only, words, a field, the kind of the
body. What no rule knows is a complaint about the request (under a 4xx or inside a 200), or a failure (under a 5xx).
The costly mistakes are: to pay twice, to leave an upstream because of what one client asked, to invite repeats of what
will never work, and to send the operator to a key or an address that is right.
"""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace

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
    UpstreamNeedsOperator,
    UpstreamTimeout,
    UserError,
)
from app.protocol.moderation import MODERATION
from app.protocol.redaction import first_sentence
from app.upstream import error_words as words
from app.upstream.error_body import AttemptFacts, UpstreamErrorBody, parse_error_body
from app.upstream.request_fields import limners_field
from app.upstream.work_evidence import came_at_once, was_refused_at_once


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """One attempt at one upstream that failed.

    Attributes:
        retry_after: Seconds that the upstream asks to wait, however absurd.
        setting: The field of the upstream's configuration to look at: `base_url`, `api_key`, `model` or `dialect`.
        elapsed: Seconds from the end of sending to the failure.
        wants_other_modalities: The model cannot answer with the modalities that were requested.
        headers: Those of the answer, if there was one.
    """

    error: ApiError
    retry_safety: RetrySafety = RetrySafety.UNSAFE
    retry_after: float | None = None
    setting: str | None = None
    elapsed: float = 0.0
    wants_other_modalities: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Let the error carry the retry safety, for those who keep errors."""
        self.error.retry_safety = self.retry_safety


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One kind of error answer. All conditions must hold.

    Attributes:
        statuses: The status is one of these.
        matches: The evidence in the answer; `None` where the status is enough.
        pass_through: Whether the request was sent with the caller's own key; `None` for both.
        setting: See `UpstreamFailure`.
    """

    name: str
    statuses: Container[int]
    matches: Callable[[UpstreamErrorBody], bool] | None
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


def _unknown_complaint(body: UpstreamErrorBody) -> ApiError:
    return _invalid_request(replace(body, public_message=first_sentence(body.public_message)))


def _forbidden(body: UpstreamErrorBody) -> ApiError:
    sentence = first_sentence(body.public_message)
    message = f"The upstream forbids this request: {sentence}" if sentence else "The upstream forbids this request."
    return Forbidden(message, code=body.code or "upstream_forbidden", detail=body.detail)


def _blocked_before_upstream(body: UpstreamErrorBody) -> ApiError:
    agent = f" (user agent {body.facts.user_agent})" if body.facts.user_agent else ""
    message = f"Something before the upstream blocks this server{agent}, with status {body.status}. {_OPERATOR}"
    return UpstreamNeedsOperator(message, code="upstream_blocked", detail=body.detail)


def _field_refused(body: UpstreamErrorBody) -> ApiError:
    field = limners_field(body)
    message = f"The upstream does not accept the field '{field}', which this server writes. {_OPERATOR}"
    return UpstreamNeedsOperator(message, code="upstream_dialect", detail=body.detail)


def _rate_limited(body: UpstreamErrorBody) -> ApiError:
    message = "The upstream takes no more requests right now. Please try again later."
    return RateLimited(message, retry_after=body.wait.of_a_limit or 1, detail=body.detail)


def _caller_rate_limited(body: UpstreamErrorBody) -> ApiError:
    message = body.public_message or "Rate limit reached. Please try again later."
    return RateLimited(message, retry_after=body.wait.of_a_limit or 1, detail=body.detail)


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
    UpstreamNeedsOperator, "This server's account with the upstream has no credit left.", "upstream_quota"
)
_unknown_model = _our_words(
    UpstreamNeedsOperator,
    f"The upstream does not offer the model that this server asks for. {_OPERATOR}",
    "upstream_model",
)
_nothing_fits = _our_words(
    UpstreamNeedsOperator,
    f"The upstream has nothing that fits what this server asks for: model, data policy or modalities. {_OPERATOR}",
    "upstream_model",
)
_key_refused = _our_words(UpstreamAuth, f"The upstream refused this server's key (status {{status}}). {_OPERATOR}")
_not_served_here = _our_words(
    UpstreamNeedsOperator,
    f"The upstream does not serve the country of this server (status {{status}}). {_OPERATOR}",
    "upstream_blocked",
)
_wrong_address = _our_words(
    UpstreamNeedsOperator, f"The upstream has nothing at the configured address (status {{status}}). {_OPERATOR}"
)
_wrong_path = _our_words(
    UpstreamNeedsOperator, f"The upstream's API has no chat at the configured path (status {{status}}). {_OPERATOR}"
)
_without_tls = _our_words(
    UpstreamNeedsOperator,
    f"The upstream has to be reached by https, and this server uses http (status {{status}}). {_OPERATOR}",
)
_redirected = _our_words(
    UpstreamNeedsOperator,
    f"The upstream redirects elsewhere (status {{status}}), which is not followed. {_OPERATOR}",
    "upstream_broken",
)
_too_large = _our_words(RequestTooLarge, "The request is larger than the upstream takes. Send fewer or smaller images.")
_timed_out = _our_words(UpstreamTimeout, "The upstream took too long (status {status}). The image may have been made.")
_overloaded = _our_words(UpstreamError, "The upstream is overloaded (status {status}).", "upstream_overloaded")
_failed = _our_words(UpstreamError, "The upstream answered with an error (status {status}).")


def _about(pattern: re.Pattern[str]) -> Callable[[UpstreamErrorBody], bool]:
    return lambda body: pattern.search(body.searchable) is not None


def _is_refusal(body: UpstreamErrorBody) -> bool:
    if words.CLOSED_ACCOUNT.search(body.searchable):
        return False
    return body.names_moderation or MODERATION.search(body.searchable) is not None


def _is_model(body: UpstreamErrorBody) -> bool:
    return any(pattern.search(body.searchable) for pattern in (words.MODEL_CODE, words.MODEL))


def _is_blocked(body: UpstreamErrorBody) -> bool:
    return body.is_page or "cf-mitigated" in body.headers or words.FIREWALL.search(body.searchable) is not None


def _is_challenged(body: UpstreamErrorBody) -> bool:
    return "cf-mitigated" in body.headers


def _has_no_credit(body: UpstreamErrorBody) -> bool:
    """Return whether the account is used up. Where a window is named, words about a quota mean a rate limit."""
    if words.CREDIT.search(body.searchable):
        return True
    if body.wait.named is not None or words.WINDOW.search(body.searchable):
        return False
    is_offer = words.OFFER.search(body.searchable) and not words.RATE.search(body.searchable)
    return bool(is_offer) or words.QUOTA.search(body.searchable) is not None


def _is_limners_model(body: UpstreamErrorBody) -> bool:
    return limners_field(body) == "model"


def _is_limners_field(body: UpstreamErrorBody) -> bool:
    return limners_field(body) is not None


def _is_api_error(body: UpstreamErrorBody) -> bool:
    return body.is_api_error


def _is_wrong_path(body: UpstreamErrorBody) -> bool:
    return body.is_api_error and words.WRONG_PATH.search(body.searchable) is not None


def _speaks_tls(body: UpstreamErrorBody) -> bool:
    # Most of these answers are pages.
    return words.TLS_EXPECTED.search(body.everything) is not None


def _is_rate(body: UpstreamErrorBody) -> bool:
    is_window = words.WINDOW.search(body.searchable) and words.QUOTA.search(body.searchable)
    return words.RATE.search(body.searchable) is not None or bool(is_window)


def _is_clients_input(body: UpstreamErrorBody) -> bool:
    return body.is_api_error and words.CLIENTS_INPUT.search(body.searchable) is not None


_COMPLAINTS = (*range(200, 300), *range(400, 500))
#: There is no status below 100, and one below 200 is not the last.
_FAILURES = (*range(200), *range(500, 1000))
_ANY = (*_COMPLAINTS, *_FAILURES)
#: Under these a refusal in words is believed: 401 and 402 are about the account.
_WITH_REFUSALS = frozenset(_ANY) - {401, 402}
#: Under these a field that is named is the cause.
_WITH_FIELDS = frozenset(_COMPLAINTS) - {401, 402, 403, 413, 429}
_WITH_KEYS = frozenset(_ANY) - {402, 429}
#: A 408 does not make a retry safe: relays answer so when the server behind them was slow. 499 and 460: they hung up.
_SLOW = {408, 460, 499, 504, 520, 522, 524}
#: Complaints under these come before any work. A 409, a 425 and others that APIs hardly send say nothing about it.
_BEFORE_WORK = {*range(400, 408), *range(410, 419), 421, 422, 431}
_NOT_HERE = {404, 405, 410}

_OUR_KEY, _CALLERS_KEY = False, True
_SAFE, _OTHER, _FUTILE = RetrySafety.SAFE, RetrySafety.OTHER_UPSTREAM, RetrySafety.FUTILE
_AMBIGUOUS = RetrySafety.AMBIGUOUS
#: What a rule has that rests on a status alone.
_BARE_EVIDENCE = (None, _is_api_error)

#: The first rule that matches counts.
ERROR_RULES: tuple[ErrorRule, ...] = (
    ErrorRule("a redirect", range(300, 400), None, _redirected, _OTHER, setting="base_url"),
    ErrorRule("http in place of https", {400, 497}, _speaks_tls, _without_tls, _OTHER, setting="base_url"),
    ErrorRule("a firewall", {403, 406, 407, 511}, _is_blocked, _blocked_before_upstream, _OTHER),
    ErrorRule("a country that is not served", _COMPLAINTS, _about(words.REGION), _not_served_here, _OTHER),
    ErrorRule("a challenge", {429, 503}, _is_challenged, _blocked_before_upstream, _OTHER),
    ErrorRule("a refusal, by words", _WITH_REFUSALS, _is_refusal, _moderation_blocked),
    ErrorRule("a refusal, by status", {451}, None, _moderation_blocked),
    ErrorRule("we have no credit, by words", _ANY, _has_no_credit, _out_of_credit, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("we have no credit, by status", {402}, None, _out_of_credit, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("the caller has no credit, by words", _ANY, _has_no_credit, _caller_out_of_credit, _FUTILE, _CALLERS_KEY),
    ErrorRule("the caller has no credit, by status", {402}, None, _caller_out_of_credit, _FUTILE, _CALLERS_KEY),
    ErrorRule("the model that we wrote", _WITH_FIELDS, _is_limners_model, _unknown_model, _OTHER, setting="model"),
    ErrorRule("another field of ours", _WITH_FIELDS, _is_limners_field, _field_refused, _OTHER, setting="dialect"),
    ErrorRule("a model closed to the caller", {403}, _is_model, _caller_key_refused, _FUTILE, _CALLERS_KEY),
    ErrorRule("an unknown model, by code", _ANY, _about(words.MODEL_CODE), _unknown_model, _OTHER, setting="model"),
    ErrorRule("a value that the client chose", _ANY, _about(words.CLIENTS_VALUE), _invalid_request, _FUTILE),
    ErrorRule("a complaint under 5xx", _FAILURES, _about(words.COMPLAINT), _unknown_complaint, _FUTILE),
    ErrorRule("an unknown model, by words", _COMPLAINTS, _about(words.MODEL), _unknown_model, _OTHER, setting="model"),
    ErrorRule("our key refused, by words", _WITH_KEYS, _about(words.KEY), _key_refused, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("an image behind a wall", {403}, _about(words.UNREACHABLE_IMAGE), _forbidden, _FUTILE),
    ErrorRule("our key, in a 403", {403}, _about(words.KEY_IN_403), _key_refused, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("our key refused, by status", {401}, None, _key_refused, _OTHER, _OUR_KEY, "api_key"),
    ErrorRule("the caller's key refused", _WITH_KEYS, _about(words.KEY), _caller_key_refused, _FUTILE, _CALLERS_KEY),
    ErrorRule("the caller refused, by status", {401, 403}, None, _caller_key_refused, _FUTILE, _CALLERS_KEY),
    ErrorRule("too large a request", {413}, None, _too_large, _FUTILE),
    ErrorRule("too many requests of the caller", {429}, None, _caller_rate_limited, _SAFE, _CALLERS_KEY),
    ErrorRule("too many requests", {429}, None, _rate_limited, _SAFE),
    ErrorRule("overloaded", {503}, None, _overloaded, _SAFE),
    ErrorRule("too slow", _SLOW, None, _timed_out),
    ErrorRule("too many requests, by words in a complaint", _COMPLAINTS, _is_rate, _rate_limited, _SAFE),
    ErrorRule("too many requests, by words", _FAILURES, _is_rate, _rate_limited, _AMBIGUOUS),
    ErrorRule("overloaded, by words in a complaint", _COMPLAINTS, _about(words.OVERLOAD), _rate_limited, _SAFE),
    ErrorRule("overloaded, by words", _FAILURES, _about(words.OVERLOAD), _overloaded, _AMBIGUOUS),
    ErrorRule("no chat at this path", _NOT_HERE, _is_wrong_path, _wrong_path, _OTHER, setting="base_url"),
    ErrorRule("an input that the upstream cannot use", _NOT_HERE, _is_clients_input, _unknown_complaint, _FUTILE),
    ErrorRule("nothing that fits the request", _NOT_HERE, _is_api_error, _nothing_fits, _OTHER, setting="model"),
    ErrorRule("nothing at the address", _NOT_HERE, None, _wrong_address, _OTHER, setting="base_url"),
    ErrorRule("forbidden, for a reason of the upstream's own", {403}, None, _forbidden, _FUTILE),
    ErrorRule("any other complaint before any work", _BEFORE_WORK, None, _unknown_complaint, _FUTILE),
    ErrorRule("any other complaint", _COMPLAINTS, None, _unknown_complaint),
    ErrorRule("any other failure", _FAILURES, None, _failed, _AMBIGUOUS),
)


def classify(status: int, headers: Mapping[str, str], body: bytes, facts: AttemptFacts) -> UpstreamFailure:
    """Find what the error answer of an upstream means, by the first of `ERROR_RULES` that matches.

    An error object inside a 200 is classified by the status that it names, if any.

    Args:
        status: The HTTP status.
        headers: Found by lower-case names.
        body: The beginning is enough.
        facts: What else is known of the attempt.
    """
    error_body = parse_error_body(status, headers, body, facts)
    rule = next(rule for rule in ERROR_RULES if _matches(rule, error_body))
    error, retry_safety = rule.build_error(error_body), _weigh(rule, error_body)
    error.upstream_sentence = first_sentence(error_body.public_message)
    if retry_safety.may_have_cost:
        error.should_retry = False
    if error_body.status < 500:
        error.counts_against_upstream = False
    is_limit = isinstance(error, RateLimited)
    return UpstreamFailure(
        error,
        retry_safety,
        error_body.wait.of_a_limit if is_limit else error_body.wait.named,
        rule.setting,
        facts.elapsed,
        wants_other_modalities=words.MODALITIES.search(error_body.searchable) is not None,
    )


def _matches(rule: ErrorRule, body: UpstreamErrorBody) -> bool:
    return (
        body.status in rule.statuses
        and rule.pass_through in {None, body.facts.pass_through}
        and (rule.matches is None or rule.matches(body))
    )


def _weigh(rule: ErrorRule, body: UpstreamErrorBody) -> RetrySafety:
    """Return the retry safety that the evidence leaves of what a rule claims.

    Inside a 200 the upstream had begun to answer, so only what came first and at once is believed to be free of cost.
    A status alone proves nothing once an image may have been made: what is not found then may be the image.
    """
    is_inside_200 = body.http_status < 300
    doubtful = RetrySafety.UNSAFE if is_inside_200 else RetrySafety.AMBIGUOUS
    if rule.retry_safety.may_have_cost:
        return RetrySafety.UNSAFE if is_inside_200 else rule.retry_safety
    if is_inside_200 and not body.facts.came_first:
        return doubtful
    is_bare = rule.retry_safety is _OTHER and rule.matches in _BARE_EVIDENCE
    if is_bare and not came_at_once(body):
        return doubtful
    return doubtful if body.status >= 500 and not was_refused_at_once(body) else rule.retry_safety
