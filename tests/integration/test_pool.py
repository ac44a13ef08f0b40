"""Several upstreams: which one gets a request, how often, in which order, and which one is skipped for a while.

First with scripted upstreams, where time is a number; then with demo upstreams behind the whole server.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx
import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.errors import (
    ApiError,
    InvalidRequest,
    ModerationBlocked,
    NotFound,
    RateLimited,
    RequestTooLarge,
    RetrySafety,
    Unauthorized,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalidReply,
    UpstreamNeedsOperator,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest
from app.protocol.dialects import DIALECTS
from app.protocol.image_request import ImagesRequest
from app.protocol.json_stream import Base64String, StreamingJson
from app.protocol.parameters import Operation
from app.protocol.reply_parser import read_reply
from app.upstream.client import PendingReply, UpstreamClient, UpstreamRequest
from app.upstream.error_mapping import UpstreamFailure
from app.upstream.pool import PoolMember, UpstreamPool
from app.upstream.spec import ModelMap, UpstreamSpec
from tests.support import manual_clock as clock
from tests.support.raw_http_lines import GENERATION, ListeningClient, wait_for_jobs, wait_until
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner

REPLY = read_reply(orjson.dumps({"choices": [{"message": {"content": "https://h/a.png"}, "finish_reason": "stop"}]}))
REQUEST = UpstreamRequest(ChatRequest(ImagesRequest(operation=Operation.GENERATION, prompt="a fox")))


@dataclass(frozen=True, slots=True)
class ErrorIn200:
    """A failure that the upstream reports in the body of a 200."""

    failure: UpstreamFailure


#: The outcome of one attempt; None: an image.
Outcome = UpstreamFailure | ErrorIn200 | ApiError | None


@dataclass(slots=True)
class Time:
    """A clock that only waits and the test itself move."""

    now: float = 1000.0
    waits: list[float] = field(default_factory=list)

    def read(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 3))
        self.now += seconds


class ScriptedClient(UpstreamClient):
    """`script`: the outcome of each attempt in turn, the last one for ever. An ApiError breaks the reply off."""

    def __init__(self, log: list[str], name: str, script: Sequence[Outcome], spec: UpstreamSpec):
        super().__init__(spec, httpx.MockTransport(lambda _: httpx.Response(500)))
        self.log, self.name, self.script = log, name, script
        self.calls = 0
        self.bodies: list[StreamingJson] = []
        self.started_at: list[float] = []
        self.gate: asyncio.Event | None = None

    async def send(
        self, request: UpstreamRequest, body: StreamingJson, started_at: float
    ) -> PendingReply | UpstreamFailure:
        self.log.append(self.name)
        self.bodies.append(body)
        self.started_at.append(started_at)
        step = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(step, UpstreamFailure):
            return step
        return PendingReply(httpx.Response(200, extensions={"step": step}), 0.0)

    async def read_reply(
        self, pending: PendingReply, request: UpstreamRequest, started_at: float, record: AttemptRecord
    ) -> UpstreamFailure | None:
        step = pending.response.extensions["step"]
        if isinstance(step, ErrorIn200):
            return step.failure
        await request.on_reply(self.name, REPLY)
        if step is not None:
            raise step
        await request.on_reply(self.name, REPLY)
        return None


def noting(names: list[Any], request: UpstreamRequest = REQUEST) -> UpstreamRequest:
    """Return a request that notes which upstream each snapshot of its reply comes from."""

    async def take(name: str, _: ChatReply) -> None:
        names.append(name)

    return replace(request, on_reply=take)


@dataclass
class World:
    """A pool of scripted upstreams. `tried`: the names of the upstreams in the order of the attempts."""

    members: list[PoolMember]
    pool: UpstreamPool
    tried: list[str]
    time: Time

    async def request(self, model: str | None = None) -> tuple[str | None, ApiError | None]:
        """Send one request. Return the name of the upstream that replied, and the error at the end, if any."""
        names: list[str | None] = [None]
        error = None
        try:
            await self.pool.request(noting(names), model)
        except ApiError as caught:
            error = caught
        return names[-1], error

    def client(self, name: str) -> ScriptedClient:
        (found,) = [member.client for member in self.members if member.spec.name == name]
        assert isinstance(found, ScriptedClient)
        return found


def build(
    scripts: dict[str, Sequence[Outcome]],
    *,
    entries: dict[str, dict[str, Any]] | None = None,
    spec: UpstreamSpec | None = None,
    chance: float | Random = 0.0,
    **options: Any,
) -> World:
    """By default the first of the names is tried first, the second if that fails, and so on.

    `entries` are more fields of the specs, by name. With `spec`, all clients have this one instead of their own.
    """
    tried: list[str] = []
    clock = Time()
    members = []
    for priority, (name, script) in zip(count(), scripts.items()):
        more = {"priority": priority} | (entries or {}).get(name, {})
        names = more.pop("models", {})
        if "dialect" in more:
            more["dialect"] = DIALECTS[more["dialect"]]
        default = more.pop("model", None if names else "gpt-image-2-chat")
        own = UpstreamSpec(
            name=name,
            base_url=f"https://{name}.example/v1",
            api_key=SecretStr(f"sk-{name}"),
            models=ModelMap(default, names),
            **more,
        )
        members.append(PoolMember(own, ScriptedClient(tried, name, script, spec or own)))
    random = chance.random if isinstance(chance, Random) else lambda: chance
    pool = UpstreamPool(members, sleep=clock.sleep, monotonic=clock.read, chance=random, **options)
    return World(members, pool, tried, clock)


DOWN = UpstreamFailure(UpstreamUnreachable("down", detail="down"), RetrySafety.SAFE)
BUSY = UpstreamFailure(RateLimited("busy"), RetrySafety.SAFE)
LATER = UpstreamFailure(RateLimited("busy"), RetrySafety.SAFE, retry_after=30)
NO_KEY = UpstreamFailure(UpstreamAuth("key"), RetrySafety.OTHER_UPSTREAM)
NO_QUOTA = UpstreamFailure(UpstreamNeedsOperator("quota", code="upstream_quota"), RetrySafety.OTHER_UPSTREAM)
CRASH = UpstreamFailure(UpstreamError("crash"), RetrySafety.AMBIGUOUS)
SLOW = UpstreamFailure(UpstreamTimeout("slow"))
REFUSAL = UpstreamFailure(ModerationBlocked("no"))
COMPLAINT = UpstreamFailure(InvalidRequest("size"), RetrySafety.FUTILE)
WORDLESS = UpstreamFailure(UpstreamNeedsOperator("modalities"), RetrySafety.OTHER_UPSTREAM, wants_other_modalities=True)
OK = None


@dataclass(frozen=True, slots=True)
class Route:
    """`tried`: the attempts in their order; `ends` with the upstream that replied, or with an error."""

    name: str
    scripts: dict[str, Sequence[Outcome]]
    tried: str
    ends: str | type[ApiError]
    waits: tuple[float, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


ROUTES = [
    Route("the first one replies", {"a": [OK], "b": [OK]}, "a", "a"),
    Route("the first is down: the second, at once", {"a": [DOWN], "b": [OK]}, "ab", "b"),
    Route("the first is busy for long: the second, at once", {"a": [LATER], "b": [OK]}, "ab", "b"),
    Route("the first has no quota left", {"a": [NO_QUOTA], "b": [OK]}, "ab", "b"),
    Route("the first refuses our key", {"a": [NO_KEY], "b": [OK]}, "ab", "b"),
    Route("two are down: the third", {"a": [DOWN], "b": [NO_KEY], "c": [OK]}, "abc", "c"),
    Route("more are down than there are attempts: moving on is counted, too", {"a": [DOWN], "b": [DOWN], "c": [DOWN], "d": [OK]}, "abc", UpstreamUnreachable),
    Route("as many attempts as upstreams: the last", {"a": [DOWN], "b": [DOWN], "c": [DOWN], "d": [OK]}, "abcd", "d", options={"attempts": 4}),
    Route("a single attempt is a single attempt", {"a": [DOWN], "b": [OK]}, "a", UpstreamUnreachable, options={"attempts": 1}),
    Route("all are down: the one that is due first is retried while attempts last", {"a": [DOWN], "b": [DOWN]}, "aba", UpstreamUnreachable, (0,)),
    Route("all are down: each is retried while attempts last", {"a": [DOWN], "b": [DOWN]}, "abab", UpstreamUnreachable, (0, 0), {"attempts": 4}),
    Route("the one that is back sooner is retried", {"a": [LATER], "b": [BUSY, OK]}, "abb", "b", (0,)),
    Route("an upstream that only the operator can mend is not retried", {"a": [NO_KEY], "b": [BUSY, OK]}, "abb", "b", (0,)),
    Route("no quota, reported inside a 200", {"a": [ErrorIn200(NO_QUOTA)], "b": [OK]}, "ab", "b"),
    Route("our key refused inside a 200", {"a": [ErrorIn200(NO_KEY)], "b": [OK]}, "ab", "b"),
    Route("busy, reported inside a 200: retried after its delay", {"a": [ErrorIn200(LATER), OK]}, "aa", "a", (30,)),
    Route("an error inside a 200 that may have been paid for", {"a": [ErrorIn200(SLOW)], "b": [OK]}, "a", UpstreamTimeout),
    Route("no upstream can be retried", {"a": [NO_KEY], "b": [NO_QUOTA]}, "ab", UpstreamAuth),
    Route("the client gets the error that time may mend", {"a": [BUSY], "b": [NO_KEY]}, "aba", RateLimited, (0,)),
    Route("the client gets the error that time may mend, in any order", {"a": [NO_KEY], "b": [BUSY]}, "abb", RateLimited, (0,)),
    Route("a crash may have been paid for", {"a": [CRASH], "b": [OK]}, "a", UpstreamError),
    Route("a crash, where ambiguous failures are retried", {"a": [CRASH], "b": [OK]}, "ab", "b", options={"retry_ambiguous": True}),
    Route("a timeout may have been paid for", {"a": [SLOW], "b": [OK]}, "a", UpstreamTimeout, options={"retry_ambiguous": True}),
    Route("a reply that breaks off has been paid for", {"a": [UpstreamInvalidReply("cut")], "b": [OK]}, "a", UpstreamInvalidReply, options={"retry_ambiguous": True}),
    Route("a complaint would be the same everywhere", {"a": [COMPLAINT], "b": [OK]}, "a", InvalidRequest, options={"retry_ambiguous": True}),
    Route("a refusal would be the same everywhere", {"a": [REFUSAL], "b": [OK]}, "a", ModerationBlocked),
    Route("no time is left to wait for any of them", {"a": [LATER], "b": [LATER]}, "ab", RateLimited, options={"timeout": 30}),
    Route("alone and down: retried while attempts last", {"a": [DOWN]}, "aaa", UpstreamUnreachable, (0, 0)),
    Route("alone and busy: retried after its delay", {"a": [LATER, OK]}, "aa", "a", (30,)),
    Route("alone and busy twice: retried after its delay each time", {"a": [LATER, LATER, OK]}, "aaa", "a", (30, 30)),
    Route("alone and busy twice: no time for a second wait", {"a": [LATER]}, "aa", RateLimited, (30,), {"timeout": 50}),
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_the_route_of_a_request(route: Route) -> None:
    world = build(route.scripts, **route.options)
    name, error = asyncio.run(world.request())
    assert "".join(world.tried) == route.tried
    assert tuple(world.time.waits) == route.waits
    if isinstance(route.ends, str):
        assert (name, error) == (route.ends, None)
    else:
        assert type(error) is route.ends


def test_the_route_is_logged() -> None:
    world = build({"a": [DOWN], "b": [NO_QUOTA]})
    with structlog.testing.capture_logs() as records:
        asyncio.run(world.request())
    failed = {"event": "upstream_failed", "log_level": "warning", "upstream": "a", "code": "upstream_unreachable"}
    assert records == [
        {**failed, "reason": "down"},
        {**failed, "upstream": "b", "code": "upstream_quota", "reason": None},
        {"event": "upstream_retry", "log_level": "warning", "upstream": "a", "attempt": 2, "seconds": 0.0, "reason": "down"},
        {**failed, "reason": "down"},
    ]  # fmt: skip


def test_of_a_single_upstream_only_retries_are_logged() -> None:
    world = build({"a": [DOWN, OK]})
    with structlog.testing.capture_logs() as records:
        asyncio.run(world.request())
    assert [record["event"] for record in records] == ["upstream_retry"]


STEPS = st.sampled_from([OK, DOWN, BUSY, LATER, NO_KEY, NO_QUOTA, CRASH, SLOW, REFUSAL, COMPLAINT])


@given(
    st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
)
def test_nothing_is_sent_twice_that_may_have_been_paid_for(
    scripts: list[list[UpstreamFailure | None]], attempts: int, ambiguous: bool, chance: float
) -> None:
    world = build(dict(zip("abc", scripts, strict=False)), attempts=attempts, retry_ambiguous=ambiguous, chance=chance)
    name, error = asyncio.run(world.request())
    calls: Counter[str] = Counter()
    outcomes = []
    for tried in world.tried:
        script = world.client(tried).script
        outcomes.append((tried, script[min(calls[tried], len(script) - 1)]))
        calls[tried] += 1
    free = {RetrySafety.SAFE, RetrySafety.OTHER_UPSTREAM} | ({RetrySafety.AMBIGUOUS} if ambiguous else set())
    assert all(isinstance(step, UpstreamFailure) and step.retry_safety in free for _, step in outcomes[:-1])
    assert len(outcomes) <= attempts
    for index, (tried, step) in enumerate(outcomes):
        if isinstance(step, UpstreamFailure) and step.retry_safety is RetrySafety.OTHER_UPSTREAM:
            assert tried not in world.tried[index + 1 :]
    last, step = outcomes[-1]
    assert (name, error is None) == ((last, True) if step is OK else (None, False))
    if error is not None:
        assert error in [step.error for _, step in outcomes if isinstance(step, UpstreamFailure)]


def test_each_upstream_gets_the_request_in_its_dialect_for_its_model() -> None:
    entries: dict[str, dict[str, Any]] = {
        "a": {"models": {"x": "alpha"}, "dialect": "metadata"},
        "b": {"model": "beta", "dialect": "openrouter"},
    }
    world = build({"a": [DOWN], "b": [OK]}, entries=entries)

    async def run(model: str | None) -> None:
        names: list[str] = []
        await world.pool.request(noting(names), model)
        assert names == ["b", "b"]

    asyncio.run(run("x"))
    asyncio.run(run(None))
    assert world.tried == ["a", "b", "b"]
    alpha, beta = (
        REQUEST.chat.body(DIALECTS[name], model) for name, model in (("metadata", "alpha"), ("openrouter", "beta"))
    )
    assert (world.client("a").bodies, world.client("b").bodies) == ([alpha], [beta, beta])
    assert [orjson.loads(b"".join(body.chunks()))["model"] for body in (alpha, beta)] == ["alpha", "beta"]


def test_an_upstream_has_its_own_time_for_an_attempt() -> None:
    entries = {"a": {"timeout": 60}, "b": {"timeout": 90, "has_own_timeout": True}, "c": {"timeout": 60}}
    world = build({"a": [LATER], "b": [LATER], "c": [LATER, OK]}, entries=entries, attempts=6)
    assert asyncio.run(world.request()) == ("c", None)
    assert world.tried == ["a", "b", "c", "a", "b", "c"]
    assert [world.client(name).started_at for name in "abc"] == [[1000.0, 1000.0], [1000.0, 1030.0], [1000.0, 1000.0]]


class Sized:
    """An image that only has a size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def chunks(self, size: int) -> Iterator[bytes]:
        yield bytes(self.size)


