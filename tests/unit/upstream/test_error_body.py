"""The shapes of upstreams' error bodies, and which of their words clients must not see."""

from dataclasses import dataclass
from datetime import UTC, datetime
from unittest.mock import Mock

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream import error_body
from app.upstream.error_body import AttemptFacts, UpstreamErrorBody, parse_error_body

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC).timestamp()


def read(body: object, status: int = 400, *secrets: str) -> UpstreamErrorBody:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return parse_error_body(status, {}, data, AttemptFacts(now=NOW, secrets=secrets))


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    body: object
    message: str
    code: str | None = None
    searchable: str | None = None


def json_at_depth(levels: int) -> object:
    return {"a": json_at_depth(levels - 1)} if levels else {"message": "m"}


SHAPES = (
    Shape("OpenAI's envelope", {"error": {"message": "m", "type": "t", "code": "c"}}, "m", "c", "m t c"),
    Shape("a text in place of an error object", {"error": "m"}, "m"),
    Shape("a list around it", [{"error": {"message": "m", "status": "INVALID"}}], "m", None, "m INVALID"),
    Shape("an error in an error", {"error": {"error": {"message": "m"}}}, "m"),
    Shape("a list of errors", {"errors": [{"msg": "m", "code": "c"}]}, "m", "c"),
    Shape("a bare message", {"message": "m", "code": 7}, "m"),
    Shape("FastAPI's detail", {"detail": "m"}, "m"),
    Shape("FastAPI's list of details", {"detail": [{"msg": "m", "loc": ["body", "n"]}]}, "m", None, "m body n"),
    Shape("FastAPI's object of details", {"detail": {"error": "m"}}, "m"),
    Shape("a relay's envelope of its own", {"base_resp": {"status_code": 1026, "status_msg": "m"}}, "m"),
    Shape("keys in capitals", {"Code": "x", "Message": "m"}, "m", None, "x m"),
    Shape("a problem document", {"title": "m", "detail": ""}, "m"),
    Shape(
        "OpenRouter's error of its provider, in words",
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "too big"}}},
        "Provider returned error",
        None,
        "Provider returned error too big",
    ),
    Shape(
        "OpenRouter's error of its provider, as JSON",
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": '{"error": {"message": "m", "code": 7}}'},
            }
        },
        "m",
    ),
    Shape(
        "an error as JSON behind a relay's words", {"error": {"message": 'status 400: {"message": "m"} (id 7)'}}, "m"
    ),
    Shape("braces that are no JSON", {"error": {"message": "use {x} for x"}}, "use {x} for x"),
    Shape("half an object in a text", {"error": {"message": "} and {"}}, "} and {"),
    Shape(
        "what was sent is not what is said",
        {"message": "m", "input": {"message": "a prompt"}, "prompt": "p"},
        "m",
        None,
        "m",
    ),
    Shape("an error in XML", b'<?xml version="1.0"?><Error><Code>Busy</Code></Error>', "Busy"),
    Shape("an XHTML page", b'<?xml version="1.0"?><!DOCTYPE html><html>no</html>', "", None, ""),
    Shape("a byte order mark", b'\xef\xbb\xbf{"error": {"message": "m", "code": "c"}}', "m", "c"),
    Shape("Python's stack trace", {"error": "No luck. Traceback (most recent call last): File x.py"}, "No luck."),
    Shape("Node's stack trace", {"error": "No luck.\n    at Object.<anonymous> (/srv/x.js:1:2)"}, "No luck."),
    Shape("deeper than any error", json_at_depth(20), "", None),
    Shape("a code with odd characters", {"error": {"message": "m", "code": "a b\r\n"}}, "m"),
    Shape("a code that is a key", {"error": {"message": "m", "code": "sk-abcdef"}}, "m"),
    Shape("plain text", b" no healthy upstream\n", "no healthy upstream"),
    Shape("an HTML page", b"<!doctype html><p>no", "", None, ""),
    Shape("an empty body", b"", "", None, ""),
    Shape("an empty list", [], "", None, ""),
    Shape("a number", 7, "", None, ""),
    Shape("a message of another type", {"error": {"message": {"a": "b"}}}, "", None, "b"),
    Shape("truncated JSON", b'{"error":{"message":"a', '{"error":{"message":"a'),
    Shape(
        "a code in capitals",
        {"code": "NOT_ENOUGH_BALANCE", "msg": "m"},
        "m",
        "NOT_ENOUGH_BALANCE",
        "NOT_ENOUGH_BALANCE not enough balance m",
    ),
    Shape(
        "a code without signs between its words",
        {"error": {"code": "modelNotFound", "message": "m"}},
        "m",
        "modelNotFound",
        "modelNotFound model not found m",
    ),
    Shape(
        "a code with hyphens, in a list",
        {"message": "m", "codes": ["too-many-requests"]},
        "m",
        None,
        "m too-many-requests too many requests",
    ),
    Shape("words that are no code", {"message": "m", "code": "iOS 7"}, "m", None, "m iOS 7"),
    Shape("not UTF-8", b"\xff\xfd", "\ufffd\ufffd"),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_shape_is_read(shape: Shape) -> None:
    body = read(shape.body)
    assert (body.public_message, body.code) == (shape.message, shape.code)
    assert shape.searchable in {None, body.searchable}


