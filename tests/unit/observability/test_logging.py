import ast
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
import structlog

from app.observability import logging as logging_module
from app.observability.logging import (
    EVENTS,
    MAX_LONG_VALUE_BYTES,
    MAX_VALUE_BYTES,
    configure_logging,
    log,
    shorten,
    unblock_standard_error,
)
from app.observability.metrics import REGISTRY
from tests.support.terminal import Terminal

APP = Path(__file__).parents[3] / "app"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_the_log_is_json_lines_without_a_terminal() -> None:
    stream = io.StringIO()
    configure_logging("auto", "info", stream)
    log.debug("below the level")
    log.info("request", status=200, form={"a": b"bytes"})
    logging.getLogger("a.library").warning("from a library: %s", "x")
    records = {record["event"]: record for record in map(orjson.loads, stream.getvalue().splitlines())}
    assert "below the level" not in records
    first, second = records["request"], records["from a library: x"]
    assert (first["status"], first["level"], second["level"]) == (200, "info", "warning")
    assert first["timestamp"].endswith("Z")


def test_a_stack_trace_is_part_of_its_record() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    try:
        raise KeyError("gone")
    except KeyError:
        log.exception("unhandled_error")
    record = orjson.loads(stream.getvalue())
    assert "KeyError: 'gone'" in record["exception"]


@pytest.mark.parametrize(("form", "stream"), [("auto", Terminal()), ("console", io.StringIO())])
def test_the_log_is_readable_on_a_terminal_or_if_configured(form: str, stream: io.StringIO) -> None:
    configure_logging(form, "debug", stream)
    log.debug("request", status=200)
    line = stream.getvalue()
    assert "request" in line
    assert not line.startswith("{")


@pytest.mark.parametrize("form", ["console", "json"])
def test_control_characters_are_escaped(form: str) -> None:
    stream = io.StringIO()
    configure_logging(form, "debug", stream)
    log.info("request", path="/\x1b[2J\r\nfake\x00", other="狐 a")
    logging.getLogger("a.library").warning("of \x1b[2J\n%s", "x")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() and "[2J" in line for line in lines)
    assert "狐 a" in lines[0]


LONG = [
    "a" * 63_000,
    "\x00" * 63_000,
    "狐" * 63_000,
    "😀" * 63_000,
    '"' * 63_000,
    "\ud83d" * 63_000,
    "a" * 2000 + "\x00" * 100,
]


@pytest.mark.parametrize("text", LONG, ids=lambda text: ascii(text[:1]))
@pytest.mark.parametrize(("name", "limit"), [("path", MAX_VALUE_BYTES), ("detail", MAX_LONG_VALUE_BYTES)])
def test_a_value_is_bounded_as_it_is_written(text: str, name: str, limit: int) -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    log.info("request", **{name: text, "names": [text, {"more": text}], "status": 200})
    record = orjson.loads(stream.getvalue())
    assert len(orjson.dumps(record[name])) <= limit + 50
    assert record[name].endswith(f"… ({len(text)} characters)") or len(text) < limit
    assert len(orjson.dumps(record["names"])) <= 2 * MAX_VALUE_BYTES
    assert record["status"] == 200


def test_a_short_record_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    monkeypatch.setattr(logging_module, "_dumps", None)
    log.info("request", names=["a", "b"], seconds={"total": 1.0})
    assert orjson.loads(stream.getvalue())["names"] == ["a", "b"]


def test_half_an_emoji_in_a_short_record_is_replaced() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    log.info("request", path="/\ud83d")
    assert orjson.loads(stream.getvalue())["path"] == "/?"


@pytest.mark.parametrize("form", ["console", "json"])
def test_warnings_and_stack_traces_of_libraries_are_bounded(form: str) -> None:
    stream = io.StringIO()
    configure_logging(form, "info", stream)
    logging.getLogger("py.warnings").warning("%s", "x" * 200_000)
    try:
        raise KeyError("y" * 200_000)
    except KeyError:
        log.exception("unhandled_error")
    assert len(stream.getvalue()) < 3 * MAX_LONG_VALUE_BYTES
    assert "Traceback" in stream.getvalue()


