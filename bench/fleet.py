"""Fleet: replicas that are killed, a Redis that dies, clients that hang up; and no picture may be paid for twice.

`python -m bench.fleet [--seconds N] [--rate N] [--seed N]`; the exit code is 1 where one was.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
from redis import Redis

from bench.replicas import KEPT_WITH_KEY, SILENCE, Fleet, run_fleet
from bench.wire import connect, head
from tests.support.redis import RedisServer
from tests.support.servers import RunningDemo

#: Seconds that anything may be remembered in Redis, after all.
_REMEMBERED = 60

#: Seconds in which a client gets its picture, whatever dies; and between two of its attempts.
_LONGEST, _PAUSE = 60.0, 0.4

#: A client that hangs up so many seconds around the moment of the answer may have been sent it.
_CROSSED = 1.0

#: Seconds without Redis, and without a replica that has been killed.
_OUTAGE, _DEATH = 1.0, 0.2

_WHOLE = 2**24

#: What each prompt begins with; six digits follow.
_PROMPT = "fleet "


@dataclass(frozen=True, slots=True)
class Kind:
    """`model` is what the demo upstream is to do; it answers after `slow` seconds. `calls`: what it costs once."""

    model: str
    slow: float
    calls: int = 1
    stream: bool = False
    wants: str = "b64_json"
    status: int = 200


KINDS = (
    Kind("slow-0.6+data-url", 0.6),
    Kind("slow-0.6+data-url", 0.6, wants="url"),
    Kind("slow-0.3", 0.3, wants="url"),
    Kind("slow-0.3+missing-image-1", 0.3),
    Kind("slow-0.3+flaky-1", 0.3, calls=2),
    Kind("slow-0.3+previews", 0.3, stream=True),
    Kind("slow-0.2+refuses-400", 0.2, status=400),
)

#: How a client says that it has come again: with a key, by counting as the official SDKs do, or not at all.
MANNERS = ("key", "counts", "plain")


@dataclass(slots=True)
class Question:
    """One picture that somebody wants. `lost`: how often it was told that it may have been paid for; `left`: when the
    client hung up, `began` and `ended` as the clock of this process tells. `is_cut`: by the death of a replica.
    """

    prompt: str
    kind: Kind
    manner: str
    began: float
    ended: float | None = None
    attempts: int = 0
    lost: int = 0
    is_cut: bool = False
    left: list[float] = field(default_factory=list)
    wrong: str = ""


@dataclass(slots=True)
class Upstream:
    """When each prompt was asked: the demo itself remembers the last thousand only."""

    demo: RunningDemo
    asked: dict[str, list[float]] = field(default_factory=dict)

    def calls(self, question: Question) -> list[float]:
        return self.asked.get(question.prompt, [])

    def read(self) -> None:
        requests = self.demo.state.requests
        while requests:
            body = requests.popleft().body
            if body and "messages" in body:
                text = orjson.dumps(body["messages"]).decode()
                prompt = text[(at := text.index(_PROMPT)) : at + len(_PROMPT) + 6]
                self.asked.setdefault(prompt, []).append(time.monotonic())


def order(question: Question) -> list[bytes]:
    kind = question.kind
    more = {"stream": True, "partial_images": 2} if kind.stream else {"response_format": kind.wants}
    text = orjson.dumps({"prompt": question.prompt, "model": kind.model, "size": "1024x1024", **more})
    said = {
        "key": [f"idempotency-key: {question.prompt.replace(' ', '-')}-{question.lost}"],
        "counts": [f"x-stainless-retry-count: {question.attempts - 1}"],
        "plain": [],
    }[question.manner]
    return [head("POST /v1/images/generations HTTP/1.1", len(text), "application/json", *said), text]


async def attempt(question: Question, port: int, patience: float) -> bool:
    """Whether the client need not come back."""
    question.attempts += 1
    connection = None
    try:
        async with asyncio.timeout(patience):
            connection = await connect(port, _WHOLE)
            answer = await connection.ask(order(question))
    except TimeoutError:
        question.left.append(time.monotonic())
        return False
    except OSError:
        question.is_cut = True
        return False
    finally:
        if connection is not None:
            connection.close()
    return judge_answer(question, answer.status, answer.body)


def judge_answer(question: Question, status: int, body: bytes) -> bool:
    if b'"question_lost"' in body:
        question.lost += 1
        return False
    if status == 503 or b'"server_is_overloaded"' in body:
        return False
    sign = (
        b'"moderation_blocked"' if question.kind.status == 400 else b".completed" if question.kind.stream else b'"data"'
    )
    if status != question.kind.status or sign not in body:
        question.wrong = f"{question.kind.model}: {status} {body[:300].decode('utf-8', 'replace')}"
    return True


async def ask(question: Question, ports: Sequence[int], chance: random.Random) -> None:
    """A client that hangs up now and then, and comes back, perhaps elsewhere, until it has its picture."""
    while time.monotonic() < question.began + _LONGEST:
        hurried = question.attempts < 3 and chance.random() < 0.6
        if await attempt(question, chance.choice(ports), chance.uniform(0.02, 0.9) if hurried else _LONGEST):
            question.ended = time.monotonic()
            return
        # A repeat that does not say so is a second client until the first has left, or its server has been silent.
        await asyncio.sleep(SILENCE + _PAUSE if question.is_cut and question.manner == "plain" else _PAUSE)
        question.is_cut = False


@asynccontextmanager
async def trouble(fleet: Fleet, every: float, outage_every: float, chance: random.Random) -> AsyncIterator[None]:
    async def kill_replicas() -> None:
        while True:
            await asyncio.sleep(every * chance.uniform(0.7, 1.3))
            port = chance.choice(fleet.ports)
            await asyncio.to_thread(fleet.kill, port)
            await asyncio.sleep(_DEATH)
            await asyncio.to_thread(fleet.start, port)

    async def kill_redis() -> None:
        while True:
            await asyncio.sleep(outage_every)
            began = time.monotonic()
            await asyncio.to_thread(fleet.redis.kill)
            await asyncio.sleep(_OUTAGE)
            await asyncio.to_thread(fleet.redis.start)
            fleet.outages.append((began, time.monotonic()))

    tasks = [asyncio.create_task(kill_replicas()), asyncio.create_task(kill_redis())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError("nobody was killed any more") from ended


async def load(fleet: Fleet, upstream: Upstream, seconds: float, rate: float, chance: random.Random) -> list[Question]:
    questions: list[Question] = []
    clients = []
    began = time.monotonic()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        question = Question(f"{_PROMPT}{number:06}", chance.choice(KINDS), chance.choice(MANNERS), time.monotonic())
        questions.append(question)
        clients.append(asyncio.create_task(ask(question, fleet.ports, random.Random(chance.random()))))
        upstream.read()
    await asyncio.gather(*clients)
    upstream.read()
    return questions


def allowed(question: Question, asked: Sequence[float]) -> int:
    """So many calls are right: once; again who was told that it may have been paid for; and again whose answer was on
    its way when he hung up. What is refused has not been painted, so that a repeat asks again.
    """
    answers = [at + question.kind.slow for at in asked]
    crossed = sum(any(abs(left - at) < _CROSSED for at in answers) for left in question.left)
    if question.kind.status == 400:
        return question.attempts
    return question.kind.calls + question.lost + (0 if question.manner == "key" else crossed)


def judge(
    questions: Sequence[Question], calls: dict[str, list[float]], outages: Sequence[tuple[float, float]]
) -> list[str]:
    """What is not as it should be. Without Redis each is on its own: those questions need only be answered."""
    found: Counter[str] = Counter(question.wrong for question in questions if question.wrong)
    for question in questions:
        asked, ended = calls.get(question.prompt, []), question.ended
        if ended is None:
            found[f"{question.kind.model}, {question.manner}: no picture after {question.attempts} attempts"] += 1
        elif not is_during(outages, question) and len(asked) > allowed(question, asked):
            found[
                f"{question.kind.model}, {question.manner}: {len(asked)} calls, {allowed(question, asked)} allowed"
            ] += 1
    return [f"{count} x {what}" for what, count in found.most_common(20)]


def is_during(outages: Sequence[tuple[float, float]], question: Question) -> bool:
    """From the first second without Redis until all owners have told it again what they work on."""
    ended = question.ended or float("inf")
    return any(question.began < until + _CROSSED and since - _CROSSED < ended for since, until in outages)


def remembered(redis: RedisServer) -> list[str]:
    """What stays in Redis for longer than anything should."""
    with Redis.from_url(redis.url, decode_responses=True) as client:
        ttls = {str(key): client.pttl(key) for key in client.scan_iter("limner:*")}
    most = 1000 * max(_REMEMBERED, KEPT_WITH_KEY)
    return [f"{key} is remembered for {ttl} ms" for key, ttl in ttls.items() if ttl == -1 or int(str(ttl)) > most]


async def rest(fleet: Fleet) -> int:
    """Temporary files that are still there when all that was kept should be gone."""
    for _ in range(20 * KEPT_WITH_KEY):
        if not fleet.spooled():
            break
        await asyncio.sleep(0.2)
    return fleet.spooled()


async def run_load(fleet: Fleet, upstream: Upstream, options: argparse.Namespace) -> int:
    chance = random.Random(options.seed)
    async with trouble(fleet, options.kill_every, options.outage_every, chance):
        questions = await load(fleet, upstream, options.seconds, options.rate, chance)
    found = judge(questions, upstream.asked, fleet.outages) + remembered(fleet.redis)
    if left := await rest(fleet):
        found.append(f"{left} temporary files are left")
    alone = [question for question in questions if is_during(fleet.outages, question)]
    twice = sum(len(upstream.calls(question)) > allowed(question, upstream.calls(question)) for question in alone)
    attempts, lost = (sum(getattr(question, name) for question in questions) for name in ("attempts", "lost"))
    calls = sum(map(len, upstream.asked.values()))
    print(f"seed {options.seed}: {len(questions)} questions in {attempts} attempts, {calls} calls of the upstream")
    print(f"{fleet.kills} replicas killed, {lost} questions lost and told so")
    print(f"{len(alone)} questions without Redis, {twice} of them asked more often than with it")
    print(*(f"FAIL  {line}" for line in found), sep="\n")
    return int(bool(found))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=8, help="new clients a second")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=5, help="seconds between two deaths of a replica")
    parser.add_argument("--outage-every", type=float, default=25, help="seconds between two deaths of Redis")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args(arguments)
    models = [kind.model for kind in KINDS]
    with (
        TemporaryDirectory(prefix="fleet-") as folder,
        run_fleet(Path(folder), options.replicas, models) as (fleet, demo),
    ):
        return asyncio.run(run_load(fleet, Upstream(demo), options))


if __name__ == "__main__":
    sys.exit(main())
