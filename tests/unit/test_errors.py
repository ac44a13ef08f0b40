"""The tree in the docstring is the real tree, and each error has the body and headers that clients rely on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from app import errors
from app.errors import (
    ApiError,
    InvalidRequest,
    ModerationBlocked,
    RateLimited,
    RetrySafety,
    ServiceUnavailable,
    Unauthorized,
)

CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ApiError)}


@dataclass(frozen=True, slots=True)
class Drawn:
    """One line of the tree: what the docstring says about a class."""

    parent: str | None
    status: int
    type: str
    code: str | None


def drawn_tree() -> Iterator[tuple[str, Drawn]]:
    """Parse the tree: `…` is the parent's type, a code is one bare word, everything else after the type is a remark."""
    path: list[tuple[int, str, str]] = []
    for branch, name, status, rest in re.findall(
        r"^([ │├└─]+)([A-Z]\w+) +([0-9]{3}) +(.+)$", errors.__doc__ or "", re.MULTILINE
    ):
        while path and path[-1][0] >= len(branch):
            path.pop()
        kind, _, remark = rest.partition(" ")
        kind = path[-1][2] if kind == "…" else kind
        code = re.match("[a-z_]+(?=  |$)", remark.strip())
        yield name, Drawn(path[-1][1] if path else None, int(status), kind, code[0] if code else None)
        path.append((len(branch), name, kind))


TREE = dict(drawn_tree())


