"""Every error answer of upstreams: which error clients receive, and whether a retry is safe."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

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
from app.upstream import error_mapping
from app.upstream.error_mapping import ERROR_RULES, ErrorRule, UpstreamFailure, classify

NOW = 1_795_341_600.0
OURS, CALLERS = False, True
SAFE, OTHER, AMBIGUOUS = RetrySafety.SAFE, RetrySafety.OTHER_UPSTREAM, RetrySafety.AMBIGUOUS


@dataclass(frozen=True, slots=True)
class Case:
    """`body`: an error object, or the whole body as bytes."""

    name: str
    status: int
    body: Mapping[str, Any] | bytes
    kind: type[ApiError]
    code: str | None
    retry_safety: RetrySafety = RetrySafety.UNSAFE
    message: str | None = None
    pass_through: bool = OURS
    headers: Mapping[str, str] = field(default_factory=dict)


def error(message: str, code: object = None, type: str | None = None, **more: object) -> dict[str, object]:  # noqa: A002
    return {"message": message, "type": type, "param": None, "code": code} | more


HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx at 10.0.0.7</body></html>"
BLOCKED = "Your request was rejected by the safety system. safety_violations=[sexual]."
UPSTREAM_QUOTA, UPSTREAM_MODEL, OVERLOADED = "upstream_quota", "upstream_model", "upstream_overloaded"

CASES = (
    Case("a temporary redirect", 307, b"", UpstreamInvalidReply, "upstream_broken", OTHER),
    Case(
        "a permanent redirect with words of refusal",
        301,
        error("content policy"),
        UpstreamInvalidReply,
        "upstream_broken",
        OTHER,
    ),
    Case(
        "a refusal by OpenAI",
        400,
        error(BLOCKED, "moderation_blocked", "image_generation_user_error"),
        ModerationBlocked,
        "moderation_blocked",
        message=BLOCKED,
    ),
    Case(
        "a refusal by OpenAI, older form",
        400,
        error("Your request was rejected as a result of our safety system.", "content_policy_violation"),
        ModerationBlocked,
        "moderation_blocked",
    ),
    Case(
        "a refusal by Azure, one level deeper",
        400,
        error("The response was filtered", "x", innererror={"code": "ResponsibleAIPolicyViolation"}),
        ModerationBlocked,
        "moderation_blocked",
    ),
    Case(
        "a refusal under a status that invites retries",
        500,
        error("prompt blocked", "sensitive_words_detected"),
        ModerationBlocked,
        "moderation_blocked",
    ),
    Case("a refusal in Chinese", 429, error("提示词包含敏感词"), ModerationBlocked, "moderation_blocked"),
    Case(
        "a refusal by its status alone",
        451,
        b"",
        ModerationBlocked,
        "moderation_blocked",
        message="Your request was rejected by the upstream's safety system.",
    ),
    Case(
        "no credit, OpenAI's words",
        429,
        error("x", "insufficient_quota"),
        UpstreamError,
        UPSTREAM_QUOTA,
        OTHER,
    ),
    Case(
        "no credit, a relay's words",
        403,
        error("用户额度不足"),
        UpstreamError,
        UPSTREAM_QUOTA,
        OTHER,
    ),
    Case("no credit, by status", 402, b"", UpstreamError, UPSTREAM_QUOTA, OTHER),
    Case(
        "no credit, the caller's own",
        403,
        error("预扣费 failed", "insufficient_user_quota"),
        RateLimited,
        "insufficient_quota",
        message="预扣费 failed",
        pass_through=CALLERS,
    ),
    Case(
        "no credit, the caller's own, by status",
        402,
        b"",
        RateLimited,
        "insufficient_quota",
        message="You exceeded your current quota, please check your plan and billing details.",
        pass_through=CALLERS,
    ),
    Case(
        "no such model",
        404,
        error("The model `x` does not exist", "m"),
        UpstreamError,
        UPSTREAM_MODEL,
        OTHER,
    ),
    Case(
        "no access to the model with our key",
        403,
        error("No access to model", "model_not_found"),
        UpstreamError,
        UPSTREAM_MODEL,
        OTHER,
    ),
    Case(
        "no such model, a relay's words",
        503,
        error("No available channel for model x under group default (distributor)", "model_not_found"),
        UpstreamError,
        UPSTREAM_MODEL,
        OTHER,
    ),
    Case(
        "a model that the caller may not use",
        403,
        error("Project `p` does not have access to model `x`", "model_not_found"),
        Forbidden,
        "model_not_found",
        message="Project `p` does not have access to model `x`",
        pass_through=CALLERS,
    ),
    Case(
        "no such model, with the caller's key",
        404,
        error("x", "model_not_found"),
        UpstreamError,
        UPSTREAM_MODEL,
        OTHER,
        pass_through=CALLERS,
    ),
    Case(
        "our key refused",
        401,
        error("Incorrect API key provided: sk-abc", "invalid_api_key"),
        UpstreamAuth,
        "upstream_auth",
        OTHER,
        message="The upstream refused this server's key (status 401). Only the operator of this server can mend that.",
    ),
    Case("our key refused, without words", 401, b"", UpstreamAuth, "upstream_auth", OTHER),
    Case("our key refused, as an HTML page", 403, HTML, UpstreamAuth, "upstream_auth", OTHER),
    Case(
        "our key refused under 400",
        400,
        error("API key not valid."),
        UpstreamAuth,
        "upstream_auth",
        OTHER,
    ),
    Case(
        "the caller's key refused",
        401,
        error("无效的令牌"),
        Unauthorized,
        "invalid_api_key",
        message="无效的令牌",
        pass_through=CALLERS,
    ),
    Case(
        "the caller's key refused under 400",
        400,
        error("Invalid API key"),
        Unauthorized,
        "invalid_api_key",
        pass_through=CALLERS,
    ),
    Case(
        "the caller's key refused without words",
        401,
        b"",
        Unauthorized,
        "invalid_api_key",
        message="Incorrect API key provided.",
        pass_through=CALLERS,
    ),
    Case("the caller refused", 403, error("No.", "region"), Forbidden, "region", message="No.", pass_through=CALLERS),
    Case(
        "a wrong size",
        400,
        error("Invalid size 'x'.", "invalid_value", "image_generation_user_error", param="size"),
        UserError,
        "invalid_value",
        message="Invalid size 'x'.",
    ),
    Case("a wrong size as 429", 429, error("Invalid size '7x7'."), InvalidRequest, None, message="Invalid size '7x7'."),
    Case(
        "a context too long, as 500",
        500,
        error("This model's maximum context length is 8.", "context_length_exceeded"),
        InvalidRequest,
        "context_length_exceeded",
    ),
    Case("a body too large", 413, HTML, RequestTooLarge, "request_too_large"),
    Case(
        "too many requests",
        429,
        error("Rate limit reached in organization org-x"),
        RateLimited,
        "rate_limit_exceeded",
        SAFE,
    ),
    Case(
        "too many requests of the caller",
        429,
        error("Rate limit reached for x."),
        RateLimited,
        "rate_limit_exceeded",
        SAFE,
        message="Rate limit reached for x.",
        pass_through=CALLERS,
    ),
    Case(
        "too many requests of the caller, without words",
        429,
        b"",
        RateLimited,
        "rate_limit_exceeded",
        SAFE,
        message="Rate limit reached. Please try again later.",
        pass_through=CALLERS,
    ),
    Case(
        "too many requests, by words in a 500",
        500,
        error("x", "rate_limit_exceeded"),
        RateLimited,
        "rate_limit_exceeded",
    ),
    Case("overloaded", 503, b"no healthy upstream", UpstreamError, OVERLOADED, SAFE),
    Case(
        "overloaded, with words of too many requests",
        503,
        error("Too many requests"),
        UpstreamError,
        OVERLOADED,
        SAFE,
    ),
    Case("overloaded, by words in a 529", 529, error("x", None, "overloaded_error"), UpstreamError, OVERLOADED),
    Case("too slow: 408", 408, b"", UpstreamTimeout, "upstream_timeout"),
    Case("too slow: 504", 504, HTML, UpstreamTimeout, "upstream_timeout"),
    Case("too slow: 520", 520, HTML, UpstreamTimeout, "upstream_timeout"),
    Case("too slow: 522", 522, HTML, UpstreamTimeout, "upstream_timeout"),
    Case("too slow: 524", 524, HTML, UpstreamTimeout, "upstream_timeout"),
    Case("a wrong address", 404, HTML, UpstreamError, "upstream_error", OTHER),
    Case("a wrong method", 405, b"", UpstreamError, "upstream_error", OTHER),
    Case(
        "any other bad request",
        400,
        error("Your prompt is odd. (request id: 2026)", "bad_response_status_code"),
        InvalidRequest,
        "bad_response_status_code",
        message="Your prompt is odd. (request id: 2026)",
    ),
    Case(
        "a bad request without words",
        400,
        HTML,
        InvalidRequest,
        None,
        message="The upstream refused the request (status 400).",
    ),
    Case("a removed address", 410, HTML, UpstreamError, "upstream_error", OTHER),
    Case("a conflict", 409, b'{"detail":"no"}', InvalidRequest, None, message="no"),
    Case("an unsupported media type", 415, b'{"detail":"no"}', InvalidRequest, None, message="no"),
    Case("unprocessable", 422, b'{"detail":"no"}', InvalidRequest, None, message="no"),
    Case("a crash", 500, HTML, UpstreamError, "upstream_error", AMBIGUOUS),
    Case("a bad gateway", 502, HTML, UpstreamError, "upstream_error", AMBIGUOUS),
    Case("status 499", 499, b"", UpstreamError, "upstream_error"),
    Case("an unknown status", 599, b"", UpstreamError, "upstream_error"),
    Case("a teapot", 418, error("short and stout"), UpstreamError, "upstream_error"),
    Case(
        "an error inside a 200, with a status",
        200,
        error("upstream overloaded", 503, "server_error"),
        UpstreamError,
        OVERLOADED,
        SAFE,
    ),
    Case(
        "an error inside a 200, as text",
        200,
        b'{"error":"boom"}',
        UpstreamError,
        "upstream_error",
        message="The upstream answered with an error (status 200).",
    ),
    Case("a refusal inside a 200", 200, error("x", "content_filter"), ModerationBlocked, "moderation_blocked"),
    Case("too many requests inside a 200", 200, error("x", "429"), RateLimited, "rate_limit_exceeded", SAFE),
    Case(
        "too many requests inside a 200, by its code",
        200,
        error("x", "rate_limit_exceeded"),
        RateLimited,
        "rate_limit_exceeded",
        SAFE,
    ),
    Case(
        "overloaded inside a 200, by its code",
        200,
        error("x", "server_is_overloaded"),
        UpstreamError,
        OVERLOADED,
        SAFE,
    ),
    Case("overloaded inside a 200, by words", 200, error("overloaded_error"), UpstreamError, OVERLOADED),
    Case(
        "no credit inside a 200",
        200,
        error("x", "insufficient_quota"),
        UpstreamError,
        UPSTREAM_QUOTA,
        OTHER,
    ),
    Case(
        "our key refused inside a 200",
        200,
        error("x", "invalid_api_key"),
        UpstreamAuth,
        "upstream_auth",
        OTHER,
    ),
    Case(
        "our key refused inside a 200, Anthropic's words",
        200,
        error("invalid x-api-key", type="authentication_error"),
        UpstreamAuth,
        "upstream_auth",
        OTHER,
    ),
    Case(
        "no credit inside a 200, Anthropic's words",
        200,
        error("Your credit balance is too low to access the API."),
        UpstreamError,
        UPSTREAM_QUOTA,
        OTHER,
    ),
    Case("a crash inside a 200", 200, error("x", 500), UpstreamError, "upstream_error"),
)

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def failure_of(case: Case) -> UpstreamFailure:
    body = case.body if isinstance(case.body, bytes) else orjson.dumps({"error": case.body})
    return classify(case.status, case.headers, body, pass_through=case.pass_through, now=NOW)


@each_case
def test_an_error_answer_becomes_one_of_our_errors(case: Case) -> None:
    failure = failure_of(case)
    assert (type(failure.error), failure.error.code, failure.retry_safety) == (case.kind, case.code, case.retry_safety)
    assert case.message in {None, failure.error.message}
    assert not any(word in failure.error.message for word in ("sk-", "org-", "10.0.0.7", "nginx", "<"))
    assert failure.error.detail is not None
    assert failure.error.detail.startswith(f"upstream answered {case.status}")


SETTINGS = {
    "a temporary redirect": "base_url",
    "no credit, by status": "api_key",
    "no credit, OpenAI's words": "api_key",
    "no such model": "model",
    "no such model, with the caller's key": "model",
    "our key refused": "api_key",
    "our key refused, without words": "api_key",
    "our key refused inside a 200": "api_key",
    "the caller's key refused": None,
    "a wrong address": "base_url",
    "a crash": None,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_failure_names_the_setting_to_look_at(name: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    assert failure_of(case).setting == SETTINGS[name]


@each_case
def test_only_rate_limits_let_clients_retry(case: Case) -> None:
    should_retry = failure_of(case).error.headers.get("x-should-retry", "unset")
    is_rate_limit = isinstance(failure_of(case).error, RateLimited) and case.code != "insufficient_quota"
    assert should_retry == ("unset" if is_rate_limit else "false")


@pytest.mark.parametrize("rule", ERROR_RULES, ids=lambda rule: rule.name)
def test_each_rule_is_needed(rule: ErrorRule, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [summary(case) for case in CASES]
    monkeypatch.setattr(
        error_mapping,
        "ERROR_RULES",
        tuple(replace(each, statuses=()) if each is rule else each for each in ERROR_RULES),
    )
    assert [summary(case) for case in CASES] != before


def summary(case: Case) -> object:
    try:
        failure = failure_of(case)
    except StopIteration:
        return None
    return type(failure.error), failure.error.code, failure.error.message, failure.retry_safety


def test_moderation_details_are_passed_on() -> None:
    details = {"moderation_stage": "output", "categories": ["sexual"]}
    case = Case("", 400, error(BLOCKED, "moderation_blocked", moderation_details=details), ModerationBlocked, "")
    assert failure_of(case).error.body["error"]["moderation_details"] == details
    assert "moderation_details" not in failure_of(replace(case, body=error(BLOCKED, "moderation_blocked"))).error.extra


@pytest.mark.parametrize("pass_through", [OURS, CALLERS])
def test_a_rate_limit_says_how_long_to_wait(pass_through: bool) -> None:
    for retry_after, seconds in (("7", "7"), ("0", "1"), ("99999999", "60"), ("soon", "1")):
        failure = classify(429, {"retry-after": retry_after}, b"", pass_through=pass_through, now=NOW)
        assert failure.error.headers["retry-after"] == seconds
        assert failure.retry_after == (None if retry_after == "soon" else float(retry_after))


def test_our_key_is_never_shown() -> None:
    body = orjson.dumps({"error": {"message": "odd: hunter2-key", "code": "hunter2-key"}})
    failure = classify(400, {}, body, pass_through=False, now=NOW, secrets=("hunter2-key",))
    assert "hunter2" not in f"{failure.error.body} {failure.error.detail}"
