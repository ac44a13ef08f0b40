"""Nothing is paid for twice: joining, keeping, keys, results to come back for."""

import asyncio
import base64
import gc
import math
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai import OpenAI
from starlette.datastructures import Headers

from app.access.auth import Caller
from app.api.images import is_client_retry
from app.errors import (
    ApiError,
    IdempotencyKeyReused,
    ImageUnavailable,
    InvalidRequest,
    NoImageInReply,
    RateLimited,
    ServiceUnavailable,
    UpstreamUnreachable,
)
from app.images.blob import Blob, Spool
from app.images.fetch import NO_KEYS
from app.images.memory import MemoryStore
from app.images.store import StoreConfig
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun
from app.jobs.pipeline_interface import Emit, GenerationResult, PartialImage
from app.jobs.registry import job_key
from app.jobs.service import JobReader
from app.jobs.sharing import JobSharing
from app.protocol.image_request import ImagesRequest
from app.protocol.image_response import OutputImage
from app.protocol.input_images import InputImage
from app.protocol.json_stream import Base64String
from app.protocol.parameters import Operation
from app.protocol.reply_parser import read_reply
from app.protocol.usage import Usage
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from tests.support.join_cases import (
    COUNTED,
    JOIN_CASES,
    JOIN_CASES_IN_FLIGHT,
    KEYED,
    ME,
    RETRY,
    TWIN_CASES,
    JoinCase,
    TwinCase,
)
from tests.support.raw_http_lines import GENERATION, ListeningClient, limner_with_model, wait_for_jobs
from tests.support.registries import REQUEST, Desk
from tests.support.servers import RunningDemo, RunningLimner

pytestmark = pytest.mark.usefixtures("demo_at_rest")


@pytest.mark.parametrize("case", JOIN_CASES, ids=lambda case: case.name)
def test_a_request_joins_a_finished_job_by_the_joining_rules(case: JoinCase) -> None:
    async def play() -> bool:
        desk = Desk()
        first = await desk.run(case.first, case.error, delivered=case.delivered, is_async=case.is_async, paid=case.paid)
        desk.clock.now = case.later
        found = desk.registry.find_joinable(case.then)
        desk.registry.close()
        assert found in {None, first}
        return found is not None

    assert asyncio.run(play()) is case.joins


@pytest.mark.parametrize("case", JOIN_CASES_IN_FLIGHT, ids=lambda case: case.name)
def test_a_request_joins_a_job_in_flight_by_the_joining_rules(case: JoinCase) -> None:
    async def play() -> bool:
        desk = Desk()
        job = desk.start(case.first)
        found = desk.registry.find_joinable(case.then)
        await job.run.wait_done()
        desk.registry.close()
        return found is not None

    assert asyncio.run(play()) is case.joins


async def endless(_: Emit) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("case", TWIN_CASES, ids=lambda case: case.name)
def test_of_several_equal_jobs_a_request_joins_the_one_that_its_client_has_lost(case: TwinCase) -> None:
    async def play() -> list[int | None]:
        desk = Desk()
        jobs = []
        for state in case.jobs:
            if state in {"delivered", "undelivered", "failed"}:
                error = UpstreamUnreachable() if state == "failed" else None
                jobs.append(await desk.run(COUNTED, error, delivered=state != "undelivered"))
                continue
            job = Job(f"req_{len(jobs) + 1}", COUNTED, REQUEST, Spool(), JobRun(readers=1))
            desk.count += 1
            job.run.start(endless)
            desk.registry.add(job)
            if state == "unread":
                job.run.release()
            jobs.append(job)
        joined = []
        for is_retry in case.requests:
            job_or_none = desk.registry.find_joinable(RETRY if is_retry else COUNTED)
            if job_or_none is not None:
                job_or_none.run.add_reader()
            joined.append(None if job_or_none is None else jobs.index(job_or_none))
        for job in jobs:
            job.run.call_off()
        desk.registry.close()
        return joined

    assert asyncio.run(play()) == list(case.joined)


