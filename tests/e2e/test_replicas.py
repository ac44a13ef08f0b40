"""Two servers with one Redis and one image store: what one has paid for, the other delivers."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from structlog.testing import capture_logs

from app.jobs.job import Job
from app.state.timings import SharingTimings
from tests.support.processes import LimnerProcess, run_process
from tests.support.raw_http_lines import GENERATION, ListeningClient, is_between_attempts, wait_for_jobs, wait_until
from tests.support.redis import RedisServer
from tests.support.seaweedfs import RunningWeed
from tests.support.servers import RunningDemo, RunningLimner, run_limner

EPOCH, RUN, REACHED = (b"limner:{jobs}:" + name for name in (b"epoch", b"run", b"reached"))
FAST_POLLS = SharingTimings(poll=0.02)
FAST_HEARTBEATS = replace(FAST_POLLS, heartbeat=0.02, suspect_after=0.05)


pytestmark = pytest.mark.usefixtures("replicas_at_rest")


@dataclass
class Fleet:
    """Replicas over one Redis and one folder of images."""

    demo: RunningDemo
    server: RedisServer
    folder: Path
    stack: ExitStack

    def replica(self, model: str, **options: Any) -> RunningLimner:
        defaults: dict[str, Any] = {
            "keepalive_after": 0,
            "keepalive_interval": 0.02,
            "timings": FAST_POLLS,
            "shared_state": self.server.url,
            "image_store": f"disk://{self.folder}",
            "upstream_model": model,
        }
        return self.stack.enter_context(run_limner(self.demo.url, **{**defaults, **options}))

    def pair(self, model: str, **options: Any) -> tuple[RunningLimner, RunningLimner]:
        return self.replica(model, **options), self.replica(model, **options)

    def connect(
        self, limner: RunningLimner | LimnerProcess, body: dict[str, Any] = GENERATION, **headers: str
    ) -> ListeningClient:
        """Send a request on a connection of its own and do not wait for the response."""
        line = ListeningClient(limner, body, **headers)
        self.stack.callback(line.disconnect)
        return line

    @cached_property
    def redis(self) -> Redis:
        client: Redis = Redis.from_url(self.server.url)
        self.stack.callback(client.close)
        return client

    def records(self) -> list[bytes]:
        """Return the records of jobs that are not delivered, without what is known of requests that joined one."""
        keys = [key for key in self.redis.scan_iter("limner:{jobs}:req_*") if not key.endswith(b":readers")]
        return [key for key in keys if self.redis.hget(key, "owner") and self.redis.hget(key, "delivered") != b"1"]

    def count_unread(self) -> int:
        """Return the number of jobs in the table that have no reader at their owner."""
        return sum(self.redis.hget(key, "readers") == b"0" for key in self.records())

    def wait_until(self, holds: Callable[[], bool]) -> None:
        pause = threading.Event()
        for _ in range(2000):
            if holds():
                return
            pause.wait(0.005)
        raise AssertionError("not within 10 s")

    def bury_owners(self) -> None:
        """Make every owner look dead for good: even one that lives gives no heartbeats for its records any more."""
        for key in self.records():
            self.redis.hset(key, mapping={"owner": "a dead replica", "heartbeat": 0})

    def expire_heartbeats(self) -> None:
        """Make every owner look dead until its next heartbeat."""
        for key in self.records():
            self.redis.hset(key, "heartbeat", 0)


@pytest.fixture
def fleet(demo: RunningDemo, server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        made = Fleet(demo, server, tmp_path, stack)
        made.redis.flushall()
        # No request with an idempotency key has to wait for owners that restore their records.
        made.redis.set(EPOCH, 0)
        # Redis was always there, so an owner that looks silent looks dead.
        made.redis.set(REACHED, 0)
        yield made
        demo.state.release()


def generate(
    limner: RunningLimner | LimnerProcess, body: dict[str, Any] = GENERATION, **headers: str
) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{limner.url}/v1/images/generations", json=body, headers=names, timeout=20)


def submit_and_disconnect(
    fleet: Fleet, limner: RunningLimner | LimnerProcess, body: dict[str, Any] = GENERATION, **headers: str
) -> None:
    """Send a request, cut its connection once the upstream has received it, and wait until all replicas know that.

    An equal request that reaches another replica before that is a second client, and a job of its own.
    """
    unread = fleet.count_unread()
    submit_and_cut(fleet, limner, body, **headers)
    fleet.wait_until(lambda: fleet.count_unread() > unread)


def submit_and_cut(
    fleet: Fleet, limner: RunningLimner | LimnerProcess, body: dict[str, Any] = GENERATION, **headers: str
) -> None:
    """Send a request, and cut its connection once the upstream has received it."""
    calls = fleet.demo.state.calls
    line = fleet.connect(limner, body, **headers)
    assert fleet.demo.state.wait_for_calls(calls + 1)
    line.disconnect()


FORMS: list[tuple[str, str, dict[str, Any], dict[str, Any], bytes]] = [
    ("bytes", "holds", {}, {}, b'"b64_json":"iVBOR'),
    ("a link of the upstream's", "holds", {"response_format": "url"}, {}, b'"url":"http://127.0.0.1:'),
    ("a link of our own", "holds+data-url", {"response_format": "url"}, {}, b"/kept/"),
    ("a data URL", "holds+data-url", {"response_format": "url"}, {"rehost": "never"}, b'"url":"data:image/png;base64,iVBOR'),
    ("a stream", "holds", {"stream": True}, {}, b"event: image_generation.completed"),
    ("three images", "holds", {"n": 3}, {}, b'"usage"'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "parameters", "options", "expected"), FORMS, ids=[row[0] for row in FORMS])
@pytest.mark.parametrize("later", [False, True], ids=["in flight", "finished"])
def test_a_client_that_retries_at_another_replica_gets_the_image_that_was_paid_for(
    fleet: Fleet,
    later: bool,
    name: str,
    model: str,
    parameters: dict[str, Any],
    options: dict[str, Any],
    expected: bytes,
) -> None:
    one, other = fleet.pair(model, **options)
    submit_and_disconnect(fleet, one, {**GENERATION, **parameters})
    if later:
        fleet.demo.state.release()
        wait_for_jobs(one, 0)
    else:
        threading.Timer(0.2, fleet.demo.state.release).start()
    response = generate(other, {**GENERATION, **parameters})
    assert response.status_code == 200, response.text
    assert expected in response.content
    assert response.headers["x-limner-joined"].startswith("req_")
    assert response.headers["x-limner-joined"] != response.headers["x-request-id"]
    assert fleet.demo.state.calls == parameters.get("n", 1)
    fleet.wait_until(lambda: not fleet.records())
    assert "x-limner-joined" not in generate(other, {**GENERATION, **parameters}).headers


def test_a_delivered_job_leaves_nothing_behind(fleet: Fleet) -> None:
    one, other = fleet.pair("data-url")
    assert [generate(one).status_code, generate(other).status_code] == [200, 200]
    assert fleet.demo.state.calls == 2
    keys = [key for key in fleet.redis.keys("*") if key not in {EPOCH, RUN}]
    # For requests that say they are retries; no image is stored for them unless one comes.
    fleet.wait_until(lambda: not fleet.records())
    assert all(fleet.redis.ttl(key) > 0 for key in keys)
    assert not list(fleet.folder.iterdir())


def test_a_delivered_image_is_given_once_more_to_a_retry_that_reaches_another_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("data-url", timings=FAST_HEARTBEATS)
    first, again = generate(one), generate(other, x_stainless_retry_count="1")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["x-limner-joined"] == first.headers["x-request-id"]
    assert again.json()["data"] == first.json()["data"]
    assert fleet.demo.state.calls == 1
    assert generate(other).headers.get("x-limner-joined") is None
    assert fleet.demo.state.calls == 2


def test_equal_requests_of_two_connected_clients_are_two_jobs(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    lines = [fleet.connect(one, GENERATION), fleet.connect(other, GENERATION)]
    assert fleet.demo.state.wait_for_calls(2)
    fleet.demo.state.release()
    for line in lines:
        line.read_until(b"b64_json")
        line.disconnect()
    assert fleet.demo.state.calls == 2


def test_a_retry_that_says_so_joins_although_the_first_client_seems_connected(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    first = fleet.connect(one, GENERATION)
    assert fleet.demo.state.wait_for_calls(1)
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert generate(other, x_stainless_retry_count="1").status_code == 200
    assert b"b64_json" in first.read_until(b"b64_json")
    assert fleet.demo.state.calls == 1


def test_a_repeat_at_a_replica_that_has_just_ended_its_wait_joins_the_job_again(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    fleet.connect(one, GENERATION)
    assert fleet.demo.state.wait_for_calls(1)
    for _ in range(5):
        follower = fleet.connect(other, GENERATION, x_stainless_retry_count="1")
        wait_for_jobs(other, 1)
        follower.disconnect()
    last = fleet.connect(other, GENERATION, x_stainless_retry_count="1")
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert b" 200 OK" in last.read_until(b"\r\n\r\n")
    assert b"b64_json" in last.read_until(b"b64_json")
    assert fleet.demo.state.calls == 1


@pytest.mark.parametrize("at_other", [False, True], ids=["at the same replica", "at the other replica"])
def test_of_three_equal_requests_one_is_cut_and_repeated_and_three_different_images_arrive(
    fleet: Fleet, at_other: bool
) -> None:
    one, other = fleet.pair("holds")
    lines = []
    for number in range(3):
        lines.append(fleet.connect(one, GENERATION))
        assert fleet.demo.state.wait_for_calls(number + 1)
    lines.pop(1).disconnect()
    fleet.wait_until(lambda: fleet.count_unread() == 1)
    lines.append(fleet.connect(other if at_other else one, GENERATION))
    fleet.wait_until(lambda: fleet.count_unread() == 0 or bool(fleet.redis.keys("*:readers")))
    fleet.demo.state.release()
    bodies = [line.read_until(b'"usage"') for line in lines]
    assert [body.startswith(b"HTTP/1.1 200 OK") for body in bodies] == [True] * 3
    names = [
        body.partition(b"x-limner-joined: ")[2][:36] or body.partition(b"x-request-id: ")[2][:36] for body in bodies
    ]
    assert len(set(names)) == 3
    assert fleet.demo.state.calls == 3


@pytest.mark.parametrize("at_other", [False, True], ids=["at the same replica", "at the other replica"])
def test_the_retry_of_a_client_that_left_the_queue_does_not_get_the_image_of_another(
    fleet: Fleet, at_other: bool
) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    first = fleet.connect(one)
    assert fleet.demo.state.wait_for_calls(1)
    queued = fleet.connect(one, x_stainless_retry_count="0")
    wait_for_jobs(one, 2)
    queued.disconnect()
    fleet.wait_until(lambda: bool(fleet.redis.keys("*:unserved:*")))
    retry = fleet.connect(other if at_other else one, x_stainless_retry_count="1")
    wait_for_jobs(other if at_other else one, 1 if at_other else 2)
    fleet.demo.state.release()
    answers = [line.read_until(b'"usage"') for line in (first, retry)]
    assert [b"x-limner-joined" in answer for answer in answers] == [False, False]
    assert fleet.demo.state.calls == 2


def test_an_idempotency_key_holds_at_every_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    lines = [fleet.connect(limner, GENERATION, idempotency_key="k") for limner in (one, other)]
    assert fleet.demo.state.wait_for_calls(1)
    fleet.demo.state.release()
    for line in lines:
        line.read_until(b"b64_json")
        line.disconnect()
    wait_for_jobs(one, 0)
    wait_for_jobs(other, 0)
    again = [generate(limner, idempotency_key="k") for limner in (one, other, one)]
    assert [response.status_code for response in again] == [200] * 3
    assert len({response.json()["data"][0]["b64_json"] for response in again}) == 1
    reused = generate(other, {**GENERATION, "prompt": "a cat"}, idempotency_key="k")
    assert (reused.status_code, reused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert fleet.demo.state.calls == 1


def test_a_refusal_under_a_key_is_returned_again_without_another_upstream_request(fleet: Fleet) -> None:
    one, other = fleet.pair("refuses")
    first, second = (generate(limner, idempotency_key="k") for limner in (one, other))
    assert first.status_code == second.status_code == 400
    assert first.json() == second.json()
    assert second.headers["x-should-retry"] == "false"
    assert fleet.demo.state.calls == 1


def test_an_image_that_one_replica_could_not_fetch_is_fetched_by_the_other(fleet: Fleet) -> None:
    one, other = fleet.replica("missing-image-3", fetch_timeout=0.3), fleet.replica("missing-image-3")
    assert generate(one).json()["error"]["code"] == "image_download_failed"
    response = generate(other)
    assert response.status_code == 200, response.text
    assert response.json()["data"][0]["b64_json"].startswith("iVBOR")
    assert fleet.demo.state.calls == 1


def test_a_result_is_fetched_from_another_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("holds+data-url")
    accepted = generate(one, prefer="respond-async")
    url = f"{other.url}{accepted.headers['location']}"
    assert httpx.get(url).status_code == 202
    assert httpx.get(url, headers={"authorization": "Bearer somebody-else"}).status_code == 404
    fleet.demo.state.release()
    fleet.wait_until(lambda: httpx.get(url).status_code == 200)
    responses = [httpx.get(f"{limner.url}{accepted.headers['location']}") for limner in (one, other, other)]
    assert [response.status_code for response in responses] == [200] * 3
    assert len({response.json()["data"][0]["b64_json"] for response in responses}) == 1
    assert httpx.get(f"{other.url}/v1/images/results/req_0").json()["error"]["code"] == "result_not_found"
    assert fleet.demo.state.calls == 1


def test_an_error_is_fetched_from_another_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("refuses")
    location = generate(one, prefer="respond-async").headers["location"]
    fleet.wait_until(lambda: httpx.get(f"{other.url}{location}").status_code != 202)
    response = httpx.get(f"{other.url}{location}")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "moderation_blocked")


def test_the_loss_of_a_job_that_a_dead_replica_may_have_paid_for_is_reported_once(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    submit_and_disconnect(fleet, one)
    fleet.bury_owners()
    lost = generate(other)
    assert (lost.status_code, lost.json()["error"]["code"]) == (500, "question_lost")
    assert lost.headers["x-should-retry"] == "false"
    assert fleet.demo.state.calls == 1
    fleet.demo.state.release()
    assert generate(other).status_code == 200
    assert fleet.demo.state.calls == 2


def test_under_a_key_the_job_of_a_dead_replica_stays_lost(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    submit_and_disconnect(fleet, one, idempotency_key="k")
    fleet.bury_owners()
    assert [generate(other, idempotency_key="k").json()["error"]["code"] for _ in range(2)] == ["question_lost"] * 2
    assert fleet.demo.state.calls == 1


def test_a_replica_that_dies_while_another_waits_for_it(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    submit_and_disconnect(fleet, one)
    line = fleet.connect(other, GENERATION)
    wait_for_jobs(other, 1)
    fleet.bury_owners()
    assert b'"question_lost"' in line.read_until(b"question_lost")
    assert fleet.demo.state.calls == 1


def queue_request(fleet: Fleet, limner: RunningLimner) -> ListeningClient:
    """Send a request that waits for its slot behind another one."""
    submit_and_disconnect(fleet, limner, {**GENERATION, "prompt": "something else"})
    line = fleet.connect(limner, GENERATION)
    wait_for_jobs(limner, 2)
    return line


def test_an_orphan_that_was_not_submitted_is_run_by_the_replica_that_waits_for_it(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    queue_request(fleet, one)
    retry = fleet.connect(other, GENERATION, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    fleet.bury_owners()
    assert fleet.demo.state.wait_for_calls(2)
    fleet.demo.state.release()
    assert b"b64_json" in retry.read_until(b"b64_json")


def test_a_request_that_equals_an_orphan_that_was_not_submitted_starts_a_new_job(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    line = queue_request(fleet, one)
    line.disconnect()
    fleet.bury_owners()
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert generate(other).status_code == 200


def test_a_client_that_leaves_the_queue_leaves_the_job_to_the_one_that_waits_at_another_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    first = queue_request(fleet, one)
    retry = fleet.connect(other, GENERATION, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    first.disconnect()
    assert fleet.demo.state.wait_for_calls(2)
    fleet.demo.state.release()
    assert b"b64_json" in retry.read_until(b"b64_json")
    assert fleet.demo.state.calls == 2


@pytest.mark.parametrize("headers", [{"Idempotency_Key": "k1"}, {"x_stainless_retry_count": "1"}], ids=["with a key", "a retry"])  # fmt: skip
def test_the_repeat_of_a_client_that_has_just_left_follows_no_job_that_is_gone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, headers: dict[str, Any]
) -> None:
    """While Redis answers that this replica waits no more, the owner may abandon the job, which has cost nothing."""
    one, other = fleet.pair("holds", max_concurrency=1)
    submit_and_disconnect(fleet, one, {**GENERATION, "prompt": "something else"})
    first = fleet.connect(one, **headers)
    wait_for_jobs(one, 2)
    second = fleet.connect(other, **headers)
    wait_for_jobs(other, 1)
    table, may_go_on, has_left = other.service.sharing.job_table, threading.Event(), threading.Event()
    unsubscribe = table.unsubscribe

    async def unsubscribe_slowly(job: Job) -> bool:
        is_done = await unsubscribe(job)
        has_left.set()
        await asyncio.to_thread(may_go_on.wait, 10)
        return is_done

    monkeypatch.setattr(table, "unsubscribe", unsubscribe_slowly)
    second.disconnect()
    assert has_left.wait(10)
    first.disconnect()
    wait_for_jobs(one, 1)
    fleet.wait_until(lambda: len(fleet.records()) == 1)
    repeat = fleet.connect(other, **headers)
    assert fleet.demo.state.wait_for_calls(2)
    may_go_on.set()
    fleet.demo.state.release()
    assert b"b64_json" in repeat.read_until(b"b64_json")
    assert fleet.demo.state.calls == 2


def test_two_clients_that_follow_a_job_at_one_replica_leave_no_lease_behind(fleet: Fleet) -> None:
    """With one, the next request without a mark would be another client's, and paid for."""
    one, other = fleet.pair("holds")
    submit_and_disconnect(fleet, one)
    lines = []
    for count in (1, 2):
        lines.append(fleet.connect(other, x_stainless_retry_count=str(count)))
        fleet.wait_until(lambda: sum(job.readers for job in other.service.registry.active()) == len(lines))
    (record,) = fleet.records()
    for line in lines:
        line.disconnect()
    fleet.wait_until(lambda: not fleet.redis.exists(record + b":readers"))
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert generate(other).status_code == 200
    assert fleet.demo.state.calls == 1


