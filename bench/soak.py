"""Soak test: under a mixed load with 30 % faults no resource may grow, and no request may be sent upstream too often.

`python -m bench.soak [--seconds N] [--rate N]` exits with 1 if one did.
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

from bench.padded_png import padded_png
from bench.process import Process, choose_cores, free_port, run
from bench.wire import Connection, Message, connect, head

_MAX_KEPT_BODY = 512
_BOUNDARY = "soak-d2f4b0c7"

#: Seconds of load before the first comparison.
_WARM_UP = 5

#: Seconds for which undelivered results are retained. Afterwards the server must hold what it held before.
_RETENTION = 2

#: Seconds after which idle connections to the upstream are closed: twice as long as Limner keeps them.
_IDLE_TIMEOUT = 9

#: MiB by which a warmed-up process may still grow, since its allocator does not return all memory.
_ALLOWED_GROWTH = 12.0

#: Seconds for which a client waits for its response.
_CLIENT_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class RequestKind:
    """One kind of request.

    Attributes:
        share: Percentage of all requests.
        behavior: The behavior of the upstream, a name of `BEHAVIORS` in `faulty_upstream.py`.
        status: The status that the client must get; 0 if it disconnects first.
        calls: Number of requests that the upstream must receive.
    """

    name: str
    share: int
    behavior: str
    status: int = 200
    calls: int = 1
    response_format: str = "url"
    sent_as: Literal["json", "form", "stream", "disconnects", "wrong key", "garbage"] = "json"


#: 70 % succeed, 30 % meet a fault.
KINDS = (
    RequestKind("a link", 25, "link"),
    RequestKind("bytes behind a link", 15, "link", response_format="b64_json"),
    RequestKind("bytes in the reply", 10, "data", response_format="b64_json"),
    RequestKind("a stream", 10, "link", response_format="b64_json", sent_as="stream"),
    RequestKind("an edit", 10, "link", sent_as="form"),
    RequestKind("busy at first", 4, "busy", calls=2),
    RequestKind("limited at first", 3, "limited", calls=2),
    RequestKind("status 500", 3, "broken", 500),
    RequestKind("a page with status 502", 2, "html", 500),
    RequestKind("a reset", 3, "reset", 500),
    RequestKind("a reply that breaks off", 3, "cut", 500),
    RequestKind("no image", 2, "text", 400),
    RequestKind("a refusal", 2, "refused", 400),
    RequestKind("a dead link", 2, "missing", 500, response_format="b64_json"),
    RequestKind("a client that disconnects", 3, "slow", 0, sent_as="disconnects"),
    RequestKind("a wrong key", 1, "link", 401, 0, sent_as="wrong key"),
    RequestKind("garbage", 2, "link", 400, 0, sent_as="garbage"),
)


@dataclass(frozen=True, slots=True)
class Gauges:
    """Resources that the server holds: `memory` in MiB, `spooled` the number of unnamed temporary files."""

    memory: float
    descriptors: int
    spooled: int
    tasks: int
    jobs: int
    slots: int


@dataclass(slots=True)
class SoakRecord:
    """The kind of each request by its number, and how often which unexpected response came."""

    sent: dict[str, RequestKind] = field(default_factory=dict)
    unexpected: Counter[str] = field(default_factory=Counter)


def request(kind: RequestKind, number: str) -> list[bytes]:
    key = f"authorization: Bearer {'sk-wrong' if kind.sent_as == 'wrong key' else 'sk-client'}"
    parameters = {"prompt": f"soak {kind.behavior} {number}", "model": "gpt-image-2", "size": "1024x1024"}
    if kind.sent_as == "garbage":
        return [b"\x16\x03\x01\r\n\r\n"]
    if kind.sent_as == "form":
        fields = "".join(f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in {**parameters, "response_format": kind.response_format}.items())  # fmt: skip  # noqa: E501
        file = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        body = [(fields + file).encode(), padded_png(400 * 1024), f"\r\n--{_BOUNDARY}--\r\n".encode()]
        length, form = sum(map(len, body)), f"multipart/form-data; boundary={_BOUNDARY}"
        return [head("POST /v1/images/edits HTTP/1.1", length, form, key), *body]
    option = {"stream": True} if kind.sent_as == "stream" else {"response_format": kind.response_format}
    text = orjson.dumps({**parameters, **option})
    return [head("POST /v1/images/generations HTTP/1.1", len(text), "application/json", key), text]


async def run_client(port: int, kind: RequestKind, number: str, record: SoakRecord) -> None:
    """Send one request on a connection of its own and record an unexpected response."""
    record.sent[number] = kind
    try:
        connection = await connect(port, _MAX_KEPT_BODY)
    except OSError as error:
        record.unexpected[f"{kind.name}: {error}"] += 1
        return
    timeout = 0.1 if kind.sent_as == "disconnects" else _CLIENT_TIMEOUT
    try:
        async with asyncio.timeout(timeout):
            response = await connection.send(request(kind, number))
        status, body = response.status, response.body[:200]
    except TimeoutError:
        status, body = 0, b""
    except OSError as error:
        status, body = -1, str(error).encode()
    finally:
        connection.close()
    if status != kind.status:
        record.unexpected[f"{kind.name}: {status} instead of {kind.status}: {body.decode('utf-8', 'replace')}"] += 1


async def get_json(port: int, url: str) -> dict[str, int]:
    connection: Connection = await connect(port, 2**24)
    response: Message = await connection.send([f"GET {url} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()])
    connection.close()
    values: dict[str, int] = orjson.loads(response.body)
    return values


async def read_gauges(process: Process) -> Gauges:
    values = await get_json(process.port, "/gauges")
    files = open_files(process.pid)
    # The first three are standard input and output.
    spooled = sum("(deleted)" in target for number, target in files.items() if number > 2)
    return Gauges(process.memory, len(files), spooled, **values)


def open_files(pid: int) -> dict[int, str]:
    """Return the target of each file descriptor of a process."""
    files = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            files[int(link.name)] = str(link.readlink())
    return files


async def soak(
    process: Process, seconds: float, rate: float, random_source: random.Random, *, first: int
) -> tuple[SoakRecord, list[Gauges]]:
    """Start `rate` clients per second, however many are still waiting, and read the gauges every second."""
    record, gauges = SoakRecord(), list[Gauges]()
    clients: set[asyncio.Task[None]] = set()
    started_at = time.perf_counter()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, started_at + number / rate - time.perf_counter()))
        (kind,) = random_source.choices(KINDS, [kind.share for kind in KINDS])
        client = asyncio.create_task(run_client(process.port, kind, str(first + number), record))
        clients.add(client)
        client.add_done_callback(clients.discard)
        if number % int(rate) == 0:
            gauges.append(await read_gauges(process))
    await asyncio.gather(*clients)
    return record, gauges


async def settle(process: Process, number: str) -> Gauges:
    """Wait until retention and idle timeouts are over and read the gauges.

    One more request makes the server drop the results whose retention has ended.
    """
    await asyncio.sleep(_RETENTION + 1)
    await run_client(process.port, KINDS[0], number, SoakRecord())
    await asyncio.sleep(_IDLE_TIMEOUT)
    return await read_gauges(process)


def find_failures(
    record: SoakRecord, calls: dict[str, int], gauges: Sequence[Gauges], before: Gauges, after: Gauges
) -> list[str]:
    """Return one line for each deviation from what must hold."""
    failures = [f"{count} x {what}" for what, count in record.unexpected.most_common(20)]
    for kind in KINDS:
        numbers = [number for number, sent in record.sent.items() if sent is kind]
        total = sum(calls.get(number, 0) for number in numbers)
        deviating = sum(calls.get(number, 0) != kind.calls for number in numbers)
        if deviating:
            failures.append(
                f"{kind.name}: {total} calls for {len(numbers)} requests, {deviating} without exactly {kind.calls}"
            )
    third = len(gauges) // 3
    early, late = (mean(each.memory for each in part) for part in (gauges[third : 2 * third], gauges[2 * third :]))
    if late > early + _ALLOWED_GROWTH:
        failures.append(f"memory grew from {early:.0f} to {late:.0f} MiB")
    return failures + [
        f"{name}: {getattr(before, name)} before, {getattr(after, name)} after"
        for name in ("descriptors", "spooled", "tasks", "jobs", "slots")
        if getattr(after, name) > getattr(before, name)
    ]


async def run_soak(process: Process, upstream: int, seconds: float, rate: float, seed: int) -> int:
    random_source = random.Random(seed)
    await soak(process, _WARM_UP, rate, random_source, first=0)
    before = await settle(process, "1000000")
    record, gauges = await soak(process, seconds, rate, random_source, first=int(_WARM_UP * rate))
    after = await settle(process, "1000001")
    calls = await get_json(upstream, "/calls")
    failures = find_failures(record, calls, gauges, before, after)
    with_faults = sum(kind not in KINDS[:5] for kind in record.sent.values())
    share = with_faults * 100 // len(record.sent)
    print(f"seed {seed}: {len(record.sent)} requests in {seconds:.0f} s, {share} % with faults")
    print(f"before   {before}\npeaks    {peaks(gauges)}\nafter    {after}")
    print(*(f"FAIL  {line}" for line in failures), sep="\n")
    return int(bool(failures))


def peaks(gauges: Sequence[Gauges]) -> Gauges:
    return Gauges(*(max(column) for column in zip(*map(astuple, gauges), strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=50, help="requests per second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args(arguments)
    cores, upstream, port = choose_cores(), free_port(), free_port()
    with (
        TemporaryDirectory(prefix="soak-") as folder,
        run([sys.executable, "-m", "bench.faulty_upstream", str(upstream)], upstream, cores.others, {}),
        run(
            [sys.executable, "-m", "bench.instrumented_server"],
            port,
            cores.measured,
            environment(port, upstream, folder),
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
        "LIMNER_ANSWER_TTL": str(_RETENTION),
        "LIMNER_CLIENT_HEADER_TIMEOUT": "2",
        "LIMNER_LOG_LEVEL": "error",
    }


if __name__ == "__main__":
    sys.exit(main())