@pytest.mark.parametrize(
    ("encoding", "content_type"),
    [
        ("gbk", "application/json; charset=GBK"),
        ("big5", 'application/json; charset="big5"'),
        ("utf-16", "application/json"),
        ("utf-8", "application/json; charset=gbk"),
    ],
)
def test_an_error_is_read_in_the_encoding_that_it_is_in(encoding: str, content_type: str) -> None:
    body = '{"error":{"message":"額度 m"}}'.encode(encoding)
    found = parse_error_body(403, {"content-type": content_type}, body, AttemptFacts(now=NOW))
    assert (found.public_message, found.is_api_error) == ("額度 m", True)
    assert "額度 m" in found.detail


def test_the_public_message_is_redacted() -> None:
    error = {"error": "hunter2 of org-ABCdef123 got no answer of localhost:8000"}
    assert read(error, 400, "hunter2").public_message == "[key] of [account] got no answer of [address]"


def test_the_detail_for_the_log_keeps_addresses_but_no_keys() -> None:
    detail = read(b"10.1.2.3 sk-abc Bearer x hunter2" + b"x" * 3000, 500, "hunter2").detail
    assert detail.startswith("upstream answered 500: 10.1.2.3 [key] Bearer [key] [key]xxx")
    assert len(detail) < 2100


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        pytest.param(200, {"code": 503}, 503, id="a code that is a status"),
        pytest.param(200, {"code": "429"}, 429, id="a status as text"),
        pytest.param(200, {"code": "x", "status": 400}, 400, id="a status beside an unknown code"),
        pytest.param(200, {"code": "rate_limit_exceeded"}, 429, id="a code in words"),
        pytest.param(
            200, {"code": "rate_limit_exceeded", "status": 503}, 503, id="a status goes before a code in words"
        ),
        pytest.param(200, {"code": 200}, 200, id="a code that is no failure"),
        pytest.param(200, {"code": 50300}, 200, id="a number that is no status"),
        pytest.param(200, "503", 200, id="an error that is only text"),
        pytest.param(200, {"status": "RESOURCE_EXHAUSTED"}, 429, id="a status in words"),
        pytest.param(200, {"type": "server_error"}, 500, id="a type in words"),
        pytest.param(400, {"code": 503}, 400, id="the status of the answer goes first"),
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


@dataclass(frozen=True, slots=True)
class Named:
    name: str
    body: object
    fields: tuple[str, ...]