def test_a_client_that_leaves_between_two_attempts_leaves_the_job_to_the_one_at_another_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("limited-1")
    first = fleet.connect(one, Idempotency_Key="k1")
    wait_until(lambda: is_between_attempts(one))
    second = fleet.connect(other, Idempotency_Key="k1")
    wait_for_jobs(other, 1)
    first.disconnect()
    assert b"b64_json" in second.read_until(b"b64_json")
    assert fleet.demo.state.calls == 2


def test_a_replica_that_was_taken_for_dead_does_not_submit_what_another_has_submitted(fleet: Fleet) -> None:
    one, other = fleet.replica("slow-1", max_concurrency=1), fleet.replica("holds")
    first = queue_request(fleet, one)
    retry = fleet.connect(other, GENERATION, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    fleet.bury_owners()
    assert b"taken over" in first.read_until(b"taken over")
    fleet.demo.state.release()
    assert b"b64_json" in retry.read_until(b"b64_json")
    assert fleet.demo.state.calls == 2


def test_of_several_upstream_requests_none_is_sent_once_another_replica_has_taken_over(fleet: Fleet) -> None:
    one, other = fleet.replica("slow-1", max_concurrency=2), fleet.replica("holds")
    submit_and_disconnect(fleet, one, {**GENERATION, "prompt": "something else"})
    first = fleet.connect(one, {**GENERATION, "n": 2})
    wait_for_jobs(one, 2)
    retry = fleet.connect(other, {**GENERATION, "n": 2}, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    fleet.bury_owners()
    assert b"taken over" in first.read_until(b"taken over")
    fleet.demo.state.release()
    assert b"b64_json" in retry.read_until(b"b64_json", count=2)
    assert fleet.demo.state.calls == 3


def test_of_two_equal_requests_at_once_the_second_joins_the_first(fleet: Fleet) -> None:
    """However long Redis takes to answer the first one."""
    one = fleet.replica("holds")
    table = one.service.sharing.job_table
    claim_or_join, delays = table.claim_or_join, iter([0.3, 0.0])

    async def late(*args: Any, **options: Any) -> str | None:
        found = await claim_or_join(*args, **options)
        await asyncio.to_thread(threading.Event().wait, next(delays))
        return found

    table.claim_or_join = late  # type: ignore[method-assign]
    lines = [fleet.connect(one, GENERATION, idempotency_key="k") for _ in range(2)]
    assert fleet.demo.state.wait_for_calls(1)
    fleet.wait_until(lambda: [job.run.readers for job in one.service.registry.active()] == [2])
    fleet.demo.state.release()
    for line in lines:
        assert b"b64_json" in line.read_until(b"b64_json")
    assert fleet.demo.state.calls == 1


def test_the_cost_of_a_job_that_was_taken_over_is_logged_though_no_client_waits(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    submit_and_disconnect(fleet, one, {**GENERATION, "prompt": "something else"})
    fleet.connect(one, GENERATION, idempotency_key="k")
    wait_for_jobs(one, 2)
    with capture_logs() as logs:
        assert generate(other, idempotency_key="k", prefer="respond-async").status_code == 202
        fleet.bury_owners()
        assert fleet.demo.state.wait_for_calls(2)
        fleet.demo.state.release()
        wait_for_jobs(other, 0)
        fleet.wait_until(lambda: any(each["event"] == "job_finished" and "joined" in each for each in logs))
    costs = [each for each in logs if "joined" in each and "attempts" in each]
    assert [each["usage"]["total_tokens"] > 0 for each in costs] == [True]


def test_a_slow_client_does_not_make_its_replica_look_dead(fleet: Fleet) -> None:
    one, other = fleet.pair("holds+data-url", timings=FAST_HEARTBEATS)
    fleet.connect(one, GENERATION, idempotency_key="k")
    assert fleet.demo.state.wait_for_calls(1)
    (job,) = one.service.registry.active()
    assert job.run.task is not None
    loop = job.run.task.get_loop()
    job.run.add_reader()
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    fleet.expire_heartbeats()
    (record,) = fleet.records()
    fleet.wait_until(lambda: fleet.redis.hget(record, "heartbeat") != b"0")
    threading.Timer(0.2, loop.call_soon_threadsafe, [job.run.release]).start()
    assert generate(other, idempotency_key="k").status_code == 200
    assert fleet.demo.state.calls == 1


def test_a_job_that_ends_while_redis_is_down_is_published_when_it_is_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 0.5)
    one, other = fleet.pair("holds+data-url", timings=FAST_HEARTBEATS)
    submit_and_disconnect(fleet, one)
    fleet.server.kill()
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    fleet.server.start()
    fleet.wait_until(lambda: any(fleet.redis.hexists(key, "outcome") for key in fleet.records()))
    assert generate(other).headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


def test_a_replica_that_stops_leaves_its_results_to_the_others(fleet: Fleet) -> None:
    other = fleet.replica("holds")
    with ExitStack() as brief:
        one = Fleet(fleet.demo, fleet.server, fleet.folder, brief).replica("holds")
        submit_and_disconnect(fleet, one)
        fleet.demo.state.release()
    assert generate(other).headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


def test_a_replica_that_stops_leaves_what_it_has_delivered_to_retries(fleet: Fleet) -> None:
    other = fleet.replica("data-url")
    with ExitStack() as brief:
        first = generate(Fleet(fleet.demo, fleet.server, fleet.folder, brief).replica("data-url"))
    again = generate(other, x_stainless_retry_count="1")
    assert again.headers["x-limner-joined"] == first.headers["x-request-id"]
    assert again.json()["data"] == first.json()["data"]
    assert fleet.demo.state.calls == 1
    assert "x-limner-joined" not in generate(other).headers


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "k"}], ids=["without a key", "under a key"])
def test_a_job_interrupted_by_a_shutdown_is_reported_as_lost(fleet: Fleet, headers: Any) -> None:
    other = fleet.replica("holds")
    with ExitStack() as brief:
        one = Fleet(fleet.demo, fleet.server, fleet.folder, brief).replica("holds", shutdown_grace=0.05)
        submit_and_disconnect(fleet, one, **headers)
    fleet.expire_heartbeats()
    assert generate(other, **headers).json()["error"]["code"] == "question_lost"
    assert fleet.demo.state.calls == 1


