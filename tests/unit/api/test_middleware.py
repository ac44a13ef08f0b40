"""Request ids, the access log, normalized paths and unhandled errors."""

import asyncio
import io
import tracemalloc
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from app.api.context import context_of, encode_record
from app.api.middleware import AccessLogMiddleware, UnhandledErrorMiddleware, normalize_path
from app.errors import NotFound
from app.observability.logging import configure_logging


def scope(path: str = "/v1/images/generations", kind: str = "http") -> dict[str, Any]:
    return {"type": kind, "method": "POST", "path": path, "headers": [], "http_version": "1.1"}


async def receive() -> Message:
    return {"type": "http.disconnect"}


def call(app: Any, scope: dict[str, Any]) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    yield stream
    structlog.reset_defaults()


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    context_of(scope).log_fields["caller"] = "abc"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_each_request_has_an_id_in_its_response_and_its_record(log_lines: io.StringIO) -> None:
    first, second = (call(AccessLogMiddleware(ok), scope())[0] for _ in range(2))
    ids = [dict(message["headers"])[b"x-request-id"].decode() for message in (first, second)]
    records = [orjson.loads(line) for line in log_lines.getvalue().splitlines()]
    assert ids[0] != ids[1]
    assert [record["request_id"] for record in records] == ids
    assert {"method": "POST", "path": "/v1/images/generations", "status": 200, "caller": "abc"}.items() <= records[
        0
    ].items()


def test_the_fields_of_the_usage_record_become_part_of_the_record(log_lines: io.StringIO) -> None:
    finished: list[Mapping[str, Any]] = []

    class Usage:
        def finish(self, log_fields: Mapping[str, Any]) -> Mapping[str, Any]:
            finished.append({**log_fields})
            return {"outcome": "fine"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).usage = Usage()  # type: ignore[assignment]
        structlog.get_logger().info("meanwhile", body=(await receive())["type"])
        await ok(scope, receive, send)

    call(AccessLogMiddleware(app), scope())
    meanwhile, record = (orjson.loads(line) for line in log_lines.getvalue().splitlines())
    assert finished == [{"status": 200, "caller": "abc", "bytes_in": 0, "bytes_out": 2}]
    assert {"outcome": "fine", "bytes_in": 0, "bytes_out": 2}.items() <= record.items()
    assert meanwhile["request_id"] == record["request_id"]


def test_a_record_of_the_last_requests_is_one_object_without_details(log_lines: io.StringIO) -> None:
    """Each object of a record would keep a page that it shared with thousands of requests."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).note_error(NotFound("no", detail="a prompt"))
        await ok(scope, receive, send)

    recent: deque[bytes] = deque()
    call(AccessLogMiddleware(app, recent), scope())
    call(AccessLogMiddleware(app, recent), scope("/healthz"))
    (encoded,) = recent
    record = orjson.loads(encoded)
    expected = {"method": "POST", "path": "/v1/images/generations", "status": 200, "error": "invalid_request_error"}
    assert expected.items() <= record.items()
    assert "detail" not in record
    assert type(encoded) is bytes


def test_a_record_of_the_last_requests_takes_no_more_memory_than_it_is_long() -> None:
    fields: dict[str, object] = {"id": "req_1", "path": "/v1/images/generations", "status": 200}
    tracemalloc.start()
    kept = [encode_record(fields) for _ in range(100)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(kept) < len(kept[0]) + 200


def test_probes_do_not_fill_the_log(log_lines: io.StringIO) -> None:
    call(AccessLogMiddleware(ok), scope("/healthz"))
    assert log_lines.getvalue() == ""


def test_answers_are_not_stored_unless_their_route_says_so(log_lines: io.StringIO) -> None:
    async def kept(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=9")]})

    headers = [dict(call(AccessLogMiddleware(app), scope())[0]["headers"]) for app in (ok, kept)]
    assert [each[b"cache-control"] for each in headers] == [b"no-store", b"max-age=9"]
    assert {each[b"x-content-type-options"] for each in headers} == {b"nosniff"}


def test_lifespan_messages_pass_unchanged() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    call(AccessLogMiddleware(app), {"type": "lifespan"})
    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    ("path", "normalized"),
    [
        ("/v1//images/generations", "/v1/images/generations"),
        ("/v1/models/", "/v1/models"),
        ("//", "/"),
        ("/", "/"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1//v1/", "/v1"),
        ("/v1/v10/models", "/v1/v10/models"),
        ("/v1/kept/v1/v1", "/v1/kept/v1/v1"),
        ("/openai/v1/images/edits", "/v1/images/edits"),
        ("/openai//v1/models/", "/v1/models"),
        ("/v1/openai/images/edits", "/v1/images/edits"),
        ("/v1beta/openai/images/generations", "/v1/images/generations"),
        ("/api/v1/models/gpt-image-2", "/v1/models/gpt-image-2"),
        ("/openai/deployments/a/images/edits", "/openai/deployments/a/images/edits"),
        ("/openai/status", "/openai/status"),
        ("/openai/v1/imagesx", "/openai/v1/imagesx"),
        ("/api/v1beta/v1", "/api/v1beta/v1"),
    ],
)
def test_paths_are_normalized(path: str, normalized: str, log_lines: io.StringIO) -> None:
    assert normalize_path(path) == normalized
    assert dict(call(AccessLogMiddleware(ok), scope(path))[0]["headers"])[b"x-path"] == normalized.encode()


def test_an_unhandled_error_becomes_a_500_and_its_stack_trace_is_logged(log_lines: io.StringIO) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("inner secret")

    start, body = call(AccessLogMiddleware(UnhandledErrorMiddleware(app)), scope())
    error = orjson.loads(body["body"])["error"]
    assert (start["status"], error["type"]) == (500, "server_error")
    assert set(error) == {"message", "type", "param", "code"}
    assert b"secret" not in body["body"]
    assert "inner secret" in log_lines.getvalue()


def test_an_unhandled_error_after_the_start_of_a_response_is_raised_to_the_server(log_lines: io.StringIO) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("late")

    with pytest.raises(KeyError):
        call(UnhandledErrorMiddleware(app), scope())
