"""Every error answer of upstreams: which error clients receive, and whether a retry is safe."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from app.upstream import error_mapping
from app.upstream.error_body import AttemptFacts
from app.upstream.error_mapping import ERROR_RULES, ErrorRule, UpstreamFailure, classify

NOW = 1_795_341_600.0
OURS, CALLERS = False, True
SAFE, OTHER, AMBIGUOUS = RetrySafety.SAFE, RetrySafety.OTHER_UPSTREAM, RetrySafety.AMBIGUOUS
FUTILE = RetrySafety.FUTILE


@dataclass(frozen=True, slots=True)
class Case:
    """`body`: an error object, or the whole body as bytes. `facts`: what differs from an attempt that failed at once."""

    name: str
    status: int
    body: Mapping[str, Any] | bytes
    kind: type[ApiError]
    code: str | None
    retry_safety: RetrySafety = RetrySafety.UNSAFE
    message: str | None = None
    pass_through: bool = OURS
    headers: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def error(message: str, code: object = None, type: str | None = None, **more: object) -> dict[str, object]:  # noqa: A002
    return {"message": message, "type": type, "param": None, "code": code} | more


HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx at 10.0.0.7</body></html>"
BLOCKED = "Your request was rejected by the safety system. safety_violations=[sexual]."
UPSTREAM_QUOTA, UPSTREAM_MODEL, OVERLOADED = "upstream_quota", "upstream_model", "upstream_overloaded"
BLOCKED_CODE, RATE, AUTH = "moderation_blocked", "rate_limit_exceeded", "upstream_auth"
DIALECT, TIMEOUT = "upstream_dialect", "upstream_timeout"

CASES = (
    Case("a temporary redirect", 307, b"", UpstreamNeedsOperator, "upstream_broken", OTHER),
    Case("a redirect to a result, after the work", 303, b"", UpstreamNeedsOperator, "upstream_broken", AMBIGUOUS, facts={"elapsed": 20.0}),
    Case("a permanent redirect with words of refusal", 301, error("content policy"), UpstreamNeedsOperator, "upstream_broken", OTHER),
    Case("http in place of https", 400, b"Client sent an HTTP request to an HTTPS server.", UpstreamNeedsOperator, "upstream_error", OTHER, "The upstream has to be reached by https, and this server uses http (status 400). Only the operator of this server can mend that."),
    Case("a refusal by OpenAI", 400, error(BLOCKED, "moderation_blocked", "image_generation_user_error"), ModerationBlocked, BLOCKED_CODE, message=BLOCKED),
    Case("a refusal by OpenAI, older form", 400, error("Your request was rejected as a result of our safety system.", "content_policy_violation"), ModerationBlocked, BLOCKED_CODE),
    Case("a refusal by Azure, one level deeper", 400, error("The response was filtered", "x", innererror={"code": "ResponsibleAIPolicyViolation"}), ModerationBlocked, BLOCKED_CODE),
    Case("a refusal under a status that invites retries", 500, error("prompt blocked", "sensitive_words_detected"), ModerationBlocked, BLOCKED_CODE),
    Case("a refusal in Chinese", 429, error("提示词包含敏感词"), ModerationBlocked, BLOCKED_CODE),
    Case("a refusal by a field that only safety systems write", 403, error("No.", 403, metadata={"flagged_input": "a…"}), ModerationBlocked, BLOCKED_CODE),
    Case("a refusal by its status alone", 451, b"", ModerationBlocked, BLOCKED_CODE, message="Your request was rejected by the upstream's safety system."),
    Case("a firewall in front of the upstream, as a page", 403, HTML, UpstreamNeedsOperator, "upstream_blocked", OTHER, message="Something before the upstream blocks this server (user agent limner/9), with status 403. Only the operator of this server can mend that.", facts={"user_agent": "limner/9"}),
    Case("a firewall, and no user agent is known", 403, b"error code: 1010", UpstreamNeedsOperator, "upstream_blocked", OTHER, message="Something before the upstream blocks this server, with status 403. Only the operator of this server can mend that."),
    Case("a firewall, by its header", 403, b"", UpstreamNeedsOperator, "upstream_blocked", OTHER, headers={"cf-mitigated": "challenge"}),
    Case("a challenge under a status that invites retries", 503, HTML, UpstreamNeedsOperator, "upstream_blocked", AMBIGUOUS, headers={"cf-mitigated": "challenge"}),
    Case("no credit, OpenAI's words", 429, error("x", "insufficient_quota"), UpstreamNeedsOperator, UPSTREAM_QUOTA, OTHER),
    Case("no credit, a relay's words", 403, error("用户额度不足"), UpstreamNeedsOperator, UPSTREAM_QUOTA, OTHER),
    Case("no credit, by status", 402, b"", UpstreamNeedsOperator, UPSTREAM_QUOTA, OTHER),
    Case("no credit, found out after the work", 500, error("余额不足"), UpstreamNeedsOperator, UPSTREAM_QUOTA, AMBIGUOUS, facts={"elapsed": 30.0}),
    Case("no credit, the caller's own", 403, error("预扣费 failed", "insufficient_user_quota"), RateLimited, "insufficient_quota", FUTILE, "预扣费 failed", CALLERS),
    Case("no credit, the caller's own, by status", 402, b"", RateLimited, "insufficient_quota", FUTILE, "You exceeded your current quota, please check your plan and billing details.", CALLERS),
    Case("words of a used-up quota, without a window", 429, error("You exceeded your current quota, please check your plan."), UpstreamNeedsOperator, UPSTREAM_QUOTA, OTHER),
    Case("words of a used-up quota, with a window", 429, error("You exceeded your current quota.\nPlease retry in 1.2s."), RateLimited, RATE, SAFE),
    Case("words of a used-up quota, per minute", 429, error("Quota exceeded for requests per minute"), RateLimited, RATE, SAFE),
    Case("no such model", 404, error("The model `x` does not exist", "m"), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER),
    Case("no access to the model with our key", 403, error("No access to model", "model_not_found"), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER),
    Case("no such model, in words", 400, error("Incorrect model ID."), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER),
    Case("no such model, beside the code of a wrong value", 400, error("The model 'x' does not exist.", "invalid_value"), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER),
    Case("no such model, a relay's words", 503, error("No available channel for model x under group default (distributor)", "model_not_found"), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER),
    Case("a model that the caller may not use", 403, error("Project `p` does not have access to model `x`", "model_not_found"), Forbidden, "model_not_found", FUTILE, "Project `p` does not have access to model `x`", CALLERS),
    Case("no such model, with the caller's key", 404, error("x", "model_not_found"), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER, pass_through=CALLERS),
    Case("the name of our model, wrong in form", 400, error("Invalid value.", param="model"), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER),
    Case("a field that only we write", 400, error("Unknown parameter: 'modalities'.", "unknown_parameter", param="modalities"), UpstreamNeedsOperator, DIALECT, OTHER, "The upstream does not accept the field 'modalities', which this server writes. Only the operator of this server can mend that."),
    Case("our key refused", 401, error("Incorrect API key provided: sk-abc", "invalid_api_key"), UpstreamAuth, AUTH, OTHER, message="The upstream refused this server's key (status 401). Only the operator of this server can mend that."),
    Case("our key refused, without words", 401, b"", UpstreamAuth, AUTH, OTHER),
    Case("our key refused under 400", 400, error("API key not valid."), UpstreamAuth, AUTH, OTHER),
    Case("our key may not do that", 403, error("This API key may only list models."), UpstreamAuth, AUTH, OTHER),
    Case("the caller's key refused", 401, error("无效的令牌"), Unauthorized, "invalid_api_key", FUTILE, "无效的令牌", CALLERS),
    Case("the caller's key refused under 400", 400, error("Invalid API key"), Unauthorized, "invalid_api_key", FUTILE, pass_through=CALLERS),
    Case("the caller's key refused without words", 401, b"", Unauthorized, "invalid_api_key", FUTILE, "Incorrect API key provided.", CALLERS),
    Case("the caller refused", 403, error("No.", "region"), Forbidden, "region", FUTILE, "No.", CALLERS),
    Case("forbidden, in the upstream's words", 403, error("Your region is not supported.", "region"), Forbidden, "region", FUTILE, "The upstream forbids this request: Your region is not supported."),
    Case("a country that is not served", 403, error("User location is not supported."), UpstreamNeedsOperator, "upstream_blocked", OTHER, "The upstream does not serve the country of this server (status 403). Only the operator of this server can mend that."),
    Case("an image that the upstream was not let download", 403, error("Could not fetch the image: 403 Access Denied"), Forbidden, "upstream_forbidden", FUTILE, "The upstream forbids this request: Could not fetch the image: 403 Access Denied"),
    Case("forbidden without words", 403, b"", Forbidden, "upstream_forbidden", FUTILE, "The upstream forbids this request."),
    Case("a wrong size", 400, error("Invalid size 'x'.", "invalid_value", "image_generation_user_error", param="size"), UserError, "invalid_value", FUTILE, "Invalid size 'x'."),
    Case("a wrong size as 429", 429, error("Invalid size '7x7'."), InvalidRequest, None, FUTILE, "Invalid size '7x7'."),
    Case("a context too long, as 500", 500, error("This model's maximum context length is 8.", "context_length_exceeded"), InvalidRequest, "context_length_exceeded", FUTILE),
    Case("a context too long, found out late", 500, error("x", "context_length_exceeded"), InvalidRequest, "context_length_exceeded", AMBIGUOUS, facts={"elapsed": 9.0}),
    Case("a complaint under the status of a crash", 500, error("Odd.", None, "invalid_request_error"), InvalidRequest, None, FUTILE, "Odd."),
    Case("a body too large", 413, HTML, RequestTooLarge, "request_too_large", FUTILE),
    Case("too many requests", 429, error("Rate limit reached in organization org-x"), RateLimited, RATE, SAFE),
    Case("too many requests of the caller", 429, error("Rate limit reached for x."), RateLimited, RATE, SAFE, "Rate limit reached for x.", CALLERS),
    Case("too many requests of the caller, without words", 429, b"", RateLimited, RATE, SAFE, "Rate limit reached. Please try again later.", CALLERS),
    Case("too many requests, by words in a 500, which may have come after the work", 500, error("x", "rate_limit_exceeded"), RateLimited, RATE, AMBIGUOUS),
    Case("too many requests, by words in a 400", 400, error("Too many requests"), RateLimited, RATE, SAFE),
    Case("at capacity, by words in a 400", 400, error("We are at capacity."), RateLimited, RATE, SAFE),
    Case("overloaded, says the API at once", 503, error("The server is overloaded."), UpstreamError, OVERLOADED, SAFE),
    Case("overloaded, with a time to come back", 503, b"", UpstreamError, OVERLOADED, SAFE, headers={"retry-after": "7"}),
    Case("overloaded, in plain text", 503, b"no healthy upstream", UpstreamError, OVERLOADED, AMBIGUOUS),
    Case("overloaded, says the API late", 503, error("The server is overloaded."), UpstreamError, OVERLOADED, AMBIGUOUS, facts={"elapsed": 2.0}),
    Case("overloaded, with words of too many requests", 503, error("Too many requests"), UpstreamError, OVERLOADED, SAFE),
    Case("overloaded, by words in a 529", 529, error("x", None, "overloaded_error"), UpstreamError, OVERLOADED, AMBIGUOUS),
    Case("too slow: 408", 408, b"", UpstreamTimeout, TIMEOUT),
    Case("too slow: 499", 499, b"", UpstreamTimeout, TIMEOUT),
    Case("too slow: 504", 504, HTML, UpstreamTimeout, TIMEOUT),
    Case("too slow: 520", 520, HTML, UpstreamTimeout, TIMEOUT),
    Case("too slow: 522", 522, HTML, UpstreamTimeout, TIMEOUT),
    Case("too slow: 524", 524, HTML, UpstreamTimeout, TIMEOUT),
    Case("a wrong address", 404, HTML, UpstreamNeedsOperator, "upstream_error", OTHER, message="The upstream has nothing at the configured address (status 404). Only the operator of this server can mend that."),
    Case("a wrong method", 405, b"", UpstreamNeedsOperator, "upstream_error", OTHER),
    Case("a removed address", 410, HTML, UpstreamNeedsOperator, "upstream_error", OTHER),
    Case("nothing at an address, after the work", 404, HTML, UpstreamNeedsOperator, "upstream_error", AMBIGUOUS, facts={"elapsed": 9.0}),
    Case("an API that does not find its own image", 404, error("Result file not found"), UpstreamNeedsOperator, UPSTREAM_MODEL, AMBIGUOUS, facts={"elapsed": 9.0}),
    Case("an unknown model, found out late", 404, error("x", "model_not_found"), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER, facts={"elapsed": 9.0}),
    Case("a path that the API does not know", 404, error("Invalid URL (POST /v2/chat/completions)"), UpstreamNeedsOperator, "upstream_error", OTHER, message="The upstream's API has no chat at the configured path (status 404). Only the operator of this server can mend that."),
    Case("an API that has nothing that fits", 404, error("No provider fits your routing."), UpstreamNeedsOperator, UPSTREAM_MODEL, OTHER),
    Case("an input that is not found", 404, error("Failed to download image from the given URL"), InvalidRequest, None, FUTILE, "Failed to download image from the given URL"),
    Case("any other bad request", 400, error("Your prompt is odd. (request id: 2026)", "bad_response_status_code"), InvalidRequest, "bad_response_status_code", FUTILE, "Your prompt is odd."),
    Case("a bad request without words", 400, HTML, InvalidRequest, None, FUTILE, "The upstream refused the request (status 400)."),
    Case("a conflict says nothing of its time", 409, b'{"detail":"no"}', InvalidRequest, None, message="no"),
    Case("too early says nothing of its time", 425, b"", InvalidRequest, None),
    Case("an unsupported media type", 415, b'{"detail":"no"}', InvalidRequest, None, FUTILE, "no"),
    Case("unprocessable", 422, b'{"detail":"no"}', InvalidRequest, None, FUTILE, "no"),
    Case("a teapot", 418, error("short and stout"), InvalidRequest, None, FUTILE, "short and stout"),
    Case("a crash", 500, HTML, UpstreamError, "upstream_error", AMBIGUOUS),
    Case("a bad gateway", 502, HTML, UpstreamError, "upstream_error", AMBIGUOUS),
    Case("no storage", 507, b"", UpstreamError, "upstream_error", AMBIGUOUS),
    Case("an unknown status", 599, b"", UpstreamError, "upstream_error", AMBIGUOUS),
    Case("an error inside a 200, with a status", 200, error("overloaded", 503, "server_error"), UpstreamError, OVERLOADED, SAFE),
    Case("an error inside a 200, with a status, late", 200, error("overloaded", 503), UpstreamError, OVERLOADED, facts={"elapsed": 3.0}),
    Case("an error inside a 200, with a status, behind a keep-alive", 200, error("overloaded", 503), UpstreamError, OVERLOADED, facts={"came_first": False}),
    Case("an unknown complaint inside a 200", 200, b'{"error":"boom"}', InvalidRequest, None, message="boom"),
    Case("a refusal inside a 200", 200, error("x", "content_filter"), ModerationBlocked, BLOCKED_CODE),
    Case("too many requests inside a 200", 200, error("x", "429"), RateLimited, RATE, SAFE),
    Case("too many requests inside a 200, behind a keep-alive", 200, error("x", "429"), RateLimited, RATE, facts={"came_first": False}),
    Case("too many requests inside a 200, by its code", 200, error("x", "rate_limit_exceeded"), RateLimited, RATE, SAFE),
    Case("overloaded inside a 200, by its code", 200, error("x", "server_is_overloaded"), UpstreamError, OVERLOADED, SAFE),
    Case("overloaded inside a 200, by Anthropic's type", 200, error("x", None, "overloaded_error"), UpstreamError, OVERLOADED),
    Case("no credit inside a 200", 200, error("x", "insufficient_quota"), UpstreamNeedsOperator, UPSTREAM_QUOTA, OTHER),
    Case("no credit inside a 200, behind a keep-alive", 200, error("x", "insufficient_quota"), UpstreamNeedsOperator, UPSTREAM_QUOTA, facts={"came_first": False}),
    Case("our key refused inside a 200", 200, error("x", "invalid_api_key"), UpstreamAuth, AUTH, OTHER),
    Case("our key refused inside a 200, Anthropic's words", 200, error("invalid x-api-key", type="authentication_error"), UpstreamAuth, AUTH, OTHER),
    Case("no credit inside a 200, Anthropic's words", 200, error("Your credit balance is too low to access the API."), UpstreamNeedsOperator, UPSTREAM_QUOTA, OTHER),
    Case("a status that there is not", 99, b"", UpstreamError, "upstream_error"),
    Case("a status that is not the last", 101, b"", UpstreamError, "upstream_error"),
    Case("a crash inside a 200", 200, error("x", 500), UpstreamError, "upstream_error"),
    Case("a crash inside a 200, by its type", 200, error("x", None, "server_error"), UpstreamError, "upstream_error"),
)  # fmt: skip

#: Words of all rules but those that name a status of the 5xx kind, and keys under which errors have them.
WORDS = (
    "overloaded",
    "rate limit reached",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
    "timed out",
    "blocked",
)
KEYS = ("error", "message", "code", "type", "status", "detail", "param", "loc", "errors", "metadata")

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def failure_of(case: Case) -> UpstreamFailure:
    body = case.body if isinstance(case.body, bytes) else orjson.dumps({"error": case.body})
    facts = AttemptFacts(now=NOW, pass_through=case.pass_through, **case.facts)
    return classify(case.status, case.headers, body, facts)


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
    "a path that the API does not know": "base_url",
    "a firewall, by its header": None,
    "a field that only we write": "dialect",
    "the name of our model, wrong in form": "model",
    "forbidden, in the upstream's words": None,
    "a crash": None,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_failure_names_the_setting_to_look_at(name: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    assert failure_of(case).setting == SETTINGS[name]


@each_case
def test_only_rate_limits_let_clients_retry(case: Case) -> None:
    should_retry = failure_of(case).error.headers.get("x-should-retry", "unset")
    is_rate_limit = isinstance(failure_of(case).error, RateLimited) and case.retry_safety is SAFE
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
        failure = classify(429, {"retry-after": retry_after}, b"", AttemptFacts(now=NOW, pass_through=pass_through))
        assert failure.error.headers["retry-after"] == seconds
        assert failure.retry_after == (None if retry_after == "soon" else float(retry_after))


def test_our_key_is_never_shown() -> None:
    body = orjson.dumps({"error": {"message": "odd: hunter2-key", "code": "hunter2-key"}})
    failure = classify(400, {}, body, AttemptFacts(now=NOW, secrets=("hunter2-key",)))
    assert "hunter2" not in f"{failure.error.body} {failure.error.detail}"


@each_case
def test_only_failures_of_the_upstream_itself_count_against_it(case: Case) -> None:
    names_a_failure = case.status >= 500 or "overloaded inside a 200" in case.name or "crash inside" in case.name
    is_failure = names_a_failure or "an error inside a 200" in case.name
    counts = failure_of(case).error.counts_against_upstream
    assert counts is (is_failure and case.kind in {UpstreamError, UpstreamTimeout})


@given(
    st.sampled_from([*range(400, 500), 200]),
    st.recursive(
        st.none() | st.integers(0, 499) | st.sampled_from(WORDS) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from([{}, {"retry-after": "1"}, {"cf-mitigated": "challenge"}]),
    st.floats(0, 600),
    st.booleans(),
)
def test_no_complaint_counts_against_an_upstream(
    status: int, document: object, headers: dict[str, str], elapsed: float, came_first: bool
) -> None:
    facts = AttemptFacts(now=NOW, elapsed=elapsed, came_first=came_first)
    failure = classify(status, headers, orjson.dumps({"error": document}), facts)
    assert not failure.error.counts_against_upstream


def test_a_failure_tells_its_time() -> None:
    assert classify(500, {}, b"", AttemptFacts(now=NOW, elapsed=12.5)).elapsed == 12.5


@pytest.mark.parametrize(
    ("message", "wants"),
    [
        ("No endpoints found that support the requested output modalities: image, text", True),
        ("The requested combination of response modalities (IMAGE, TEXT) is not supported by the model.", True),
        ("Unknown parameter: 'modalities'.", False),
    ],
)
def test_a_model_that_cannot_answer_in_the_requested_modalities_may_do_so_in_others(message: str, wants: bool) -> None:
    failure = classify(404, {}, orjson.dumps({"error": {"message": message, "code": 404}}), AttemptFacts(now=NOW))
    assert (failure.wants_other_modalities, failure.error.code) == (wants, "upstream_dialect")


@pytest.mark.parametrize("prompt", ["insufficient_quota", "A poster: invalid api key, model not found, no credits"])
def test_words_of_the_client_prove_nothing(prompt: str) -> None:
    body = orjson.dumps({"error": {"message": f"Cannot paint '{prompt[:40]}'"}})
    failure = classify(400, {}, body, AttemptFacts(now=NOW, client_texts=(prompt, "user-7")))
    assert (type(failure.error), failure.retry_safety) == (InvalidRequest, RetrySafety.FUTILE)