IMAGES: list[tuple[str, dict[str, int | None], str | None]] = [
    ("all take them", {"a": None, "b": None}, "a"),
    ("the first takes as many", {"a": 300, "b": None}, "a"),
    ("the first takes fewer", {"a": 299, "b": None}, "b"),
    ("none takes them", {"a": 100, "b": 299}, None),
]


@pytest.mark.parametrize(("name", "limits", "answers"), IMAGES, ids=[row[0] for row in IMAGES])
def test_images_go_where_they_are_not_too_many_bytes(
    name: str, limits: dict[str, int | None], answers: str | None
) -> None:
    entries = {key: {"max_images_bytes": limit} for key, limit in limits.items()}
    world = build({"a": [OK], "b": [OK]}, entries=entries)
    images = (Base64String(Sized(100)), "https://h/a.png", Base64String(Sized(200)))
    chat = replace(REQUEST.chat, image_urls=images)

    async def run() -> list[str]:
        names: list[str] = []
        await world.pool.request(noting(names, replace(REQUEST, chat=chat)), None)
        return names

    if answers is not None:
        assert set(asyncio.run(run())) == {answers}
        return
    with pytest.raises(RequestTooLarge, match=r"The images have 300 bytes together, and 299 are possible\."):
        asyncio.run(run())
    assert world.tried == []