NAMED = (
    Named("OpenAI's param", {"error": {"message": "m", "param": "messages[0].content[1].image_url"}}, ("messages.0.content.1.image_url",)),
    Named("pydantic's loc", {"detail": [{"loc": ["body", "metadata"], "msg": "m"}]}, ("metadata",)),
    Named("Google's violations", {"error": {"details": [{"fieldViolations": [{"field": "modalities"}]}]}}, ("modalities",)),
    Named("no field", {"error": {"message": "m", "param": None, "loc": []}}, ()),
    Named("a param of another type", {"error": {"message": "m", "param": 7}}, ()),
)  # fmt: skip


@pytest.mark.parametrize("named", NAMED, ids=lambda named: named.name)
def test_the_fields_that_an_error_names(named: Named) -> None:
    assert read(named.body).named_fields == named.fields


@pytest.mark.parametrize(
    ("body", "is_api_error", "is_page"),
    [
        pytest.param({"error": {"message": "m"}}, True, False, id="an error object"),
        pytest.param({"error": "m"}, True, False, id="an error as text"),
        pytest.param({}, False, False, id="an empty object"),
        pytest.param([], False, False, id="an empty list"),
        pytest.param(b"no", False, False, id="plain text"),
        pytest.param(b"", False, False, id="an empty body"),
        pytest.param(b"<html>no</html>", False, True, id="a page"),
        pytest.param(b"<Error>no</Error>", False, False, id="XML that is no page"),
    ],
)
def test_an_api_differs_from_a_page(body: object, is_api_error: bool, is_page: bool) -> None:
    parsed = read(body)
    assert (parsed.is_api_error, parsed.is_page) == (is_api_error, is_page)


@pytest.mark.parametrize(
    ("message", "prompt", "searchable"),
    [
        pytest.param("refused: a fox in the snow.", "a fox in the snow", "refused: .", id="the whole prompt"),
        pytest.param(
            "refused: a fox in the snow…, a fox in the sky",
            "a fox in the snow at night",
            "refused: …, ky",
            id="the beginning of the prompt",
        ),
        pytest.param("refused: nude", "nude", "refused: nude", id="a prompt too short to be cut out"),
        pytest.param("refused", "a fox in the snow", "refused", id="a message without the prompt"),
        pytest.param("a fox in the snow", "a fox in the snow", "", id="a message that is the prompt"),
    ],
)
def test_the_prompt_is_cut_out_before_words_are_searched(message: str, prompt: str, searchable: str) -> None:
    facts = AttemptFacts(now=NOW, client_texts=("x", prompt), reason="Bad Request")
    body = parse_error_body(400, {}, orjson.dumps({"error": {"message": message}}), facts)
    assert " ".join(body.searchable.split()) == searchable
    assert body.public_message == message
    assert body.everything.startswith("Bad Request {")
    assert message in body.everything


def test_a_wait_beside_the_error_is_read() -> None:
    body = {"error": {"message": "Too many requests"}, "retry_after": 12}
    assert parse_error_body(429, {}, orjson.dumps(body), AttemptFacts(now=NOW)).wait.named == 12


def test_an_error_of_many_objects_is_read_in_part() -> None:
    body = read({"error": {"message": "m", "details": [{"message": str(number)} for number in range(500)]}})
    assert len(body.searchable.split()) == 64


def test_a_long_error_is_read_in_little_time() -> None:
    """Patterns that look back at each of these spaces would take minutes."""
    assert read({"error": {"message": "Odd." + " " * 60_000 + "x"}}).public_message == "Odd."


def test_no_more_of_a_long_error_is_searched_than_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pasted error may have several MiB, and each search of all of it takes 0.1 s in which nothing else happens."""
    trace = Mock()
    trace.search.return_value = None
    monkeypatch.setattr(error_body, "_TRACE", trace)
    body = orjson.dumps({"error": {"message": "busy " * 10**6}})
    parsed = parse_error_body(503, {}, body, AttemptFacts(now=0, client_texts=("a prompt that is not in it",)))
    assert len(trace.search.call_args.args[0]) == 4000
    assert parsed.public_message.startswith("busy busy")
