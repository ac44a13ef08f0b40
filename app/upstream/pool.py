"""Which upstream is asked, and which next: elsewhere or again only where the question surely cost nothing."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import partial

from app.errors import ApiError, InvalidRequest, NotFound, RateLimited, UpstreamError
from app.observability.logging import log
from app.observability.metrics import UPSTREAM_ATTEMPTS
from app.protocol.chat_reply import ChatReply
from app.upstream.circuit_breaker import CircuitBreaker, Permit
from app.upstream.client import Question, Upstream
from app.upstream.error_mapping import RetrySafety, UpstreamFailure
from app.upstream.retry import RetryBudget, retry_delay
from app.upstream.selection import Candidate, NoCandidate, select
from app.upstream.spec import UpstreamSpec

#: More than any priority: one that others find broken is asked after all the rest.
_LAST = 1_000_000

#: Failures that have surely cost nothing.
_FREE = {RetrySafety.SAFE, RetrySafety.OTHER_UPSTREAM}

_BUSY = "All upstreams are busy. Please try again later."

#: The question as an upstream of that dialect and with that model wants it put.
Put = Callable[[str, str], Question]


@dataclass(frozen=True, slots=True)
class Submission:
    """Observe when a request may begin to cost something.

    Attributes:
        before_send: Awaited before each attempt, when its upstream has been chosen and has capacity.
        after_free_failure: Called when an attempt has failed in a way that surely cost nothing.
    """

    before_send: Callable[[], Awaitable[None]]
    after_free_failure: Callable[[], None]


async def _send_unobserved() -> None:
    return


_UNOBSERVED = Submission(_send_unobserved, lambda: None)


@dataclass(slots=True, eq=False)
class Member:
    """One upstream, and how it does: its circuit, and the questions that are under way there."""

    spec: UpstreamSpec
    upstream: Upstream
    circuit: CircuitBreaker = field(default_factory=CircuitBreaker)
    under_way: int = 0

    @property
    def is_full(self) -> bool:
        return self.spec.max_concurrency is not None and self.under_way >= self.spec.max_concurrency


@dataclass(slots=True)
class Course:
    """One question's way through the upstreams, by their names: where it has been, and when it may go there again.

    `models`: what each calls the model. `came` is when it wanted to be asked, `started` when it first was. `error` is
    raised where the way ends.
    """

    models: Mapping[str, str]
    came: float
    started: float | None = None
    asked: set[str] = field(default_factory=set)
    due: dict[str, float] = field(default_factory=dict)
    repeats: int = 0
    failed_at: float = 0.0
    error: ApiError = field(default_factory=partial(RateLimited, _BUSY, retry_after=10))


@dataclass(slots=True)
class Visit:
    """A question at one upstream. `error`: what its answer was, where that was none."""

    ticket: Permit
    is_sent: bool = False
    error: ApiError | None = None


class Upstreams:
    """Seconds and chance as for Upstream. `attempts` of one question: the first, and what is asked again somewhere.

    To move on to an upstream that has not been asked is not counted, and not paid from the budget for repeats.
    `ambiguous` also moves on and asks again after a 500 or 502. See also `report_down`.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        timeout: float = 600,
        attempts: int = 3,
        ambiguous: bool = False,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._members = {member.spec.name: member for member in members}
        self._timeout, self._attempts, self._ambiguous = timeout, attempts, ambiguous
        self._sleep, self._monotonic, self._chance = sleep, monotonic, chance
        self._reported_down: Collection[str] = ()
        self._budget = RetryBudget()
        self._freed = asyncio.Event()

    async def close(self) -> None:
        for member in self._members.values():
            await member.upstream.close()

    @property
    def are_several(self) -> bool:
        return len(self._members) > 1

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    def circuits(self) -> dict[str, str]:
        """By name: closed, open, half-open."""
        now = self._monotonic()
        return {name: member.circuit.state(now).value for name, member in self._members.items()}

    def report_down(self, names: Collection[str]) -> None:
        """Choose these upstreams last, since other replicas report them down. Each call replaces the previous names."""
        self._reported_down = names

    async def ask(
        self, put: Put, model: str | None, upstream: str | None = None, submission: Submission = _UNOBSERVED
    ) -> AsyncGenerator[tuple[str, ChatReply], None]:
        """Snapshots of the reply while it grows, the whole reply last, each with the name of the upstream.

        `model` is what the client named, `upstream` the only one that may be asked. Raises as `Upstream.read` does, and
        what the last upstream had to say where none could be asked; RateLimited where none had a place, NotFound where
        none has the model.
        """
        course = Course(self._models_for(model, upstream), self._monotonic())
        self._budget.deposit()
        while True:
            member = await self._next(course)
            course.started = self._monotonic() if course.started is None else course.started
            question = put(member.spec.dialect, course.models[member.spec.name])
            with self._visit(member) as visit:
                await submission.before_send()
                visit.is_sent = True
                outcome = await member.upstream.attempt(question, course.started)
                if not isinstance(outcome, UpstreamFailure):
                    async with aclosing(member.upstream.read(outcome, question, course.started)) as replies:
                        async for reply in replies:
                            if isinstance(reply, UpstreamFailure):
                                outcome = reply
                            else:
                                yield member.spec.name, reply
                if not isinstance(outcome, UpstreamFailure):
                    return
                visit.error = outcome.error
            if outcome.retry_safety in _FREE:
                submission.after_free_failure()
            self._note(course, member, outcome)

    def _models_for(self, name: str | None, only: str | None) -> dict[str, str]:
        found = {upstream: member.spec.models.resolve(name) for upstream, member in self._members.items()}
        models = {place: model for place, model in found.items() if model is not None and only in {None, place}}
        if not models and name is None:
            raise InvalidRequest(
                "You must provide a model parameter.", param="model", code="missing_required_parameter"
            )
        if not models:
            raise NotFound(f"The model '{name}' does not exist.", param="model", code="model_not_found")
        return models

    @contextmanager
    def _visit(self, member: Member) -> Iterator[Visit]:
        """Takes a place, and tells the circuit what became of the question; nothing if it was called off."""
        visit = Visit(member.circuit.acquire(self._monotonic()))
        member.under_way += 1
        try:
            yield visit
        except ApiError as error:
            if visit.is_sent:
                self._judge(member, visit.ticket, error)
            else:
                member.circuit.cancel(visit.ticket)
            raise
        except BaseException:  # reason: tidied up, and raised again
            member.circuit.cancel(visit.ticket)
            raise
        else:
            self._judge(member, visit.ticket, visit.error)
        finally:
            member.under_way -= 1
            self._freed.set()
            self._freed = asyncio.Event()

    def _judge(self, member: Member, ticket: Permit, error: ApiError | None) -> None:
        UPSTREAM_ATTEMPTS.labels(member.spec.name, "ok" if error is None else error.code or error.type).inc()
        now = self._monotonic()
        before = member.circuit.state(now)
        if error is not None and _is_its_fault(error, member.upstream):
            member.circuit.record_failure(ticket, now, self._chance())
            if self.are_several:
                log.warning("upstream_failed", upstream=member.spec.name, code=error.code, reason=error.detail)
        else:
            member.circuit.record_success(ticket, now)
        if (after := member.circuit.state(now)) is not before:
            log.warning("upstream_circuit_changed", upstream=member.spec.name, state=after.value)

    def _note(self, course: Course, member: Member, fault: UpstreamFailure) -> None:
        """Raises the error where the question must not be asked anywhere else."""
        free = fault.retry_safety in _FREE or (self._ambiguous and fault.retry_safety is RetrySafety.AMBIGUOUS)
        if not free:
            raise fault.error
        name, course.failed_at = member.spec.name, self._monotonic()
        if not course.asked or fault.retry_safety is not RetrySafety.OTHER_UPSTREAM:
            # In the end the client is told rather what time may mend than what only the operator can.
            course.error = fault.error
        course.asked.add(name)
        delay = retry_delay(
            fault,
            attempt=course.repeats + 1,
            max_attempts=self._attempts,
            elapsed=course.failed_at - (course.started or 0.0),
            deadline=self._timeout,
            random=self._chance(),
            retry_ambiguous=self._ambiguous,
        )
        if delay is not None:
            course.due[name] = course.failed_at + delay

    async def _next(self, course: Course) -> Member:
        """Raises the error of the course where it has come to its end."""
        while isinstance(chosen := self._choose(course), NoCandidate):
            await (self._place(course) if chosen is NoCandidate.BUSY else self._rest(course))
        return self._members[chosen]

    def _choose(self, course: Course) -> str | NoCandidate:
        now = self._monotonic()
        candidates = [
            Candidate(
                name,
                priority=self._members[name].spec.priority + (_LAST if name in self._reported_down else 0),
                weight=self._members[name].spec.weight,
                available=self._members[name].circuit.allows(now),
                full=self._members[name].is_full,
                tried=name in course.asked,
            )
            for name in course.models
        ]
        return select(candidates, self._chance())

    async def _place(self, course: Course) -> None:
        """Wait until a question somewhere has ended."""
        try:
            async with asyncio.timeout(course.came + self._timeout - self._monotonic()):
                await self._freed.wait()
        except TimeoutError:
            raise course.error from None

    async def _rest(self, course: Course) -> None:
        """Wait until the question may be put again to one that has turned it away, the first that allows it."""
        may_repeat = course.due and course.repeats < self._attempts - 1
        if not may_repeat or not self._budget.withdraw():
            raise course.error
        name = min(course.due, key=course.due.__getitem__)
        seconds = max(0.0, course.due.pop(name) - course.failed_at)
        course.repeats += 1
        log.warning(
            "upstream_retry",
            upstream=name,
            attempt=course.repeats,
            seconds=round(seconds, 3),
            reason=course.error.detail,
        )
        await self._sleep(seconds)
        course.asked.discard(name)


def _is_its_fault(error: ApiError, upstream: Upstream) -> bool:
    """A refusal of what a client asks, or of a key that a client has brought, tells nothing about the upstream."""
    return isinstance(error, UpstreamError) or (isinstance(error, RateLimited) and not upstream.pass_through)