def test_records_are_restored_in_a_redis_that_has_lost_its_data(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 0.5)
    one, other = fleet.pair("holds", timings=FAST_HEARTBEATS)
    submit_and_disconnect(fleet, one)
    fleet.server.kill()
    fleet.server.start()
    fleet.wait_until(lambda: bool(fleet.records()))
    fleet.wait_until(lambda: not other.services.state.is_down)
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert generate(other).headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


def test_without_redis_each_replica_goes_on_alone(fleet: Fleet) -> None:
    one = fleet.replica("holds")
    fleet.server.kill()
    submit_and_cut(fleet, one)
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    response = generate(one)
    fleet.server.start()
    assert response.headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


def test_a_joined_job_is_charged_once(fleet: Fleet, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[[keys]]\nname = "a"\nsha256 = "{"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}"\nimages = ["1/minute"]\n'
    )
    one, other = fleet.pair("holds", keys_file=keys)
    submit_and_disconnect(fleet, one, authorization="Bearer foo")
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert generate(other, authorization="Bearer foo").status_code == 200
    refused = generate(other, {**GENERATION, "prompt": "a cat"}, authorization="Bearer foo")
    assert refused.status_code == 429
    fleet.wait_until(lambda: not fleet.records())


def test_nothing_that_a_client_says_is_written_to_redis(fleet: Fleet) -> None:
    one = fleet.replica("holds")
    submit_and_disconnect(
        fleet, one, {**GENERATION, "prompt": "my secret fox", "user": "me@example.com"}, idempotency_key="my-key"
    )
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    fleet.wait_until(lambda: any(fleet.redis.hexists(key, "outcome") for key in fleet.records()))
    dump = repr([(key, fleet.redis.hgetall(key)) for key in fleet.records()])
    for secret in ("secret fox", "me@example.com", "my-key"):
        assert secret not in dump


