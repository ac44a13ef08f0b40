"""One request on its way out: what its job brings becomes JSON or events, with signs of life in between."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

import orjson

from app.api.responses import Presence, joined
from app.errors import (
    ApiError,
    ImageUnavailable,
    InvalidRequest,
    ModerationBlocked,
    NoImageInReply,
    ServiceUnavailable,
    UpstreamInvalidReply,
    UpstreamTimeout,
)
from app.images.blob import Spool
from app.jobs.pipeline import Answer, Partial
from app.observability.logging import log
from app.observability.tracing import RequestTrace
from app.protocol.chat_reply import ChatReply
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import completed_event, error_event, images_json, partial_event
from app.protocol.json_stream import StreamingJson
from app.protocol.sse import StreamingEvent, comment

ItemT = TypeVar("ItemT")


class Job(Generic[ItemT]):
    """A task that collects `items`; `fault` is what it ended with where it did not end well.

    Each of the `readers` reads from the first item, and calls `leave` at last. `settle` is called whenever the work has
    ended and nobody reads it. `stirs`: how often there was something to tell of the work that is no item.
    """

    def __init__(self, items: AsyncGenerator[ItemT, None], settle: Callable[[], None], *, readers: int = 1) -> None:
        self.items: list[ItemT] = []
        self.fault: ApiError | None = None
        self.readers = readers
        self.stirs = 0
        self._settle = settle
        self._ended = False
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._run(items))
        self.task.add_done_callback(self._end)

    async def _run(self, items: AsyncGenerator[ItemT, None]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    self.items.append(item)
                    self._ring()
        except ApiError as error:
            # Without its frames, which hold the buffers of the request alive.
            self.fault = error.with_traceback(None)
        except asyncio.CancelledError:
            self.fault = ServiceUnavailable("The server is shutting down. Please try again.")
            raise
        except Exception:  # noqa: BLE001  # reason: a bug must not leave its reader waiting; who gets a 500
            log.exception("unhandled_error")
            self.fault = ApiError()

    def _end(self, _: asyncio.Task[None]) -> None:
        self._ended = True
        self._ring()
        self._settle_if_left()

    def _ring(self) -> None:
        """Wakes all who wait, and gives those who come later something new to wait for."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def stir(self) -> None:
        self.stirs += 1
        self._ring()

    async def more(self, have: int, stirs: int | None = None) -> bool:
        """Wait until there are more than `have` items, or the end: then False where nothing is left to read.

        Who knows of so many `stirs` is called for one more of them, too.
        """
        while len(self.items) <= have and not self.task.done() and stirs in {None, self.stirs}:
            await self._news.wait()
        return len(self.items) > have or not self.task.done()

    async def end(self) -> bool:
        """Wait for the end of the work; always True."""
        while not self.task.done():
            await self._news.wait()
        return True

    def leave(self) -> None:
        """The reader is done with the items, or gone."""
        self.readers -= 1
        self._settle_if_left()

    def _settle_if_left(self) -> None:
        """Not before `_end`, which does it too: a reader may hear of the end, and leave, before."""
        if self.readers == 0 and self._ended:
            self._settle()


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
        self._running = 0
        self._since = 0.0

    def __enter__(self) -> None:
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
    last of its work, in one line; `listened`: when it was listened to last. `was_submitted`: something was sent to an
    upstream; `unsettled`: how many attempts were sent and have not surely cost nothing.
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
    trace: RequestTrace = field(default_factory=RequestTrace)
    heard: dict[str, None] = field(default_factory=dict)
    attempts: int = 0
    turn: float = 0.0
    progress: str = ""
    listened: float = -math.inf
    was_submitted: bool = False
    unsettled: int = 0

    def submit(self) -> None:
        """One more attempt is put on the wire."""
        self.was_submitted = True
        self.unsettled += 1

    def withdraw(self) -> None:
        """An attempt has failed in a way that cost nothing."""
        self.unsettled -= 1

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

    def json(self, answer: Answer) -> StreamingJson:
        return StreamingJson(images_json(self.request, answer.painted, answer.usage, int(time.time())))

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
        for piece in joined(self.json(answer).chunks()):
            yield piece

    async def events(self, job: Job[Item], presence: Presence) -> AsyncGenerator[bytes, None]:
        """Never ends without `completed` or `error`. What the upstream says of its work is a sign of life too."""
        read = stirs = 0
        while (more := await presence.wait(job.more(read, stirs), self.silence)) is not False:
            if more is None:
                yield comment("keep-alive")
            elif len(job.items) > read:
                item = job.items[read]
                for piece in joined(chain((self.remarks(item),), self._event(item, read).chunks())):
                    yield piece
                read += 1
            else:
                stirs = job.stirs
                yield comment(f"progress {self.progress}")
        if job.fault is not None:
            yield b"".join(StreamingEvent(*error_event(job.fault.body)).chunks())

    def all_events(self, job: Job[Item]) -> list[StreamingEvent]:
        """Of work that has ended."""
        events = [self._event(item, index) for index, item in enumerate(job.items)]
        return events if job.fault is None else [*events, StreamingEvent(*error_event(job.fault.body))]

    def _event(self, item: Item, index: int) -> StreamingEvent:
        now = int(time.time())
        if isinstance(item, Partial):
            return StreamingEvent(*partial_event(self.request, item.painted, index, now))
        return StreamingEvent(*completed_event(self.request, item.painted[0], item.usage, now))