def test_the_tree_shows_every_class() -> None:
    assert list(TREE) == list(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_the_tree_shows_the_real_attributes(name: str) -> None:
    kind = CLASSES[name]
    parent = kind.__base__.__name__ if kind.__base__ in CLASSES.values() and kind.__base__ else None
    assert TREE[name] == Drawn(parent, kind.status, kind.type, kind.code)


def test_no_error_has_a_status_whose_body_a_cdn_replaces() -> None:
    assert not {kind.status for kind in CLASSES.values()} & {502, 504}


@pytest.mark.parametrize("name", CLASSES)
def test_a_retry_is_forbidden_unless_it_costs_nothing(name: str) -> None:
    """A retry after 429 or 503 is free: no request was sent upstream, or its result is kept."""
    header = CLASSES[name]("why").headers.get("x-should-retry")
    assert header == (None if name in {"RateLimited", "ServiceUnavailable", "SpoolFull"} else "false")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    error: ApiError
    status: int
    message: str
    type: str
    param: str | None
    code: str | None
    headers: dict[str, str]
    more: dict[str, Any]


NO_RETRY = {"x-should-retry": "false"}
CASES = [
    Case(
        "an unexpected error has OpenAI's message",
        ApiError(),
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
        None,
        NO_RETRY,
        {},
    ),
    Case(
        "a wrong parameter is named, with its own code",
        InvalidRequest("Invalid type for 'n'.", param="n", code="invalid_type"),
        400,
        "Invalid type for 'n'.",
        "invalid_request_error",
        "n",
        "invalid_type",
        NO_RETRY,
        {},
    ),
    Case(
        "a refusal has its details beside the four keys",
        ModerationBlocked("Rejected.", extra={"moderation_details": {"moderation_stage": "output"}}),
        400,
        "Rejected.",
        "image_generation_user_error",
        None,
        "moderation_blocked",
        NO_RETRY,
        {"moderation_details": {"moderation_stage": "output"}},
    ),
    Case(
        "an instance may have a type of its own",
        InvalidRequest("Maximum content size limit exceeded.", type="server_error"),
        400,
        "Maximum content size limit exceeded.",
        "server_error",
        None,
        None,
        NO_RETRY,
        {},
    ),
    Case(
        "a missing key has no code",
        Unauthorized("You didn't provide an API key.", headers={"www-authenticate": "Bearer"}),
        401,
        "You didn't provide an API key.",
        "invalid_request_error",
        None,
        None,
        NO_RETRY | {"www-authenticate": "Bearer"},
        {},
    ),
    Case(
        "an overload says nothing about a retry",
        ServiceUnavailable("Later."),
        503,
        "Later.",
        "server_error",
        None,
        "server_is_overloaded",
        {},
        {},
    ),
    Case(
        "headers of an instance take precedence",
        ApiError("Once more.", headers={"x-should-retry": "true"}),
        500,
        "Once more.",
        "server_error",
        None,
        None,
        {"x-should-retry": "true"},
        {},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_has_its_status_body_and_headers(case: Case) -> None:
    keys = {"message": case.message, "type": case.type, "param": case.param, "code": case.code}
    assert case.error.status == case.status
    assert case.error.body == {"error": keys | case.more}
    assert list(case.error.body["error"])[:4] == ["message", "type", "param", "code"]
    assert case.error.headers == case.headers


@dataclass(frozen=True, slots=True)
class Wait:
    name: str
    retry_after: float
    seconds: str
    milliseconds: str


WAITS = [
    Wait("as long as it takes", 7, "7", "7000"),
    Wait("the exact wait stands in milliseconds", 2.75, "3", "2750"),
    Wait("at least a second, else SDKs hammer", 0, "1", "1000"),
    Wait("at most a minute, more is ignored by SDKs", 3600, "60", "60000"),
]


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.name)
def test_a_rate_limit_has_the_time_to_wait(wait: Wait) -> None:
    error = RateLimited("Slow down.", retry_after=wait.retry_after, headers={"x-queue": "full"}, param="n")
    waits = {"retry-after": wait.seconds, "retry-after-ms": wait.milliseconds}
    assert error.headers == waits | {"x-queue": "full"}
    assert error.body["error"] == {
        "message": "Slow down.",
        "type": "requests",
        "param": "n",
        "code": "rate_limit_exceeded",
    }


def test_a_rate_limit_without_a_wait_asks_for_a_second() -> None:
    assert RateLimited("Slow down.").headers == {"retry-after": "1", "retry-after-ms": "1000"}


def test_the_detail_is_for_the_log_only() -> None:
    error = ApiError("Image generation failed", detail="connect to 10.0.0.7:8080 refused")
    assert error.detail == "connect to 10.0.0.7:8080 refused"
    assert "10.0.0.7" not in f"{error.body}{error.headers}{error}"


def test_bodies_are_independent_of_each_other() -> None:
    details: dict[str, object] = {"moderation_details": {}}
    error = ModerationBlocked("Rejected.", extra=details)
    error.body["error"]["code"] = None
    details["another"] = {}
    assert error.body["error"]["code"] == "moderation_blocked"
    assert "another" not in error.body["error"]


def test_errors_after_work_may_have_been_done_say_that_they_may_have_cost() -> None:
    costly = {name for name, kind in CLASSES.items() if kind("why").may_have_cost}
    upstreams = {"UpstreamError", "UpstreamNeedsOperator", "UpstreamAuth", "UpstreamTimeout", "UpstreamInvalidReply"}
    assert costly == upstreams | {"ModerationBlocked", "NoImageInReply", "JobLost", "ImageUnavailable"}


@pytest.mark.parametrize("safety", RetrySafety)
def test_the_retry_safety_of_an_attempt_decides_whether_its_error_may_have_cost(safety: RetrySafety) -> None:
    error = ApiError()
    error.retry_safety = safety
    assert error.may_have_cost is safety.may_have_cost is (safety in {RetrySafety.AMBIGUOUS, RetrySafety.UNSAFE})


def test_what_only_the_operator_can_mend_does_not_count_against_an_upstream() -> None:
    counted = {name for name, kind in CLASSES.items() if kind("why").counts_against_upstream}
    assert counted == {"UpstreamError", "UpstreamUnreachable", "UpstreamTimeout", "UpstreamInvalidReply"}