# Two processes with one Redis and one bucket.


@pytest.fixture
def processes(fleet: Fleet, weed: RunningWeed, tmp_path: Path) -> tuple[LimnerProcess, LimnerProcess]:
    variables = {
        "LIMNER_SHARED_STATE": fleet.server.url,
        "LIMNER_IMAGE_STORE": f"s3://pictures/{tmp_path.name}?endpoint={weed.endpoint}",
        "LIMNER_IMAGE_STORE_KEY": weed.key,
        "LIMNER_KEEPALIVE_AFTER": "0",
        "LIMNER_MAX_CONCURRENCY": "2",
    }
    one, other = (fleet.stack.enter_context(run_process(fleet.demo, tmp_path, **variables)) for _ in range(2))
    return one, other


def test_a_client_that_one_process_has_lost_gets_its_image_from_the_other(
    fleet: Fleet, processes: tuple[LimnerProcess, LimnerProcess]
) -> None:
    one, other = processes
    submit_and_disconnect(fleet, one)
    threading.Timer(0.2, fleet.demo.state.release).start()
    response = generate(other)
    assert response.status_code == 200, response.text
    assert response.headers["x-limner-joined"].startswith("req_")
    assert response.json()["data"][0]["b64_json"].startswith("iVBOR")
    assert fleet.demo.state.calls == 1


def test_a_process_that_is_killed_loses_only_the_jobs_that_it_had_submitted(
    fleet: Fleet, processes: tuple[LimnerProcess, LimnerProcess]
) -> None:
    one, other = processes
    submitted, queued, elsewhere = ({**GENERATION, "prompt": prompt} for prompt in ("submitted", "queued", "elsewhere"))
    submit_and_disconnect(fleet, one, submitted)
    submit_and_disconnect(fleet, one, {**GENERATION, "prompt": "takes the other slot"})
    fleet.connect(one, queued)
    safe = fleet.connect(other, elsewhere)
    assert fleet.demo.state.wait_for_calls(3)
    fleet.wait_until(lambda: len(fleet.records()) == 4)
    one.process.kill()
    one.process.wait()
    fleet.expire_heartbeats()
    assert [generate(other, submitted).json()["error"]["code"]] == ["question_lost"]
    retry = fleet.connect(other, queued)
    assert fleet.demo.state.wait_for_calls(4)
    fleet.demo.state.release()
    for line in (safe, retry):
        assert b"b64_json" in line.read_until(b"b64_json")
    assert generate(other, submitted).status_code == 200
    assert fleet.demo.state.calls == 5