def test_each_upstream_is_asked_for_a_stream_or_not() -> None:
    entries = {"a": {"stream": "never"}, "b": {"stream": "always"}, "c": {"stream": "auto"}, "d": {}}
    world = build({"a": [DOWN], "b": [DOWN], "c": [DOWN], "d": [OK]}, entries=entries, attempts=4)
    chat = replace(REQUEST.chat, stream=True)

    async def run() -> None:
        names: list[str] = []
        await world.pool.request(noting(names, replace(REQUEST, chat=chat)), None)
        assert names == ["d", "d"]

    asyncio.run(run())
    bodies = [orjson.loads(b"".join(world.client(name).bodies[0].chunks())) for name in "abcd"]
    assert [body["stream"] for body in bodies] == [False, True, False, True]


@pytest.mark.parametrize(("model", "kind", "code"), [("z", NotFound, "model_not_found"), (None, InvalidRequest, "missing_required_parameter")])  # fmt: skip
def test_a_model_that_no_upstream_has(model: str | None, kind: type[ApiError], code: str) -> None:
    world = build({"a": [OK]}, entries={"a": {"models": {"x": "alpha"}}})
    _, error = asyncio.run(world.request(model))
    assert (type(error), error and error.code, world.tried) == (kind, code, [])


def test_upstreams_of_equal_priority_share_by_weight() -> None:
    world = build(
        {"a": [OK], "b": [OK]},
        entries={"a": {"priority": 1, "weight": 1}, "b": {"priority": 1, "weight": 3}},
        chance=Random(11),
    )

    async def run() -> None:
        for _ in range(400):
            await world.request()

    asyncio.run(run())
    assert world.tried.count("a") + world.tried.count("b") == 400
    assert 80 <= world.tried.count("a") <= 120


