"""What a key may ask for and how much, alone and through two servers that share a Redis."""

import asyncio
import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from limits.aio.storage import MemoryStorage
from redis import Redis

from app.access.auth import Caller
from app.access.keys import ClientKey, parse_keys
from app.access.limits import KeyLimits, apply_key_policy
from app.errors import ApiError, InvalidRequest, RateLimited
from app.protocol.image_request import ImagesRequest, Operation
from app.protocol.sizes import Size
from app.state.shared_state import SharedState
from tests.support.processes import Process, serve
from tests.support.redis import RedisServer, run_redis
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner

HEAD = f'[[keys]]\nname = "alice"\nsha256 = "{hashlib.sha256(b"sk-alice").hexdigest()}"\n'
KEY = {"authorization": "Bearer sk-alice"}
NOBODY = Caller("id", None)


def caller(lines: str) -> Caller:
    [row] = parse_keys(HEAD + lines)
    return Caller("id", "sk-alice", row)


@dataclass(frozen=True)
class Case:
    name: str
    line: str
    asked: dict[str, Any] = field(default_factory=dict)
    becomes: dict[str, Any] = field(default_factory=dict)
    says: str | None = None
    code: str | None = None


CASES = [
    Case("no limit", "", {"size": Size(3840, 2160), "quality": "high", "model": "x"}),
    Case("a model of the list", 'models = ["a", "b"]', {"model": "b"}),
    Case("another model", 'models = ["a", "b"]', {"model": "c"}, {}, "This key does not have access to the model 'c'.", "model_not_found"),
    Case("no model", 'models = ["a"]', {}, {}, "This key does not have access to requests that name no model.", "model_not_found"),
    Case("the largest size, on its side", 'max_size = "1536x1024"', {"size": Size(1024, 1536)}),
    Case("a larger size", 'max_size = "1024x1024"', {"size": Size(1536, 1024)}, {}, "Invalid size '1536x1024'. This key may ask for as many pixels as 1024x1024 has.", "invalid_value"),
    Case("a small size that is painted large", 'max_size = "1024x640"', {"size": Size(256, 256)}, {}, "Invalid size '256x256'. This key may ask for as many pixels as 1024x640 has.", "invalid_value"),
    Case("a size left to us", 'max_size = "1024x1024"', {}, {"size": Size(1024, 1024)}),
    Case("the best quality", 'max_quality = "medium"', {"quality": "medium"}),
    Case("a better quality", 'max_quality = "medium"', {"quality": "high"}, {}, "Invalid value: 'high'. This key may ask for 'medium' at most.", "invalid_value"),
    Case("a quality left to us", 'max_quality = "medium"', {}, {"quality": "medium"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_key_may_ask_for(case: Case) -> None:
    request = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", **case.asked)
    row: ClientKey | None = caller(case.line).key
    if case.says is None:
        made = apply_key_policy(row, request)
        assert {name: getattr(made, name) for name in case.asked | case.becomes} == case.asked | case.becomes
        return
    with pytest.raises(ApiError) as caught:
        apply_key_policy(row, request)
    assert (caught.value.message, caught.value.code) == (case.says, case.code)


class Meter:
    """Counting, with a clock for the months."""

    def __init__(self) -> None:
        self.now = 0.0
        self.limits = KeyLimits(SharedState("memory:", fail_closed=False), max_waiting=5)

    async def count(self, who: Caller, images: int = 1) -> dict[str, str] | RateLimited:
        try:
            return await self.limits.charge(who, images)
        except RateLimited as error:
            return error


def test_who_has_no_row_is_not_counted() -> None:
    assert asyncio.run(Meter().count(NOBODY)) == {}
    assert apply_key_policy(None, ImagesRequest(operation=Operation.GENERATION, prompt="a")).size is None


def test_what_is_left_is_told_and_then_refused_as_openai_does() -> None:
    who = caller('requests = ["3/minute"]\nimages = ["500/day", "4/minute"]')

    async def scene() -> None:
        meter = Meter()
        told = await meter.count(who, 2)
        assert isinstance(told, dict)
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("3", "2")
        assert (told["x-ratelimit-limit-images"], told["x-ratelimit-remaining-images"]) == ("4", "2")
        refused = await meter.count(who, 3)
        assert isinstance(refused, RateLimited)
        assert refused.message.startswith(
            "Rate limit reached for alice on images per minute: Limit 4, Used 2, Requested 3. Please try again in "
        )
        assert (refused.status, refused.type, refused.code) == (429, "images", "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-images"] == "2"
        # What was refused has not been counted.
        assert isinstance(await meter.count(who, 2), dict)
        assert isinstance(await meter.count(who, 1), RateLimited)

    asyncio.run(scene())


def test_more_at_once_than_ever_fits_is_no_matter_of_time() -> None:
    with pytest.raises(InvalidRequest, match="this key may ask for 4 images per minute, but got 5"):
        asyncio.run(KeyLimits(SharedState("memory:", fail_closed=False), 5).charge(caller('images = ["4/minute"]'), 5))


def test_a_budget_is_for_a_calendar_month() -> None:
    who = caller("monthly_images = 5")
    now = 0.0
    limits = KeyLimits(SharedState("memory:", fail_closed=False), 5, lambda: now)

    async def scene() -> None:
        nonlocal now
        await limits.charge(who, 4)
        with pytest.raises(RateLimited, match="budget of 5 images a month") as caught:
            await limits.charge(who, 2)
        assert (caught.value.code, caught.value.headers["x-should-retry"]) == ("insufficient_quota", "false")
        assert await limits.charge(who, 1) == {}
        now = 40 * 86_400.0
        assert await limits.charge(who, 5) == {}

    asyncio.run(scene())


def test_a_race_that_is_lost_between_look_and_count_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object) -> bool:
        return False

    monkeypatch.setattr(MemoryStorage, "acquire_entry", lost)
    refused = asyncio.run(Meter().count(caller('images = ["4/minute"]')))
    assert isinstance(refused, RateLimited)
    assert "Limit 4, Used 4, Requested 1" in refused.message


def test_a_budget_that_a_faster_replica_has_spent_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        meter = Meter()
        with monkeypatch.context() as patched:

            async def late(*_: object) -> int:
                return 0

            await meter.count(caller("monthly_images = 3"), 2)
            patched.setattr(MemoryStorage, "get", late)
            assert isinstance(await meter.count(caller("monthly_images = 3"), 2), RateLimited)
        assert await meter.count(caller("monthly_images = 3"), 1) == {}

    asyncio.run(scene())


@dataclass(frozen=True)
class Refused:
    """`lines` of the key, the pictures that were `asked` for and counted, then those that are too many."""

    name: str
    lines: str
    asked: list[int]
    too_many: int
    kind: str
    told: dict[str, str]
    left: int


REFUSED = [
    Refused("by requests, nothing counts as images", 'requests = ["1/minute"]\nimages = ["9/minute"]', [1], 2, "requests", {"remaining-requests": "0", "remaining-images": "8", "reset-requests": "1m0s"}, 8),
    Refused("by images, nothing counts as a request", 'requests = ["9/minute"]\nimages = ["4/hour"]', [1, 1], 3, "images", {"remaining-requests": "7", "remaining-images": "2", "limit-images": "4", "reset-images": "1h0m0s"}, 2),
    Refused("by the longer limit, nothing counts for the shorter", 'images = ["9/minute", "4/day"]', [3], 2, "images", {"remaining-images": "1", "limit-images": "4", "reset-images": "24h0m0s"}, 1),
    Refused("by the shorter limit, nothing counts for the longer", 'images = ["4/minute", "5/day"]', [3], 2, "images", {"remaining-images": "1", "limit-images": "4", "reset-images": "1m0s"}, 1),
    Refused("by both, for as long as the longer", 'images = ["4/minute", "4/hour"]', [4], 1, "images", {"remaining-images": "0", "reset-images": "1h0m0s"}, 0),
    Refused("by the budget, nothing counts for a limit", 'images = ["9/minute"]\nmonthly_images = 4', [3], 2, "insufficient_quota", {}, 1),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_is_refused_is_counted_nowhere(case: Refused) -> None:
    async def scene() -> None:
        meter, who = Meter(), caller(case.lines)
        for images in case.asked:
            assert isinstance(await meter.count(who, images), dict)
        for _ in range(2):
            refused = await meter.count(who, case.too_many)
            assert isinstance(refused, RateLimited)
            assert refused.type == case.kind
            assert {name: refused.headers[f"x-ratelimit-{name}"] for name in case.told} == case.told
        if case.left:
            assert isinstance(await meter.count(caller(case.lines.replace("1/minute", "2/minute")), case.left), dict)

    asyncio.run(scene())


def test_a_limit_that_is_changed_has_not_forgotten_what_was_used() -> None:
    async def scene() -> None:
        meter = Meter()
        await meter.count(caller('images = ["5/day"]'), 5)
        assert isinstance(await meter.count(caller('images = ["3/day"]'), 1), RateLimited)
        told = await meter.count(caller('images = ["6/day"]'), 1)
        assert isinstance(told, dict)
        assert told["x-ratelimit-remaining-images"] == "0"
        assert isinstance(await meter.count(caller('images = ["6/day"]'), 1), RateLimited)

    asyncio.run(scene())


def test_questions_of_a_key_at_once() -> None:
    async def scene() -> None:
        limits = KeyLimits(SharedState("memory:", fail_closed=False), max_waiting=0)
        async with limits.slot(NOBODY, 9), limits.slot(caller(""), 9), limits.slot(caller("concurrency = 2"), 2):
            with pytest.raises(RateLimited):
                async with limits.slot(caller("concurrency = 2"), 1):
                    pass
            # The file has changed.
            async with limits.slot(caller("concurrency = 3"), 1):
                pass

    asyncio.run(scene())


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running


def ask(limner: RunningLimner, prompt: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{limner.url}/v1/images/generations",
        json={"prompt": prompt},
        headers=KEY | headers,
        timeout=30,
        trust_env=False,
    )


def test_a_repeat_that_joins_is_not_counted(demo: RunningDemo, tmp_path: Path) -> None:
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
        assert ask(one, "a fox while nobody counts for all").status_code == 200


# Two processes that share a Redis.


@dataclass(frozen=True, slots=True)
class Pair:
    """Two Limners; requests go to both in turn. `redis` has been started; `counted` reads it."""

    demo: RunningDemo
    redis: RedisServer
    processes: tuple[Process, Process]

    def ask(self, number: int, **more: Any) -> httpx.Response:
        url = f"{self.processes[number % 2].url}/v1/images/generations"
        body = {"prompt": f"fox {number}", "response_format": "url", **more}
        return httpx.post(url, json=body, headers=KEY, timeout=60, trust_env=False)

    def ask_at_once(self, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
        with ThreadPoolExecutor(len(bodies)) as clients:
            return list(clients.map(lambda number: self.ask(number, **bodies[number]), range(len(bodies))))

    def counted(self, place: str) -> int:
        """Entries of a window, or the number of a month."""
        with Redis.from_url(self.redis.url) as shared:
            [key] = shared.keys(f"limner:{place}*")
            return int(shared.get(key)) if place.startswith("month") else shared.llen(key)

    def logged(self, event: str) -> list[int]:
        """How often each of the two has told that. Ends them."""
        for process in self.processes:
            process.process.terminate()
            assert process.end() == 0
        return [sum(line["event"] == event for line in process.lines) for process in self.processes]


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
    with serve(demo, folder / "one", **shared) as one, serve(demo, folder / "other", **shared) as other:
        yield Pair(demo, redis, (one, other))


MIXED = [{"n": 3 if number % 3 == 0 else 1} for number in range(30)]


@pytest.mark.parametrize(
    ("lines", "places"),
    [
        ('images = ["10/minute"]', ["images/alice/minute"]),
        ('images = ["500/minute", "10/hour"]', ["images/alice/minute", "images/alice/hour"]),
        ("monthly_images = 10", ["month/alice"]),
    ],
    ids=["a minute", "the longer of two", "the month"],
)
def test_ten_images_are_ten_whoever_asks_where(
    lines: str, places: list[str], demo: RunningDemo, redis: RedisServer, tmp_path: Path
) -> None:
    with pair(demo, redis, tmp_path, f'requests = ["1000/minute"]\n{lines}') as both:
        answers = both.ask_at_once(MIXED)
        good = [answer for answer in answers if answer.status_code == 200]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert sum(len(answer.json()["data"]) for answer in good) == 10
        assert demo.state.calls == 10
        assert both.counted("requests/alice/minute") == len(good)
        assert [both.counted(place) for place in places] == [10] * len(places)


def status_of(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.json().get('error', {}).get('code', '')}".strip()


@pytest.mark.parametrize(
    ("policy", "while_away"), [("open", {"200"}), ("closed", {"503 server_is_overloaded"})], ids=["open", "closed"]
)
def test_redis_is_killed_and_comes_back_while_requests_run(
    policy: str, while_away: set[str], demo: RunningDemo, redis: RedisServer, tmp_path: Path
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
        assert while_away <= seen <= {"200"} | while_away
        running = start()
        redis.start()
        assert {status_of(each.result()) for each in running} <= {"200"} | while_away
        assert any({status_of(each.result()) for each in start()} == {"200"} for _ in range(20))
        failures = [httpx.get(f"{each.url}/metrics", trust_env=False).text for each in both.processes]
        assert all('limner_part_errors_total{part="state"} 0.0' not in each for each in failures)
        assert (both.logged("state_down"), both.counted("images/alice/minute") > 0) == ([1, 1], True)
        assert [sum(line["event"] == "state_up" for line in each.lines) for each in both.processes] == [
            1,
            1,
        ]


def most_at_once(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each question that comes or ends: how many there are."""
    seen: list[int] = []
    move = demo.state.change_in_flight

    def watch(step: int) -> None:
        move(step)
        seen.append(demo.state.in_flight)

    monkeypatch.setattr(demo.state, "change_in_flight", watch)
    return seen


def test_so_many_questions_at_once_wherever_they_are_asked(
    demo: RunningDemo, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = most_at_once(demo, monkeypatch)
    with pair(demo, redis, tmp_path, "concurrency = 3", "slow-0.1") as both:
        answers = both.ask_at_once([{"n": 2 if number % 5 == 0 else 1} for number in range(12)])
        assert [answer.status_code for answer in answers] == [200] * 12
    assert (max(seen), demo.state.calls) == (3, 15)


def test_the_turns_of_a_process_that_is_killed_are_free_again(
    demo: RunningDemo, redis: RedisServer, tmp_path: Path
) -> None:
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
