"""One request on its way out: what its job brings becomes JSON or events, with signs of life in between."""

import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson

from app.errors import ApiError
from app.jobs import Job
from app.observability.tracing import Trace
from app.pipeline import Answer, Partial
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import completed_event, error_event, images_json, partial_event
from app.protocol.json_stream import HoleyJson
from app.protocol.sse import comment
from app.responses import Presence, joined

Item = Partial | Answer


def outline(request: ImagesRequest) -> dict[str, object]:
    """What logs and operators may know of a request: nothing that it says or shows."""
    return {
        "operation": str(request.operation),
        "n": request.n,
        "size": request.size_text,
        "quality": request.quality,
        "stream": request.stream,
    }


class Stopwatch:
    """Seconds during which at least one of several things was under way."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.started = False
        self._running = 0
        self._since = 0.0

    def __enter__(self) -> None:
        self.started = True
        if not self._running:
            self._since = time.perf_counter()
        self._running += 1

    def __exit__(self, *_: object) -> None:
        self._running -= 1
        if not self._running:
            self.seconds += time.perf_counter() - self._since


@dataclass(slots=True)
class Exchange:
    """`waiting` runs while anybody outside is waited for, `upstream` and `download` while those are.

    `silence`: seconds after which the client gets a sign of life. `heard`: the names of the upstreams that had
    something to say, in order of first words; `answered_by`: the same where there are several, for clients to know.
    `limits`: what a key has left, as headers. `turn`: seconds of waiting for it. `progress`: what the upstream said
    last of its work, in one line; `listened`: when it was listened to last.
    """

    request: ImagesRequest
    silence: float
    limits: Mapping[str, str] = field(default_factory=dict)
    waiting: Stopwatch = field(default_factory=Stopwatch)
    upstream: Stopwatch = field(default_factory=Stopwatch)
    download: Stopwatch = field(default_factory=Stopwatch)
    shrunk: list[str] = field(default_factory=list)
    answered_by: dict[str, None] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    trace: Trace = field(default_factory=Trace)
    heard: dict[str, None] = field(default_factory=dict)
    attempts: int = 0
    turn: float = 0.0
    progress: str = ""
    listened: float = -math.inf

    def headers(self, answer: Answer | None = None) -> dict[str, str]:
        """What is known when the headers go out: of a stream only what the request itself tells."""
        told = {
            "x-limner-ignored": ", ".join(self.request.ignored),
            "x-limner-shrunk": ", ".join(self.shrunk),
            "x-limner-upstream": ", ".join(self.answered_by),
        }
        early = {name: value for name, value in told.items() if value} | dict(self.limits)
        if answer is None:
            return early
        failed = {"x-limner-failed": str(answer.failed)} if answer.failed else {}
        return {
            "x-limner-reply-form": ", ".join(dict.fromkeys(painted.form for painted in answer.painted)),
            "x-limner-upstream-ms": f"{self.upstream.seconds * 1000:.0f}",
            "x-limner-overhead-ms": f"{self.overhead(time.perf_counter()) * 1000:.1f}",
            **early,
            **failed,
        }

    def remarks(self, item: Item) -> bytes:
        """What the headers of a stream were too early for, as comments of it ahead of the answer."""
        told = self.headers(item) if isinstance(item, Answer) else {}
        return b"".join(comment(f"{name}: {told[name]}") for name in told if name not in self.limits)

    def overhead(self, until: float) -> float:
        """Seconds that Limner itself took."""
        return max(0.0, until - self.began - self.waiting.seconds - self.turn)

    def json(self, answer: Answer) -> HoleyJson:
        return HoleyJson(images_json(self.request, answer.painted, answer.usage, int(time.time())))

    async def white_space_then_json(self, job: Job[Item], presence: Presence) -> AsyncGenerator[bytes, None]:
        """The status has gone out as 200, so a failure ends with one stray byte after the error.

        Every client then raises and none asks again; a cut connection makes Python and the AI SDK ask twice more, and a
        well-formed error object passes for a success.
        """
        yield b" "
        while not await presence.outlast(job.task, self.silence):
            yield b" "
        answer = answer_of(job)
        if answer is None:
            yield orjson.dumps((job.fault or ApiError()).body) + b"!"
            return
        for piece in joined(self.json(answer).pieces()):
            yield piece

    async def events(self, job: Job[Item], presence: Presence) -> AsyncGenerator[bytes, None]:
        """Never ends without `completed` or `error`. What the upstream says of its work is a sign of life too."""
        read = stirs = 0
        while (more := await presence.wait(job.more(read, stirs), self.silence)) is not False:
            if more is None:
                yield comment("keep-alive")
            elif len(job.items) > read:
                item = job.items[read]
                for piece in joined(chain((self.remarks(item),), self._event(item, read).pieces())):
                    yield piece
                read += 1
            else:
                stirs = job.stirs
                yield comment(f"progress {self.progress}")
        if job.fault is not None:
            yield b"".join(Event(*error_event(job.fault.body)).pieces())

    def all_events(self, job: Job[Item]) -> list["Event"]:
        """Of work that has ended."""
        events = [self._event(item, index) for index, item in enumerate(job.items)]
        return events if job.fault is None else [*events, Event(*error_event(job.fault.body))]

    def _event(self, item: Item, index: int) -> "Event":
        now = int(time.time())
        if isinstance(item, Partial):
            return Event(*partial_event(self.request, item.painted, index, now))
        return Event(*completed_event(self.request, item.painted[0], item.usage, now))


class Event:
    """One server-sent event whose data has pictures in it."""

    def __init__(self, name: str, document: Mapping[str, Any]) -> None:
        self._head = f"event: {name}\ndata: ".encode()
        self._document = HoleyJson(document)
        self.length = len(self._head) + self._document.length + 2

    def pieces(self) -> Iterator[bytes]:
        yield self._head
        yield from self._document.pieces()
        yield b"\n\n"


def answer_of(job: Job[Item]) -> Answer | None:
    """None where the work has not got so far."""
    return next((item for item in job.items if isinstance(item, Answer)), None)
