"""Looking up host names."""

import asyncio
import socket
import threading

import pytest

from app.images.fetch import MOST_REMEMBERED, REMEMBERED, TIMEOUT, Names, ask_system
from tests.support.manual_clock import run, skip


def test_the_system_knows_this_machine() -> None:
    assert "127.0.0.1" in ask_system("localhost")


def test_an_unknown_name_is_the_systems_error() -> None:
    async def look_up() -> None:
        names = Names()
        try:
            await names.look_up("cdn.invalid")
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
        names = Names(ask)
        answers = [await names.look_up(name) for name in ("a", "a", "b")]
        skip(REMEMBERED)
        answers.append(await names.look_up("a"))
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
        names = Names(ask)
        with pytest.raises(socket.gaierror):
            await names.look_up("a")
        answers = await names.look_up("a")
        names.close()
        return answers

    assert run(look_up()) == ["192.0.2.1"]


def test_what_is_remembered_is_bounded() -> None:
    asked: list[str] = []

    def ask(name: str) -> list[str]:
        asked.append(name)
        return []

    async def look_up() -> None:
        names = Names(ask)
        for number in range(MOST_REMEMBERED + 1):
            await names.look_up(str(number))
        await names.look_up("0")
        await names.look_up(str(MOST_REMEMBERED))
        names.close()

    run(look_up())
    assert asked[-2:] == [str(MOST_REMEMBERED), "0"]


def test_a_name_server_that_hangs_is_left_and_holds_up_nobody_else() -> None:
    answered = threading.Event()

    def ask(name: str) -> list[str]:
        if name == "slow":
            answered.wait(10)
        return ["192.0.2.1"]

    async def look_up() -> list[str]:
        names = Names(ask)
        slow = asyncio.create_task(names.look_up("slow"))
        answers = await names.look_up("quick")
        skip(TIMEOUT)
        with pytest.raises(TimeoutError):
            await slow
        answered.set()
        names.close()
        return answers

    assert run(look_up()) == ["192.0.2.1"]
