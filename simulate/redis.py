"""Redis on the virtual clock: the scripts of Limner run in Lua itself, the network before it loses and doubles packets."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from random import Random
from typing import Any

import orjson
from lupa.lua51 import LuaRuntime  # type: ignore[import-untyped]  # reason: written in Cython

from app.state.job_table_reply import TableAnswer
from simulate.clock import Clock, ReplicaLoop

#: Seconds for one command, as the client of `SharedState` waits, and after which a connection is refused.
_TIMEOUT, _REFUSAL = 1.0, 0.001

#: Seconds on the way to Redis or back: nearly always the first range, sometimes the second.
_FAST, _BUSY, _BUSY_SHARE = (0.0001, 0.002), (0.002, 0.15), 0.1

_LUA = LuaRuntime(encoding="utf-8", unpack_returned_tuples=True)
_STANDIN = _LUA.execute(files("simulate").joinpath("redis_standin.lua").read_text())
_COMPILED: dict[str, Callable[..., Any]] = {}


def compile_script(text: str) -> Callable[..., Any]:
    """Return a script as a function of KEYS and ARGV, of which the second is already decoded JSON."""
    if text not in _COMPILED:
        _LUA.globals().redis = _LUA.table_from({"call": _STANDIN.call})
        _LUA.globals().cjson = _LUA.eval("{decode = function(document) return document end}")
        _COMPILED[text] = _LUA.execute(f"return function(KEYS, ARGV) {text}\nend")
    return _COMPILED[text]


def run_script(text: str, keys: list[str], args: list[Any], milliseconds: float) -> list[bytes]:
    """Run a script at a moment of Redis' clock. Values of its reply are bytes, as from a real Redis."""
    _STANDIN.set_time(milliseconds)
    command, document, *rest = args
    decoded = _LUA.table_from(orjson.loads(document), recursive=True)
    reply = compile_script(text)(_LUA.table_from(keys), _LUA.table_from([command, decoded, *rest]))
    return [value.encode() if isinstance(value, str) else b"%d" % value for value in reply.values()]


