"""Log events as readable lines on a terminal and as one JSON object per line elsewhere."""

import atexit
import io
import json
import logging
import sys
from contextlib import suppress
from typing import TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from app.observability.line_writer import LineWriter
from app.observability.metrics import LOG_ERRORS

log: FilteringBoundLogger = structlog.get_logger()

#: Every event that the server logs itself, and when. Alerts may rely on these names: tests compare them with the code.
EVENTS = {
    "request": "a request has ended, with its status, times and, for images, its cost",
    "job_finished": "a job has ended after its client disconnected, so no `request` record could include its cost",
    "unhandled_error": "an error that is a bug in this server, with its stack trace",
    "upstream_failed": "an upstream failed; the next one is tried if the failure cost nothing",
    "upstream_circuit_changed": "the circuit breaker of an upstream opened, half-opened or closed",
    "upstream_retry": "the same upstream is tried again after a pause",
    "image_download_retry": "an image could not be downloaded and is tried again",
    "decoder_start_failed": "no process could be started that decodes an image",
    "signing_ready": "a sample was signed at the start: converted images will be, until the certificate ends",
    "signing_failed": "a converted image could not be signed, and is delivered without a signature",
    "webhook_sent": "a webhook was sent, with what became of it; only the host of its address is named",
    "webhook_look_failed": "it could not be seen whether the task of a webhook has ended; it is looked at again",
    "webhooks_lost": "the server stops with webhooks that were not sent, and no Redis keeps them",
    "store_purge": "expired images were deleted from the image store",
    "store_purge_failed": "the image store did not delete expired images",
    "job_sharing_failed": "other replicas could not be informed about a job",
    "state_down": "Redis does not respond; logged once until it responds again",
    "state_up": "Redis responds again",
    "key_file_loaded": "the file of client keys was read again",
    "key_file_rejected": "the file of client keys is invalid; the previous keys stay valid",
    "reload_ignored": "SIGHUP arrived, but there is no file of client keys to read again",
    "client_write_stalled": "a client stopped reading its response and was disconnected",
    "server_ready": "the server accepts requests; with several workers, once all of them do",
    "server_draining": "the server finishes the jobs in flight and accepts no new ones",
    "server_bind_failed": "the address is in use or does not exist",
    "worker_ready": "a worker process accepts requests",
    "worker_died": "a worker process ended although the server is not shutting down",
    "worker_start_failed": "a worker process could not be started",
    "worker_restarts_stopped": "every worker died soon after its start, so the server ends",
    "task_link_failed": "an image of an asynchronous task has no link, because it could not be stored",
    "ledger_read_failed": "the ledger file could not be read for the status page",
    "ledger_write_failed": "a line of the ledger was lost; logged once until a line is written again",
    "unknown_variable": "an environment variable begins with LIMNER_ but is not a setting",
    "open_access_warning": "the server has no client keys",
    "unshared_workers_warning": "several workers or replicas run without shared state",
    "log_lines_lost": "lines of this log were lost before this one: nobody read them, or the disk was full",
    "demo_model_replaced": "`limner demo` does not know LIMNER_UPSTREAM_MODEL and uses its default model",
}

#: Libraries that are logged from `warning` up: below, they write presigned URLs, or each request a second time.
_NOISY = ("httpx", "httpcore", "aiohttp", "uvicorn.access", "asyncio", "python_multipart", "PIL")


#: Seconds at the end of the process for a slow reader to read what waits for it.
_FLUSH_SECONDS = 2.0


