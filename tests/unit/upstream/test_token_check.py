"""The upstreams are asked about a key once a minute, and invented keys do not push out good ones."""

import asyncio
from dataclasses import dataclass, field

import pytest

from app.errors import ApiError, Unauthorized
from app.upstream.token_check import MAX_REMEMBERED, TokenCheck

REFUSED = Unauthorized("no such key", code="invalid_api_key")


@dataclass(slots=True)
class Upstream:
    """Accepts the keys `good`. Waits for `go` before it answers."""

    good: frozenset[str] = frozenset({"good"})
    asked: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go.set()

    async def check_token(self, token: str) -> ApiError | None:
        self.asked.append(token)
        await self.go.wait()
        return None if token in self.good else REFUSED


async def is_accepted(check: TokenCheck, token: str | None) -> bool:
    try:
        await check.check(f"id of {token}", token)
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize(("token", "accepted"), [("good", True), ("bad", False)])
def test_the_upstream_is_asked_once_a_minute(token: str, accepted: bool) -> None:
    async def play() -> list[int]:
        times, upstream, counts = [0.0], Upstream(), []
        check = TokenCheck([upstream], lambda: times[-1])
        for time in (0.0, 59.9, 60.0, 119.9):
            times.append(time)
            assert await is_accepted(check, token) is accepted
            counts.append(len(upstream.asked))
        return counts

    assert asyncio.run(play()) == [1, 1, 2, 2]


def test_an_error_that_is_raised_again_does_not_grow() -> None:
    async def play() -> int:
        check = TokenCheck([Upstream()])
        for _ in range(50):
            await is_accepted(check, "bad")
        depth, frame = 0, REFUSED.__traceback__
        while frame is not None:
            depth, frame = depth + 1, frame.tb_next
        return depth

    assert asyncio.run(play()) < 5


def test_one_upstream_that_accepts_the_key_is_enough() -> None:
    async def play() -> tuple[list[bool], list[int]]:
        first, second = Upstream(frozenset()), Upstream()
        check = TokenCheck([first, second])
        results = [await is_accepted(check, token) for token in ("good", "bad")]
        return results, [len(first.asked), len(second.asked)]

    assert asyncio.run(play()) == ([True, False], [2, 2])


def test_nothing_is_asked_without_upstreams_or_without_a_key() -> None:
    async def play() -> tuple[bool, bool, list[str]]:
        upstream = Upstream()
        return await is_accepted(TokenCheck([]), "bad"), await is_accepted(TokenCheck([upstream]), None), upstream.asked

    assert asyncio.run(play()) == (True, True, [])


def test_requests_at_the_same_time_wait_for_one_answer_and_one_that_leaves_takes_it_from_none() -> None:
    async def play() -> tuple[list[object], int]:
        upstream = Upstream()
        upstream.go.clear()
        check = TokenCheck([upstream])
        waiting = [asyncio.create_task(is_accepted(check, "good")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting[0].cancel()
        upstream.go.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        return [isinstance(result, asyncio.CancelledError) or result for result in results], len(upstream.asked)

    assert asyncio.run(play()) == ([True, True, True], 1)


def test_invented_keys_replace_each_other_only() -> None:
    async def play() -> tuple[int, int]:
        upstream = Upstream()
        check = TokenCheck([upstream])
        await is_accepted(check, "good")
        for number in range(2 * MAX_REMEMBERED):
            await is_accepted(check, f"bad {number}")
        await is_accepted(check, "good")
        return upstream.asked.count("good"), len(check._answers)

    assert asyncio.run(play()) == (1, MAX_REMEMBERED)


def test_if_all_keys_are_good_the_oldest_is_forgotten() -> None:
    async def play() -> tuple[int, int, int]:
        tokens = [f"good {number}" for number in range(MAX_REMEMBERED + 1)]
        upstream = Upstream(frozenset(tokens))
        check = TokenCheck([upstream])
        for token in (*tokens, tokens[-1], tokens[0]):
            await is_accepted(check, token)
        return upstream.asked.count(tokens[0]), upstream.asked.count(tokens[-1]), len(check._answers)

    assert asyncio.run(play()) == (2, 1, MAX_REMEMBERED)