@pytest.mark.parametrize("text", ["", "a fox", "狐" * 100, "a" * MAX_VALUE_BYTES])
def test_a_short_text_stays_as_it_is(text: str) -> None:
    assert shorten(text, MAX_VALUE_BYTES + 2) == text


def test_info_records_of_http_libraries_are_dropped() -> None:
    stream = io.StringIO()
    configure_logging("json", "debug", stream)
    for name in ("httpx", "aiohttp.client", "asyncio", "python_multipart.multipart", "PIL.PngImagePlugin"):
        logging.getLogger(name).info("GET https://images.example.com/a.png?signature=secret")
    assert stream.getvalue() == ""


class BrokenStream(io.StringIO):
    """A stream whose reader has closed it, or whose disk is full."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical", "exception"])
def test_a_record_that_cannot_be_written_is_dropped(level: str) -> None:
    configure_logging("json", "debug", BrokenStream())
    getattr(log, level)("request")


@contextmanager
def standard_error(encoding: str = "utf-8") -> Iterator[int]:
    """Let the standard error be a pipe, and give its reading end. pytest replaces what a fixture would set."""
    reader, end = os.pipe()
    with pytest.MonkeyPatch.context() as patch, open(end, "w", encoding=encoding, errors="backslashreplace") as stream:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(sys, "__stderr__", stream)
        patch.setattr("atexit.register", lambda *_: None)
        yield reader
    os.close(reader)


def test_what_is_printed_to_the_standard_error_keeps_its_order_with_the_log() -> None:
    with standard_error("ascii") as reader:
        print("before", file=sys.stderr)
        unblock_standard_error()
        configure_logging("auto", "info")
        print("first", "狐", file=sys.stderr)
        log.info("request")
        logging.getLogger("a.library").warning("from a library")
        print("last", file=sys.stderr)
        lines = os.read(reader, 4096).decode().splitlines()
        assert sys.stderr.fileno() > 2
        assert not sys.stderr.isatty()
    events = [orjson.loads(line)["event"] for line in lines[2:4]]
    assert [*lines[:2], *events, *lines[4:]] == ["before", r"first \u72d0", "request", "from a library", "last"]


def test_lost_lines_are_counted_and_named_in_the_log() -> None:
    def errors() -> float:
        return REGISTRY.get_sample_value("limner_part_errors_total", {"part": "log"}) or 0.0

    with standard_error() as reader:
        unblock_standard_error()
        configure_logging("json", "info")
        before = errors()
        with pytest.MonkeyPatch.context() as stuck:
            stuck.setattr(sys.stderr.buffer, "_has_room", lambda _: False)
            stuck.setattr(sys.stderr.buffer, "_max_waiting", 10)
            for _ in range(3):
                log.info("request")
        assert errors() - before == 3
        with structlog.contextvars.bound_contextvars(request_id="req-1"):
            log.info("request")
        records = [orjson.loads(line) for line in os.read(reader, 4096).splitlines()]
    assert [(record["event"], record.get("lines"), record.get("request_id")) for record in records] == [
        ("request", None, "req-1"),
        ("log_lines_lost", 3, None),
    ]


def test_a_stream_of_another_program_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    unblock_standard_error()
    assert sys.stderr is stream


def test_a_closed_standard_error_costs_only_the_log() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        patch.setattr(sys, "__stderr__", None)
        unblock_standard_error()
        configure_logging("auto", "info")
        log.info("request")


def logged_events() -> Iterator[tuple[str, ast.expr]]:
    """Yield the first argument of every `log.info(…)` in the code, the second of `log.log(level, …)`, with its location."""
    for path in sorted(APP.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=method), args=args):
                    yield f"{path.relative_to(APP)}:{node.lineno}", args[method == "log"]


def test_every_event_is_in_the_list() -> None:
    events = {
        place: event.value if isinstance(event, ast.Constant) else ast.unparse(event)
        for place, event in logged_events()
    }
    assert {place: event for place, event in events.items() if event not in EVENTS} == {}
    assert set(EVENTS) == set(events.values())


def test_events_are_names_that_an_alert_can_match() -> None:
    assert [event for event in EVENTS if not re.fullmatch("[a-z]+(_[a-z]+)*", event)] == []