@pytest.mark.parametrize("paid", [False, True], ids=["at no cost", "after a reply that was paid for"])
def test_what_has_failed_at_no_cost_is_repeated_by_a_job_of_its_own(paid: bool) -> None:
    async def play() -> None:
        desk = Desk()
        read = desk.start(ME)
        await desk.run(COUNTED, NoImageInReply("no") if paid else UpstreamUnreachable(), delivered=True, paid=paid)
        assert desk.registry.find_joinable(RETRY) is (read if paid else None)
        desk.registry.unserved.note_new_job(RETRY)
        assert desk.registry.find_joinable(RETRY) is read
        await read.run.wait_done()
        desk.registry.close()

    asyncio.run(play())


def test_an_idempotency_key_with_another_body_is_rejected() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.run(KEYED)
        desk.clock.now = 10
        await desk.run(JobKey("me", "cat"))
        desk.clock.now = 620
        with pytest.raises(IdempotencyKeyReused) as caught:
            desk.registry.find_joinable(JobKey("me", "cat", "key-1"))
        assert (caught.value.status, caught.value.code) == (422, "idempotency_key_reused")
        desk.registry.close()

    asyncio.run(play())


def test_a_job_that_was_dropped_is_not_kept_again() -> None:
    """It would be in the way of all others that have to make room, for ever."""

    async def play() -> None:
        desk = Desk(max_retained=1)
        dropped = await desk.run(ME)
        desk.registry.drop(dropped)
        desk.registry.retain_or_drop(dropped)
        assert [(await desk.run(ME)).id for _ in range(3)] == ["req_2", "req_3", "req_4"]
        assert desk.registry.unread_ids(ME) == ["req_4"]

    asyncio.run(play())


@pytest.mark.parametrize(("limits", "kept"), [({"max_retained": 2}, [False, True, True]), ({"max_retained_bytes": 25}, [False, True, True]), ({"max_retained": 0}, [False] * 3)])  # fmt: skip
def test_retained_jobs_are_limited_and_the_oldest_is_dropped_first(limits: dict[str, int], kept: list[bool]) -> None:
    async def play() -> list[bool]:
        desk = Desk(**limits)
        jobs = []
        for number in range(3):
            desk.clock.now = number
            jobs.append(await desk.run(JobKey("me", str(number)), size=10))
        found = [desk.registry.find_joinable(job.key) is job for job in jobs]
        assert [job.spool.size for job in jobs] == [10 if one else 0 for one in kept]
        desk.registry.close()
        assert sum(job.spool.size for job in jobs) == 0
        return found

    assert asyncio.run(play()) == kept


@dataclass(frozen=True)
class CrowdedCase:
    """Finished jobs in order of arrival, more than are kept; `kept` are the numbers of those that stay.

    Attributes:
        jobs: The caller of each, with what distinguishes it: "key" for one under an idempotency key, "free" for a
            failure that cost nothing and that a client comes back for, "delivered", or nothing.
        sizes: How many bytes each holds.
    """

    name: str
    jobs: list[str]
    kept: list[int]
    sizes: list[int]
    max_retained: int = 3
    max_retained_bytes: int = 1000


CROWDED = [
    CrowdedCase("failures that cost nothing go first, whoever caused them", ["a", "b free", "b free", "b free", "a"], [0, 3, 4], [0] * 5),
    CrowdedCase("then delivered results, whoever has them", ["a delivered", "b", "b", "b"], [1, 2, 3], [0] * 4),
    CrowdedCase("then the oldest of the caller that holds most", ["a", "b", "b", "b"], [0, 2, 3], [0] * 4),
    CrowdedCase("a caller cannot drive out another with a key either", ["a key", "b key", "b key", "b key", "b key"], [0, 3, 4], [0] * 5),
    CrowdedCase("of bytes, the caller that holds most bytes", ["a", "a", "b"], [0, 1], [10, 10, 30], max_retained_bytes=40),
    CrowdedCase("what holds no bytes stays where bytes are short", ["b free", "a", "b"], [0, 2], [0, 30, 20], max_retained_bytes=40),
]  # fmt: skip


async def run_all(desk: Desk, jobs: list[str], sizes: list[int]) -> list[Job]:
    """Run the jobs of a `CrowdedCase`."""
    done = []
    for number, (words, size) in enumerate(zip(jobs, sizes, strict=True)):
        caller, _, kind = words.partition(" ")
        key = JobKey(caller, str(number), str(number) if kind == "key" else None)
        error = RateLimited("wait") if kind == "free" else None
        done.append(
            await desk.run(key, error, size=size, is_async=kind == "free", delivered=kind in {"delivered", "key"})
        )
    return done


