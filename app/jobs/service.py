"""Where requests are worked on: a turn, a job that repeats may join, and the answer in the form that fits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from app.access.auth import Caller
from app.access.concurrency import FairSemaphore
from app.access.limits import KeyLimits, apply_key_policy
from app.api.responses import ClientGone, FlowingResponse, JsonResponse, PicturesResponse, Presence
from app.errors import ApiError, ServiceUnavailable
from app.images.blob import Spool
from app.jobs.job import Errand, Exchange, Identity, Item, Job, answer_of, outline
from app.jobs.pipeline import Policy, paint
from app.jobs.pipeline_io import Parts, Workbench
from app.jobs.registry import Once, identify
from app.jobs.sharing import Handover
from app.protocol.image_request import ImagesRequest

#: Seconds without a byte after which a sign of life is sent: middle boxes cut silent connections after 60 to 120.
SILENCE = 15.0

#: Seconds after which it is worth asking again for an answer that is not there yet.
_POLL = "5"

#: Asked of another server, it would be paid for once more.
_CUT_OFF = "The server is shutting down. The image may have been made."

_JSON, _EVENTS = "application/json", "text/event-stream"


@dataclass(slots=True)
class Studio:
    """`jobs` are those under way, with or without a reader; `keepalive_after` is in seconds, 0 means never."""

    turns: FairSemaphore
    limits: KeyLimits
    parts: Parts
    policy: Policy
    once: Once
    handover: Handover
    keepalive_after: float
    silence: float = SILENCE
    closing: bool = False
    jobs: set[asyncio.Task[None]] = field(default_factory=set)

    async def answer(self, request: ImagesRequest, caller: Caller, spool: Spool, http: Request) -> Response:
        """Takes over the spool. Raises the ApiError of the work where nothing has been sent yet."""
        is_async = not request.stream and "respond-async" in http.headers.get("prefer", "").lower()
        async with self.limits.lock(caller):
            errand = await self._enter(request, caller, spool, http, is_async)
        return accepted(errand.id, http) if is_async else await self.visit(errand, http)

    async def _enter(
        self, request: ImagesRequest, caller: Caller, spool: Spool, http: Request, is_async: bool
    ) -> Errand:
        """What it joins, or what has just been started for it."""
        try:
            request = apply_key_policy(caller.key, request)
            identity = await identify(request, caller, http.headers)
            async with self.once.door(identity):
                return await self._join_or_start(request, identity, caller, spool, http, is_async=is_async)
        except BaseException:  # reason: tidied up, and raised again
            spool.close()
            raise

    async def _join_or_start(
        self,
        request: ImagesRequest,
        identity: Identity,
        caller: Caller,
        spool: Spool,
        http: Request,
        *,
        is_async: bool,
    ) -> Errand:
        """Only a new question is counted: not one that joins another, nor one that has been paid for."""
        told: dict[str, str] = {}
        elsewhere: str | None = None
        own: str = http.state.request_id
        errand = self.once.find(identity)
        if self.closing and (errand is None or errand.failed_to_deliver):
            raise ServiceUnavailable("The server is shutting down. Please try again.")
        if errand is None:
            elsewhere, told = await self._post(own, identity, caller, request.n, is_async=is_async)
            errand = self.once.known(elsewhere)
        readers = 0 if is_async else 1
        exchange = Exchange(request, self.silence, told, trace=http.state.account.trace)
        if errand is None:
            follows = elsewhere is not None
            errand = Errand(elsewhere or own, identity, exchange, spool, is_async, reader=own, follows=follows)
            self._start(errand, caller, http, readers)
            self.once.add(errand)
        elif errand.failed_to_deliver:
            errand.reopen(spool, exchange)
            self._start(errand, caller, http, readers)
        else:
            # What the repeat brings is what the first one brought.
            spool.close()
            http.state.account.join(errand)
            errand.job.readers += readers
        return errand

    async def _post(
        self, own: str, identity: Identity, caller: Caller, n: int, *, is_async: bool
    ) -> tuple[str | None, dict[str, str]]:
        """The id of an errand of another replica to join; or None, and what the key of a new question has left."""
        board = self.handover.board
        elsewhere = await board.enter(own, identity, is_async=is_async)
        if elsewhere is not None:
            return elsewhere, {}
        try:
            return None, await self.limits.charge(caller, n)
        except BaseException:  # reason: tidied up, and raised again
            await board.withdraw(own, identity)
            raise

    async def result(self, id: str, caller: Caller, spool: Spool, http: Request) -> Response:  # noqa: A002  the API's word
        """What became of a question nobody waited for; until its time is over, as often as it is asked for."""
        errand = self.once.get(caller, id)
        if errand is None:
            errand = await self._recall(id, caller, spool)
        elif errand.job.task.done():
            errand.job.readers += 1
        if errand is None or not errand.job.task.done():
            return accepted(id, http)
        return await self.visit(errand, http)

    async def _recall(self, id: str, caller: Caller, spool: Spool) -> Errand | None:  # noqa: A002  the API's word
        """As if it had been asked here; None while another replica works on it. Raises NotFound and QuestionLost."""
        try:
            letter = await self.handover.recall(id, caller.id, spool)
        except BaseException:  # reason: tidied up, and raised again
            spool.close()
            raise
        if letter is None:
            return None
        errand = Errand(id, Identity(caller.id, ""), Exchange(letter.request, self.silence), spool, is_async=True)
        errand.job = Job(letter.items(), spool.close)
        await errand.job.end()
        return errand

    async def visit(self, errand: Errand, http: Request) -> Response:
        """Wait for an errand and answer with what it brings."""
        visit = Visit(errand, errand.job, self.handover, Presence(http.receive), http.scope["state"]["record"])
        visit.record.update(outline(errand.exchange.request))
        try:
            return await self._respond(visit, http)
        except ClientGone:
            nobody_else = visit.job.readers == 1 and not errand.is_async
            if nobody_else and not errand.may_have_cost:
                # Nothing has been asked yet, so nothing is lost; a question under way runs to its end.
                visit.job.task.cancel()
            visit.leave(delivered=False)
            return Response(status_code=499)
        except BaseException as error:
            visit.leave(delivered=isinstance(error, ApiError))
            raise

    async def drain(self, grace: float) -> None:
        """Take no more questions, let those under way finish within `grace` seconds, end the rest with an error."""
        self.closing = True
        if self.jobs:
            _, late = await asyncio.wait(self.jobs, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.handover.drain(grace)

    def _start(self, errand: Errand, caller: Caller, http: Request, readers: int) -> None:
        work = self._follow if errand.follows else self._work
        errand.job = Job(work(errand, caller, http), partial(self.handover.settle, errand), readers=readers)
        self.jobs.add(errand.job.task)
        errand.job.task.add_done_callback(self.jobs.discard)
        if errand.follows:
            http.state.account.join(errand)
        else:
            http.state.account.start(errand)
            self.handover.board.own(errand)

    async def _follow(self, errand: Errand, caller: Caller, http: Request) -> AsyncGenerator[Item, None]:
        """What another replica brings; where that one can bring nothing and nothing is lost by it, the work itself."""
        answer = await self.handover.follow(errand)
        if answer is not None:
            yield answer
            return
        http.state.account.start(errand)
        async with aclosing(self._work(errand, caller, http)) as items:
            async for item in items:
                yield item

    async def _work(self, errand: Errand, caller: Caller, http: Request) -> AsyncGenerator[Item, None]:
        """A turn of the key first: who waits for one of those holds none that others could use."""
        exchange, request = errand.exchange, errand.exchange.request
        upstream = None if caller.key is None else caller.key.upstream
        edge = Workbench(self.parts, errand, caller.token, str(http.base_url), upstream).edge()
        with exchange.trace.step("turn") as turn:
            async with (
                self.limits.slot(caller, request.n),
                self.turns.acquire(caller.id, request.n),
                aclosing(paint(request, edge, self.policy)) as items,
            ):
                exchange.turn = turn.stop()
                try:
                    async for item in items:
                        yield item
                except asyncio.CancelledError:
                    if exchange.unsettled:
                        errand.is_cut_off = True
                        raise ServiceUnavailable(_CUT_OFF, headers={"x-should-retry": "false"}) from None
                    raise

    async def _respond(self, visit: "Visit", http: Request) -> Response:
        exchange, job, presence = visit.errand.exchange, visit.job, visit.presence
        streamed = exchange.request.stream
        if http.scope["http_version"] == "1.0":
            # Such a client knows no chunks: it gets everything at the end.
            await presence.outlast(job.task, None)
        elif streamed:
            await presence.wait(job.more(0), self.silence)
        else:
            await presence.outlast(job.task, self.keepalive_after or None)
        if job.fault is not None and not job.items:
            raise job.fault
        answer = answer_of(job)
        headers = exchange.headers(answer)
        if visit.errand.id != http.state.request_id:
            headers["x-limner-joined"] = visit.errand.id
        if http.scope["http_version"] == "1.0" and streamed:
            return PicturesResponse(exchange.all_events(job), _EVENTS, headers, visit)
        if streamed:
            return FlowingResponse(exchange.events(job, presence), _EVENTS, headers, visit)
        if answer is None:
            return FlowingResponse(exchange.white_space_then_json(job, presence), _JSON, headers, visit)
        return PicturesResponse([exchange.json(answer)], _JSON, headers, visit)


@dataclass(frozen=True, slots=True)
class Visit:
    """A client that waits for an errand; `record` is that of its request.

    `job`: what it waits for. That may fail, and be started once more for somebody else, while the client is still told.
    """

    errand: Errand
    job: Job[Item]
    handover: Handover
    presence: Presence
    record: dict[str, object]

    def leave(self, *, delivered: bool) -> None:
        """Notes what went wrong: an answer that has begun has no other place for it but its end."""
        self.presence.stop()
        fault = self.job.fault
        if fault is not None:
            self.record.update(error=fault.code or fault.type, detail=fault.detail)
        if self.job is self.errand.job:
            self.errand.delivered = self.errand.delivered or delivered
        self.job.leave()
        self.handover.note(self.errand)


def accepted(id: str, http: Request) -> Response:  # noqa: A002  the API's word
    """202 for who does not want to wait: the answer is fetched from `location`."""
    place = f"{http.url.path.partition('/images/')[0]}/images/results/{id}"
    headers = {"location": place, "retry-after": _POLL, "preference-applied": "respond-async"}
    return JsonResponse({"id": id, "object": "image.result", "status": "in_progress"}, 202, headers)
