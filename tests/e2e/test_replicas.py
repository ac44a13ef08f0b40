"""Two servers, one Redis, one image store: what one has paid for, the other hands out."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from structlog.testing import capture_logs

from tests.support.processes import Process, serve
from tests.support.raw_http_lines import GENERATION, ListeningClient, wait_for_jobs
from tests.support.redis import RedisServer, run_redis
from tests.support.seaweedfs import RunningWeed
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running


@pytest.fixture(autouse=True)
def _reset(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is busy with other tests is no Redis that is away."""
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 10.0)
    monkeypatch.setattr("app.state.job_table.LOOK", 0.02)
    demo.state.reset()
    yield
    demo.state.release()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@dataclass
class Fleet:
    """Replicas over one Redis and one folder of pictures."""

    demo: RunningDemo
    server: RedisServer
    folder: Path
    stack: ExitStack

    def replica(self, model: str, **options: Any) -> RunningLimner:
        shared = {"shared_state": self.server.url, "image_store": f"disk://{self.folder}", "upstream_model": model}
        limner = self.stack.enter_context(run_limner(self.demo.url, **{"keepalive_after": 0, **shared, **options}))
        limner.studio.silence = 0.02
        return limner

    def pair(self, model: str, **options: Any) -> tuple[RunningLimner, RunningLimner]:
        return self.replica(model, **options), self.replica(model, **options)

    def line(
        self, limner: RunningLimner | Process, asked: dict[str, Any] = GENERATION, **headers: str
    ) -> ListeningClient:
        line = ListeningClient(limner, asked, **headers)
        self.stack.callback(line.disconnect)
        return line

    @cached_property
    def redis(self) -> Redis:
        client: Redis = Redis.from_url(self.server.url)
        self.stack.callback(client.close)
        return client

    def records(self) -> list[bytes]:
        return [key for key in self.redis.scan_iter("limner:{errands}:req_*") if not key.endswith(b":readers")]

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        done = threading.Event()
        for _ in range(2000):
            if is_so():
                return
            done.wait(0.005)
        raise AssertionError("it did not come to that")

    def bury(self) -> None:
        """As if every owner had been dead for a minute, and did not know it."""
        for key in self.records():
            self.redis.hset(key, mapping={"owner": "somebody who died", "beat": 0})

    def age(self) -> None:
        """As if no sign of life had come for a minute: those who live give one soon."""
        for key in self.records():
            self.redis.hset(key, "beat", 0)