@pytest.mark.parametrize("case", CROWDED, ids=lambda case: case.name)
def test_where_there_is_no_room_the_least_valuable_jobs_are_dropped(case: CrowdedCase) -> None:
    async def play() -> list[int]:
        desk = Desk(max_retained=case.max_retained, max_retained_bytes=case.max_retained_bytes)
        jobs = await run_all(desk, case.jobs, case.sizes)
        kept = [number for number, job in enumerate(jobs) if desk.registry.by_id(job.id) is job]
        desk.registry.close()
        return kept

    assert asyncio.run(play()) == case.kept


@dataclass(frozen=True)
class ShortDisk:
    """Finished jobs as in `CrowdedCase`, and how many bytes are missing on the disk."""

    name: str
    jobs: list[str]
    sizes: list[int]
    missing: int
    kept: list[int]


SHORT_DISKS = [
    ShortDisk("delivered results go, the oldest of the caller that holds most", ["a delivered", "b delivered", "b delivered"], [10, 10, 10], 5, [0, 2]),
    ShortDisk("as many as are needed", ["a delivered", "b delivered", "b delivered"], [10, 10, 10], 15, [2]),
    ShortDisk("failures hold nothing", ["a delivered", "a free"], [10, 10], 10, [1]),
    ShortDisk("undelivered results stay", ["a", "a delivered", "a"], [10, 10, 10], 10, [0, 2]),
    ShortDisk("results under a key stay", ["a key", "a delivered"], [10, 10], 10, [0]),
    ShortDisk("none goes where all are not enough", ["a delivered", "a delivered", "a"], [10, 10, 10], 21, [0, 1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("case", SHORT_DISKS, ids=lambda case: case.name)
def test_a_short_disk_costs_nobody_an_image(case: ShortDisk) -> None:
    async def play() -> tuple[list[int], bool]:
        desk = Desk()
        jobs = await run_all(desk, case.jobs, case.sizes)
        has_made_room = desk.registry.make_room(case.missing)
        kept = [number for number, job in enumerate(jobs) if desk.registry.by_id(job.id) is job]
        desk.registry.close()
        return kept, has_made_room

    assert asyncio.run(play()) == (case.kept, len(case.kept) < len(case.jobs))


def calls_during(work: Callable[[], object]) -> int:
    """Return how many functions Python calls in `work`, generators' steps included."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    # Finalizers of other tests' garbage would be counted too.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


@pytest.mark.parametrize("idempotency_key", [None, "key-1"], ids=["without a key", "under a key"])
def test_a_request_costs_no_more_the_more_jobs_there_are(idempotency_key: str | None) -> None:
    """Equal ones in flight, and results that are kept, in a registry that is full."""

    async def play(number: int) -> int:
        desk = Desk(max_retained=number)
        for each in range(number):
            job = Job(f"req_f{each}", ME, REQUEST, Spool(), JobRun(readers=1))
            job.run.start(endless)
            desk.registry.add(job)
        for each in range(number):
            await desk.run(JobKey(f"caller-{each % 7}", str(each), f"key-{each}"), delivered=True)
        mine = JobKey("me", "fox", idempotency_key)

        def come_and_go() -> None:
            assert desk.registry.find_joinable(mine) is None
            desk.registry.unread_ids(mine)
            desk.registry.add(new)
            desk.registry.retain_or_drop(finished)
            new.run.release()

        new = Job("req_new", mine, REQUEST, Spool(), JobRun(readers=1))
        new.run.start(endless)
        finished = desk.start(JobKey("me", "cat", "key-2"))
        await finished.run.wait_done()
        finished.run.readers = 0
        calls = calls_during(come_and_go)
        desk.registry.close()
        return calls

    few, many = asyncio.run(play(10)), asyncio.run(play(1000))
    assert many <= few * 1.15


def test_a_job_with_a_reader_is_not_dropped() -> None:
    async def play() -> None:
        desk = Desk()
        job = await desk.run(ME, size=10)
        job.run.add_reader()
        desk.clock.now = 1000
        assert desk.registry.find_joinable(JobKey("me", "cat")) is None
        assert job.spool.size == 10
        job.run.release()
        desk.clock.now = 2000
        assert desk.registry.find_joinable(JobKey("me", "cat")) is None
        assert job.spool.size == 0

    asyncio.run(play())


PAID: list[tuple[str, ApiError, bool, bool]] = [
    ("there was no room to wait in line", RateLimited("crowded"), False, True),
    ("the server ended", ServiceUnavailable("shutting down"), False, True),
    ("there is no picture behind its link any more", NoImageInReply("a page"), False, False),
    ("it could not be fetched", ImageUnavailable("404"), False, True),
    ("it could not be fetched from another replica, which has paid", ImageUnavailable("404"), True, False),
]


@pytest.mark.parametrize(("name", "fault", "follows", "kept"), PAID, ids=[row[0] for row in PAID])
def test_a_reply_that_was_paid_for_is_kept_over_further_runs(
    name: str, fault: ApiError, follows: bool, kept: bool
) -> None:
    async def play() -> bool:
        desk = Desk()
        job = desk.start(ME, fault)
        job.is_remote = follows
        if not follows:
            job.paid_replies.append(read_reply(b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'))
        await job.run.wait_done()
        job.delivered = True
        job.run.release()
        assert desk.registry.by_id(None) is None
        is_kept = desk.registry.by_id(job.id) is job
        assert job.needs_redelivery is is_kept
        desk.registry.close()
        return is_kept

    assert asyncio.run(play()) is kept


def test_a_result_is_only_for_its_caller() -> None:
    async def play() -> None:
        desk = Desk()
        job = await desk.run(ME, is_async=True)
        assert desk.registry.of_caller(Caller("me", None), job.id) is job
        assert desk.registry.of_caller(Caller("you", None), job.id) is None
        assert desk.registry.of_caller(Caller("me", None), "req_9") is None
        desk.clock.now = 600
        assert desk.registry.of_caller(Caller("me", None), job.id) is None

    asyncio.run(play())


def test_a_result_that_is_delivered_again_is_kept_for_another_minute() -> None:
    async def play() -> None:
        desk = Desk()
        job = await desk.run(ME, delivered=True)
        desk.clock.now = 50
        assert desk.registry.find_joinable(RETRY) is job
        job.run.add_reader()
        reader = JobReader(job, job.run, sharing_of(desk))
        reader.close(delivered=True)
        desk.clock.now = 109
        assert desk.registry.find_joinable(RETRY) is job
        desk.clock.now = 110
        assert desk.registry.find_joinable(RETRY) is None

    asyncio.run(play())


def test_a_result_whose_time_is_over_while_it_is_read_is_dropped_afterwards() -> None:
    async def play() -> None:
        desk = Desk()
        job = await desk.run(ME, size=10)
        job.run.add_reader()
        desk.clock.now = 700
        desk.registry.drop_expired()
        assert desk.registry.by_id(job.id) is job
        job.run.release()
        assert desk.registry.by_id(job.id) is None
        assert job.spool.size == 0

    asyncio.run(play())


def sharing_of(desk: Desk) -> JobSharing:
    table: JobTable[Job] = JobTable(SharedState("memory:", fail_closed=False), ttl=600, key_ttl=600)
    return JobSharing(desk.registry, table, MemoryStore(StoreConfig("memory:", 60)))


def test_a_restarted_job_is_like_a_new_one() -> None:
    async def play() -> None:
        desk = Desk()
        job = await desk.run(ME, ImageUnavailable("404"), size=10, delivered=True)
        more = Spool()
        more.new_blob().write(b"12345")
        job.restart(REQUEST, more, JobRun())
        assert (job.delivered, job.expires_at, job.spool.size, more.size) == (False, math.inf, 15, 0)
        desk.registry.close()

    asyncio.run(play())


def blob_of(data: bytes) -> Blob:
    blob = Blob()
    blob.write(data)
    return blob


ASKED_DIFFERENTLY: list[tuple[str, dict[str, Any]]] = [
    ("another prompt", {"prompt": "a cat"}),
    ("another number", {"n": 2}),
    ("another format of the answer", {"response_format": "url"}),
    ("a stream", {"stream": True}),
    ("other metadata", {"metadata": {"a": "b"}}),
    ("another picture of the same size", {"images": (InputImage(source=blob_of(b"abd")),)}),
    ("a link", {"images": (InputImage(url="https://h/a.png"),)}),
    ("a mask", {"images": (InputImage(source=blob_of(b"abc")),), "mask": InputImage(source=blob_of(b"abc"))}),
    ("markup", {"images": (InputImage(source=blob_of(b"abc")),), "markup": InputImage(source=blob_of(b"abc"))}),
    ("a picture more", {"images": (InputImage(source=blob_of(b"abc")),) * 2}),
]


def fingerprint(**fields: Any) -> str:
    request = ImagesRequest(**{"operation": Operation.EDIT, "prompt": "a fox", **fields})
    return job_key(request, Caller("me", None), None, is_retry=False).fingerprint


def test_equal_requests_have_the_same_fingerprint() -> None:
    one, two = ((InputImage(source=blob_of(b"abc")),) for _ in range(2))
    assert fingerprint(images=one, metadata={"a": "1", "b": "2"}) == fingerprint(
        images=two, metadata={"b": "2", "a": "1"}
    )


@pytest.mark.parametrize(("name", "fields"), ASKED_DIFFERENTLY, ids=[row[0] for row in ASKED_DIFFERENTLY])
def test_different_requests_have_different_fingerprints(name: str, fields: dict[str, Any]) -> None:
    assert fingerprint(**fields) != fingerprint(images=(InputImage(source=blob_of(b"abc")),))
    assert fingerprint(**fields) != fingerprint()


@pytest.mark.parametrize(("headers", "is_retry"), [({}, False), ({"x-stainless-retry-count": "0"}, False), ({"x-stainless-retry-count": ""}, False), ({"x-stainless-retry-count": "1"}, True), ({"x-stainless-retry-count": "no"}, False), ({"x-envoy-attempt-count": "1"}, False), ({"x-envoy-attempt-count": "2"}, True), ({"amz-sdk-request": "attempt=1; max=3"}, False), ({"amz-sdk-request": "ttl=20261129T000000Z; attempt=2; max=3"}, True), ({"grpc-previous-rpc-attempts": "1"}, True)])  # fmt: skip
def test_a_header_says_that_a_request_is_a_retry(headers: dict[str, str], is_retry: bool) -> None:
    assert is_client_retry(Headers(headers)) is is_retry


@pytest.mark.parametrize(("idempotency_key", "is_retry"), [(None, False), (None, True), ("a-1", False)])
def test_a_job_key_has_the_headers_of_the_caller(idempotency_key: str | None, is_retry: bool) -> None:
    key = job_key(REQUEST, Caller("me", None), idempotency_key, is_retry=is_retry)
    assert (key.caller, key.key, key.is_retry) == ("me", idempotency_key, is_retry)


@pytest.mark.parametrize("key", ["", "a b", "schl\u00fcssel", "a" * 256])
def test_an_invalid_idempotency_key_is_rejected(key: str) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        job_key(REQUEST, Caller("me", None), key, is_retry=False)


def ask(limner: RunningLimner, asked: dict[str, Any] = GENERATION, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{limner.url}/v1/images/generations", json=asked, headers=names, timeout=20)


def test_a_retry_joins_the_job_of_a_disconnected_client(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0) as limner:
        line = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        line.disconnect()
        threading.Timer(0.2, demo.state.release).start()
        answer = ask(limner)
        assert answer.status_code == 200
        assert answer.headers["x-limner-joined"].startswith("req_")
        assert answer.headers["x-limner-joined"] != answer.headers["x-request-id"]
    assert demo.state.calls == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_retry_gets_an_undelivered_result(demo: RunningDemo, stream: bool) -> None:
    asked = {**GENERATION, "stream": stream}
    with limner_with_model(demo, "holds+data-url", keepalive_after=0, keepalive_interval=60) as limner:
        line = ListeningClient(limner, asked)
        demo.state.wait_for_calls(1)
        line.disconnect()
        demo.state.release()
        wait_for_jobs(limner, 0)
        answers = [ask(limner, asked) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert ["x-limner-joined" in answer.headers for answer in answers] == [True, False]
    assert demo.state.calls == 2


def test_the_official_client_that_times_out_pays_once(demo: RunningDemo) -> None:
    with (
        limner_with_model(demo, "holds", keepalive_after=0) as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", timeout=0.3, max_retries=5) as client,
    ):
        threading.Timer(0.6, demo.state.release).start()
        answer = client.images.generate(**GENERATION)
        assert answer.data is not None
    assert demo.state.calls == 1


def test_equal_requests_of_two_connected_clients_are_two_jobs(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds") as limner:
        lines = [ListeningClient(limner, GENERATION) for _ in range(2)]
        assert demo.state.wait_for_calls(2)
        demo.state.release()
        for line in lines:
            line.read_until(b"b64_json")
            line.disconnect()
    assert demo.state.calls == 2


def test_an_idempotency_key_joins_two_connected_clients(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds") as limner:
        lines = [ListeningClient(limner, GENERATION, idempotency_key="k") for _ in range(2)]
        assert demo.state.wait_for_calls(1)
        demo.state.release()
        for line in lines:
            line.read_until(b"b64_json")
            line.disconnect()
        again = ask(limner, idempotency_key="k")
        other = ask(limner, {**GENERATION, "prompt": "a cat"}, idempotency_key="k")
    assert again.status_code == 200
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert demo.state.calls == 1


def test_an_image_that_could_not_be_fetched_is_fetched_for_the_retry(demo: RunningDemo) -> None:
    with limner_with_model(demo, "missing-image-3", fetch_timeout=0.3) as limner:
        first = ask(limner)
        assert (first.status_code, first.json()["error"]["code"]) == (500, "image_download_failed")
        assert demo.url in first.json()["error"]["message"] or "The image" in first.json()["error"]["message"]
        limner.service.backends.fetcher._timeout = 20
        second = ask(limner)
    assert second.status_code == 200
    assert base64.b64decode(second.json()["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert demo.state.calls == 1


def wait_for_readers(limner: RunningLimner, number: int) -> None:
    done = threading.Event()
    for _ in range(2000):
        if sum(job.run.readers for job in limner.service.registry._by_id.values()) == number:
            return
        done.wait(0.005)
    raise AssertionError("somebody still reads")


def test_a_retry_that_disconnects_during_the_download_loses_nothing(demo: RunningDemo) -> None:
    with limner_with_model(demo, "missing-image-3", fetch_timeout=0.3, keepalive_after=0) as limner:
        assert ask(limner).json()["error"]["code"] == "image_download_failed"
        fetcher = limner.service.backends.fetcher
        fetcher._timeout = 20
        held, left, fetch = threading.Event(), threading.Event(), fetcher.fetch

        async def wait(url: str, keys: Mapping[str, str] = NO_KEYS) -> Blob:
            held.set()
            await asyncio.to_thread(left.wait, 10)
            return await fetch(url, keys)

        fetcher.fetch = wait  # type: ignore[method-assign]
        line = ListeningClient(limner, GENERATION)
        assert held.wait(10)
        line.disconnect()
        wait_for_readers(limner, 0)
        left.set()
        wait_for_jobs(limner, 0)
        answer = ask(limner)
    assert answer.status_code == 200
    assert demo.state.calls == 1


def test_a_result_can_be_fetched_later(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds+data-url") as limner, httpx.Client(base_url=limner.url) as http:
        accepted = http.post("/v1/images/generations", json=GENERATION, headers={"prefer": "respond-async"})
        place = accepted.headers["location"]
        assert accepted.status_code == 202
        assert accepted.json() == {
            "id": accepted.headers["x-request-id"],
            "object": "image.result",
            "status": "in_progress",
        }
        assert place == f"/v1/images/results/{accepted.headers['x-request-id']}"
        assert accepted.headers["preference-applied"] == "respond-async"
        waiting = http.get(place)
        assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "5")
        assert http.get(place, headers={"authorization": "Bearer other"}).status_code == 404
        demo.state.release()
        wait_for_jobs(limner, 0)
        answers = [http.get(place) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json()["data"][0]["b64_json"].startswith("iVBOR")
        assert answers[0].headers["x-limner-joined"] == accepted.headers["x-request-id"]
        assert http.get("/v1/images/results/req_0").status_code == 404
    assert demo.state.calls == 1


def test_an_error_can_be_fetched_later(demo: RunningDemo) -> None:
    with limner_with_model(demo, "refuses") as limner, httpx.Client(base_url=limner.url) as http:
        asked = http.post("/images/generations", json=GENERATION, headers={"prefer": "wait=1, respond-async"})
        assert asked.headers["location"].startswith("/images/results/")
        wait_for_jobs(limner, 0)
        answer = http.get(asked.headers["location"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")


def test_an_idempotency_key_and_respond_async_work_together(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds+data-url") as limner:
        first, second = (ask(limner, prefer="respond-async", idempotency_key="k") for _ in range(2))
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json()["id"] == second.json()["id"]
        demo.state.release()
        wait_for_jobs(limner, 0)
        assert ask(limner, idempotency_key="k").status_code == 200
    assert demo.state.calls == 1


def test_a_stream_ignores_respond_async(demo: RunningDemo) -> None:
    with limner_with_model(demo, "data-url") as limner:
        answer = ask(limner, {**GENERATION, "stream": True}, prefer="respond-async")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_draining_server_starts_no_job_but_delivers_finished_ones(demo: RunningDemo) -> None:
    with limner_with_model(demo, "data-url") as limner:
        ask(limner, idempotency_key="k")
        limner.service.is_draining = True
        assert ask(limner, idempotency_key="k").status_code == 200
        assert ask(limner).status_code == 503


def test_an_invalid_idempotency_key_is_a_400(demo: RunningDemo) -> None:
    with (
        limner_with_model(demo, "data-url") as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any") as client,
        suppress(KeyError),
        pytest.raises(openai.BadRequestError, match="Idempotency-Key"),
    ):
        client.images.generate(**GENERATION, extra_headers={"Idempotency-Key": "a b"})


@pytest.mark.parametrize(
    ("fault", "kept", "in_spool"),
    [(None, 0, 1_000), (ImageUnavailable("404"), 50_000, 16_000), (NoImageInReply("No."), 0, 0)],
    ids=["a success", "a failure that redelivery mends", "a failure that is only remembered"],
)
def test_a_finished_job_keeps_its_input_and_the_text_of_replies_only_for_redelivery(
    fault: ApiError | None, kept: int, in_spool: int
) -> None:
    async def play() -> None:
        desk = Desk()
        job = desk.start(KEYED, fault, size=1_000)
        reply = read_reply(orjson.dumps({"choices": [{"message": {"content": "x" * 50_000}}], "usage": USAGE}))
        job.paid_replies.append(reply)
        assert job.held_bytes >= 51_000
        job.spool.new_blob().write(b"the input image" * 1_000)
        await job.run.wait_done()
        job.run.release()
        await asyncio.sleep(0)
        assert kept + in_spool <= job.held_bytes < kept + 45_000
        assert job.spool.size == in_spool
        assert [each.usage for each in job.paid_replies] == [reply.usage]
        assert (job.paid_replies[0].messages == reply.messages) is bool(kept)
        desk.registry.close()

    asyncio.run(play())


def test_a_finished_job_keeps_the_bytes_that_its_results_need() -> None:
    async def play() -> None:
        spool = Spool()
        draft, linked, plain = (spool.add(blob_of(data)) for data in (b"draft", b"linked", b"plain"))
        spool.add(blob_of(b"input"))

        async def work(emit: Emit) -> None:
            emit(PartialImage(OutputImage("form", draft)))
            images = OutputImage("form", url=Base64String(linked)), OutputImage("form", plain), OutputImage("form")
            emit(GenerationResult(images, Usage()))

        job = Job("req_1", ME, REQUEST, spool)
        job.run.start(work)
        await job.run.wait_done()
        job.drop_unneeded()
        assert [blob.read_at(0, 9) for blob in spool._blobs] == [b"draft", b"linked", b"plain"]
        spool.close()

    asyncio.run(play())


USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


def test_the_text_of_paid_replies_counts_as_retained_bytes() -> None:
    async def play() -> list[bool]:
        desk = Desk(max_retained_bytes=1_400_000)
        reply = read_reply(orjson.dumps({"choices": [{"message": {"content": "x" * 50_000}}]}))
        jobs = []
        for number in range(3):
            job = desk.start(JobKey(ME.caller, f"fox {number}"), ImageUnavailable("404"))
            job.paid_replies += [reply] * 10
            await job.run.wait_done()
            job.run.release()
            await asyncio.sleep(0)
            jobs.append(job)
        kept = [desk.registry.by_id(job.id) is job for job in jobs]
        desk.registry.close()
        return kept

    assert asyncio.run(play()) == [False, True, True]
