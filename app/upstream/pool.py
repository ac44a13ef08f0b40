"""Choose the upstream for a request, and the next one after a failure that surely cost nothing."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from app.errors import ApiError, InvalidRequest, NotFound, RateLimited, RequestTooLarge, RetrySafety, UpstreamError
from app.observability.logging import log
from app.observability.metrics import UPSTREAM_ATTEMPTS
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.chat_request import ChatRequest
from app.protocol.image_request import ImagesRequest
from app.protocol.json_stream import StreamingJson
from app.upstream.circuit_breaker import CircuitBreaker, Permit
from app.upstream.client import UpstreamClient, UpstreamRequest
from app.upstream.error_mapping import UpstreamFailure
from app.upstream.retry import RetryBudget, retry_delay
from app.upstream.selection import Candidate, NoCandidate, select
from app.upstream.spec import UpstreamSpec

#: More than any configured priority: upstreams that other replicas report down are tried after all others.
_LAST = 1_000_000

_BUSY = "All upstreams are busy. Please try again later."

#: Draws from no state that other code of the process draws from, or seeds.
_CHANCE = random.SystemRandom().random


@dataclass(slots=True, eq=False)
class PoolMember:
    """One upstream with its circuit breaker and the number of its requests in flight.

    Attributes:
        with_other_modalities: The models that last wanted the dialect's other modalities.
    """

    spec: UpstreamSpec
    client: UpstreamClient
    circuit: CircuitBreaker = field(default_factory=CircuitBreaker)
    in_flight: int = 0
    with_other_modalities: set[str] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        """Whether the upstream is at its concurrency limit."""
        return self.spec.max_concurrency is not None and self.in_flight >= self.spec.max_concurrency


@dataclass(slots=True)
class RoutingState:
    """Where one request has been, and where it may go next. Times are those of the pool's `monotonic`.

    Attributes:
        models: The model's name at each upstream that has it.
        started_at: When the first attempt was made; the time limit counts from then.
        tried: Upstreams that are not to be tried before `retry_at` says so.
        failed: Attempts that have failed.
        is_prepaid: The retry budget has paid for the next attempt already.
        may_have_cost: One of the attempts may have been paid for.
        swapped: Upstreams that were asked again with the dialect's other modalities.
        error: The failure that a client is told of; None as long as no attempt has failed.
    """

    models: Mapping[str, str]
    queued_at: float
    started_at: float | None = None
    tried: set[str] = field(default_factory=set)
    retry_at: dict[str, float] = field(default_factory=dict)
    failed: int = 0
    failed_at: float = 0.0
    is_prepaid: bool = False
    may_have_cost: bool = False
    swapped: set[str] = field(default_factory=set)
    error: ApiError | None = None

    @property
    def last_error(self) -> ApiError:
        """What to raise when no further attempt is allowed."""
        return self.error or RateLimited(_BUSY, retry_after=10)

    def start(self, spec: UpstreamSpec, now: float) -> float:
        """Return since when the time limit of an attempt that begins now has been running."""
        self.started_at = now if self.started_at is None else self.started_at
        return now if spec.has_own_timeout else self.started_at


class UpstreamPool:
    """All upstreams of this server.

    A request has `attempts`: the first one, its retries and its failovers to upstreams that were not tried yet. Retries
    are taken from the retry budget, and so are failovers after a failure that may have cost something, which only
    `retry_ambiguous` allows. All other failovers are free: no upstream gets more requests by them than it would anyway.
    """

    def __init__(
        self,
        members: Sequence[PoolMember],
        *,
        timeout: float = 600,
        attempts: int = 3,
        retry_ambiguous: bool = False,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = _CHANCE,
    ) -> None:
        """`timeout` is in seconds; `chance` returns numbers from [0, 1)."""
        self._members = {member.spec.name: member for member in members}
        self._timeout, self._attempts, self._retry_ambiguous = timeout, attempts, retry_ambiguous
        self._sleep, self._monotonic, self._chance = sleep, monotonic, chance
        self._reported_down: Collection[str] = ()
        self._budget = RetryBudget()
        #: Made by the first request that waits for the end of another one's attempt.
        self._freed: asyncio.Event | None = None

    async def close(self) -> None:
        """Close the connections to all upstreams."""
        for member in self._members.values():
            await member.client.close()

    @property
    def has_alternatives(self) -> bool:
        """Whether there is more than one upstream."""
        return len(self._members) > 1

    @property
    def members(self) -> tuple[PoolMember, ...]:
        """All upstreams, in the order of the configuration."""
        return tuple(self._members.values())

    def member(self, name: str) -> PoolMember:
        """Return the upstream of a name."""
        return self._members[name]

    def circuits(self) -> dict[str, str]:
        """Return the state of each circuit breaker by the upstream's name: closed, open or half-open."""
        now = self._monotonic()
        return {name: member.circuit.state(now).value for name, member in self._members.items()}

    def public_circuits(self) -> dict[str, str]:
        """Return the same by the upstream's alias, for readers who need no key."""
        return {self._members[name].spec.alias: state for name, state in self.circuits().items()}

    def report_down(self, names: Collection[str]) -> None:
        """Choose these upstreams last, since other replicas report them down. Each call replaces the previous names."""
        self._reported_down = names

    async def request(self, request: UpstreamRequest, model: str | None, only: str | None = None) -> None:
        """Send a request to the best available upstream; `request.on_reply` gets its reply.

        Args:
            request: What to send, and what to call before each attempt, after one that cost nothing, and with a reply.
            model: The model that the client named, if any; mapped to each upstream's own name.
            only: Restrict the request to the upstream of this name.

        Raises:
            NotFound: No upstream has the model.
            RequestTooLarge: The input images are too large for all that have it.
            RateLimited: All upstreams stayed at their concurrency limit until the time was up.
            ApiError: What the last upstream has answered, when no further attempt is allowed.
        """
        routing = self._route(model, only, request.chat.images_bytes)
        self._budget.deposit()
        while True:
            member = await self._select(routing)
            started_at = routing.start(member.spec, self._monotonic())
            body, record = _body_for(member, request.chat, routing), _start_record(member, request, routing)
            failure = await self._attempt(member, request, body, started_at, record)
            if failure is None:
                return
            if not failure.retry_safety.may_have_cost:
                request.after_free_failure()
            if not _swap_modalities(routing, member, failure):
                self._handle_failure(routing, member, failure)

    def preview(
        self, chat: ChatRequest, model: str | None, only: str | None, images_bytes: int
    ) -> tuple[PoolMember, StreamingJson]:
        """Return the upstream that a request would go to now, and what it would be sent. Raises as `request` does."""
        routing = self._route(model, only, images_bytes)
        choice = self._choose(routing)
        if isinstance(choice, NoCandidate):  # All are busy: the request would wait.
            choice = min(routing.models, key=lambda name: self._members[name].spec.priority)
        member = self._members[choice]
        return member, _body_for(member, chat, routing)

    def highest_price(self, asked: ImagesRequest, only: str | None = None) -> Decimal:
        """Return the most that one image may cost at the upstreams that may be asked; 0 where no price is known."""
        size = asked.upstream_size_text
        prices = [Decimal(0)]
        for name, member in self._members.items():
            model = member.spec.models.resolve(asked.model)
            if model is not None and only in {None, name}:
                prices.append(member.spec.prices.reserve(model, size, asked.quality))
        return max(prices)

    def candidates(self, name: str | None, only: str | None = None) -> dict[str, str]:
        """Return the upstreams that may answer for a client's model, each with its own name for the model.

        Raises:
            InvalidRequest: The client named no model, and no upstream has a default.
            NotFound: No upstream has the model.
        """
        resolved = {upstream: member.spec.models.resolve(name) for upstream, member in self._members.items()}
        models = {
            upstream: model for upstream, model in resolved.items() if model is not None and only in {None, upstream}
        }
        if not models and name is None:
            message = "You must provide a model parameter."
            raise InvalidRequest(message, param="model", code="missing_required_parameter")
        if not models:
            raise NotFound(f"The model '{name}' does not exist.", param="model", code="model_not_found")
        return models

    def _route(self, model: str | None, only: str | None, size: int) -> RoutingState:
        """Begin with the upstreams that may answer and take images of `size` bytes. Raises `RequestTooLarge`."""
        models = self.candidates(model, only)
        if not size:
            return RoutingState(models, self._monotonic())
        limits = {name: self._members[name].spec.max_images_bytes for name in models}
        fitting = {name: model for name, model in models.items() if size <= (limits[name] or math.inf)}
        if not fitting:
            largest = max(limit for limit in limits.values() if limit is not None)
            raise RequestTooLarge(
                f"The images have {size} bytes together, and {largest} are possible. Send fewer or smaller images."
            )
        return RoutingState(fitting, self._monotonic())

    async def _attempt(
        self,
        member: PoolMember,
        request: UpstreamRequest,
        body: StreamingJson,
        started_at: float,
        record: AttemptRecord,
    ) -> UpstreamFailure | None:
        """Take a slot of the upstream for one attempt, and report the outcome to its circuit breaker.

        Nothing is reported of an attempt that was not sent, that was canceled, or that ended with a complaint.
        """
        permit, is_sent = member.circuit.acquire(self._monotonic()), False
        member.in_flight += 1
        try:
            await request.before_send()
            is_sent = True
            request.on_attempt(record)
            failure = await _attempt_once(member, request, body, started_at, record)
        except ApiError as error:
            if is_sent:
                self._record_outcome(member, permit, error)
            else:
                member.circuit.cancel(permit)
            raise
        except BaseException:  # reason: tidied up, and raised again
            member.circuit.cancel(permit)
            raise
        else:
            self._record_outcome(member, permit, None if failure is None else failure.error)
            return failure
        finally:
            member.in_flight -= 1
            if self._freed is not None:
                self._freed.set()
                self._freed = None

    def _record_outcome(self, member: PoolMember, permit: Permit, error: ApiError | None) -> None:
        name, now = member.spec.name, self._monotonic()
        UPSTREAM_ATTEMPTS.labels(member.spec.alias, "ok" if error is None else error.code or error.type).inc()
        before = member.circuit.state(now)
        if error is None:
            member.circuit.record_success(permit, now)
        elif error.counts_against_upstream:
            member.circuit.record_failure(permit, now, self._chance())
        else:
            member.circuit.cancel(permit)
        if self.has_alternatives and isinstance(error, UpstreamError | RateLimited):
            log.warning("upstream_failed", upstream=name, code=error.code, reason=error.detail)
        if (after := member.circuit.state(now)) is not before:
            log.warning("upstream_circuit_changed", upstream=name, state=after.value)

    def _handle_failure(self, routing: RoutingState, member: PoolMember, failure: UpstreamFailure) -> None:
        """Prepare the next attempt. Raises the error where the request must not be sent anywhere else."""
        name, routing.failed_at = member.spec.name, self._monotonic()
        routing.failed += 1
        is_ambiguous = failure.retry_safety is RetrySafety.AMBIGUOUS
        routing.may_have_cost = routing.may_have_cost or failure.retry_safety.may_have_cost
        is_hopeless = failure.retry_safety in {RetrySafety.UNSAFE, RetrySafety.FUTILE}
        if is_hopeless or (is_ambiguous and not self._retry_ambiguous):
            raise _final(failure.error, routing)
        if not routing.tried or failure.retry_safety is not RetrySafety.OTHER_UPSTREAM:
            # At the end, an error that time may mend is more useful to the client than one that only the operator can.
            routing.error = failure.error
        if routing.failed >= self._attempts or (is_ambiguous and not self._budget.withdraw()):
            raise _final(routing.last_error, routing)
        routing.is_prepaid = is_ambiguous
        routing.tried.add(name)
        delay = retry_delay(
            failure,
            attempt=routing.failed,
            max_attempts=self._attempts,
            elapsed=routing.failed_at - (routing.started_at or 0.0),
            deadline=self._timeout,
            random=self._chance(),
            retry_ambiguous=self._retry_ambiguous,
        )
        if delay is not None:
            routing.retry_at[name] = routing.failed_at + delay

    async def _select(self, routing: RoutingState) -> PoolMember:
        """Return the upstream for the next attempt. Raises `routing.last_error` where there is none."""
        while isinstance(choice := self._choose(routing), NoCandidate):
            if choice is NoCandidate.BUSY:
                await self._wait_for_capacity(routing)
            else:
                await self._wait_before_retry(routing)
        return self._members[choice]

    def _choose(self, routing: RoutingState) -> str | NoCandidate:
        now = self._monotonic()
        candidates = [
            Candidate(
                name,
                priority=self._members[name].spec.priority + (_LAST if name in self._reported_down else 0),
                weight=self._members[name].spec.weight,
                available=self._members[name].circuit.allows(now),
                full=self._members[name].is_full,
                tried=name in routing.tried,
            )
            for name in routing.models
        ]
        return select(candidates, self._chance() if self.has_alternatives else 0.0)

    async def _wait_for_capacity(self, routing: RoutingState) -> None:
        """Wait until an attempt somewhere has ended."""
        if self._freed is None:
            self._freed = asyncio.Event()
        try:
            async with asyncio.timeout(routing.queued_at + self._timeout - self._monotonic()):
                await self._freed.wait()
        except TimeoutError:
            raise _final(routing.last_error, routing) from None

    async def _wait_before_retry(self, routing: RoutingState) -> None:
        """Wait until an upstream that has turned the request away may be tried again, the first one that allows it."""
        if not routing.retry_at or not (routing.is_prepaid or self._budget.withdraw()):
            raise _final(routing.last_error, routing)
        routing.is_prepaid = False
        name = min(routing.retry_at, key=routing.retry_at.__getitem__)
        seconds = max(0.0, routing.retry_at.pop(name) - routing.failed_at)
        log.warning(
            "upstream_retry",
            upstream=name,
            attempt=routing.failed,
            seconds=round(seconds, 3),
            reason=routing.last_error.detail,
        )
        await self._sleep(seconds)
        routing.tried.discard(name)


