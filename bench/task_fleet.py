"""Task fleet test: replicas are killed while tasks are submitted and polled; none may be lost in silence or paid twice.

`python -m bench.task_fleet [--tasks N] [--rate N] [--seed N]` exits with 1 if one was.
"""

import argparse
import asyncio
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from bench.fleet import RequestKind, UpstreamLog, WantedImage, cause_outages, most_common, print_failures
from bench.replicas import Fleet, run_fleet
from bench.wire import Message, connect, head

#: The upstream answers after a while with a link.
KIND = RequestKind("slow-0.6", 0.6, response_format="url")

#: Seconds within which every task must have ended, and between two polls.
_TIMEOUT, _POLL_INTERVAL = 300.0, 1.0

#: Between two attempts to submit, while a replica is down or its queue is full.
_SUBMIT_INTERVAL = 0.3

_MAX_BODY = 2**16

#: Links are passed on, no task is refused for want of room, and none expires while a slow machine catches up.
_SETTINGS = {"LIMNER_REHOST": "never", "LIMNER_MAX_QUEUE": "5000", "LIMNER_IDEMPOTENCY_TTL": "600"}


@dataclass(slots=True)
class SubmittedTask:
    """One task. `outcome` is how it ended for its client: a status or the code of an error; empty while it has not."""

    wanted: WantedImage
    outcome: str = ""


async def exchange(port: int, request: Sequence[bytes]) -> Message | None:
    """Return the response; None where the replica died or is away."""
    connection = None
    try:
        connection = await connect(port, _MAX_BODY)
        return await connection.send(request)
    except OSError:
        return None
    finally:
        if connection is not None:
            connection.close()


async def submit(task: SubmittedTask, ports: Sequence[int], chance: random.Random) -> str:
    """Submit until a replica accepts, always with the same idempotency key. Returns the path to poll, or nothing."""
    wanted = task.wanted
    body = orjson.dumps({"prompt": wanted.prompt, "model": KIND.model, "size": "1024x1024"})
    key = f"idempotency-key: {wanted.prompt.replace(' ', '-')}"
    while time.monotonic() < wanted.started_at + _TIMEOUT:
        wanted.attempts += 1
        start_line = "POST /v1/images/generations/async HTTP/1.1"
        reply = await exchange(chance.choice(ports), [head(start_line, len(body), "application/json", key), body])
        if reply is not None and reply.status == 202:
            return str(orjson.loads(reply.body)["poll_url"])
        if reply is not None and reply.status not in {429, 503}:
            task.outcome = f"{reply.status} {error_code(reply)}"
            return ""
        await asyncio.sleep(_SUBMIT_INTERVAL)
    return ""


def error_code(reply: Message) -> str:
    """Return the code in an error's body."""
    return str(orjson.loads(reply.body).get("error", {}).get("code"))


async def run_task(task: SubmittedTask, ports: Sequence[int], chance: random.Random) -> None:
    """Submit a task and poll it at random replicas until it has ended."""
    path = await submit(task, ports, chance)
    while path and time.monotonic() < task.wanted.started_at + _TIMEOUT:
        await asyncio.sleep(_POLL_INTERVAL)
        request = [head(f"GET {path} HTTP/1.1", 0, "application/json")]
        reply = await exchange(chance.choice(ports), request)
        if reply is None or reply.status == 503:
            continue
        document = orjson.loads(reply.body)
        if reply.status != 200:
            task.outcome = f"{reply.status} {error_code(reply)}"
            return
        if document["status"] != "processing":
            task.outcome = document.get("error", {}).get("code") or document["status"]
            return


#: How a task may end, and how many upstream calls it may and must have cost then.
ALLOWED_CALLS = {
    "completed": (1, 1),
    "question_lost": (0, 1),
    "500 question_lost": (0, 1),
    "server_is_overloaded": (0, 0),
}


def find_failures(tasks: Sequence[SubmittedTask], calls: dict[str, list[float]]) -> list[str]:
    """Return one line for each deviation from what must hold."""
    failures: Counter[str] = Counter()
    for task in tasks:
        count = len(calls.get(task.wanted.prompt, ()))
        if task.outcome not in ALLOWED_CALLS:
            failures[f"ended as {task.outcome or 'nothing'} after {count} calls"] += 1
        else:
            least, most = ALLOWED_CALLS[task.outcome]
            if not least <= count <= most:
                failures[f"{task.outcome}: {count} calls, {least} to {most} allowed"] += 1
    return most_common(failures)


async def run_tasks(fleet: Fleet, upstream: UpstreamLog, options: argparse.Namespace) -> list[SubmittedTask]:
    chance = random.Random(options.seed)
    tasks: list[SubmittedTask] = []
    clients: set[asyncio.Task[None]] = set()
    started_at = time.monotonic()
    async with cause_outages(fleet, options.kill_every, math.inf, chance):
        while len(tasks) < options.tasks or any(not client.done() for client in clients):
            if len(tasks) < options.tasks:
                await asyncio.sleep(max(0.0, started_at + len(tasks) / options.rate - time.monotonic()))
                tasks.append(SubmittedTask(WantedImage(f"fleet {len(tasks):06}", KIND, "key", time.monotonic())))
                ports = fleet.ports
                clients.add(asyncio.create_task(run_task(tasks[-1], ports, random.Random(chance.random()))))
            else:
                await asyncio.sleep(0.1)
            upstream.collect()
    await asyncio.gather(*clients)
    upstream.collect()
    return tasks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("task_fleet", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=30, help="new tasks per second")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=5, help="seconds between two kills of a replica")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args(arguments)
    with (
        TemporaryDirectory(prefix="task-fleet-") as folder,
        run_fleet(Path(folder), options.replicas, [KIND.model], **_SETTINGS) as (
            fleet,
            demo,
        ),
    ):
        upstream = UpstreamLog(demo)
        started_at = time.monotonic()
        tasks = asyncio.run(run_tasks(fleet, upstream, options))
        seconds = time.monotonic() - started_at
    failures = find_failures(tasks, upstream.calls_by_prompt)
    outcomes = Counter(task.outcome for task in tasks)
    done = f"{len(tasks)} tasks in {seconds:.0f} s"
    print(f"seed {options.seed}: {done}, {fleet.kills} replicas killed, {upstream.total} calls")
    print(*(f"{count} {outcome}" for outcome, count in outcomes.most_common()), sep=", ")
    return print_failures(failures)


if __name__ == "__main__":
    sys.exit(main())