def test_a_single_upstream_is_not_drawn_by_lot() -> None:
    class Lots(Random):
        drawn = 0

        def random(self) -> float:
            self.drawn += 1
            return 0.0

    lots = Lots()
    asyncio.run(build({"a": [OK]}, chance=lots).request())
    assert lots.drawn == 0
    asyncio.run(build({"a": [OK], "b": [OK]}, chance=lots).request())
    assert lots.drawn == 1


def test_failovers_that_cost_nothing_are_not_taken_from_the_retry_budget() -> None:
    """Forty requests at once find the first upstream down before its circuit could open."""
    world = build({"a": [DOWN], "b": [OK]})

    async def run() -> list[tuple[str | None, ApiError | None]]:
        return await asyncio.gather(*(world.request() for _ in range(40)))

    assert set(asyncio.run(run())) == {("b", None)}
    assert (world.tried.count("a"), world.tried.count("b")) == (40, 40)


def test_failovers_that_may_cost_something_are_taken_from_the_retry_budget() -> None:
    world = build({"a": [CRASH], "b": [OK]}, retry_ambiguous=True)

    async def run() -> list[tuple[str | None, ApiError | None]]:
        return await asyncio.gather(*(world.request() for _ in range(40)))

    outcomes = asyncio.run(run())
    assert (world.tried.count("a"), world.tried.count("b")) == (40, 10)
    assert {name for name, error in outcomes if error is None} == {"b"}
    assert {type(error) for _, error in outcomes if error is not None} == {UpstreamError}


def test_a_retry_that_may_cost_something_is_taken_from_the_budget_once() -> None:
    world = build({"a": [CRASH]}, retry_ambiguous=True, attempts=11)
    asyncio.run(world.request())
    assert len(world.tried) == 11


def test_the_last_error_tells_that_an_earlier_attempt_may_have_cost_something() -> None:
    busy = UpstreamFailure(RateLimited("busy"), RetrySafety.SAFE)
    error = asyncio.run(build({"a": [CRASH, busy]}, retry_ambiguous=True, attempts=2).request())[1]
    assert error is busy.error
    assert error.may_have_cost
    assert error.headers["x-should-retry"] == "false"


def test_a_model_that_cannot_answer_with_words_is_asked_once_more_for_images_alone() -> None:
    world = build({"a": [WORDLESS, OK], "b": [OK]}, entries={"a": {"dialect": "openrouter"}}, attempts=1)
    asyncio.run(world.request())
    asyncio.run(world.request())
    assert world.tried == ["a", "a", "a"]
    wanted = [orjson.loads(b"".join(body.chunks()))["modalities"] for body in world.client("a").bodies]
    assert wanted == [["image", "text"], ["image"], ["image"]]
    assert world.time.waits == []


