"""A run becomes headers, JSON and events; its keep-alives over real sockets are in test_service.py."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from starlette.requests import Request

from app.api.delivery import (
    cost_headers,
    encode_events,
    encode_json,
    late_headers_as_comments,
    response_headers,
    stream_events,
    stream_json_with_keepalive,
)
from app.api.disconnects import DISCONNECT, DisconnectWatcher, is_acknowledged
from app.api.responses import ClientDisconnected
from app.errors import ApiError, ModerationBlocked
from app.jobs.job_run import JobRun
from app.jobs.pipeline_interface import Emit, GenerationResult, Item, PartialImage
from app.jobs.telemetry import JobTelemetry
from app.protocol.attempt_costs import AttemptRecord
from app.protocol.image_format import ImageInfo
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.money import ReportedCost
from app.protocol.parameters import Operation
from app.protocol.usage import Usage
from tests.support.asgi_client import AsgiClient

REQUEST = ImagesRequest(operation=Operation.GENERATION, prompt="a fox", ignored=("style", "seed"))
IMAGE = OutputImage("markdown-image", url="https://h/a.png")
RESULT = GenerationResult((IMAGE, OutputImage("address", url="https://h/b.png"), IMAGE), Usage(), failed=2)
KEEP_ALIVE = b": keep-alive\n\n"


Work = Callable[[Emit], Awaitable[None]]


def items(*given: Item, error: Exception | None = None) -> Work:
    async def work(emit: Emit) -> None:
        for item in given:
            emit(item)
            await asyncio.sleep(0)
        if error is not None:
            raise error

    return work


def start(work: Work, telemetry: JobTelemetry | None = None) -> JobRun:
    run = JobRun(telemetry, readers=1)
    run.start(work)
    return run


# Whether the client is still connected.


async def soon(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def never() -> bool:
    return await asyncio.Event().wait()


async def no_items(_: Emit) -> None:
    await never()


def test_the_watcher_returns_what_is_ready_in_time() -> None:
    async def play() -> None:
        watcher = DisconnectWatcher(AsgiClient().receive)
        assert await watcher.wait_for(soon(7), None) == 7
        watcher.cancel()

    asyncio.run(play())


def test_the_watcher_returns_none_when_the_time_is_over_and_cancels_the_work() -> None:
    async def play() -> None:
        watcher = DisconnectWatcher(AsgiClient().receive)
        work = asyncio.ensure_future(never())
        assert await watcher.wait_for(work, 0.001) is None
        await asyncio.sleep(0)
        assert work.cancelled()
        watcher.cancel()

    asyncio.run(play())


def test_the_watcher_waits_for_a_run_without_cancelling_it() -> None:
    async def play() -> None:
        watcher = DisconnectWatcher(AsgiClient().receive)
        short = start(items(RESULT))
        assert await watcher.wait_for_run(short, None)
        assert await watcher.wait_for_run(short, None)
        assert not await watcher.wait_for_run(JobRun(), None)
        endless = start(no_items)
        assert not await watcher.wait_for_run(endless, 0.001)
        assert not endless.is_done
        endless.call_off()
        watcher.cancel()

    asyncio.run(play())


def test_a_run_goes_on_when_the_client_has_left() -> None:
    async def play() -> None:
        client = AsgiClient()
        watcher = DisconnectWatcher(client.receive)
        client.leave()
        endless = start(no_items)
        with pytest.raises(ClientDisconnected):
            await watcher.wait_for_run(endless, None)
        assert not endless.is_done
        endless.call_off()

    asyncio.run(play())


def test_the_watcher_raises_when_the_client_has_left() -> None:
    async def play() -> None:
        client = AsgiClient()
        watcher = DisconnectWatcher(client.receive)
        client.leave()
        with pytest.raises(ClientDisconnected):
            await watcher.wait_for(never(), None)

    asyncio.run(play())


def test_work_that_is_done_counts_even_if_the_client_has_left() -> None:
    async def play() -> None:
        client = AsgiClient()
        client.leave()
        watcher = DisconnectWatcher(client.receive)
        done = asyncio.get_running_loop().create_future()
        done.set_result(7)
        assert await watcher.wait_for(done, None) == 7
        watcher.cancel()

    asyncio.run(play())


def test_the_watcher_knows_whether_the_client_is_connected() -> None:
    async def play() -> tuple[bool, bool]:
        client = AsgiClient()
        watcher = DisconnectWatcher(client.receive)
        before = await watcher.is_connected()
        client.leave()
        return before, await watcher.is_connected()

    assert asyncio.run(play()) == (True, False)


ACKNOWLEDGED: list[tuple[str, list[float | None], bool]] = [
    ("the system cannot tell", [None], True),
    ("nothing is on its way", [0], True),
    ("a far client acknowledges all of it", [9000, 9000, 9000, 0], True),
    ("a slow client acknowledges some bytes now and then", [*(90.0 - step // 9 for step in range(90 * 9)), 0], True),
    ("the connection is closed by this server meanwhile", [9000, None], True),
    ("the connection is lost", [9000, math.inf], False),
    ("the client is silent", [9000] * 100, False),
    ("the client falls silent", [9000, 5000, *([4000] * 100)], False),
]


@pytest.mark.parametrize(("name", "queue", "received"), ACKNOWLEDGED, ids=[row[0] for row in ACKNOWLEDGED])
def test_a_response_is_received_if_the_system_of_the_client_acknowledges_it(
    name: str, queue: list[float | None], received: bool
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    left = iter(queue)
    assert asyncio.run(is_acknowledged(lambda: next(left), sleep)) is received
    # A dead connection is given up after some seconds: its client may be asking again already.
    assert received or math.inf in queue or 3 <= sum(waited) < 3.5
    assert max(waited, default=0) <= 0.25


# Headers.


def test_the_headers_of_a_result() -> None:
    headers = response_headers(REQUEST, JobTelemetry(shrunk=["image[0] 8x8->4x4"]), RESULT)
    assert headers.pop("x-limner-upstream-ms") == "0"
    assert float(headers.pop("x-limner-overhead-ms")) >= 0
    assert headers == {
        "x-limner-reply-form": "markdown-image, address",
        "x-limner-ignored": "style, seed",
        "x-limner-shrunk": "image[0] 8x8->4x4",
        "x-limner-failed": "2",
        "x-limner-size": "asked=auto sent=auto",
    }


def test_the_cost_is_in_the_headers_if_all_of_it_is_known() -> None:
    def attempt(cost: str | None) -> AttemptRecord:
        return AttemptRecord("main", "m", reported=None if cost is None else ReportedCost(Decimal(cost)))

    telemetry = JobTelemetry(attempt_records=[attempt("0.04"), attempt("0.0400")])
    headers = response_headers(REQUEST, telemetry, RESULT)
    assert (headers["x-limner-cost"], headers["x-limner-currency"]) == ("0.08", "USD")
    assert b": x-limner-cost: 0.08\n" in late_headers_as_comments(REQUEST, telemetry, RESULT)
    assert cost_headers(JobTelemetry(attempt_records=[attempt("0.04"), attempt(None)])) == {}
    assert cost_headers(JobTelemetry()) == {}


def test_the_header_says_whether_the_image_has_an_alpha_channel() -> None:
    image = replace(IMAGE, info=ImageInfo("image/png", 8, 8, alpha=True))
    headers = response_headers(REQUEST, JobTelemetry(), GenerationResult((image,), Usage()))
    assert headers["x-limner-alpha"] == "yes"


def test_upstreams_are_named_in_the_order_of_their_first_snapshots() -> None:
    telemetry = JobTelemetry(answered_by=dict.fromkeys(["b", "a"]))
    assert response_headers(REQUEST, telemetry, RESULT)["x-limner-upstream"] == "b, a"


def test_before_the_result_only_the_request_is_known() -> None:
    size = {"x-limner-size": "asked=auto sent=auto"}
    assert response_headers(REQUEST, JobTelemetry()) == {"x-limner-ignored": "style, seed", **size}
    nothing_ignored = ImagesRequest(operation=Operation.EDIT, prompt="a fox")
    assert response_headers(nothing_ignored, JobTelemetry()) == size


def test_a_partial_image_has_no_late_headers() -> None:
    assert late_headers_as_comments(REQUEST, JobTelemetry(), PartialImage(IMAGE)) == b""


# Bodies.


async def events_of(telemetry: JobTelemetry, work: Work) -> list[bytes]:
    watcher = DisconnectWatcher(AsgiClient().receive)
    try:
        return [chunk async for chunk in stream_events(REQUEST, start(work, telemetry), watcher, 60)]
    finally:
        watcher.cancel()


@pytest.mark.parametrize("has_ended", [False, True])
def test_the_events_of_a_run_that_fails_after_a_partial_image(has_ended: bool) -> None:
    async def play() -> bytes:
        work = items(PartialImage(IMAGE), error=ModerationBlocked("no"))
        if not has_ended:
            return b"".join(await events_of(JobTelemetry(), work))
        run = start(work)
        await run.wait_done()
        return b"".join(chunk for event in encode_events(REQUEST, run) for chunk in event.chunks())

    first, second = asyncio.run(play()).removesuffix(b"\n\n").split(b"\n\n")
    assert first.startswith(b"event: image_generation.partial_image\n")
    name, _, data = second.partition(b"\n")
    assert name == b"event: error"
    assert orjson.loads(data.removeprefix(b"data: "))["error"]["code"] == "moderation_blocked"


def test_a_stream_ends_with_the_headers_that_it_was_too_early_for() -> None:
    rate_limit_headers = {"x-ratelimit-remaining-images": "7"}
    telemetry = JobTelemetry(rate_limit_headers=rate_limit_headers, answered_by={"one": None})
    partial, last = asyncio.run(events_of(telemetry, items(PartialImage(IMAGE), RESULT)))
    assert partial.startswith(b"event: image_generation.partial_image\n")
    *comments, event = last.removesuffix(b"\n\n").split(b"\n\n")
    assert event.startswith(b"event: image_generation.completed\n")
    names = [comment.partition(b": ")[2].partition(b": ")[0].decode() for comment in comments]
    assert set(names) == response_headers(REQUEST, telemetry, RESULT).keys() - rate_limit_headers.keys()
    assert comments[0] == b": x-limner-reply-form: markdown-image, address"


def test_each_progress_line_is_sent_once_and_replaces_a_keep_alive() -> None:
    async def play() -> list[bytes]:
        done = asyncio.Event()

        async def work(emit: Emit) -> None:
            await done.wait()
            emit(RESULT)

        sent = []
        watcher, run = DisconnectWatcher(AsgiClient().receive), start(work)
        async for chunk in stream_events(REQUEST, run, watcher, 0.001):
            sent.append(chunk)
            if len(sent) in {1, 3}:
                run.telemetry.progress = f"{len(sent)}0 %"
                run.notify()
            if len(sent) == 5:
                done.set()
        watcher.cancel()
        return sent[:5]

    expected = [KEEP_ALIVE, b": progress 10 %\n\n", KEEP_ALIVE, b": progress 30 %\n\n", KEEP_ALIVE]
    assert asyncio.run(play()) == expected


async def late_json(run: JobRun, release: asyncio.Event) -> list[bytes]:
    """Return the chunks of a JSON response whose run goes on after two keep-alives."""
    sent = []
    watcher = DisconnectWatcher(AsgiClient().receive)
    async for chunk in stream_json_with_keepalive(REQUEST, run, watcher, 0.001, "http://h"):
        sent.append(chunk)
        if len(sent) == 2:
            release.set()
    watcher.cancel()
    return sent


@pytest.mark.parametrize("error", [None, ModerationBlocked("no"), KeyError("bug")])
def test_white_space_is_sent_until_the_result_is_there(error: Exception | None) -> None:
    async def play() -> tuple[bytes, JobRun]:
        release = asyncio.Event()

        async def work(emit: Emit) -> None:
            await release.wait()
            if error is not None:
                raise error
            emit(RESULT)

        run = start(work)
        return b"".join(await late_json(run, release)), run

    body, run = asyncio.run(play())
    document = body.lstrip(b" ")
    assert len(body) - len(document) >= 2
    if error is None:
        expected = orjson.loads(b"".join(encode_json(REQUEST, RESULT, "http://h").chunks()))
        assert orjson.loads(document)["data"] == expected["data"]
        assert [image["url"] for image in expected["data"]] == [image.url for image in RESULT.images]
    else:
        # One stray byte, so that no client takes the error for a success.
        assert isinstance(run.error, ApiError)
        assert document == orjson.dumps(run.error.body) + b"!"


def test_the_watcher_tells_news_in_time_and_the_end() -> None:
    async def play() -> None:
        watcher = DisconnectWatcher(AsgiClient().receive)
        run = start(items(RESULT))
        assert await watcher.wait_for_more(run, 0, None, math.inf) is True
        assert await watcher.wait_for_more(run, 1, None, math.inf) is False
        endless = start(no_items)
        assert await watcher.wait_for_more(endless, 0, None, 0.001) is None
        endless.call_off()
        assert await watcher.wait_for_more(endless, 0, None, math.inf) is False
        watcher.cancel()

    asyncio.run(play())


def test_the_watcher_passes_over_revisions_that_nobody_has_asked_for() -> None:
    async def play() -> None:
        watcher = DisconnectWatcher(AsgiClient().receive)
        run = start(no_items)
        unaware, aware = (
            asyncio.create_task(watcher.wait_for_more(run, 0, revision, math.inf)) for revision in (None, 0)
        )
        await asyncio.sleep(0)
        run.notify()
        assert await aware is True
        run.call_off()
        assert await unaware is False
        watcher.cancel()

    asyncio.run(play())


@pytest.mark.parametrize("has_left_before", [True, False])
def test_the_watcher_waits_for_no_news_when_the_client_has_left(has_left_before: bool) -> None:
    async def play() -> None:
        server = Server()
        watcher, run = DisconnectWatcher(AsgiClient().receive, server), start(no_items)
        if has_left_before:
            server.left.set_result(None)
        waiting = asyncio.create_task(watcher.wait_for_more(run, 0, None, math.inf))
        await asyncio.sleep(0)
        if not has_left_before:
            server.left.set_result(None)
        with pytest.raises(ClientDisconnected):
            await waiting
        assert not run.is_done
        run.call_off()

    asyncio.run(play())


def test_clients_wait_without_tasks_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        server, loop = Server(), asyncio.get_running_loop()
        watcher, run = DisconnectWatcher(AsgiClient().receive, server), start(no_items)
        assert run.task is not None
        timers: list[asyncio.TimerHandle] = []
        call_later = loop.call_later

        def note(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
            timers.append(call_later(*arguments, **options))
            return timers[-1]

        monkeypatch.setattr(loop, "call_later", note)
        own = asyncio.create_task(watcher.wait_for_more(run, 0, None, 30)), asyncio.create_task(wait_long(watcher, run))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {*own, run.task, asyncio.current_task()}
        assert "_wake(" in repr(run.task)
        assert "_wake(" in repr(run.next_change())
        server.left.set_result(None)
        await asyncio.gather(*own, return_exceptions=True)
        assert [timer.cancelled() for timer in timers] == [True, True]
        # What has woken them is gone from what all who wait share.
        assert "_wake(" not in repr(run.task) + repr(run.next_change())
        run.call_off()

    asyncio.run(play())


async def wait_long(watcher: DisconnectWatcher, run: JobRun) -> bool:
    return await watcher.wait_for_run(run, 30)


class Server:
    """A server that knows whether its client has left."""

    def __init__(self) -> None:
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __call__(self) -> asyncio.Future[None]:
        return self.left

    def has_left(self) -> bool:
        return self.left.done()

    async def has_room(self) -> bool:
        return not self.left.done()


def test_a_server_that_knows_of_disconnects_needs_no_task_and_no_turn_of_the_loop() -> None:
    async def play() -> tuple[int, bool, bool, list[str]]:
        server, turns = Server(), list[str]()
        http = Request({"type": "http", "extensions": {DISCONNECT: server}}, AsgiClient().receive)
        before = len(asyncio.all_tasks())
        watcher = DisconnectWatcher.of(http)
        tasks = len(asyncio.all_tasks()) - before
        asyncio.get_running_loop().call_soon(turns.append, "a turn")
        connected = await watcher.is_connected()
        server.left.set_result(None)
        return tasks, connected, await watcher.is_connected(), [*turns]

    assert asyncio.run(play()) == (0, True, False, [])


def test_other_servers_are_asked_by_a_task() -> None:
    async def play() -> tuple[bool, bool]:
        client = AsgiClient()
        watcher = DisconnectWatcher.of(Request({"type": "http"}, client.receive))
        before = await watcher.is_connected()
        client.leave()
        return before, await watcher.is_connected()

    assert asyncio.run(play()) == (True, False)