@dataclass(slots=True)
class SimulatedRedis:
    """One Redis, empty at first.

    Attributes:
        is_down: Connections are refused, and what was on its way is lost.
        stalled: Commands that wait until Redis goes on; None while it works.
        extra_delay: The most seconds that are added to each way, while Redis is slow.
        lost: The share of packets that do not arrive.
        doubled: The share of commands that arrive twice, since the connection breaks before their reply.
        is_closing: The schedule is over: every command fails at once.
        note: Takes a line for each command, if the history is to tell of them.
        on_lost: Takes the reader that a loss is reported to.
        on_claimed: Takes the request that a new job is claimed for.
        on_taken_over: Takes the job that another replica has taken over.
        on_announced: Takes the job that is about to be sent, or was.
        held: What is held up, see `Plan`.
        sent, executed: Commands by name.
    """

    clock: Clock
    chance: Random
    is_down: bool = False
    stalled: "list[Callable[[], None]] | None" = None
    extra_delay: float = 0.0
    lost: float = 0.0
    doubled: float = 0.0
    is_closing: bool = False
    note: Callable[[str], None] | None = None
    on_lost: Callable[[str], None] = lambda _: None
    on_claimed: Callable[[str], None] = lambda _: None
    on_taken_over: Callable[[str], None] = lambda _: None
    on_announced: Callable[[str], None] = lambda _: None
    held: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    executed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        _STANDIN.flush()

    def flush(self) -> None:
        """Lose all data."""
        _STANDIN.flush()

    def fall_back(self, seconds: float) -> None:
        """Write the data to the disk now, and start again with it after a while, without what was written since."""
        _STANDIN.save()
        self.clock.after(seconds, _STANDIN.restore)

    def stall(self, seconds: float) -> None:
        """Execute nothing for a while: then everything that has come, also what nobody waits for any more."""
        self.stalled = []
        self.clock.after(seconds, self._go_on)

    def take(self, execute: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Execute a command now, or let its sender give up while it waits."""
        if self.stalled is None:
            execute()
        else:
            self.stalled.append(execute)
            give_up()

    def _go_on(self) -> None:
        stalled, self.stalled = self.stalled or [], None
        for execute in stalled:
            execute()

    def delay(self) -> float:
        """Return the seconds of one way."""
        chance = self.chance
        low, high = _BUSY if chance.random() < _BUSY_SHARE else _FAST
        return low + (high - low) * chance.random() + self.extra_delay * chance.random()

    def execute(self, text: str, keys: list[str], args: list[Any]) -> list[bytes]:
        self.executed[args[0]] += 1
        reply = run_script(text, keys, args, 1e12 + round(self.clock.now * 1000))
        if self.note is not None:
            self.note(_describe(args, reply))
        answer = TableAnswer(reply[0].decode())
        if answer is TableAnswer.CLAIMED:
            self.on_claimed(reply[1].decode())
        if answer is TableAnswer.OK:
            if args[0] == "take_over":
                self.on_taken_over(orjson.loads(args[1])["id"])
            elif args[0] == "publish":
                self.on_announced(orjson.loads(args[1])["id"])
        if answer is TableAnswer.LOST:
            self.on_lost(orjson.loads(args[1]).get("reader", ""))
        return reply


def _describe(args: list[Any], reply: list[bytes]) -> str:
    document = orjson.loads(args[1])
    shown = {name: document.get(name) for name in ("id", "reader", "is_retry", "delivered", "fields", "heartbeats")}
    if shown["fields"] is not None:
        shown["fields"] = {name: value for name, value in shown["fields"].items() if len(str(value)) < 16}
    what = ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
    return f"    redis: {args[0]} {what} -> {b' '.join(reply)[:60]!r}"


class SimulatedRedisClient:
    """What `SharedState` needs of the client of Redis. As the real one, it tries each command once more."""

    def __init__(self, redis: SimulatedRedis, loop: ReplicaLoop) -> None:
        self._redis, self._loop = redis, loop

    def register_script(self, text: str) -> Callable[[list[str], list[Any]], Any]:
        async def run(keys: list[str], args: list[Any]) -> list[bytes]:
            try:
                return await self._send(text, keys, args, may_reset=True)
            except OSError:
                return await self._send(text, keys, args)

        return run

    async def aclose(self) -> None: ...

    async def _send(self, text: str, keys: list[str], args: list[Any], *, may_reset: bool = False) -> list[bytes]:
        redis, loop, clock = self._redis, self._loop, self._redis.clock
        reply: asyncio.Future[list[bytes]] = loop.create_future()
        if redis.is_closing:
            raise ConnectionError
        if redis.is_down:
            clock.after(_REFUSAL, lambda: loop.deliver(_fail, reply, ConnectionError("refused")))
            return await reply
        chance, sent_at, name = redis.chance, clock.now, args[0]
        redis.sent[name] += 1
        held_there, held_back = redis.held.get((name, redis.sent[name]), (0.0, 0.0))

        def time_out() -> None:
            left = max(0.0, sent_at + _TIMEOUT - clock.now)
            clock.after(left, lambda: loop.deliver(_fail, reply, TimeoutError("no reply")))

        def arrive() -> None:
            if redis.is_down or redis.is_closing:
                loop.deliver(_fail, reply, ConnectionError("reset"))
                return
            answer, back = redis.execute(text, keys, args), redis.delay() + held_back
            if may_reset and chance.random() < redis.doubled:
                loop.deliver(_fail, reply, ConnectionError("reset"))
            elif chance.random() < redis.lost or clock.now + back >= sent_at + _TIMEOUT:
                time_out()
            else:
                clock.after(back, lambda: loop.deliver(_succeed, reply, answer))

        there = redis.delay() + held_there
        if chance.random() < redis.lost:
            time_out()
            return await reply
        clock.after(there, lambda: redis.take(arrive, time_out))
        if there >= _TIMEOUT:
            time_out()
        return await reply


def _succeed(reply: asyncio.Future[list[bytes]], answer: list[bytes]) -> None:
    if not reply.done():
        reply.set_result(answer)


def _fail(reply: asyncio.Future[list[bytes]], error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
