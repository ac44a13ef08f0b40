"""The limits of a client key, in one process and over two servers that share a Redis."""

import asyncio
import hashlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from app.access.auth import Caller
from app.access.keys import ClientKey, parse_keys
from app.access.limits import KeyLimits, apply_key_policy
from app.errors import ApiError, InvalidRequest, RateLimited
from app.protocol.image_request import ImagesRequest
from app.protocol.parameters import Operation
from app.protocol.sizes import Size
from app.state.local_counters import LocalCounters
from app.state.shared_state import SharedState
from tests.support.processes import LimnerProcess, run_process
from tests.support.redis import RedisServer, run_redis
from tests.support.servers import RunningDemo, RunningLimner, run_limner

HEAD = f'[[keys]]\nname = "alice"\nsha256 = "{hashlib.sha256(b"sk-alice").hexdigest()}"\n'
KEY = {"authorization": "Bearer sk-alice"}
ANONYMOUS = Caller("id", None)


def caller(lines: str) -> Caller:
    [key] = parse_keys(HEAD + lines)
    return Caller("id", "sk-alice", key)


@dataclass(frozen=True)
class Case:
    name: str
    line: str
    request: dict[str, Any] = field(default_factory=dict)
    becomes: dict[str, Any] = field(default_factory=dict)
    message: str | None = None
    code: str | None = None


