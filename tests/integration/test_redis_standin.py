"""The stand-in for Redis of the simulated schedules answers as a real Redis does, command by command."""

from collections.abc import Iterator
from importlib.resources import files
from random import Random
from typing import Any

import orjson
import pytest
from redis import Redis

from app.state.job_table_reply import TableAnswer
from simulate.clock import Clock
from simulate.redis import SimulatedRedis, run_script
from tests.support.redis import run_redis

SCRIPT = files("app.state").joinpath("job_table.lua").read_text()

#: Gives the script a time of ours, as the stand-in does.
WITH_TIME = (
    "local real = redis\n"
    "local redis = {call = function(name, ...)\n"
    "  if name == 'TIME' then return {ARGV[4], ARGV[5]} end\n"
    "  return real.call(name, ...)\n"
    "end}\n"
)

#: Runs one command; a table becomes JSON, since the order of a hash is not defined.
ONE_COMMAND = """
local answer = redis.call(unpack(ARGV[2].words))
if type(answer) ~= 'table' then return {tostring(answer)} end
if answer.ok then return {answer.ok} end
table.sort(answer)
table.insert(answer, 1, 'list')
return answer
"""

IDS = ("a", "b", "c")
#: What a key lives for is longer than any test: keys live by the clock of the machine in the real Redis, by that of the
#: test in the stand-in.
TIMINGS = {
    "suspect_after": 5000,
    "dead_after": 15_000,
    "reader_lease": 15_000,
    "delivery_lease": 10**7,
    "delivered_for": 10**7,
    "settled_after": 6000,
    "silent_after": 10**7,
}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server, Redis.from_url(server.url) as client:
        yield client


def random_command(chance: Random) -> tuple[str, dict[str, Any], bytes]:
    """Return a command of the job table with its arguments and perhaps an outcome."""
    command = chance.choice(
        ("claim", "publish", "deliver", "heartbeat", "poll", "take_over", "unsubscribe", "abandon", "lookup", "cancel")
    )
    flags = {name: chance.choice("01") for name in ("submitted", "delivered", "retry_free", "async")}
    fields = {
        **flags,
        "caller": "me",
        "fingerprint": chance.choice("xxxy"),
        "readers": chance.choice((0, 1)),
        "keyed": chance.choice("01"),
    }
    arguments = {
        "id": chance.choice(IDS),
        "owner": chance.choice(("one", "two")),
        "reader": chance.choice(("r", "s")),
        "caller": chance.choice(("me", "you")),
        "keyed": chance.random() < 0.3,
        "is_retry": chance.random() < 0.3,
        "submitting": chance.random() < 0.3,
        "delivered": chance.random() < 0.5,
        "fields": fields,
        "unread": chance.choice(([], [], [chance.choice(IDS)])),
        "heartbeats": [
            {
                "id": job_id,
                "readers": chance.choice((0, 1)),
                "submitted": True,
                "delivered": chance.random() < 0.2,
                "ttl": 10**7,
            }
            for job_id in IDS
        ],
        "ttl": 10**7,
        "prefix": "limner:{jobs}:",
        "sequence": chance.randrange(50),
        **TIMINGS,
    }
    outcomes = {"publish": (b"", b"{}", "ü".encode()), "cancel": (b"{}", "ü".encode())}
    return command, arguments, chance.choice(outcomes.get(command, (b"",)))


def test_the_job_table_works_as_in_a_real_redis(redis: Redis) -> None:
    answers = {answer for seed in range(24) for answer in compare_answers(redis, seed)}
    assert answers == {*TableAnswer} - {TableAnswer.NO_REPLY}, "the schedules no longer lead to every answer"