@pytest.fixture
def fleet(demo: RunningDemo, server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        made = Fleet(demo, server, tmp_path, stack)
        made.redis.flushall()
        yield made
        demo.state.release()


def ask(limner: RunningLimner | Process, asked: dict[str, Any] = GENERATION, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{limner.url}/v1/images/generations", json=asked, headers=names, timeout=20)


def cut_off(fleet: Fleet, limner: RunningLimner | Process, asked: dict[str, Any] = GENERATION, **headers: str) -> None:
    """A client whose connection is cut while the upstream paints."""
    calls = fleet.demo.state.calls
    line = fleet.line(limner, asked, **headers)
    assert fleet.demo.state.wait_for_calls(calls + 1)
    line.disconnect()


FORMS: list[tuple[str, str, dict[str, Any], dict[str, Any], bytes]] = [
    ("bytes", "holds", {}, {}, b'"b64_json":"iVBOR'),
    ("a link of the upstream's", "holds", {"response_format": "url"}, {}, b'"url":"http://127.0.0.1:'),
    ("a link of our own", "holds+data-url", {"response_format": "url"}, {}, b"/kept/"),
    ("a data URL", "holds+data-url", {"response_format": "url"}, {"rehost": "never"}, b'"url":"data:image/png;base64,iVBOR'),
    ("a stream", "holds", {"stream": True}, {}, b"event: image_generation.completed"),
    ("three pictures", "holds", {"n": 3}, {}, b'"usage"'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "asked", "options", "brings"), FORMS, ids=[row[0] for row in FORMS])
@pytest.mark.parametrize("later", [False, True], ids=["while it is painted", "after it was painted"])
def test_a_cut_client_that_asks_another_replica_gets_the_first_picture(
    fleet: Fleet, later: bool, name: str, model: str, asked: dict[str, Any], options: dict[str, Any], brings: bytes
) -> None:
    one, other = fleet.pair(model, **options)
    cut_off(fleet, one, {**GENERATION, **asked})
    if later:
        fleet.demo.state.release()
        wait_for_jobs(one, 0)
    else:
        threading.Timer(0.2, fleet.demo.state.release).start()
    answer = ask(other, {**GENERATION, **asked})
    assert answer.status_code == 200, answer.text
    assert brings in answer.content
    assert answer.headers["x-limner-joined"].startswith("req_")
    assert answer.headers["x-limner-joined"] != answer.headers["x-request-id"]
    assert fleet.demo.state.calls == asked.get("n", 1)
    fleet.wait_until(lambda: not fleet.records())
    assert "x-limner-joined" not in ask(other, {**GENERATION, **asked}).headers


def test_what_was_delivered_leaves_nothing_behind(fleet: Fleet) -> None:
    one, other = fleet.pair("data-url")
    assert [ask(one).status_code, ask(other).status_code] == [200, 200]
    assert fleet.demo.state.calls == 2
    fleet.wait_until(lambda: not fleet.redis.keys("*"))
    assert not list(fleet.folder.iterdir())


def test_two_clients_that_are_both_there_have_two_questions(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    lines = [fleet.line(one, GENERATION), fleet.line(other, GENERATION)]
    assert fleet.demo.state.wait_for_calls(2)
    fleet.demo.state.release()
    for line in lines:
        line.read_until(b"b64_json")
        line.disconnect()
    assert fleet.demo.state.calls == 2


def test_a_client_that_says_it_repeats_joins_although_the_first_seems_to_be_there(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    first = fleet.line(one, GENERATION)
    assert fleet.demo.state.wait_for_calls(1)
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert ask(other, x_stainless_retry_count="1").status_code == 200
    assert b"b64_json" in first.read_until(b"b64_json")
    assert fleet.demo.state.calls == 1


def test_a_key_holds_at_every_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    lines = [fleet.line(limner, GENERATION, idempotency_key="k") for limner in (one, other)]
    assert fleet.demo.state.wait_for_calls(1)
    fleet.demo.state.release()
    for line in lines:
        line.read_until(b"b64_json")
        line.disconnect()
    wait_for_jobs(one, 0)
    wait_for_jobs(other, 0)
    again = [ask(limner, idempotency_key="k") for limner in (one, other, one)]
    assert [answer.status_code for answer in again] == [200] * 3
    assert len({answer.json()["data"][0]["b64_json"] for answer in again}) == 1
    reused = ask(other, {**GENERATION, "prompt": "a cat"}, idempotency_key="k")
    assert (reused.status_code, reused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert fleet.demo.state.calls == 1


def test_a_refusal_under_a_key_is_told_again_and_not_asked_again(fleet: Fleet) -> None:
    one, other = fleet.pair("refuses")
    first, second = (ask(limner, idempotency_key="k") for limner in (one, other))
    assert first.status_code == second.status_code == 400
    assert first.json() == second.json()
    assert second.headers["x-should-retry"] == "false"
    assert fleet.demo.state.calls == 1


def test_a_picture_that_could_not_be_fetched_is_fetched_by_the_other(fleet: Fleet) -> None:
    one, other = fleet.replica("missing-image-3", fetch_timeout=0.3), fleet.replica("missing-image-3")
    assert ask(one).json()["error"]["code"] == "image_download_failed"
    answer = ask(other)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"].startswith("iVBOR")
    assert fleet.demo.state.calls == 1


def test_a_result_is_fetched_from_another_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("holds+data-url")
    accepted = ask(one, prefer="respond-async")
    place = f"{other.url}{accepted.headers['location']}"
    assert httpx.get(place).status_code == 202
    assert httpx.get(place, headers={"authorization": "Bearer somebody-else"}).status_code == 404
    fleet.demo.state.release()
    fleet.wait_until(lambda: httpx.get(place).status_code == 200)
    answers = [httpx.get(f"{limner.url}{accepted.headers['location']}") for limner in (one, other, other)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    assert httpx.get(f"{other.url}/v1/images/results/req_0").json()["error"]["code"] == "result_not_found"
    assert fleet.demo.state.calls == 1


def test_a_failure_is_fetched_from_another_replica(fleet: Fleet) -> None:
    one, other = fleet.pair("refuses")
    place = ask(one, prefer="respond-async").headers["location"]
    fleet.wait_until(lambda: httpx.get(f"{other.url}{place}").status_code != 202)
    answer = httpx.get(f"{other.url}{place}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")


def test_what_a_dead_replica_may_have_paid_for_is_told_once_and_not_asked_in_silence(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    cut_off(fleet, one)
    fleet.bury()
    lost = ask(other)
    assert (lost.status_code, lost.json()["error"]["code"]) == (500, "question_lost")
    assert lost.headers["x-should-retry"] == "false"
    assert fleet.demo.state.calls == 1
    fleet.demo.state.release()
    assert ask(other).status_code == 200
    assert fleet.demo.state.calls == 2


def test_under_a_key_a_dead_replicas_question_stays_lost(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    cut_off(fleet, one, idempotency_key="k")
    fleet.bury()
    assert [ask(other, idempotency_key="k").json()["error"]["code"] for _ in range(2)] == ["question_lost"] * 2
    assert fleet.demo.state.calls == 1


def test_a_replica_that_dies_while_another_waits_for_it(fleet: Fleet) -> None:
    one, other = fleet.pair("holds")
    cut_off(fleet, one)
    line = fleet.line(other, GENERATION)
    wait_for_jobs(other, 1)
    fleet.bury()
    assert b'"question_lost"' in line.read_until(b"question_lost")
    assert fleet.demo.state.calls == 1


def waiting_in_line(fleet: Fleet, limner: RunningLimner) -> ListeningClient:
    """A question that has no turn yet, behind another one."""
    cut_off(fleet, limner, {**GENERATION, "prompt": "something else"})
    line = fleet.line(limner, GENERATION)
    wait_for_jobs(limner, 2)
    return line


def test_what_a_dead_replica_had_not_asked_yet_is_asked_by_the_one_that_waits_for_it(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    waiting_in_line(fleet, one)
    repeat = fleet.line(other, GENERATION, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    fleet.bury()
    assert fleet.demo.state.wait_for_calls(2)
    fleet.demo.state.release()
    assert b"b64_json" in repeat.read_until(b"b64_json")


def test_what_a_dead_replica_had_not_asked_yet_is_a_new_question(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    line = waiting_in_line(fleet, one)
    line.disconnect()
    fleet.bury()
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert ask(other).status_code == 200


def test_a_client_that_leaves_the_line_leaves_the_question_to_the_one_that_waits_for_it(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    first = waiting_in_line(fleet, one)
    repeat = fleet.line(other, GENERATION, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    first.disconnect()
    assert fleet.demo.state.wait_for_calls(2)
    fleet.demo.state.release()
    assert b"b64_json" in repeat.read_until(b"b64_json")
    assert fleet.demo.state.calls == 2


def test_a_replica_that_was_taken_for_dead_does_not_ask_what_another_has_asked(fleet: Fleet) -> None:
    one, other = fleet.replica("slow-1", max_concurrency=1), fleet.replica("holds")
    first = waiting_in_line(fleet, one)
    repeat = fleet.line(other, GENERATION, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    fleet.bury()
    assert b"taken over" in first.read_until(b"taken over")
    fleet.demo.state.release()
    assert b"b64_json" in repeat.read_until(b"b64_json")
    assert fleet.demo.state.calls == 2


def test_of_several_questions_none_is_asked_that_another_has_taken_over(fleet: Fleet) -> None:
    one, other = fleet.replica("slow-1", max_concurrency=2), fleet.replica("holds")
    cut_off(fleet, one, {**GENERATION, "prompt": "something else"})
    first = fleet.line(one, {**GENERATION, "n": 2})
    wait_for_jobs(one, 2)
    repeat = fleet.line(other, {**GENERATION, "n": 2}, x_stainless_retry_count="1")
    wait_for_jobs(other, 1)
    fleet.bury()
    assert b"taken over" in first.read_until(b"taken over")
    fleet.demo.state.release()
    assert b"b64_json" in repeat.read_until(b"b64_json", count=2)
    assert fleet.demo.state.calls == 3


def test_of_two_equal_requests_at_once_the_second_finds_the_first(fleet: Fleet) -> None:
    """However long it takes until Redis has answered the first one."""
    one = fleet.replica("holds")
    board = one.studio.handover.board
    enter, answers = board.enter, iter([0.3, 0.0])

    async def late(*said: Any, **more: Any) -> str | None:
        found = await enter(*said, **more)
        await asyncio.to_thread(threading.Event().wait, next(answers))
        return found

    board.enter = late  # type: ignore[method-assign]
    lines = [fleet.line(one, GENERATION, idempotency_key="k") for _ in range(2)]
    assert fleet.demo.state.wait_for_calls(1)
    fleet.wait_until(lambda: [errand.job.readers for errand in one.studio.once.under_way()] == [2])
    fleet.demo.state.release()
    for line in lines:
        assert b"b64_json" in line.read_until(b"b64_json")
    assert fleet.demo.state.calls == 1


def test_what_it_costs_to_take_over_is_told_though_nobody_waits(fleet: Fleet) -> None:
    one, other = fleet.pair("holds", max_concurrency=1)
    cut_off(fleet, one, {**GENERATION, "prompt": "something else"})
    fleet.line(one, GENERATION, idempotency_key="k")
    wait_for_jobs(one, 2)
    with capture_logs() as logs:
        assert ask(other, idempotency_key="k", prefer="respond-async").status_code == 202
        fleet.bury()
        assert fleet.demo.state.wait_for_calls(2)
        fleet.demo.state.release()
        wait_for_jobs(other, 0)
        fleet.wait_until(lambda: any(each["event"] == "job_finished" and "joined" in each for each in logs))
    told = [each for each in logs if "joined" in each and "attempts" in each]
    assert [each["usage"]["total_tokens"] > 0 for each in told] == [True]


def test_a_client_that_takes_its_time_does_not_make_its_replica_look_dead(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.state.job_table.BEAT", 0.02)
    one, other = fleet.pair("holds+data-url")
    fleet.line(one, GENERATION, idempotency_key="k")
    assert fleet.demo.state.wait_for_calls(1)
    (errand,) = one.studio.once.under_way()
    errand.job.readers += 1
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    fleet.age()
    (record,) = fleet.records()
    fleet.wait_until(lambda: fleet.redis.hget(record, "beat") != b"0")
    threading.Timer(0.2, errand.job.task.get_loop().call_soon_threadsafe, [errand.job.leave]).start()
    assert ask(other, idempotency_key="k").status_code == 200
    assert fleet.demo.state.calls == 1


def test_what_ends_while_redis_is_away_is_told_when_it_is_back(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.job_table.BEAT", 0.02)
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 0.5)
    one, other = fleet.pair("holds+data-url")
    cut_off(fleet, one)
    fleet.server.kill()
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    fleet.server.start()
    fleet.wait_until(lambda: any(fleet.redis.hexists(key, "outcome") for key in fleet.records()))
    assert ask(other).headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


def test_a_replica_that_stops_leaves_its_answers_to_the_others(fleet: Fleet) -> None:
    other = fleet.replica("holds")
    with ExitStack() as brief:
        one = Fleet(fleet.demo, fleet.server, fleet.folder, brief).replica("holds")
        cut_off(fleet, one)
        fleet.demo.state.release()
    assert ask(other).headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "k"}], ids=["without a key", "under a key"])
def test_what_a_replica_that_stops_has_cut_off_is_not_asked_in_silence(fleet: Fleet, headers: Any) -> None:
    other = fleet.replica("holds")
    with ExitStack() as brief:
        one = Fleet(fleet.demo, fleet.server, fleet.folder, brief).replica("holds", shutdown_grace=0.05)
        cut_off(fleet, one, **headers)
        fleet.wait_until(lambda: all(fleet.redis.hget(key, "here") == b"0" for key in fleet.records()))
    fleet.age()
    assert ask(other, **headers).json()["error"]["code"] == "question_lost"
    assert fleet.demo.state.calls == 1


def test_a_redis_that_forgets_everything_is_told_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.job_table.BEAT", 0.02)
    one, other = fleet.pair("holds")
    cut_off(fleet, one)
    fleet.server.kill()
    fleet.server.start()
    fleet.wait_until(lambda: bool(fleet.records()))
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert ask(other).headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


def test_without_redis_each_goes_on_alone(fleet: Fleet) -> None:
    one = fleet.replica("holds")
    fleet.server.kill()
    cut_off(fleet, one)
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    answer = ask(one)
    fleet.server.start()
    assert answer.headers["x-limner-joined"].startswith("req_")
    assert fleet.demo.state.calls == 1


def test_a_joined_question_is_counted_once(fleet: Fleet, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[[keys]]\nname = "a"\nsha256 = "{"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}"\nimages = ["1/minute"]\n'
    )
    one, other = fleet.pair("holds", keys_file=keys)
    cut_off(fleet, one, authorization="Bearer foo")
    threading.Timer(0.2, fleet.demo.state.release).start()
    assert ask(other, authorization="Bearer foo").status_code == 200
    refused = ask(other, {**GENERATION, "prompt": "a cat"}, authorization="Bearer foo")
    assert refused.status_code == 429
    fleet.wait_until(lambda: not fleet.records())


def test_nothing_that_a_client_says_is_in_redis(fleet: Fleet) -> None:
    one = fleet.replica("holds")
    cut_off(fleet, one, {**GENERATION, "prompt": "my secret fox", "user": "me@example.com"}, idempotency_key="my-key")
    fleet.demo.state.release()
    wait_for_jobs(one, 0)
    fleet.wait_until(lambda: any(fleet.redis.hexists(key, "outcome") for key in fleet.records()))
    dump = repr([(key, fleet.redis.hgetall(key)) for key in fleet.records()])
    for secret in ("secret fox", "me@example.com", "my-key"):
        assert secret not in dump


# Two processes, one Redis, one bucket.


@pytest.fixture
def processes(fleet: Fleet, weed: RunningWeed, tmp_path: Path) -> tuple[Process, Process]:
    variables = {
        "LIMNER_SHARED_STATE": fleet.server.url,
        "LIMNER_IMAGE_STORE": f"s3://pictures/{tmp_path.name}?endpoint={weed.endpoint}",
        "LIMNER_IMAGE_STORE_KEY": weed.key,
        "LIMNER_KEEPALIVE_AFTER": "0",
        "LIMNER_MAX_CONCURRENCY": "2",
    }
    one, other = (fleet.stack.enter_context(serve(fleet.demo, tmp_path, **variables)) for _ in range(2))
    return one, other


def test_a_client_that_is_cut_off_by_one_process_gets_its_picture_from_the_other(
    fleet: Fleet, processes: tuple[Process, Process]
) -> None:
    one, other = processes
    cut_off(fleet, one)
    threading.Timer(0.2, fleet.demo.state.release).start()
    answer = ask(other)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-limner-joined"].startswith("req_")
    assert answer.json()["data"][0]["b64_json"].startswith("iVBOR")
    assert fleet.demo.state.calls == 1


def test_a_process_that_is_killed_loses_only_what_it_was_working_on(
    fleet: Fleet, processes: tuple[Process, Process]
) -> None:
    one, other = processes
    asked, queued, elsewhere = ({**GENERATION, "prompt": prompt} for prompt in ("asked", "queued", "elsewhere"))
    cut_off(fleet, one, asked)
    cut_off(fleet, one, {**GENERATION, "prompt": "takes the other turn"})
    fleet.line(one, queued)
    safe = fleet.line(other, elsewhere)
    assert fleet.demo.state.wait_for_calls(3)
    fleet.wait_until(lambda: len(fleet.records()) == 4)
    one.process.kill()
    one.process.wait()
    fleet.age()
    assert [ask(other, asked).json()["error"]["code"]] == ["question_lost"]
    repeat = fleet.line(other, queued)
    assert fleet.demo.state.wait_for_calls(4)
    fleet.demo.state.release()
    for line in (safe, repeat):
        assert b"b64_json" in line.read_until(b"b64_json")
    assert ask(other, asked).status_code == 200
    assert fleet.demo.state.calls == 5