def test_a_model_that_later_refuses_images_alone_is_asked_for_words_again() -> None:
    world = build({"a": [WORDLESS, OK, WORDLESS, OK], "b": [OK]}, entries={"a": {"dialect": "openrouter"}}, attempts=1)
    asyncio.run(world.request())
    asyncio.run(world.request())
    wanted = [orjson.loads(b"".join(body.chunks()))["modalities"] for body in world.client("a").bodies]
    assert wanted == [["image", "text"], ["image"], ["image"], ["image", "text"]]


AMBIGUOUS_WORDLESS = replace(WORDLESS, retry_safety=RetrySafety.AMBIGUOUS)
OTHER_MODALITIES: dict[str, tuple[str, UpstreamFailure, str]] = {
    "once, then the next upstream": ("openrouter", WORDLESS, "aab"),
    "not in a dialect without others": ("gpt-image-2-chat", WORDLESS, "ab"),
    "not after what may have cost something": ("openrouter", AMBIGUOUS_WORDLESS, "a"),
}


@pytest.mark.parametrize("name", OTHER_MODALITIES)
def test_other_modalities_are_tried_once_and_only_where_that_costs_nothing(name: str) -> None:
    dialect, failure, tried = OTHER_MODALITIES[name]
    world = build({"a": [failure], "b": [OK]}, entries={"a": {"dialect": dialect}})
    asyncio.run(world.request())
    assert "".join(world.tried) == tried


def test_retries_are_taken_from_one_budget() -> None:
    world = build({"a": [BUSY], "b": [BUSY]})

    async def run() -> None:
        for _ in range(40):
            await world.request()

    asyncio.run(run())
    assert len(world.tried) - 2 * 40 == 10 + 39 // 5


def test_one_deadline_holds_for_all_upstreams_and_attempts() -> None:
    world = build({"a": [LATER, OK], "b": [NO_KEY]})
    asyncio.run(world.request())
    assert world.time.now == 1030
    assert world.client("a").started_at + world.client("b").started_at == [1000, 1000, 1000]


def test_a_circuit_opens_probes_once_and_closes() -> None:
    world = build({"a": [*[DOWN] * 6, OK], "b": [OK]})
    a = world.client("a")

    async def run() -> None:
        for _ in range(8):
            assert await world.request() == ("b", None)
        assert "".join(world.tried) == "ab" * 5 + "b" * 3
        assert world.pool.circuits() == {"a": "open", "b": "closed"}

        world.time.now += 10
        assert world.pool.circuits() == {"a": "half-open", "b": "closed"}
        a.gate = asyncio.Event()
        probing = [asyncio.create_task(world.request()) for _ in range(5)]
        await asyncio.sleep(0)
        assert world.tried[13:].count("a") == 1
        a.gate.set()
        assert {name for name, _ in await asyncio.gather(*probing)} == {"b"}
        assert world.pool.circuits()["a"] == "open"

        world.time.now += 19.9
        assert await world.request() == ("b", None)
        world.time.now += 0.1
        assert [await world.request(), await world.request()] == [("a", None), ("a", None)]
        assert world.pool.circuits() == {"a": "closed", "b": "closed"}

    with structlog.testing.capture_logs() as records:
        asyncio.run(run())
    changes = [record["state"] for record in records if record["event"] == "upstream_circuit_changed"]
    assert changes == ["open", "open", "closed"]
    assert a.calls == 8


def test_a_probe_that_is_cancelled_does_not_count() -> None:
    world = build({"a": [*[DOWN] * 5, OK], "b": [OK]})

    async def run() -> None:
        for _ in range(5):
            await world.request()
        world.time.now += 10
        world.client("a").gate = asyncio.Event()
        probe = asyncio.create_task(world.request())
        await asyncio.sleep(0)
        assert world.tried[-1] == "a"
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        world.client("a").gate = None
        assert await world.request() == ("a", None)

    asyncio.run(run())


def test_a_reader_that_leaves_says_nothing_about_the_upstream() -> None:
    world = build({"a": [OK]})

    async def leave(*_: object) -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        for _ in range(9):
            with pytest.raises(asyncio.CancelledError):
                await world.pool.request(replace(REQUEST, on_reply=leave), None)
        assert world.members[0].in_flight == 0

    asyncio.run(run())
    assert world.pool.circuits() == {"a": "closed"}


@pytest.mark.parametrize("script", [DOWN, SLOW, CRASH, ErrorIn200(CRASH), UpstreamInvalidReply("cut")])
def test_what_opens_a_circuit(script: Outcome) -> None:
    assert circuit_after(script) == "open"


COMPLAINTS = [REFUSAL, ErrorIn200(REFUSAL), COMPLAINT, NO_KEY, NO_QUOTA, BUSY, ErrorIn200(NO_KEY), ErrorIn200(BUSY)]


@pytest.mark.parametrize("script", [*COMPLAINTS, OK])
def test_a_complaint_does_not_open_a_circuit(script: Outcome) -> None:
    assert circuit_after(script) == "closed"


@pytest.mark.parametrize("script", [UpstreamFailure(Unauthorized("key")), BUSY])
def test_an_error_of_the_callers_own_key_does_not_open_a_circuit(script: UpstreamFailure) -> None:
    assert circuit_after(script, UpstreamSpec("https://a.example/v1")) == "closed"