def answer_of(job: Job[Item]) -> Answer | None:
    """None where the work has not got so far."""
    return next((item for item in job.items if isinstance(item, Answer)), None)


#: Faults that may have been paid for: with a key the same question is not asked again.
_COST_MONEY = (ModerationBlocked, NoImageInReply, UpstreamInvalidReply, UpstreamTimeout)


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two requests the same question: who asks what, under which key. `again`: it says it is a repeat."""

    caller: str
    fingerprint: str
    key: str | None = None
    again: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """Where it is looked for: under its key, or else under what is asked."""
        return self.caller, f"what {self.fingerprint}" if self.key is None else f"key {self.key}"


@dataclass(slots=True, eq=False)
class Errand:
    """A question under way, or answered. `replies` have been paid for, `spool` holds the bytes of the answer.

    `reader`: the name under which this replica waits for it; `follows`: another one works on it. `is_cut_off`: by the
    end of this replica, perhaps after paying. `telling` is held while others are told of it.
    """

    id: str
    identity: Identity
    exchange: Exchange
    spool: Spool
    is_async: bool = False
    reader: str = ""
    follows: bool = False
    replies: list[ChatReply] = field(default_factory=list)
    delivered: bool = False
    is_cut_off: bool = False
    until: float = math.inf
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    job: Job[Item] = field(init=False)

    @property
    def is_idle(self) -> bool:
        """Its work has ended, and nobody here reads it."""
        return self.job.task.done() and not self.job.readers

    @property
    def may_have_cost(self) -> bool:
        """The upstream may have been paid, now or by an earlier try."""
        return self.exchange.unsettled > 0 or bool(self.replies)

    @property
    def was_submitted(self) -> bool:
        """Something was sent to an upstream, now or by an earlier try, whether or not it has cost anything."""
        return self.exchange.was_submitted or bool(self.replies)

    @property
    def failed_to_deliver(self) -> bool:
        """The upstream has been paid, but its picture could not be fetched or kept, or nobody was there any more who
        wanted it: worth another try.
        """
        fault = self.job.fault if self.job.task.done() and not self.follows else None
        if isinstance(fault, ImageUnavailable):
            return True
        is_paid_already = bool(self.replies) and not self.exchange.was_submitted
        return is_paid_already and fault is not None and not isinstance(fault, InvalidRequest)

    @property
    def is_bound_here(self) -> bool:
        """No other replica can deliver it: the pictures came with the replies."""
        return self.failed_to_deliver and not all(reply.is_reproducible for reply in self.replies)

    @property
    def may_be_tried_again(self) -> bool:
        """At no further cost: nothing has been asked yet, or all that is missing is the delivery."""
        return self.failed_to_deliver or (self.job.fault is not None and not self.was_submitted)

    @property
    def is_worth_keeping(self) -> bool:
        if self.is_async or self.failed_to_deliver:
            return True
        if self.job.fault is None:
            return self.identity.key is not None or not self.delivered
        return self.identity.key is not None and isinstance(self.job.fault, _COST_MONEY)

    def reopen(self, spool: Spool, exchange: Exchange) -> None:
        """For another try at delivering; the bytes of the repeat join those of the first."""
        self.spool.absorb(spool)
        self.exchange = exchange
        self.delivered, self.until = False, math.inf

    def may_be_joined(self, identity: Identity) -> bool:
        """With a key always; without one where its client has gone, or says that it has come again."""
        if identity.key is not None or self.failed_to_deliver:
            return True
        return not (self.is_async or self.delivered) and (self.job.readers == 0 or identity.again)
