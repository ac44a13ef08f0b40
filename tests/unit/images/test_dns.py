"""Looking up host names."""

import asyncio
import socket
import threading

import pytest

from app.images.fetch import DNS_CACHE_SECONDS, DNS_CACHE_SIZE, DNS_TIMEOUT, DnsResolver, system_lookup
from tests.support.manual_clock import run, skip


def test_the_system_knows_this_machine() -> None:
    assert "127.0.0.1" in system_lookup("localhost")


def test_an_unknown_name_is_the_systems_error() -> None:
    async def look_up() -> None:
        names = DnsResolver()
        try:
            await names.resolve("cdn.invalid")
        finally:
            names.close()

    with pytest.raises(socket.gaierror):
        run(look_up())


def test_an_answer_is_remembered_for_seconds() -> None:
    asked: list[str] = []

    def ask(name: str) -> list[str]:
        asked.append(name)
        return [f"192.0.2.{len(asked)}"]

    async def look_up() -> list[list[str]]:
        names = DnsResolver(ask)
        answers = [await names.resolve(name) for name in ("a", "a", "b")]
        skip(DNS_CACHE_SECONDS)
        answers.append(await names.resolve("a"))
        names.close()
        return answers

    assert run(look_up()) == [["192.0.2.1"], ["192.0.2.1"], ["192.0.2.2"], ["192.0.2.3"]]
    assert asked == ["a", "b", "a"]


def test_a_failure_is_not_remembered() -> None:
    failures = [socket.gaierror(socket.EAI_AGAIN, "later")]

    def ask(name: str) -> list[str]:
        if failures:
            raise failures.pop()
        return ["192.0.2.1"]

    async def look_up() -> list[str]:
        names = DnsResolver(ask)
        with pytest.raises(socket.gaierror):
            await names.resolve("a")
        answers = await names.resolve("a")
        names.close()
        return answers

    assert run(look_up()) == ["192.0.2.1"]


def test_what_is_remembered_is_bounded() -> None:
    asked: list[str] = []

    def ask(name: str) -> list[str]:
        asked.append(name)
        return []

    async def look_up() -> None:
        names = DnsResolver(ask)
        for number in range(DNS_CACHE_SIZE + 1):
            await names.resolve(str(number))
        await names.resolve("0")
        await names.resolve(str(DNS_CACHE_SIZE))
        names.close()

    run(look_up())
    assert asked[-2:] == [str(DNS_CACHE_SIZE), "0"]


def test_a_name_server_that_hangs_is_left_and_holds_up_nobody_else() -> None:
    answered = threading.Event()

    def ask(name: str) -> list[str]:
        if name == "slow":
            answered.wait(10)
        return ["192.0.2.1"]

    async def look_up() -> list[str]:
        names = DnsResolver(ask)
        slow = asyncio.create_task(names.resolve("slow"))
        answers = await names.resolve("quick")
        skip(DNS_TIMEOUT)
        with pytest.raises(TimeoutError):
            await slow
        answered.set()
        names.close()
        return answers

    assert run(look_up()) == ["192.0.2.1"]