@given(st.lists(st.sampled_from(COMPLAINTS), min_size=1, max_size=12), st.integers(0, 6), st.sampled_from([0, 5, 10]))
def test_no_complaint_changes_a_circuit(complaints: list[Outcome], failures: int, later: float) -> None:
    """Neither a closed one that has failures, nor an open one, nor a half-open one, of which it is the probe."""
    world = build({"a": [*[SLOW] * failures, *complaints, OK, *[SLOW] * 9]}, attempts=1)
    same = build({"a": [*[SLOW] * failures, OK, *[SLOW] * 9]}, attempts=1)

    async def run(world: World, requests: int) -> str:
        for _ in range(requests):
            await world.request()
        return world.pool.circuits()["a"]

    for each in (world, same):
        asyncio.run(run(each, failures))
        each.time.now += later
    before = asyncio.run(run(world, 0))
    assert asyncio.run(run(world, len(complaints))) == before
    for _ in range(10):
        assert asyncio.run(run(world, 1)) == asyncio.run(run(same, 1))


def circuit_after(script: Outcome, spec: UpstreamSpec | None = None) -> str:
    world = build({"a": [script]}, spec=spec, attempts=1)

    async def run() -> None:
        for _ in range(5):
            await world.request()

    asyncio.run(run())
    return world.pool.circuits()["a"]


def test_a_single_upstream_is_tried_even_while_its_circuit_is_open() -> None:
    world = build({"a": [*[SLOW] * 6, OK]})

    async def run() -> None:
        for _ in range(6):
            assert isinstance((await world.request())[1], UpstreamTimeout)
        assert world.pool.circuits() == {"a": "open"}
        assert await world.request() == ("a", None)
        assert world.pool.circuits() == {"a": "closed"}

    asyncio.run(run())


def test_an_upstream_that_other_replicas_report_down_is_tried_last() -> None:
    world = build({"a": [OK], "b": [OK, DOWN]})
    world.pool.report_down(["a"])

    async def run() -> None:
        assert await world.request() == ("b", None)
        assert await world.request() == ("a", None)
        world.pool.report_down(())
        assert await world.request() == ("a", None)

    asyncio.run(run())


def test_a_full_upstream_is_passed_over_and_when_all_are_full_requests_wait() -> None:
    world = build({"a": [OK], "b": [OK]}, entries={"a": {"max_concurrency": 2}, "b": {"max_concurrency": 1}})

    async def run() -> None:
        gates = [asyncio.Event(), asyncio.Event()]
        for name, gate in zip("ab", gates, strict=True):
            world.client(name).gate = gate
        requests = [asyncio.create_task(world.request()) for _ in range(6)]
        await asyncio.sleep(0)
        assert world.tried == ["a", "a", "b"]
        gates[1].set()
        await asyncio.wait(requests[2:3])
        assert [member.in_flight for member in world.members] == [2, 0]
        gates[0].set()
        assert {error for _, error in await asyncio.gather(*requests)} == {None}

    asyncio.run(run())
    assert len(world.tried) == 6
    assert [member.in_flight for member in world.pool.members] == [0, 0]


def test_no_request_waits_for_capacity_for_ever() -> None:
    world = build({"a": [OK]}, entries={"a": {"max_concurrency": 1}}, timeout=60)

    async def run() -> None:
        world.client("a").gate = asyncio.Event()
        first = asyncio.create_task(world.request())
        await asyncio.sleep(0)
        second = asyncio.create_task(world.request())
        await asyncio.sleep(0)
        clock.advance(61)
        name, error = await second
        assert (name, type(error)) == (None, RateLimited)
        assert error is not None
        assert error.headers["retry-after"] == "10"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    clock.run_with_manual_clock(run())
    assert world.tried == ["a"]


def test_a_request_that_loses_a_slot_to_another_keeps_its_time_limit() -> None:
    world = build({"a": [OK]}, entries={"a": {"max_concurrency": 1}}, timeout=60)

    async def run() -> None:
        gate = world.client("a").gate = asyncio.Event()
        first, second, third = (asyncio.create_task(world.request()) for _ in range(3))
        await asyncio.sleep(0)
        world.time.now += 59
        clock.advance(59)
        gate.set()
        await first
        gate.clear()
        for _ in range(9):
            await asyncio.sleep(0)
        assert world.tried == ["a", "a"]
        clock.advance(2)
        assert isinstance((await asyncio.wait_for(third, 5))[1], RateLimited)
        gate.set()
        assert await second == ("a", None)

    clock.run_with_manual_clock(run())


def test_a_request_that_waits_for_capacity_after_a_failure_ends_with_that_failure() -> None:
    world = build({"a": [OK, DOWN], "b": [OK]}, entries={"b": {"max_concurrency": 1}}, timeout=60)

    async def run() -> None:
        world.client("b").gate = asyncio.Event()
        holder = asyncio.create_task(world.request())
        await holder
        world.members[1].in_flight = 1
        late = asyncio.create_task(world.request())
        for _ in range(3):
            await asyncio.sleep(0)
        world.time.now += 59
        clock.advance(61)
        assert isinstance((await late)[1], UpstreamUnreachable)

    clock.run_with_manual_clock(run())
    assert world.tried == ["a", "a"]


# Behind the whole server.


@dataclass
class Fleet:
    """Demo upstreams by name, in the order of their priority, with `limner` in front of them."""

    demos: dict[str, RunningDemo]
    limner: RunningLimner

    def ask(self, prompt: str = "a fox", key: str = "sk-client", **more: Any) -> httpx.Response:
        body = {"model": "gpt-image-2", "prompt": prompt, "response_format": "url", **more}
        url = f"{self.limner.url}/v1/images/generations"
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)

    @property
    def calls(self) -> list[int]:
        return [demo.state.calls for demo in self.demos.values()]

    def readiness(self) -> Any:
        return httpx.get(f"{self.limner.url}/readyz", trust_env=False).json()


