"""Fleet test: replicas are killed, Redis is stopped and clients disconnect, and no image may be paid for twice.

`python -m bench.fleet [--seconds N] [--rate N] [--seed N]` exits with 1 if one was.
"""

import argparse
import asyncio
import math
import random
import re
import sys
import time
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
from redis import Redis

from bench.lateness import Lateness
from bench.replicas import RETENTION_WITH_KEY, SILENCE, Fleet, run_fleet
from bench.wire import connect, head
from tests.support.redis import RedisServer
from tests.support.servers import RunningDemo

#: Highest time to live in Redis that any key may have at the end, in seconds, unless results are retained longer.
_MAX_REDIS_TTL = 60

#: Seconds within which every client must get its image: from its first attempt, from its last disconnect, or from the
#: last fault that it has met.
#: No new fault begins when so many seconds have passed since the last client came.
_TIMEOUT = 60.0

#: Seconds between two attempts of a client. A retry without any mark counts as a second client until all replicas know
#: that the first one has disconnected, or that the replica is dead that should have told them.
_RETRY_DELAY = {"key": 0.4, "count": 0.4, "plain": SILENCE + 0.75}

#: A client that disconnects less than this many seconds before or after the reply may have been sent the result.
_CROSSING_SECONDS = 1.0

#: Seconds between two looks at the requests that have reached the upstream.
_LISTEN_INTERVAL = 0.05

#: Seconds for which Redis stays stopped, and a killed replica.
_REDIS_DOWNTIME, _REPLICA_DOWNTIME = 1.0, 0.2

#: Seconds by which a machine is late that takes an early 503 for a late one.
_LATE_REFUSAL = 0.5

_UNLIMITED = 2**24

#: Seconds of a wait that does not end.
_FOREVER = 1e6

#: Images in a response. Each has its prompt in it.
_BASE64 = re.compile(rb'"b64_json": ?"([A-Za-z0-9+/=]+)"')

#: Beginning of each prompt; six digits follow.
_PROMPT = "fleet "


@dataclass(frozen=True, slots=True)
class RequestKind:
    """One kind of request.

    Attributes:
        model: The behavior of the demo upstream, which replies after `delay` seconds.
        calls: Number of upstream requests that one image costs.
    """

    model: str
    delay: float
    calls: int = 1
    stream: bool = False
    response_format: str = "b64_json"
    status: int = 200


KINDS = (
    RequestKind("slow-0.6+data-url", 0.6),
    RequestKind("slow-0.6+data-url", 0.6, response_format="url"),
    RequestKind("slow-0.3", 0.3, response_format="url"),
    RequestKind("slow-0.3+missing-image-1", 0.3),
    RequestKind("slow-0.3+flaky-1", 0.3, calls=2),
    RequestKind("slow-0.3+previews", 0.3, stream=True),
    RequestKind("slow-0.2+refuses-400", 0.2, status=400),
)

#: How a client marks its retries: with an idempotency key, with a count as the official SDKs do, or not at all.
RETRY_STYLES = ("key", "count", "plain")


@dataclass(slots=True)
class WantedImage:
    """One image that a client wants, over all of its attempts. Times are those of the monotonic clock of this process.

    Attributes:
        met_fault_at: When the client last met a replica that is away, or learned of the death of one.
        reported_lost: How often the client was told that the image may have been paid for.
        disconnects: When the client disconnected.
        unexpected: The last response that must not occur.
    """

    prompt: str
    kind: RequestKind
    retry_style: str
    started_at: float
    finished_at: float | None = None
    met_fault_at: float = 0.0
    attempts: int = 0
    reported_lost: int = 0
    disconnects: list[float] = field(default_factory=list)
    unexpected: str = ""

    def deadline(self, last_fault_at: float) -> float:
        """Return when the client gives up. A replica that is away at any other time is no excuse."""
        return max(self.started_at, *self.disconnects, min(self.met_fault_at, last_fault_at)) + _TIMEOUT