def _body_for(member: PoolMember, chat: ChatRequest, routing: RoutingState) -> StreamingJson:
    model = routing.models[member.spec.name]
    swapped = model in member.with_other_modalities
    spec = member.spec
    return chat.body(spec.dialect, model, other_modalities=swapped, stream_mode=spec.stream)


def _start_record(member: PoolMember, request: UpstreamRequest, routing: RoutingState) -> AttemptRecord:
    spec, asked = member.spec, request.chat.request
    size = asked.upstream_size_text
    return AttemptRecord(spec.name, routing.models[spec.name], spec.prices, size, asked.quality)


async def _attempt_once(
    member: PoolMember, request: UpstreamRequest, body: StreamingJson, started_at: float, record: AttemptRecord
) -> UpstreamFailure | None:
    """Report the reply to the request, or return the failure. The record takes in what they say of the attempt."""
    outcome = await member.client.send(request, body, started_at)
    record.read_head(outcome.headers)
    failure: UpstreamFailure | None
    if isinstance(outcome, UpstreamFailure):
        failure = outcome
    else:
        failure = await member.client.read_reply(outcome, request, started_at, record)
    if failure is not None:
        record.is_free = not failure.retry_safety.may_have_cost
    return failure


def _swap_modalities(routing: RoutingState, member: PoolMember, failure: UpstreamFailure) -> bool:
    """Return whether to ask the same upstream once more with the dialect's other modalities.

    That is no retry: the model cannot answer in the way that was requested, so nothing was done, and it is tried once.
    The choice is kept for the next requests.
    """
    name = member.spec.name
    is_possible = failure.wants_other_modalities and member.spec.dialect.other_modalities
    if not is_possible or failure.retry_safety.may_have_cost or name in routing.swapped:
        return False
    routing.swapped.add(name)
    member.with_other_modalities ^= {routing.models[name]}
    return True


def _final(error: ApiError, routing: RoutingState) -> ApiError:
    """Let the last error say that an earlier attempt may have cost something."""
    if routing.may_have_cost and not error.may_have_cost:
        error.retry_safety, error.should_retry = RetrySafety.AMBIGUOUS, False
    return error