@contextmanager
def running(
    models: dict[str, str], entries: dict[str, dict[str, Any]] | None = None, **options: Any
) -> Iterator[Fleet]:
    """Demo upstreams with these behaviors, tried in this order. `down`: nothing listens there."""
    with ExitStack() as stack:
        demos = {name: stack.enter_context(run_demo(api_key=f"sk-{name}")) for name in models}
        listed = []
        for priority, (name, model) in enumerate(models.items()):
            url = "http://127.0.0.1:9" if model == "down" else demos[name].url
            entry = {"name": name, "base_url": f"{url}/v1", "api_key": f"sk-{name}", "priority": priority}
            listed.append({**entry, "model": model, **(entries or {}).get(name, {})})
        more = {
            "upstream_base_url": None,
            "upstream_api_key": None,
            "upstreams": orjson.dumps(listed).decode(),
            "fetch_allow": ",".join(demo.url.removeprefix("http://") for demo in demos.values()),
        }
        yield Fleet(demos, stack.enter_context(run_limner("http://unused.invalid", **{**more, **options})))


@dataclass(frozen=True, slots=True)
class Case:
    """`calls`: how many each upstream gets; `answered`: the upstream that replied, or the code of the error."""

    name: str
    models: dict[str, str]
    calls: list[int]
    answered: str
    status: int = 200
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)


