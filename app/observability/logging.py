"""One record per event: readable on a terminal, one JSON object a line elsewhere."""

import logging
import sys
from contextlib import suppress
from typing import TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

log: FilteringBoundLogger = structlog.get_logger()

#: Libraries that would write addresses of signed images, or every request once more.
_NOISY = ("httpx", "httpcore", "aiohttp", "uvicorn.access", "asyncio", "python_multipart", "PIL")


class BestEffortLogger(structlog.WriteLogger):
    """A log that nobody can read, on a full disk or in a pipe without an end, is no reason to stop painting."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg


def configure_logging(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """`log_format` is auto, console or json. Records of libraries (uvicorn's, warnings) take the same form."""
    stream = stream or sys.stderr
    readable = stream.isatty() if log_format == "auto" else log_format == "console"
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # No traceback with the values of variables, among which are keys and prompts.
    plain = structlog.dev.plain_traceback
    last: list[Processor] = (
        [_escape, structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: BestEffortLogger(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_strip, *last]))
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


_strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta


def _escape(_: object, __: str, event: EventDict) -> EventDict:
    """Strangers write some of what is logged, and terminals obey control characters."""
    return {name: repr(value) if _is_unprintable(value) else value for name, value in event.items()}


def _is_unprintable(value: object) -> bool:
    return isinstance(value, str) and not value.isprintable()


def _dumps(event: object, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()
