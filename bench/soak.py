"""Soak: mixed load with 30 % faults; nothing may grow, and no question may be asked more often than it should be.

`python -m bench.soak [--seconds N] [--rate N]`; the exit code is 1 where something did.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Literal

import orjson
import uvloop

from bench.pictures import picture
from bench.process import Process, choose_cores, free_port, run
from bench.wire import Connection, Message, connect, head

_KEEP = 512
_BOUNDARY = "soak-d2f4b0c7"

#: Seconds of load before anything is compared.
_WARM_UP = 5

#: Seconds that an answer which nobody took is kept; afterwards all must be as before.
_KEPT = 2

#: Seconds after which idle connections to the upstream are closed, twice what Limner keeps them.
_IDLE = 9

#: A process that has warmed up may still grow by this much, in MiB: its allocator does not give all back.
_SLACK = 12.0

#: Seconds that a client waits.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Kind:
    """`asks`: what the upstream is to do. `status` as the client sees it, 0: none. `calls` of the upstream."""

    name: str
    share: int
    asks: str
    status: int = 200
    calls: int = 1
    wants: str = "url"
    by: Literal["json", "form", "stream", "nobody", "stranger", "nonsense"] = "json"


#: Shares in percent: 70 go well, 30 do not.
KINDS = (
    Kind("a link", 25, "link"),
    Kind("bytes behind a link", 15, "link", wants="b64_json"),
    Kind("bytes in the reply", 10, "data", wants="b64_json"),
    Kind("a stream", 10, "link", wants="b64_json", by="stream"),
    Kind("an edit", 10, "link", by="form"),
    Kind("busy at first", 4, "busy", calls=2),
    Kind("limited at first", 3, "limited", calls=2),
    Kind("status 500", 3, "broken", 500),
    Kind("a page with status 502", 2, "html", 500),
    Kind("a reset", 3, "reset", 500),
    Kind("a reply that breaks off", 3, "cut", 500),
    Kind("no picture", 2, "text", 400),
    Kind("a refusal", 2, "refused", 400),
    Kind("a dead link", 2, "missing", 500, wants="b64_json"),
    Kind("a client that leaves", 3, "slow", 0, by="nobody"),
    Kind("a stranger", 1, "link", 401, 0, by="stranger"),
    Kind("nonsense", 2, "link", 400, 0, by="nonsense"),
)


@dataclass(frozen=True, slots=True)
class Gauge:
    """What the server holds. `memory` in MiB; `spooled`: temporary files, which have no name."""

    memory: float
    descriptors: int
    spooled: int
    tasks: int
    jobs: int
    turns: int


@dataclass(slots=True)
class Ledger:
    """`asked`: the kind of each question by its number; `wrong`: what was answered otherwise than it should be."""

    asked: dict[str, Kind] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)


def request(kind: Kind, number: str) -> list[bytes]:
    key = f"authorization: Bearer {'sk-wrong' if kind.by == 'stranger' else 'sk-client'}"
    order = {"prompt": f"soak {kind.asks} {number}", "model": "gpt-image-2", "size": "1024x1024"}
    if kind.by == "nonsense":
        return [b"\x16\x03\x01\r\n\r\n"]
    if kind.by == "form":
        fields = "".join(f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in {**order, "response_format": kind.wants}.items())  # fmt: skip  # noqa: E501
        file = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        body = [(fields + file).encode(), picture(400 * 1024), f"\r\n--{_BOUNDARY}--\r\n".encode()]
        length, form = sum(map(len, body)), f"multipart/form-data; boundary={_BOUNDARY}"
        return [head("POST /v1/images/edits HTTP/1.1", length, form, key), *body]
    more = {"stream": True} if kind.by == "stream" else {"response_format": kind.wants}
    text = orjson.dumps({**order, **more})
    return [head("POST /v1/images/generations HTTP/1.1", len(text), "application/json", key), text]


async def visit(port: int, kind: Kind, number: str, ledger: Ledger) -> None:
    """One client, with a connection of its own."""
    ledger.asked[number] = kind
    try:
        connection = await connect(port, _KEEP)
    except OSError as error:
        ledger.wrong[f"{kind.name}: {error}"] += 1
        return
    patience = 0.1 if kind.by == "nobody" else _PATIENCE
    try:
        async with asyncio.timeout(patience):
            answer = await connection.ask(request(kind, number))
        status, said = answer.status, answer.body[:200]
    except TimeoutError:
        status, said = 0, b""
    except OSError as error:
        status, said = -1, str(error).encode()
    finally:
        connection.close()
    if status != kind.status:
        ledger.wrong[f"{kind.name}: {status} instead of {kind.status}: {said.decode('utf-8', 'replace')}"] += 1


async def read(port: int, url: str) -> dict[str, int]:
    connection: Connection = await connect(port, 2**24)
    answer: Message = await connection.ask([f"GET {url} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()])
    connection.close()
    values: dict[str, int] = orjson.loads(answer.body)
    return values


async def gauge(process: Process) -> Gauge:
    told = await read(process.port, "/gauges")
    files = open_files(process.pid)
    # The first three are the process's own output.
    spooled = sum("(deleted)" in target for number, target in files.items() if number > 2)
    return Gauge(process.memory, len(files), spooled, **told)


def open_files(pid: int) -> dict[int, str]:
    """What each descriptor leads to."""
    files = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            files[int(link.name)] = str(link.readlink())
    return files


async def soak(
    process: Process, seconds: float, rate: float, chance: random.Random, *, first: int
) -> tuple[Ledger, list[Gauge]]:
    """`rate` new clients a second, whether or not those before them have been answered; a gauge each second."""
    ledger, gauges = Ledger(), list[Gauge]()
    clients: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        (kind,) = chance.choices(KINDS, [kind.share for kind in KINDS])
        client = asyncio.create_task(visit(process.port, kind, str(first + number), ledger))
        clients.add(client)
        client.add_done_callback(clients.discard)
        if number % int(rate) == 0:
            gauges.append(await gauge(process))
    await asyncio.gather(*clients)
    return ledger, gauges


async def rest(process: Process, number: str) -> Gauge:
    """What it holds when all is done and what was kept is over; one more question sweeps that out."""
    await asyncio.sleep(_KEPT + 1)
    await visit(process.port, KINDS[0], number, Ledger())
    await asyncio.sleep(_IDLE)
    return await gauge(process)


def judge(ledger: Ledger, calls: dict[str, int], gauges: Sequence[Gauge], before: Gauge, after: Gauge) -> list[str]:
    """What is not as it should be."""
    found = [f"{count} x {what}" for what, count in ledger.wrong.most_common(20)]
    for kind in KINDS:
        numbers = [number for number, asked in ledger.asked.items() if asked is kind]
        made = sum(calls.get(number, 0) for number in numbers)
        off = sum(calls.get(number, 0) != kind.calls for number in numbers)
        if off:
            found.append(
                f"{kind.name}: {made} calls for {len(numbers)} questions, {off} with another number than {kind.calls}"
            )
    third = len(gauges) // 3
    early, late = (mean(one.memory for one in part) for part in (gauges[third : 2 * third], gauges[2 * third :]))
    if late > early + _SLACK:
        found.append(f"memory grew from {early:.0f} to {late:.0f} MiB")
    return found + [
        f"{name}: {getattr(before, name)} before, {getattr(after, name)} after"
        for name in ("descriptors", "spooled", "tasks", "jobs", "turns")
        if getattr(after, name) > getattr(before, name)
    ]


async def run_soak(process: Process, upstream: int, seconds: float, rate: float, seed: int) -> int:
    chance = random.Random(seed)
    await soak(process, _WARM_UP, rate, chance, first=0)
    before = await rest(process, "1000000")
    ledger, gauges = await soak(process, seconds, rate, chance, first=int(_WARM_UP * rate))
    after = await rest(process, "1000001")
    calls = await read(upstream, "/calls")
    found = judge(ledger, calls, gauges, before, after)
    faulty = sum(kind not in KINDS[:5] for kind in ledger.asked.values())
    share = faulty * 100 // len(ledger.asked)
    print(f"seed {seed}: {len(ledger.asked)} requests in {seconds:.0f} s, {share} % with faults")
    print(f"before   {before}\nat most  {most(gauges)}\nafter    {after}")
    print(*(f"FAIL  {line}" for line in found), sep="\n")
    return int(bool(found))


def most(gauges: Sequence[Gauge]) -> Gauge:
    return Gauge(*(max(column) for column in zip(*map(astuple, gauges), strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args(arguments)
    cores, upstream, port = choose_cores(), free_port(), free_port()
    with (
        TemporaryDirectory(prefix="soak-") as folder,
        run([sys.executable, "-m", "bench.faults", str(upstream)], upstream, cores.others, {}),
        run(
            [sys.executable, "-m", "bench.soaked"], port, cores.measured, environment(port, upstream, folder)
        ) as limner,
    ):
        return uvloop.run(run_soak(limner, upstream, options.seconds, options.rate, options.seed))


def environment(port: int, upstream: int, folder: str) -> dict[str, str]:
    return {
        "LIMNER_PORT": str(port),
        "LIMNER_UPSTREAM_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
        "LIMNER_UPSTREAM_API_KEY": "sk-upstream",
        "LIMNER_API_KEYS": "sk-client",
        "LIMNER_FETCH_ALLOW": f"127.0.0.1:{upstream}",
        "LIMNER_FETCH_TIMEOUT": "2",
        "LIMNER_IMAGE_STORE": f"disk://{folder}",
        "LIMNER_ANSWER_TTL": str(_KEPT),
        "LIMNER_CLIENT_HEADER_TIMEOUT": "2",
        "LIMNER_LOG_LEVEL": "error",
    }


if __name__ == "__main__":
    sys.exit(main())