@dataclass(slots=True)
class UpstreamLog:
    """The times at which each prompt was sent upstream; the demo itself keeps only the last thousand requests.

    `lateness`: a machine that is busy answers, notices disconnects and gives heartbeats as late as that.
    """

    demo: RunningDemo
    calls_by_prompt: dict[str, list[float]] = field(default_factory=dict)
    lateness: Lateness = field(default_factory=Lateness)

    async def listen(self) -> None:
        """Note requests soon after they arrive, until this is cancelled."""
        while True:
            await asyncio.sleep(_LISTEN_INTERVAL)
            self.collect()

    @property
    def crossing(self) -> float:
        """How many seconds before or after the reply a disconnect may cross the result."""
        return _CROSSING_SECONDS + 4 * self.lateness.seconds

    @property
    def port(self) -> int:
        """The port of the upstream."""
        return int(self.demo.url.rpartition(":")[2])

    @property
    def total(self) -> int:
        """How many requests were sent upstream."""
        return sum(map(len, self.calls_by_prompt.values()))

    def calls(self, wanted: WantedImage) -> list[float]:
        return self.calls_by_prompt.get(wanted.prompt, [])

    def collect(self) -> None:
        requests = self.demo.state.requests
        while requests:
            body = requests.popleft().body
            if body and "messages" in body:
                text = orjson.dumps(body["messages"]).decode()
                prompt = text[(at := text.index(_PROMPT)) : at + len(_PROMPT) + 6]
                self.calls_by_prompt.setdefault(prompt, []).append(time.monotonic())


def build_request(wanted: WantedImage) -> list[bytes]:
    kind = wanted.kind
    options = {"stream": True, "partial_images": 2} if kind.stream else {"response_format": kind.response_format}
    text = orjson.dumps({"prompt": wanted.prompt, "model": kind.model, "size": "1024x1024", **options})
    headers = {
        "key": [f"idempotency-key: {wanted.prompt.replace(' ', '-')}-{wanted.reported_lost}"],
        "count": [f"x-stainless-retry-count: {wanted.attempts - 1}"],
        "plain": [],
    }[wanted.retry_style]
    return [head("POST /v1/images/generations HTTP/1.1", len(text), "application/json", *headers), text]


async def attempt(wanted: WantedImage, port: int, timeout: float, lateness: float = 0.0) -> bool:
    """Send one request and return whether the client has what it wants. `lateness` of the machine: see `Lateness`."""
    wanted.attempts += 1
    connection = None
    try:
        async with asyncio.timeout(timeout):
            connection = await connect(port, _UNLIMITED)
            response = await connection.send(build_request(wanted))
    except TimeoutError:
        wanted.disconnects.append(time.monotonic())
        return False
    except OSError:
        wanted.met_fault_at = time.monotonic()
        return False
    finally:
        if connection is not None:
            connection.close()
    return check_response(wanted, response.status, response.body, lateness)


def check_response(wanted: WantedImage, status: int, body: bytes, lateness: float = 0.0) -> bool:
    # What a machine that is late takes for a 503 that came late may have cost something, for all that a replica knows.
    is_late = lateness > _LATE_REFUSAL and b'"upstream_overloaded"' in body
    if is_late or b'"question_lost"' in body:
        wanted.reported_lost += 1
        wanted.met_fault_at = time.monotonic()
        return False
    if status == 503 or b'"server_is_overloaded"' in body:
        return False
    marker = (
        b'"moderation_blocked"' if wanted.kind.status == 400 else b".completed" if wanted.kind.stream else b'"data"'
    )
    if status != wanted.kind.status or marker not in body:
        wanted.unexpected = f"{wanted.kind.model}: {status} {body[:300].decode('utf-8', 'replace')}"
    elif any(wanted.prompt.encode() not in b64decode(image) for image in _BASE64.findall(body)):
        wanted.unexpected = f"{wanted.kind.model}: the image of another client"
    return True


async def run_client(wanted: WantedImage, fleet: Fleet, upstream: UpstreamLog, random_source: random.Random) -> None:
    """Send requests to random replicas, with random disconnects, until the image has arrived."""
    while time.monotonic() < wanted.deadline(fleet.last_fault_at):
        is_impatient = wanted.attempts < 3 and random_source.random() < 0.6
        timeout = random_source.uniform(0.02, 0.9) if is_impatient else _TIMEOUT
        if await attempt(wanted, random_source.choice(fleet.ports), timeout, upstream.lateness.seconds):
            wanted.finished_at = time.monotonic()
            return
        # A busy machine is as late with a heartbeat as with anything else.
        await asyncio.sleep(_RETRY_DELAY[wanted.retry_style] + 4 * upstream.lateness.recent)


