"""Host names are resolved with a timeout and a cache."""

import asyncio
import socket
import threading

import pytest

from app.images.dns import DNS_CACHE_SECONDS, DNS_CACHE_SIZE, DNS_TIMEOUT, DnsResolver, system_lookup
from tests.support.manual_clock import advance, run_with_manual_clock


def test_the_system_resolves_localhost() -> None:
    assert "127.0.0.1" in system_lookup("localhost")


def test_an_unknown_name_raises_the_error_of_the_system() -> None:
    async def resolve() -> None:
        resolver = DnsResolver()
        try:
            await resolver.resolve("cdn.invalid")
        finally:
            resolver.close()

    with pytest.raises(socket.gaierror):
        run_with_manual_clock(resolve())


def test_an_answer_is_cached_for_seconds() -> None:
    queries: list[str] = []

    def lookup(name: str) -> list[str]:
        queries.append(name)
        return [f"192.0.2.{len(queries)}"]

    async def resolve() -> list[list[str]]:
        resolver = DnsResolver(lookup)
        answers = [await resolver.resolve(name) for name in ("a", "a", "b")]
        advance(DNS_CACHE_SECONDS)
        answers.append(await resolver.resolve("a"))
        resolver.close()
        return answers

    assert run_with_manual_clock(resolve()) == [["192.0.2.1"], ["192.0.2.1"], ["192.0.2.2"], ["192.0.2.3"]]
    assert queries == ["a", "b", "a"]


def test_a_failure_is_not_cached() -> None:
    failures = [socket.gaierror(socket.EAI_AGAIN, "later")]

    def lookup(name: str) -> list[str]:
        if failures:
            raise failures.pop()
        return ["192.0.2.1"]

    async def resolve() -> list[str]:
        resolver = DnsResolver(lookup)
        with pytest.raises(socket.gaierror):
            await resolver.resolve("a")
        answers = await resolver.resolve("a")
        resolver.close()
        return answers

    assert run_with_manual_clock(resolve()) == ["192.0.2.1"]


def test_the_cache_is_bounded() -> None:
    queries: list[str] = []

    def lookup(name: str) -> list[str]:
        queries.append(name)
        return []

    async def resolve() -> None:
        resolver = DnsResolver(lookup)
        for number in range(DNS_CACHE_SIZE + 1):
            await resolver.resolve(str(number))
        await resolver.resolve("0")
        await resolver.resolve(str(DNS_CACHE_SIZE))
        resolver.close()

    run_with_manual_clock(resolve())
    assert queries[-2:] == [str(DNS_CACHE_SIZE), "0"]


def test_a_query_that_hangs_times_out_and_does_not_delay_others() -> None:
    answered = threading.Event()

    def lookup(name: str) -> list[str]:
        if name == "slow":
            answered.wait(10)
        return ["192.0.2.1"]

    async def resolve() -> list[str]:
        resolver = DnsResolver(lookup)
        slow = asyncio.create_task(resolver.resolve("slow"))
        answers = await resolver.resolve("quick")
        advance(DNS_TIMEOUT)
        with pytest.raises(TimeoutError):
            await slow
        answered.set()
        resolver.close()
        return answers

    assert run_with_manual_clock(resolve()) == ["192.0.2.1"]