CASES = [
    Case("no limit", "", {"size": Size(3840, 2160), "quality": "high", "model": "x"}),
    Case("a model of the list", 'models = ["a", "b"]', {"model": "b"}),
    Case("another model", 'models = ["a", "b"]', {"model": "c"}, {}, "This key does not have access to the model 'c'.", "model_not_found"),
    Case("no model", 'models = ["a"]', {}, {}, "This key does not have access to requests that name no model.", "model_not_found"),
    Case("the largest size in portrait", 'max_size = "1536x1024"', {"size": Size(1024, 1536)}),
    Case("a larger size", 'max_size = "1024x1024"', {"size": Size(1536, 1024)}, {}, "Invalid size '1536x1024'. This key may ask for as many pixels as 1024x1024 has.", "invalid_value"),
    Case("a small size that is generated large", 'max_size = "1024x640"', {"size": Size(256, 256)}, {}, "Invalid size '256x256'. This key may ask for as many pixels as 1024x640 has.", "invalid_value"),
    Case("no size", 'max_size = "1024x1024"', {}, {"size": Size(1024, 1024)}),
    Case("the best quality", 'max_quality = "medium"', {"quality": "medium"}),
    Case("a better quality", 'max_quality = "medium"', {"quality": "high"}, {}, "Invalid value: 'high'. This key may ask for 'medium' at most.", "invalid_value"),
    Case("no quality", 'max_quality = "medium"', {}, {"quality": "medium"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_key_restricts_models_sizes_and_qualities(case: Case) -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", **case.request)
    key: ClientKey | None = caller(case.line).key
    if case.message is None:
        allowed = apply_key_policy(key, request)
        assert {name: getattr(allowed, name) for name in case.request | case.becomes} == case.request | case.becomes
        return
    with pytest.raises(ApiError) as caught:
        apply_key_policy(key, request)
    assert (caught.value.message, caught.value.code) == (case.message, case.code)


class Meter:
    """Charges requests and returns refusals instead of raising them."""

    def __init__(self) -> None:
        self.limits = KeyLimits(SharedState("memory:", fail_closed=False), max_waiting=5)

    async def charge(self, caller: Caller, images: int = 1) -> dict[str, str] | RateLimited:
        try:
            return await self.limits.charge(caller, images)
        except RateLimited as error:
            return error


def test_a_caller_without_an_entry_in_the_key_file_is_not_limited() -> None:
    assert asyncio.run(Meter().charge(ANONYMOUS)) == {}
    assert apply_key_policy(None, ImagesRequest(operation=Operation.GENERATION, prompt="a")).size is None


def test_the_headers_show_what_is_left_and_a_refusal_is_like_openais() -> None:
    alice = caller('requests = ["3/minute"]\nimages = ["500/day", "4/minute"]')

    async def check() -> None:
        meter = Meter()
        headers = await meter.charge(alice, 2)
        assert isinstance(headers, dict)
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("3", "2")
        assert (headers["x-ratelimit-limit-images"], headers["x-ratelimit-remaining-images"]) == ("4", "2")
        refused = await meter.charge(alice, 3)
        assert isinstance(refused, RateLimited)
        assert refused.message.startswith(
            "Rate limit reached for alice on images per minute: Limit 4, Used 2, Requested 3. Please try again in "
        )
        assert (refused.status, refused.type, refused.code) == (429, "images", "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-images"] == "2"
        # The refused request was not charged.
        assert isinstance(await meter.charge(alice, 2), dict)
        assert isinstance(await meter.charge(alice, 1), RateLimited)

    asyncio.run(check())


@pytest.mark.parametrize("periods", [("minute", "hour"), ("hour", "minute")])
def test_of_limits_with_equally_little_left_the_headers_show_the_longest(periods: tuple[str, str]) -> None:
    alice = caller("requests = [" + ", ".join(f'"3/{period}"' for period in periods) + "]")
    headers = asyncio.run(Meter().charge(alice))
    assert isinstance(headers, dict)
    assert headers["x-ratelimit-remaining-requests"] == "2"
    assert re.fullmatch("1h0m0s|59m[0-9]+s", headers["x-ratelimit-reset-requests"])


def test_more_images_than_a_limit_ever_permits_are_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="this key may ask for 4 images per minute, but got 5"):
        asyncio.run(KeyLimits(SharedState("memory:", fail_closed=False), 5).charge(caller('images = ["4/minute"]'), 5))


def test_a_budget_lasts_for_a_calendar_month() -> None:
    alice = caller("monthly_images = 5")
    now = 0.0
    limits = KeyLimits(SharedState("memory:", fail_closed=False), 5, lambda: now)

    async def check() -> None:
        nonlocal now
        await limits.charge(alice, 4)
        with pytest.raises(RateLimited, match="budget of 5 images a month") as caught:
            await limits.charge(alice, 2)
        assert (caught.value.code, caught.value.headers["x-should-retry"]) == ("insufficient_quota", "false")
        assert await limits.charge(alice, 1) == {}
        now = 40 * 86_400.0
        assert await limits.charge(alice, 5) == {}

    asyncio.run(check())


def test_a_limit_exhausted_between_reading_and_charging_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> bool:
        return False

    monkeypatch.setattr(LocalCounters, "acquire_entry", refuse)
    refused = asyncio.run(Meter().charge(caller('images = ["4/minute"]')))
    assert isinstance(refused, RateLimited)
    assert "Limit 4, Used 4, Requested 1" in refused.message


def test_images_charged_to_a_budget_that_another_replica_exhausted_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check() -> None:
        meter = Meter()
        with monkeypatch.context() as patched:

            async def read_nothing(*_: object) -> int:
                return 0

            await meter.charge(caller("monthly_images = 3"), 2)
            patched.setattr(LocalCounters, "get", read_nothing)
            assert isinstance(await meter.charge(caller("monthly_images = 3"), 2), RateLimited)
        assert await meter.charge(caller("monthly_images = 3"), 1) == {}

    asyncio.run(check())


@dataclass(frozen=True)
class Refusal:
    """`lines` of the key, the images of each request that is `accepted`, then `too_many` images."""

    name: str
    lines: str
    accepted: list[int]
    too_many: int
    kind: str
    headers: dict[str, str]
    left: int


REFUSALS = [
    Refusal("by requests; images are not charged", 'requests = ["1/minute"]\nimages = ["9/minute"]', [1], 2, "requests", {"remaining-requests": "0", "remaining-images": "8", "reset-requests": "1m0s"}, 8),
    Refusal("by images; requests are not charged", 'requests = ["9/minute"]\nimages = ["4/hour"]', [1, 1], 3, "images", {"remaining-requests": "7", "remaining-images": "2", "limit-images": "4", "reset-images": "1h0m0s"}, 2),
    Refusal("by the longer limit; the shorter is not charged", 'images = ["9/minute", "4/day"]', [3], 2, "images", {"remaining-images": "1", "limit-images": "4", "reset-images": "24h0m0s"}, 1),
    Refusal("by the shorter limit; the longer is not charged", 'images = ["4/minute", "5/day"]', [3], 2, "images", {"remaining-images": "1", "limit-images": "4", "reset-images": "1m0s"}, 1),
    Refusal("by both; the wait is that of the longer", 'images = ["4/minute", "4/hour"]', [4], 1, "images", {"remaining-images": "0", "reset-images": "1h0m0s"}, 0),
    Refusal("by the budget; the limits are not charged", 'images = ["9/minute"]\nmonthly_images = 4', [3], 2, "insufficient_quota", {}, 1),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_a_refused_request_is_not_charged_to_any_limit(case: Refusal) -> None:
    async def check() -> None:
        meter, alice = Meter(), caller(case.lines)
        for images in case.accepted:
            assert isinstance(await meter.charge(alice, images), dict)
        for _ in range(2):
            refused = await meter.charge(alice, case.too_many)
            assert isinstance(refused, RateLimited)
            assert refused.type == case.kind
            assert {name: refused.headers[f"x-ratelimit-{name}"] for name in case.headers} == case.headers
        if case.left:
            assert isinstance(await meter.charge(caller(case.lines.replace("1/minute", "2/minute")), case.left), dict)

    asyncio.run(check())


def test_a_clock_that_is_set_back_keeps_no_key_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        meter, alice, right_time = Meter(), caller('images = ["1/minute"]'), time.time
        assert isinstance(await meter.charge(alice), dict)
        monkeypatch.setattr(time, "time", lambda: right_time() - 3600)
        refused = await meter.charge(alice)
        assert isinstance(refused, RateLimited)
        assert 1 <= int(refused.headers["retry-after"]) <= 60

    asyncio.run(check())


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_no_key_waits_for_longer_than_its_limit_lasts_whatever_the_clock_says(jump: float) -> None:
    limits, alice = Meter().limits, caller('images = ["1/minute"]')

    async def check() -> None:
        headers = await limits.charge(alice, 1)
        assert headers["x-ratelimit-reset-images"] == "1m0s"
        limits._now = lambda: time.time() + jump
        with pytest.raises(RateLimited) as refused:
            await limits.charge(alice, 1)
        assert refused.value.headers["x-ratelimit-reset-images"] in {"1m0s", "0s"}
        assert int(refused.value.headers["retry-after"]) <= 60

    asyncio.run(check())


def test_what_was_used_still_counts_after_a_limit_is_changed() -> None:
    async def check() -> None:
        meter = Meter()
        await meter.charge(caller('images = ["5/day"]'), 5)
        assert isinstance(await meter.charge(caller('images = ["3/day"]'), 1), RateLimited)
        headers = await meter.charge(caller('images = ["6/day"]'), 1)
        assert isinstance(headers, dict)
        assert headers["x-ratelimit-remaining-images"] == "0"
        assert isinstance(await meter.charge(caller('images = ["6/day"]'), 1), RateLimited)

    asyncio.run(check())


def test_the_concurrency_of_a_key_is_limited() -> None:
    async def check() -> None:
        limits = KeyLimits(SharedState("memory:", fail_closed=False), max_waiting=0)
        async with limits.slot(ANONYMOUS, 9), limits.slot(caller(""), 9), limits.slot(caller("concurrency = 2"), 2):
            with pytest.raises(RateLimited):
                async with limits.slot(caller("concurrency = 2"), 1):
                    pass
            # The operator has changed the file.
            async with limits.slot(caller("concurrency = 3"), 1):
                pass

    asyncio.run(check())


def ask(limner: RunningLimner, prompt: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{limner.url}/v1/images/generations",
        json={"prompt": prompt},
        headers=KEY | headers,
        timeout=30,
        trust_env=False,
    )


def test_a_request_that_joins_a_job_is_not_charged(demo: RunningDemo, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(HEAD + 'images = ["2/minute"]')
    with run_limner(demo.url, keys_file=tmp_path / "keys.toml") as limner:
        first = ask(limner, "a fox", **{"idempotency-key": "one"})
        again = ask(limner, "a fox", **{"idempotency-key": "one"})
        assert (first.headers["x-ratelimit-remaining-images"], again.status_code) == ("1", 200)
        assert [ask(limner, "a hare").status_code, ask(limner, "a bear").status_code] == [200, 429]


def test_a_limit_of_ten_a_minute_holds_exactly_over_two_servers(
    demo: RunningDemo, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "keys.toml").write_text(HEAD + 'images = ["10/minute"]')
    options: dict[str, Any] = {"keys_file": tmp_path / "keys.toml", "shared_state": redis.url}
    with run_limner(demo.url, **options) as one, run_limner(demo.url, **options) as other:
        got = [ask((one, other)[number % 2], f"fox {number}") for number in range(14)]
        assert [each.status_code for each in got] == [200] * 10 + [429] * 4
        assert got[9].headers["x-ratelimit-remaining-images"] == "0"
        redis.kill()
        assert ask(one, "a fox while Redis is down").status_code == 200


# Two processes that share a Redis.


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers that share `redis`. Requests go to each in turn."""

    demo: RunningDemo
    redis: RedisServer
    processes: tuple[LimnerProcess, LimnerProcess]

    def ask(self, number: int, **more: Any) -> httpx.Response:
        url = f"{self.processes[number % 2].url}/v1/images/generations"
        body = {"prompt": f"fox {number}", "response_format": "url", **more}
        return httpx.post(url, json=body, headers=KEY, timeout=60, trust_env=False)

    def ask_at_once(self, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
        with ThreadPoolExecutor(len(bodies)) as clients:
            return list(clients.map(lambda number: self.ask(number, **bodies[number]), range(len(bodies))))

    def counted(self, counter: str) -> int:
        """Return the entries of a moving window, or the number of a month's counter; 0 where nothing was counted."""
        with Redis.from_url(self.redis.url) as shared:
            key = next(iter(shared.keys(f"limner:{counter}*")), None)
            if key is None:
                return 0
            return int(shared.get(key)) if counter.startswith("month") else shared.llen(key)

    def logged(self, event: str) -> list[int]:
        """Stop both servers and return how often each has logged the event."""
        for process in self.processes:
            process.process.terminate()
            assert process.end() == 0
        return [sum(line["event"] == event for line in process.records) for process in self.processes]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


@contextmanager
def pair(
    demo: RunningDemo, redis: RedisServer, folder: Path, lines: str, model: str = "gpt-image-2-chat", **variables: str
) -> Iterator[Pair]:
    demo.state.reset()
    keys = folder / "keys.toml"
    keys.write_text(HEAD + lines)
    shared = {
        "LIMNER_KEYS_FILE": str(keys),
        "LIMNER_SHARED_STATE": redis.url,
        "LIMNER_UPSTREAM_MODEL": model,
        **variables,
    }
    with run_process(demo, folder / "one", **shared) as one, run_process(demo, folder / "other", **shared) as other:
        yield Pair(demo, redis, (one, other))


MIXED = [{"n": 3 if number % 3 == 0 else 1} for number in range(30)]


@pytest.mark.parametrize(
    ("lines", "counters"),
    [
        ('images = ["10/minute"]', ["images/alice/minute"]),
        ('images = ["500/minute", "10/hour"]', ["images/alice/minute", "images/alice/hour"]),
        ("monthly_images = 10", ["month/alice"]),
    ],
    ids=["a minute", "the longer of two limits", "the month"],
)
def test_two_servers_charge_the_same_limit(
    lines: str, counters: list[str], demo: RunningDemo, redis: RedisServer, tmp_path: Path
) -> None:
    with pair(demo, redis, tmp_path, f'requests = ["1000/minute"]\n{lines}') as both:
        answers = both.ask_at_once(MIXED)
        good = [answer for answer in answers if answer.status_code == 200]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert sum(len(answer.json()["data"]) for answer in good) == 10
        assert demo.state.calls == 10
        assert both.counted("requests/alice/minute") == len(good)
        assert [both.counted(counter) for counter in counters] == [10] * len(counters)


def status_of(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.json().get('error', {}).get('code', '')}".strip()


@pytest.mark.parametrize(
    ("policy", "while_down"), [("open", {"200"}), ("closed", {"503 server_is_overloaded"})], ids=["open", "closed"]
)
def test_redis_is_killed_and_started_again_while_requests_run(
    policy: str, while_down: set[str], demo: RunningDemo, redis: RedisServer, tmp_path: Path
) -> None:
    lines = 'images = ["1000/minute"]\nmonthly_images = 1000\nconcurrency = 4'
    with pair(demo, redis, tmp_path, lines, LIMNER_STATE_DOWN=policy) as both, ThreadPoolExecutor(8) as clients:
        numbers = count()

        def start() -> list[Future[httpx.Response]]:
            return [clients.submit(both.ask, next(numbers)) for _ in range(8)]

        assert {status_of(each.result()) for each in start()} == {"200"}
        running = start()
        redis.kill()
        seen = {status_of(each.result()) for each in running}
        seen |= {status_of(each.result()) for each in start()}
        assert while_down <= seen <= {"200"} | while_down
        running = start()
        redis.start()
        assert {status_of(each.result()) for each in running} <= {"200"} | while_down

        def do_both_count() -> bool:
            before = both.counted("images/alice/minute")
            seen = {status_of(each.result()) for each in start()}
            return seen == {"200"} and both.counted("images/alice/minute") == before + 8

        assert any(do_both_count() for _ in range(200))
        failures = [httpx.get(f"{each.url}/metrics", trust_env=False).text for each in both.processes]
        assert all('limner_part_errors_total{part="state"} 0.0' not in each for each in failures)
        assert both.logged("state_down") == [1, 1]
        assert [sum(line["event"] == "state_up" for line in each.records) for each in both.processes] == [
            1,
            1,
        ]


def watch_in_flight(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of requests in flight whenever one arrives at the upstream or ends."""
    seen: list[int] = []
    change_in_flight = demo.state.change_in_flight

    def watch(step: int) -> None:
        change_in_flight(step)
        seen.append(demo.state.in_flight)

    monkeypatch.setattr(demo.state, "change_in_flight", watch)
    return seen


def test_two_servers_share_the_concurrency_of_a_key(
    demo: RunningDemo, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_in_flight(demo, monkeypatch)
    with pair(demo, redis, tmp_path, "concurrency = 3", "slow-0.1") as both:
        answers = both.ask_at_once([{"n": 2 if number % 5 == 0 else 1} for number in range(12)])
        assert [answer.status_code for answer in answers] == [200] * 12
    assert (max(seen), demo.state.calls) == (3, 15)


def test_the_slots_of_a_killed_process_become_free_again(demo: RunningDemo, redis: RedisServer, tmp_path: Path) -> None:
    with pair(demo, redis, tmp_path, "concurrency = 2", "holds") as both, ThreadPoolExecutor(4) as clients:
        cut = [clients.submit(both.ask, number) for number in (0, 2)]
        assert demo.state.wait_for_calls(2)
        waits = [clients.submit(both.ask, number) for number in (1, 3)]
        assert not demo.state.wait_for_calls(3, timeout=0.5)
        both.processes[0].process.kill()
        assert demo.state.wait_for_calls(4)
        demo.state.release()
        assert [each.result().status_code for each in waits] == [200, 200]
        assert all(isinstance(each.exception(), httpx.TransportError) for each in cut)