def compare_answers(redis: Redis, seed: int) -> Iterator[TableAnswer]:
    """Send a schedule of commands to both, and yield what both have answered."""
    redis.flushall()
    SimulatedRedis(Clock(Random(0)), Random(0))
    chance, now = Random(seed), 1e12
    command, arguments, outcome = random_command(chance)
    for step in range(60):
        now += int(chance.random() * chance.choice((900, 900, 900, 20_000)))
        if chance.random() < 0.8:
            # Otherwise the last one comes once more.
            command, arguments, outcome = random_command(chance)
        keys = ["limner:{jobs}:slot:x"] * (len(IDS) if command == "heartbeat" else 1)
        args: list[Any] = [command, orjson.dumps(arguments), outcome]
        seconds, rest = divmod(int(now), 1000)
        real = redis.eval(WITH_TIME + SCRIPT, len(keys), *keys, *args, seconds, rest * 1000)
        simulated = run_script(SCRIPT, keys, args, now)
        assert without_lifetime(command, simulated) == without_lifetime(command, real), (seed, step, command, arguments)
        yield TableAnswer(simulated[0].decode())


def without_lifetime(command: str, answer: Any) -> Any:
    """Return an answer without the milliseconds that a key has left to live: in the real Redis these are real time."""
    return answer[:2] if command == "lookup" and isinstance(answer, list) else answer


COMMANDS: list[list[Any]] = [
    ["HSET", "h", "a", "1", "b", "2"], ["HSET", "h", "a", "3"], ["HGET", "h", "a"], ["HGET", "h", "none"], ["HGETALL", "h"],
    ["HGETALL", "none"], ["HDEL", "h", "a"], ["HDEL", "h", "a"], ["EXISTS", "h"], ["HDEL", "h", "b"], ["EXISTS", "h"],
    ["HINCRBY", "h", "n", "2"], ["HINCRBY", "h", "n", "-5"], ["HGET", "h", "n"], ["HEXISTS", "h", "n"], ["HEXISTS", "none", "n"],
    ["ZADD", "z", "5", "m"], ["ZADD", "z", "7", "m"], ["ZADD", "z", "-9.9e13", "n"], ["ZADD", "z", "7", "a"], ["ZSCORE", "z", "n"],
    ["ZSCORE", "z", "none"], ["ZRANGE", "z", "0", "0", "WITHSCORES"], ["ZREVRANGE", "z", "0", "0", "WITHSCORES"],
    ["ZRANGE", "none", "0", "0", "WITHSCORES"], ["ZCOUNT", "z", "-1e14", "+inf"], ["ZCOUNT", "z", "7", "+inf"],
    ["ZCOUNT", "none", "2", "+inf"], ["ZREMRANGEBYSCORE", "z", "6", "7"], ["ZREMRANGEBYSCORE", "none", "6", "7"],
    ["ZREM", "z", "m"], ["ZREM", "z", "n"], ["EXISTS", "z"], ["SET", "s", "v"], ["SET", "s", "w", "NX"], ["GET", "s"],
    ["GET", "none"], ["DEL", "s", "none"], ["DEL", "s"], ["SET", "s", "w", "NX"], ["GET", "s"],
    ["PTTL", "none"], ["PTTL", "s"], ["PEXPIRE", "s", "100000"], ["PEXPIRE", "none", "1"],
]  # fmt: skip


def test_each_command_answers_as_in_a_real_redis(redis: Redis) -> None:
    redis.flushall()
    SimulatedRedis(Clock(Random(0)), Random(0))
    for words in COMMANDS:
        decoded = ONE_COMMAND.replace("ARGV[2].words", "ARGV")
        real = redis.eval(decoded, 0, *words)
        args = ["", orjson.dumps({"words": words}), b""]
        assert run_script(ONE_COMMAND, [], args, 0) == real, words


def test_what_expires_is_gone() -> None:
    SimulatedRedis(Clock(Random(0)), Random(0))

    def run(now: float, *words: str) -> list[bytes]:
        return run_script(ONE_COMMAND, [], ["", orjson.dumps({"words": words}), b""], now)

    run(0, "SET", "s", "v")
    run(0, "PEXPIRE", "s", "100")
    assert run(40, "PTTL", "s") == [b"60"]
    assert run(99, "EXISTS", "s") == [b"1"]
    assert run(100, "EXISTS", "s") == [b"0"]
    assert run(100, "GET", "s") == [b"false"]
