"""The shapes of upstreams' error bodies, and which of their words clients must not see."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.error_mapping import UpstreamErrorBody, parse_error_body, parse_retry_after

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC).timestamp()


def read(body: object, status: int = 400, *secrets: str) -> UpstreamErrorBody:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return parse_error_body(status, {}, data, now=NOW, secrets=secrets)


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    body: object
    message: str
    code: str | None = None
    searchable: str | None = None


SHAPES = (
    Shape("OpenAI's envelope", {"error": {"message": "m", "type": "t", "code": "c"}}, "m", "c", "m t c"),
    Shape("a text in place of an error object", {"error": "m"}, "m"),
    Shape("a list around it", [{"error": {"message": "m", "status": "INVALID"}}], "m", None, "m INVALID"),
    Shape("an error in an error", {"error": {"error": {"message": "m"}}}, "m"),
    Shape("a list of errors", {"errors": [{"msg": "m", "code": "c"}]}, "m", "c"),
    Shape("a bare message", {"message": "m", "code": 7}, "m"),
    Shape("FastAPI's detail", {"detail": "m"}, "m"),
    Shape("FastAPI's list of details", {"detail": [{"msg": "m"}]}, "", None, ""),
    Shape("a problem document", {"title": "m", "detail": ""}, "m"),
    Shape(
        "OpenRouter's error of its provider",
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "too big"}}},
        "Provider returned error",
        None,
        "Provider returned error too big",
    ),
    Shape("a code with odd characters", {"error": {"message": "m", "code": "a b\r\n"}}, "m"),
    Shape("a code that is a key", {"error": {"message": "m", "code": "sk-abcdef"}}, "m"),
    Shape("plain text", b" no healthy upstream\n", "no healthy upstream"),
    Shape("an HTML page", b"<!doctype html><p>no", "", None, ""),
    Shape("an empty body", b"", "", None, ""),
    Shape("an empty list", [], "", None, ""),
    Shape("a number", 7, "", None, ""),
    Shape("a message of another type", {"error": {"message": {"a": "b"}}}, "", None, "b"),
    Shape("truncated JSON", b'{"error":{"message":"a', '{"error":{"message":"a'),
    Shape("not UTF-8", b"\xff\xfe", "\ufffd\ufffd"),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_shape_is_read(shape: Shape) -> None:
    body = read(shape.body)
    assert (body.public_message, body.code) == (shape.message, shape.code)
    assert shape.searchable in {None, body.searchable}


def test_the_public_message_is_redacted() -> None:
    error = {"error": "hunter2 of org-ABCdef123 got no answer of localhost:8000"}
    assert read(error, 400, "hunter2").public_message == "[key] of [account] got no answer of [address]"


def test_the_detail_for_the_log_keeps_addresses_but_no_keys() -> None:
    detail = read(b"10.1.2.3 sk-abc Bearer x hunter2" + b"x" * 3000, 500, "hunter2").detail
    assert detail.startswith("upstream answered 500: 10.1.2.3 [key] Bearer [key] [key]xxx")
    assert len(detail) < 2100


@dataclass(frozen=True, slots=True)
class Wait:
    name: str
    headers: dict[str, str]
    seconds: float | None


WAITS = (
    Wait("absent", {}, None),
    Wait("seconds", {"retry-after": " 7 "}, 7),
    Wait("a part of a second", {"retry-after": "2.5"}, 2.5),
    Wait("milliseconds go first", {"retry-after": "7", "retry-after-ms": "250"}, 0.25),
    Wait("senseless milliseconds are ignored", {"retry-after": "7", "retry-after-ms": "x"}, 7),
    Wait("a date", {"retry-after": formatdate(NOW + 30, usegmt=True)}, 30),
    Wait("a date in the past", {"retry-after": formatdate(NOW - 30, usegmt=True)}, 0),
    Wait(
        "a date by the clock of the upstream",
        {"retry-after": formatdate(NOW + 999, usegmt=True), "date": formatdate(NOW + 990, usegmt=True)},
        9,
    ),
    Wait("a date without a zone", {"retry-after": "Sun, 22 Nov 2026 10:00:05 -0000"}, 5),
    Wait("a year", {"retry-after": "31536000"}, 31_536_000),
    Wait("negative", {"retry-after": "-5"}, None),
    Wait("words", {"retry-after": "soon"}, None),
    Wait("an exponent", {"retry-after": "1e3"}, None),
    Wait("infinity", {"retry-after": "inf"}, None),
    Wait("full-width digits", {"retry-after": "７"}, None),
    Wait("more digits than sense", {"retry-after": "9" * 5000}, None),
    Wait("an hour out of all range", {"retry-after": "Sun, 22 Nov 2026 99999999999999999999:00:00 GMT"}, None),
)


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.name)
def test_retry_after_is_parsed(wait: Wait) -> None:
    assert parse_retry_after(wait.headers, NOW) == wait.seconds


@given(st.text(max_size=60) | st.datetimes().map(lambda date: format_datetime(date.replace(tzinfo=UTC), usegmt=True)))
def test_no_retry_after_makes_it_fail(value: str) -> None:
    seconds = parse_retry_after({"retry-after": value, "date": value}, NOW)
    assert seconds is None or seconds >= 0


STAGE = {"moderation_stage": "input"}


@pytest.mark.parametrize(
    ("details", "valid"),
    [
        ({"moderation_stage": "input", "categories": ["violence"]}, True),
        ({"moderation_stage": "output", "categories": ["sexual", "self-harm/intent"]}, True),
        ({"moderation_stage": "unknown", "categories": [], "more": 1}, True),
        ({"moderation_stage": "later", "categories": []}, False),
        ({"moderation_stage": [], "categories": []}, False),
        (STAGE, False),
        (STAGE | {"categories": ["x"] * 33}, False),
        (STAGE | {"categories": [7]}, False),
        (STAGE | {"categories": ["http://10.0.0.1"]}, False),
        ("sexual", False),
    ],
)
def test_moderation_details_are_as_documented_or_absent(details: object, valid: bool) -> None:
    found = read({"error": {"message": "m", "moderation_details": details}}).moderation_details
    assert (found is not None) == valid
    assert found is None or set(found) == {"moderation_stage", "categories"}


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (200, {"code": 503}, 503),
        (200, {"code": "429"}, 429),
        (200, {"code": "x", "status": 400}, 400),
        (200, {"code": "rate_limit_exceeded"}, 429),
        (200, {"code": "rate_limit_exceeded", "status": 503}, 503),
        (200, {"code": 200}, 200),
        (200, {"code": 50300}, 200),
        (200, "503", 200),
        (400, {"code": 503}, 400),
    ],
)
def test_a_status_inside_a_200_counts(status: int, error: object, expected: int) -> None:
    assert read({"error": error}, status).status == expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 999) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["error", "errors", "message", "code", "detail", "moderation_details", "status"]), inner
            )
        ),
    )
)
def test_no_json_makes_it_fail(document: object) -> None:
    body = read(document)
    assert len(body.public_message) <= 500