GOOD = "gpt-image-2-chat"
CASES = [
    Case("the first is well", {"a": GOOD, "b": GOOD}, [1, 0], "a"),
    Case("the first is down", {"a": "down", "b": GOOD}, [0, 1], "b"),
    Case("the first has refused our key", {"a": "error-401", "b": GOOD}, [1, 1], "b"),
    Case("the first is over quota", {"a": "error-402", "b": GOOD}, [1, 1], "b"),
    Case("the first is busy", {"a": "error-429", "b": GOOD}, [1, 1], "b"),
    Case("the first is overloaded", {"a": "flaky-1", "b": GOOD}, [1, 1], "b"),
    Case("the first does not have the model", {"a": "error-404", "b": GOOD}, [1, 1], "b"),
    Case("the first is over quota, reported inside a 200", {"a": "error-in-200-402", "b": GOOD}, [1, 1], "b"),
    Case("the first refuses our key inside a 200", {"a": "error-in-200-401", "b": GOOD}, [1, 1], "b"),
    Case("the first is busy, reported inside a 200", {"a": "error-in-200-429", "b": GOOD}, [1, 1], "b"),
    Case("the first is overloaded, reported inside a 200", {"a": "error-in-200", "b": GOOD}, [1, 1], "b"),
    Case("one after the other fails", {"a": "down", "b": "error-401", "c": GOOD, "d": GOOD}, [0, 1, 1, 0], "c"),
    Case("more fail than there are attempts", {"a": "down", "b": "error-401", "c": "error-429", "d": GOOD}, [0, 1, 1, 0], "rate_limit_exceeded", 429),
    Case("after a gateway's timeout there is no failover", {"a": "html-504", "b": GOOD}, [1, 0], "upstream_timeout", 500),
    Case("nor after a crash", {"a": "error-500", "b": GOOD}, [1, 0], "upstream_error", 500),
    Case("nor after a reply that breaks off", {"a": "broken-json", "b": GOOD}, [1, 0], "upstream_broken", 500),
    Case("nor after a stream that breaks off", {"a": "breaks-mid-stream", "b": GOOD}, [1, 0], "upstream_broken", 500),
    Case("nor after a crash inside a 200", {"a": "error-in-200-500", "b": GOOD}, [1, 0], "upstream_error", 500),
    Case("nor after a refusal", {"a": "refuses-400", "b": GOOD}, [1, 0], "moderation_blocked", 400),
    Case("nor after a reply without an image", {"a": "text-only", "b": GOOD}, [1, 0], "no_image_in_reply", 400),
    Case("each has its own dialect", {"a": "error-503", "b": GOOD}, [1, 1], "b", entries={"a": {"dialect": "metadata"}, "b": {"dialect": "metadata"}}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_behind_the_whole_server(case: Case) -> None:
    with running(case.models, case.entries) as fleet:
        response = fleet.ask(stream=True) if "mid-stream" in case.models["a"] else fleet.ask()
        assert fleet.calls == case.calls
        keys = {
            name: received.headers["authorization"]
            for name, demo in fleet.demos.items()
            for received in demo.state.requests
            if received.path.endswith("completions")
        }
    assert keys == {name: f"Bearer sk-{name}" for name in keys}
    assert response.status_code == case.status or response.headers["content-type"].startswith("text/event-stream")
    if case.status == 200:
        assert response.headers["x-limner-upstream"] == case.answered
        assert response.json()["data"][0]["url"].startswith("http://")
    else:
        assert case.answered in response.text


def test_an_upstream_that_stays_down_is_soon_skipped_and_readyz_says_so() -> None:
    with running({"a": "down", "b": GOOD}) as fleet:
        assert fleet.readiness() == {"status": "ready", "upstreams": {"upstream-1": "closed", "upstream-2": "closed"}}
        assert {fleet.ask(f"fox {number}").status_code for number in range(7)} == {200}
        assert fleet.calls == [0, 7]
        assert fleet.readiness() == {"status": "ready", "upstreams": {"upstream-1": "open", "upstream-2": "closed"}}


def test_prompts_that_are_refused_do_not_move_an_upstream() -> None:
    with running({"a": "refuses-400", "b": GOOD}) as fleet:
        assert {fleet.ask(f"fox {number}").status_code for number in range(7)} == {400}
        assert fleet.calls == [7, 0]
        assert fleet.readiness() == {"status": "ready", "upstreams": {"upstream-1": "closed", "upstream-2": "closed"}}


def test_the_upstream_requests_of_one_request_are_routed_one_by_one() -> None:
    entries = {"a": {"priority": 0, "weight": 1000}, "b": {"priority": 0, "weight": 1000, "max_concurrency": 1}}
    with running({"a": "error-503", "b": GOOD}, entries) as fleet:
        response = fleet.ask(n=3)
        assert (response.status_code, len(response.json()["data"])) == (200, 3)
        assert response.headers["x-limner-upstream"] == "b"
        assert fleet.calls[1] == 3


def test_the_limits_of_all_upstreams_hold_under_load() -> None:
    entries = {"a": {"max_concurrency": 2}, "b": {"max_concurrency": 1}}
    with running({"a": "holds", "b": "holds"}, entries) as fleet, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(fleet.ask, f"fox {number}") for number in range(8)]
        a, b = fleet.demos.values()
        assert a.state.wait_for_calls(2)
        assert b.state.wait_for_calls(1)
        assert fleet.limner.service.semaphore.in_use == 3
        a.state.release()
        assert a.state.wait_for_calls(7)
        assert fleet.calls == [7, 1]
        b.state.release()
        assert {answer.result().status_code for answer in answers} == {200}


def test_a_client_chooses_among_the_models_of_the_map() -> None:
    entries = {"a": {"model": None, "models": {"fast": GOOD}}, "b": {"model": None, "models": {"fine": GOOD}}}
    with running({"a": GOOD, "b": GOOD}, entries) as fleet:
        assert [fleet.ask(model=model).headers["x-limner-upstream"] for model in ("fine", "fast")] == ["b", "a"]
        refused = fleet.ask(model="gpt-image-2")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        listed = httpx.get(f"{fleet.limner.url}/v1/models", trust_env=False).json()["data"]
        assert [card["id"] for card in listed] == ["fast", "fine"]


def test_a_single_upstream_is_not_named() -> None:
    with run_demo() as demo, run_limner(demo.url) as limner:
        response = Fleet({"alone": demo}, limner).ask()
        assert response.status_code == 200
        assert "x-limner-upstream" not in response.headers


PINNED = [
    Case("to the second, while the first is well", {"a": GOOD, "b": GOOD}, [0, 1], "b"),
    Case("to one that is busy: no other is tried", {"a": GOOD, "b": "error-429"}, [0, 3], "rate_limit_exceeded", 429),
    Case("to one that is down", {"a": GOOD, "b": "down"}, [0, 0], "upstream_unreachable", 500),
    Case("to one without the model", {"a": GOOD, "b": GOOD}, [0, 0], "model_not_found", 404, {"b": {"model": None, "models": {"x": GOOD}}}),
]  # fmt: skip


@pytest.mark.parametrize("case", PINNED, ids=lambda case: case.name)
def test_a_client_key_that_is_bound_to_an_upstream(case: Case, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"sk-alice").hexdigest()
    (tmp_path / "keys.toml").write_text(f'[[keys]]\nname = "alice"\nsha256 = "{digest}"\nupstream = "b"\n')
    with running(case.models, case.entries, keys_file=tmp_path / "keys.toml") as fleet:
        response = fleet.ask(key="sk-alice")
        assert (response.status_code, fleet.calls) == (case.status, case.calls)
    if case.status == 200:
        assert response.headers["x-limner-upstream"] == case.answered
    else:
        assert response.json()["error"]["code"] == case.answered


def test_a_client_that_leaves_while_its_request_waits_for_capacity_is_never_charged_for(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"sk-alice").hexdigest()
    (tmp_path / "keys.toml").write_text(f'[[keys]]\nname = "alice"\nsha256 = "{digest}"\nupstream = "a"\n')
    limits = {"a": {"max_concurrency": 1}}
    with running({"a": "holds", "b": GOOD}, limits, keys_file=tmp_path / "keys.toml") as fleet:
        first, second = (
            ListeningClient(fleet.limner, {**GENERATION, "prompt": prompt}, authorization="Bearer sk-alice")
            for prompt in "12"
        )
        fleet.demos["a"].state.wait_for_calls(1)
        wait_until(lambda: fleet.limner.service.semaphore.in_use == 2)
        second.disconnect()
        wait_for_jobs(fleet.limner, 1)
        fleet.demos["a"].state.release()
        assert b" 200 OK\r\n" in first.read_until(b"\r\n\r\n")
        first.disconnect()
        wait_for_jobs(fleet.limner, 0)
        assert fleet.calls == [1, 0]
        assert fleet.limner.service.semaphore.in_use == 0


def test_a_client_that_leaves_between_a_refusal_and_its_retry_is_never_charged_for() -> None:
    """A 429 has cost nothing, so until the next attempt there is nothing to lose."""
    with running({"a": "limited-30"}) as fleet:
        line = ListeningClient(fleet.limner, GENERATION, authorization="Bearer any")
        fleet.demos["a"].state.wait_for_calls(1)
        wait_until(lambda: next(iter(fleet.limner.service.backends.pool.members)).in_flight == 0)
        line.disconnect()
        wait_for_jobs(fleet.limner, 0)
        assert fleet.calls == [1]