class BestEffortLogger:
    """Drop records that cannot be written (full disk, closed pipe), so that logging never fails a request.

    Each record is written with one call, without a lock: `log_lines_lost` is written from within another record.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        with suppress(OSError):
            self._stream.write(message + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


def unblock_standard_error() -> None:
    """Let nothing in this process wait for the reader of its standard error: no log, warning or stack trace.

    `limner serve | less` would stop the server, and so would a log driver that hangs. To be called before
    `configure_logging`. A stream that another program has put there, or none, is left alone.
    """
    stream = sys.__stderr__
    if stream is not None and sys.stderr is stream:
        stream.flush()
        sys.stderr = unblocked(stream)


def unblocked(stream: TextIO) -> TextIO:
    """Return a stream that writes to the same descriptor and never waits for its reader."""
    writer = LineWriter(stream.fileno(), lambda _: LOG_ERRORS.inc(), _log_lost_lines)
    atexit.register(writer.flush_waiting, _FLUSH_SECONDS)
    return io.TextIOWrapper(writer, stream.encoding, stream.errors, write_through=True)  # type: ignore[type-var]


def _log_lost_lines(lines: int) -> None:
    log.warning("log_lines_lost", lines=lines)


class _Nowhere(io.StringIO):
    """The log of a process whose standard error was closed before it began."""

    def write(self, text: str, /) -> int:
        return len(text)


def configure_logging(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Set up the log of this process, for our events and for the records of libraries (uvicorn, warnings) alike.

    `log_format` is `auto`, `console` or `json`; `auto` is `console` if `stream` is a terminal, else `json`.
    """
    stream = stream or sys.stderr or _Nowhere()
    for_people = stream.isatty() if log_format == "auto" else log_format == "console"
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # structlog's default traceback shows the values of variables, which include keys and prompts.
    traceback = structlog.dev.plain_traceback
    console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=traceback)
    renderers: list[Processor] = [structlog.processors.format_exc_info]
    renderers += [_shorten_values, _escape, console] if for_people else [_render_json]
    logger = BestEffortLogger(stream)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_strip_meta, *renderers])
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


#: Bytes of one value as JSON. What an operator may have to read as a whole gets more: replies, stack traces, prompts.
MAX_VALUE_BYTES = 2 * 1024
MAX_LONG_VALUE_BYTES = 16 * 1024
_LONG_VALUES = frozenset({"detail", "exception", "prompt"})
_SHORT_TYPES = (int, float, type(None))

#: Characters of ASCII that need less than `MAX_VALUE_BYTES` even if each is escaped.
_SURELY_SHORT = MAX_VALUE_BYTES // 8


def shorten(text: str, max_bytes: int = MAX_VALUE_BYTES) -> str:
    """Cut a text so that it has at most `max_bytes` as JSON, in which a character has up to six bytes."""
    if len(text) <= _SURELY_SHORT and text.isascii():
        return text
    # Half an emoji cannot be written.
    cut = text[:max_bytes].encode("utf-8", "replace").decode()
    while (size := len(_dumps(cut).encode())) > max_bytes:
        cut = cut[: len(cut) * max_bytes // size]
    return cut if len(cut) == len(text) else f"{cut}… ({len(text)} characters)"


def _shorten_values(_: object, __: str, event: EventDict) -> EventDict:
    """Bound each value: clients and upstreams choose some of them, and warnings quote what they are about."""
    return {name: _shorten_value(name, value) for name, value in event.items()}


def _shorten_value(name: str, value: object) -> object:
    if isinstance(value, _SHORT_TYPES):
        return value
    max_bytes = MAX_LONG_VALUE_BYTES if name in _LONG_VALUES else MAX_VALUE_BYTES
    if isinstance(value, str):
        return shorten(value, max_bytes)
    text = _dumps(value)
    return value if len(text.encode()) <= max_bytes else shorten(text, max_bytes)


_strip_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta


def _escape(_: object, __: str, event: EventDict) -> EventDict:
    """Show control characters as escapes: clients and upstreams choose some values, and a terminal would obey them."""
    shown = {name: value for name, value in event.items() if name != "exception"}
    return {**event, **{name: repr(value) for name, value in shown.items() if _has_control_characters(value)}}


def _has_control_characters(value: object) -> bool:
    return isinstance(value, str) and not value.isprintable()


def _render_json(logger: object, method: str, event: EventDict) -> str:
    """Write a record as JSON. Only if all of it is long, its values are measured, each by writing it."""
    with suppress(orjson.JSONEncodeError):
        line = orjson.dumps(event, default=str)
        if len(line) <= MAX_VALUE_BYTES:
            return line.decode()
    return _dumps(_shorten_values(logger, method, event))


def _dumps(event: object) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:
        # A number of more than 64 bits, or half an emoji somewhere inside.
        return json.dumps(event, default=str)
