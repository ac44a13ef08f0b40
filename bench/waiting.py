"""Many requests that wait at the same time: what each holds, and how much later than the upstream it is answered."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import KEEP
from bench.process import Process
from bench.wire import connect
from bench.works import SMALL, Work, generation

#: Of a streamed picture, which comes as base64.
_STREAMED = Work("streamed", answer=64 * 1024)


@dataclass(frozen=True, slots=True)
class Crowd:
    """`count` requests that arrive within `arriving` seconds, each of which the upstream answers after `hold`."""

    name: str
    count: int
    arriving: float
    hold: float
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """`peak` in MiB over rest, `added` in seconds: the 99th of 100 latencies beyond the upstream's own. `cpu` in
    seconds for all; `comments` are the fewest signs of life that one stream brought."""

    failed: int
    peak: float
    added: float
    cpu: float
    comments: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    right: bool
    added: float = 0.0
    comments: int = 0


async def wait(process: Process, crowd: Crowd, rest: float) -> Wait:
    work = _STREAMED if crowd.stream else SMALL
    request = generation(work.prompt(crowd.hold), work.wants, stream=crowd.stream)
    process.forget_peak()
    cpu = process.cpu
    step = crowd.arriving / crowd.count
    tasks = [asyncio.create_task(_one(process.port, crowd, request, index * step)) for index in range(crowd.count)]
    outcomes = await asyncio.gather(*tasks)
    right = [outcome for outcome in outcomes if outcome.right]
    added = sorted(outcome.added for outcome in right)
    return Wait(
        failed=crowd.count - len(right),
        peak=process.peak - rest,
        added=added[len(added) * 99 // 100] if added else 0.0,
        cpu=process.cpu - cpu,
        comments=min((outcome.comments for outcome in right), default=0),
    )


async def _one(port: int, crowd: Crowd, request: Sequence[bytes], delay: float) -> _Outcome:
    await asyncio.sleep(delay)
    try:
        connection = await connect(port, KEEP)
        began = time.perf_counter()
        answer = await connection.ask(request)
    except OSError:
        return _Outcome(right=False)
    added = time.perf_counter() - began - crowd.hold
    connection.close()
    whole = not crowd.stream or answer.size > _STREAMED.answer
    return _Outcome(answer.status == 200 and whole, added, answer.body.count(b": keep-alive"))
