import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from app.access.auth import Authenticator
from app.access.concurrency import FairSemaphore
from app.access.keys import KeyFile
from app.errors import RateLimited, Unauthorized

DIGEST = f"sha256:{hashlib.sha256(b'sk-three').hexdigest()}"


@dataclass(frozen=True)
class Case:
    name: str
    headers: list[str]
    keys: tuple[str, ...] = ("sk-one", "sk-two")
    pass_through: bool = False
    refused: str | None = None
    of_azure: tuple[str, ...] = ()


CASES = [
    Case("one of the keys", ["Bearer sk-two"]),
    Case("the scheme in small letters, spaces around the key", ["bearer   sk-one "]),
    Case("no key where keys are set", [], refused="You didn't provide an API key"),
    Case("a wrong key", ["Bearer sk-three"], refused="Incorrect API key provided."),
    Case("a prefix of a key", ["Bearer sk-on"], refused="Incorrect API key provided."),
    Case("a key with something behind it", ["Bearer sk-one1"], refused="Incorrect API key provided."),
    Case("a key that is told as its digest", ["Bearer sk-three"], keys=("sk-one", DIGEST)),
    Case("the digest itself is no key", [f"Bearer {DIGEST}"], keys=(DIGEST,), refused="Incorrect API key provided."),
    Case("nor are its digits", [f"Bearer {DIGEST[7:]}"], keys=(DIGEST,), refused="Incorrect API key provided."),
    Case("another scheme", ["Basic c2stb25l"], refused="Malformed Authorization header"),
    Case("a scheme without a key", ["Bearer "], refused="Malformed Authorization header"),
    Case("two headers, one of them right", ["Bearer sk-one", "Bearer x"], refused="Malformed Authorization header"),
    Case("a key that is not ASCII", ["Bearer schl\u00fcssel"], refused="Malformed Authorization header"),
    Case("a key with a control character", ["Bearer a\x01b"], refused="Malformed Authorization header"),
    Case("nobody needs a key where none is set", [], keys=()),
    Case("a needless key does no harm", ["Bearer x"], keys=()),
    Case("pass-through needs a key to pass on", [], keys=(), pass_through=True, refused="You didn't provide"),
    Case("a key in Azure's header", [], of_azure=("sk-two",)),
    Case("a wrong key in Azure's header", [], of_azure=("sk-three",), refused="Incorrect API key provided."),
    Case("two keys in Azure's header", [], of_azure=("sk-one", "sk-two"), refused="Malformed Authorization header"),
    Case("a key in each header: that of all others counts", ["Bearer sk-one"], of_azure=("sk-three",)),
    Case("pass-through takes any key", ["Bearer sk-mine"], keys=(), pass_through=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_who_may_call(case: Case) -> None:
    access = Authenticator(case.keys, pass_through=case.pass_through)
    raw = [(b"authorization", value.encode("latin-1")) for value in case.headers]
    headers = Headers(raw=raw + [(b"api-key", value.encode()) for value in case.of_azure])
    if case.refused is None:
        caller = access.authenticate(headers)
        presented = [value.split()[1] for value in case.headers] + list(case.of_azure)
        assert caller.token == (presented[0] if presented else None)
        return
    with pytest.raises(Unauthorized, match=case.refused) as caught:
        access.authenticate(headers)
    assert caught.value.status == 401
    assert caught.value.code == ("invalid_api_key" if "Incorrect" in case.refused else None)


def test_callers_are_told_apart_without_telling_their_keys() -> None:
    access = Authenticator((), pass_through=True)
    one, two = (access.authenticate(Headers({"authorization": f"Bearer {key}"})) for key in ("sk-one", "sk-two"))
    assert one.id != two.id
    assert one.id == access.authenticate(Headers({"authorization": "Bearer sk-one"})).id
    assert "sk-one" not in repr(one) + one.id


def table(name: str, key: str, more: str = "") -> str:
    return f'[[keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n{more}\n'


@dataclass(frozen=True)
class Held:
    name: str
    key: str | None
    holder: str | None = None
    refused: str | None = None


HELD = [
    Held("a key of the file", "sk-alice", "alice"),
    Held("another one", "sk-bob", "bob"),
    Held("one of the settings has no row", "sk-one"),
    Held("one that has expired", "sk-old", refused="This API key has expired."),
    Held("a wrong one", "sk-carol", refused="Incorrect API key provided."),
    Held("none", None, refused="You didn't provide an API key"),
]


@pytest.mark.parametrize("case", HELD, ids=lambda case: case.name)
def test_who_holds_a_key_of_the_file(case: Held, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(
        table("alice", "sk-alice", "expires = 2999-01-01")
        + table("bob", "sk-bob")
        + table("old", "sk-old", "expires = 2020-01-01")
    )
    access = Authenticator(["sk-one"], pass_through=False, key_file=KeyFile(file))
    headers = Headers({} if case.key is None else {"authorization": f"Bearer {case.key}"})
    if case.refused is None:
        caller = access.authenticate(headers)
        assert (caller.name, caller.key and caller.key.name) == (case.holder, case.holder)
        return
    with pytest.raises(Unauthorized, match=case.refused) as caught:
        access.authenticate(headers)
    assert caught.value.code == (None if case.key is None else "invalid_api_key")


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("")
    access = Authenticator((), pass_through=True, key_file=KeyFile(tmp_path / "keys.toml"))
    with pytest.raises(Unauthorized, match="Incorrect API key"):
        access.authenticate(Headers({"authorization": "Bearer x"}))


class Desk:
    """Requests at the door: `come` starts one, `inside` lists who has a turn, in order of arrival there."""

    def __init__(self, limit: int, queue: int) -> None:
        self.turns = FairSemaphore(limit, queue)
        self.inside: list[str] = []
        self._go = dict[str, asyncio.Event]()
        self.tasks = dict[str, asyncio.Task[None]]()

    async def come(self, name: str, questions: int = 1) -> None:
        """`name` begins with the caller's letter."""
        self._go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, questions))
        await self.settle()

    async def _stay(self, name: str, questions: int) -> None:
        async with self.turns.acquire(name[0], questions):
            self.inside.append(name)
            await self._go[name].wait()

    async def finish(self, *names: str) -> None:
        for name in names:
            self._go[name].set()
            await self.settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def at_the_desk(limit: int, queue: int, scene: Callable[[Desk], Awaitable[None]]) -> None:
    async def play() -> None:
        desk = Desk(limit, queue)
        await scene(desk)
        await desk.finish(*desk.tasks)
        assert (desk.turns.in_use, desk.turns.waiting) == (0, 0)

    asyncio.run(play())


def test_a_freed_turn_goes_to_the_one_who_waits() -> None:
    async def scene(desk: Desk) -> None:
        await desk.come("a1")
        await desk.come("a2")
        assert (desk.inside, desk.turns.waiting) == (["a1"], 1)
        await desk.finish("a1")
        assert desk.inside == ["a1", "a2"]

    at_the_desk(1, 5, scene)


def test_one_callers_many_requests_do_not_starve_anothers_one() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3", "a4", "b1"):
            await desk.come(name)
        await desk.finish("a1", "a2", "b1", "a3")
        assert desk.inside == ["a1", "a2", "b1", "a3", "a4"]

    at_the_desk(1, 10, scene)


def test_a_full_queue_turns_away_with_a_time_to_come_back() -> None:
    async def scene(desk: Desk) -> None:
        await desk.come("a1")
        await desk.come("a2")
        await desk.come("b1")
        with pytest.raises(RateLimited) as caught:
            desk.tasks["b1"].result()
        assert caught.value.headers["retry-after"] == "2"
        assert caught.value.headers["retry-after-ms"] == "2000"
        await desk.finish("a1")
        assert desk.inside == ["a1", "a2"]

    at_the_desk(1, 1, scene)


def test_a_request_takes_all_its_turns_at_once_and_is_not_overtaken() -> None:
    async def scene(desk: Desk) -> None:
        await desk.come("a1", 2)
        await desk.come("b1", 2)
        await desk.come("c1", 1)
        assert desk.inside == ["a1"]
        await desk.finish("a1")
        assert desk.inside == ["a1", "b1", "c1"]

    at_the_desk(3, 5, scene)


def test_a_request_for_more_turns_than_there_are_takes_all() -> None:
    async def scene(desk: Desk) -> None:
        await desk.come("a1", 10)
        assert (desk.inside, desk.turns.in_use) == (["a1"], 2)

    at_the_desk(2, 0, scene)


def test_who_leaves_while_waiting_loses_the_place() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3", "b1"):
            await desk.come(name)
        await desk.cancel("b1")
        await desk.cancel("a2")
        assert desk.turns.waiting == 1
        await desk.finish("a1")
        assert desk.inside == ["a1", "a3"]

    at_the_desk(1, 5, scene)


def test_who_leaves_at_the_moment_of_the_turn_passes_it_on() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3"):
            await desk.come(name)
        desk._go["a1"].set()
        await asyncio.sleep(0)  # a1 leaves and calls a2, whose task has not run yet
        assert desk.turns.waiting == 1
        await desk.cancel("a2")
        assert desk.inside == ["a1", "a3"]

    at_the_desk(1, 5, scene)


def test_a_turn_that_is_freed_while_the_next_one_leaves_goes_to_the_one_after() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3"):
            await desk.come(name)
        desk._go["a1"].set()
        desk.tasks["a2"].cancel()  # a1 runs first, and finds a2 at the head of the line
        await desk.settle()
        assert desk.inside == ["a1", "a3"]

    at_the_desk(1, 5, scene)


def test_a_full_queue_has_room_for_who_has_less_in_it() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3", "a4", "b1", "b2"):
            await desk.come(name)
        for name in ("a4", "b2"):
            with pytest.raises(RateLimited):
                desk.tasks[name].result()
        assert desk.turns.waiting == 3
        await desk.finish("a1", "a2", "b1")
        assert desk.inside == ["a1", "a2", "b1", "a3"]

    at_the_desk(1, 3, scene)


def test_who_leaves_at_the_moment_of_being_turned_away_takes_nothing_along() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3"):
            await desk.come(name)
        desk._go["b1"] = asyncio.Event()
        desk.tasks["b1"] = asyncio.create_task(desk._stay("b1", 1))
        await asyncio.sleep(0)  # b1 takes the place of a3, whose task has not run yet
        await desk.cancel("a3")
        assert (desk.turns.in_use, desk.turns.waiting) == (1, 2)

    at_the_desk(1, 2, scene)


def test_who_is_turned_away_at_the_moment_of_leaving_leaves() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3"):
            await desk.come(name)
        desk._go["b1"] = asyncio.Event()
        desk.tasks["b1"] = asyncio.create_task(desk._stay("b1", 1))
        desk.tasks["a3"].cancel()  # b1 runs first, and takes the place of a3
        await desk.settle()
        assert desk.turns.waiting == 2
        await desk.finish("a1", "a2")
        assert desk.inside == ["a1", "a2", "b1"]

    at_the_desk(1, 2, scene)


def test_more_turns_than_before_go_to_those_who_wait() -> None:
    async def scene(desk: Desk) -> None:
        for name in ("a1", "a2", "a3", "a4"):
            await desk.come(name)
        desk.turns.set_limit(3)
        await desk.settle()
        assert desk.inside == ["a1", "a2", "a3"]

    at_the_desk(1, 5, scene)


def test_who_waits_for_more_turns_than_are_left_in_all_takes_all() -> None:
    async def scene(desk: Desk) -> None:
        await desk.come("a1", 4)
        await desk.come("b1", 4)
        desk.turns.set_limit(2)
        await desk.finish("a1")
        assert (desk.inside, desk.turns.in_use) == (["a1", "b1"], 2)

    at_the_desk(4, 5, scene)