@asynccontextmanager
async def cause_outages(
    fleet: Fleet, kill_every: float, outage_every: float, random_source: random.Random
) -> AsyncIterator[None]:
    """Kill a replica every so many seconds, and stop Redis; `math.inf`: never. At the end all of them run again."""
    ended = asyncio.Event()

    async def wait(seconds: float) -> bool:
        """Return False at the end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(seconds, _FOREVER))
        return not ended.is_set()

    async def kill_replicas() -> None:
        while await wait(kill_every * random_source.uniform(0.7, 1.3)):
            port = random_source.choice(fleet.ports)
            await asyncio.to_thread(fleet.kill, port)
            await asyncio.sleep(_REPLICA_DOWNTIME)
            await asyncio.to_thread(fleet.start, port)
            fleet.last_fault_at = time.monotonic()

    async def kill_redis() -> None:
        while await wait(outage_every):
            started_at = time.monotonic()
            await asyncio.to_thread(fleet.redis.kill)
            await asyncio.sleep(_REDIS_DOWNTIME)
            await asyncio.to_thread(fleet.redis.start)
            fleet.last_fault_at = time.monotonic()
            fleet.outages.append((started_at, fleet.last_fault_at))

    tasks = [asyncio.create_task(kill_replicas()), asyncio.create_task(kill_redis())]
    try:
        yield
    finally:
        ended.set()
        await asyncio.gather(*tasks)


async def run_clients(fleet: Fleet, upstream: UpstreamLog, options: argparse.Namespace) -> list[WantedImage]:
    """Run clients under outages. These end at last, and each client must get its image then."""
    random_source = random.Random(options.seed)
    images: list[WantedImage] = []
    clients = []
    ports = [*fleet.ports, upstream.port]
    observers = [asyncio.create_task(each) for each in (upstream.listen(), upstream.lateness.watch(ports))]
    async with cause_outages(fleet, options.kill_every, options.outage_every, random_source):
        started_at = time.monotonic()
        for number in range(int(options.seconds * options.rate)):
            await asyncio.sleep(max(0.0, started_at + number / options.rate - time.monotonic()))
            kind, style = random_source.choice(KINDS), random_source.choice(RETRY_STYLES)
            wanted = WantedImage(f"{_PROMPT}{number:06}", kind, style, time.monotonic())
            images.append(wanted)
            chance = random.Random(random_source.random())
            clients.append(asyncio.create_task(run_client(wanted, fleet, upstream, chance)))
        await asyncio.wait(clients, timeout=_TIMEOUT)
    await asyncio.gather(*clients)
    for observer in observers:
        observer.cancel()
    upstream.collect()
    return images


def allowed_calls(wanted: WantedImage, call_times: Sequence[float], crossing_seconds: float) -> int:
    """Return how many upstream calls one image may cost.

    One generation, one more for each time that the client was told of a possibly paid image, and one more for each
    disconnect while the result was on its way, unless the client says that it retries: then it gets that result again.
    A refused request has generated nothing, so each retry may be sent.
    """
    reply_times = [at + wanted.kind.delay for at in call_times]
    crossing = sum(
        any(abs(disconnect - at) < crossing_seconds for at in reply_times) for disconnect in wanted.disconnects
    )
    if wanted.kind.status == 400:
        return wanted.attempts
    return wanted.kind.calls + wanted.reported_lost + (crossing if wanted.retry_style == "plain" else 0)


def find_failures(
    images: Sequence[WantedImage],
    calls: dict[str, list[float]],
    outages: Sequence[tuple[float, float]],
    crossing_seconds: float = _CROSSING_SECONDS,
) -> list[str]:
    """Return one line for each deviation from what must hold.

    While Redis is stopped replicas know nothing of each other, so for these images only a result is required.
    """
    failures: Counter[str] = Counter(wanted.unexpected for wanted in images if wanted.unexpected)
    for wanted in images:
        call_times, finished_at = calls.get(wanted.prompt, []), wanted.finished_at
        allowed, name = (
            allowed_calls(wanted, call_times, crossing_seconds),
            f"{wanted.kind.model}, {wanted.retry_style}",
        )
        if finished_at is None:
            failures[f"{name}: no image after {wanted.attempts} attempts"] += 1
        elif not overlaps_outage(outages, wanted, crossing_seconds) and len(call_times) > allowed:
            failures[f"{name}: {len(call_times)} calls, {allowed} allowed"] += 1
    return most_common(failures)


def most_common(failures: Counter[str]) -> list[str]:
    """Return a line for each kind of failure, those that occurred most often first."""
    return [f"{count} x {what}" for what, count in failures.most_common(20)]


def print_failures(failures: Sequence[str]) -> int:
    """Print the failures, and return the exit code."""
    print(*(f"FAIL  {line}" for line in failures), sep="\n")
    return int(bool(failures))


def overlaps_outage(outages: Sequence[tuple[float, float]], wanted: WantedImage, margin: float) -> bool:
    """Return whether an image was wanted while Redis was stopped or did not know all running jobs yet."""
    finished_at = wanted.finished_at or float("inf")
    return any(wanted.started_at < until + margin and since - margin < finished_at for since, until in outages)


def long_lived_keys(redis: RedisServer) -> list[str]:
    """Return one line for each key that stays in Redis for longer than any key may."""
    with Redis.from_url(redis.url, decode_responses=True) as client:
        # The time since which the job table exists stays, and the run of Redis that it belongs to.
        keys = (str(key) for key in client.scan_iter("limner:*") if not str(key).endswith((":epoch", ":run")))
        ttls = {key: client.pttl(key) for key in keys}
    limit = 1000 * max(_MAX_REDIS_TTL, RETENTION_WITH_KEY)
    return [f"{key} expires after {ttl} ms" for key, ttl in ttls.items() if ttl == -1 or int(str(ttl)) > limit]


async def open_spool_files(fleet: Fleet) -> int:
    """Return the number of temporary files that are still open when no result is retained any more."""
    for _ in range(20 * RETENTION_WITH_KEY):
        if not fleet.open_spool_files():
            break
        await asyncio.sleep(0.2)
    return fleet.open_spool_files()


async def run_load(fleet: Fleet, upstream: UpstreamLog, options: argparse.Namespace) -> int:
    images = await run_clients(fleet, upstream, options)
    failures = find_failures(images, upstream.calls_by_prompt, fleet.outages, upstream.crossing) + long_lived_keys(
        fleet.redis
    )
    if open_files := await open_spool_files(fleet):
        failures.append(f"{open_files} temporary files are still open")
    during_outage = [wanted for wanted in images if overlaps_outage(fleet.outages, wanted, upstream.crossing)]
    repeated = sum(
        len(calls) > allowed_calls(wanted, calls, upstream.crossing)
        for wanted, calls in ((wanted, upstream.calls(wanted)) for wanted in during_outage)
    )
    attempts, reported_lost = (
        sum(getattr(wanted, name) for wanted in images) for name in ("attempts", "reported_lost")
    )
    print(f"seed {options.seed}: {len(images)} images in {attempts} attempts, {upstream.total} upstream calls")
    print(f"this machine was late by {upstream.lateness.seconds:.2f} s at most")
    slow = sum((wanted.finished_at or math.inf) > wanted.started_at + _TIMEOUT for wanted in images)
    print(
        f"{slow} images took longer than {_TIMEOUT:.0f} s, since their clients met one killed replica after the other"
    )
    print(f"{fleet.kills} replicas killed, {reported_lost} images reported as lost")
    print(f"{len(during_outage)} images without Redis, {repeated} of them with more calls than are allowed with it")
    return print_failures(failures)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=8, help="new clients per second")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=5, help="seconds between two kills of a replica")
    parser.add_argument("--outage-every", type=float, default=25, help="seconds between two stops of Redis")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args(arguments)
    models = [kind.model for kind in KINDS]
    with (
        TemporaryDirectory(prefix="fleet-") as folder,
        run_fleet(Path(folder), options.replicas, models) as (fleet, demo),
    ):
        return asyncio.run(run_load(fleet, UpstreamLog(demo), options))


if __name__ == "__main__":
    sys.exit(main())
