"""Asynchronous tasks: submitted, polled and cancelled as their clients do it, at one server and over replicas."""

import base64
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from structlog.testing import capture_logs

from app.errors import ImageUnavailable
from app.images import fetch
from app.images.disk import DiskStore
from app.state.timings import SharingTimings
from tests.support.raw_http_lines import GENERATION, ListeningClient, limner_with_model, wait_for_jobs, wait_until
from tests.support.redis import RedisServer
from tests.support.sample_images import gradient, saved
from tests.support.servers import RunningDemo, RunningLimner

SUBMIT = "/v1/images/generations/async"
DAY = 86_400
PICTURE = saved(gradient(), "PNG")


pytestmark = pytest.mark.usefixtures("replicas_at_rest")


@dataclass
class Client:
    """A client with a key."""

    limner: RunningLimner
    key: str = "sk-me"

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return httpx.request(method, f"{self.limner.url}{path}", headers=headers, trust_env=False, **options)

    def submit(self, body: dict[str, Any] = GENERATION, path: str = SUBMIT, **headers: str) -> Any:
        response = self.ask(
            "POST", path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        assert response.status_code == 202, response.text
        return response.json()

    def poll(self, task: dict[str, Any]) -> Any:
        response = self.ask("GET", task["poll_url"])
        assert response.status_code == 200, response.text
        assert response.headers["cache-control"] == "no-store"
        return response.json()

    def wait(self, task: dict[str, Any]) -> Any:
        wait_until(lambda: self.poll(task)["status"] != "processing")
        return self.poll(task)

    def cancel(self, task: dict[str, Any]) -> httpx.Response:
        return self.ask("DELETE", task["poll_url"])


def run(stack: ExitStack, demo: RunningDemo, model: str, **options: Any) -> Client:
    return Client(stack.enter_context(limner_with_model(demo, model, **options)))


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/v1/images/generations", "/limner/v1/images/results/req_"),
        ("/v1/images/generations/async", "/limner/v1/images/tasks/imgtask_"),
        ("/openai/v1/images/generations", "/limner/v1/images/results/req_"),
        ("/images/generations/async", "/limner/images/tasks/imgtask_"),
        ("/openai/deployments/gpt/images/generations", "/limner/openai/deployments/gpt/images/results/req_"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/limner"], ids=["its proxy removes the path", "its proxy keeps the path"])
def test_below_a_path_a_client_finds_its_result(
    prefix: str, path: str, location: str, demo: RunningDemo, stack: ExitStack
) -> None:
    client = run(stack, demo, "data-url", public_url="https://images.invalid/limner/")
    accepted = client.ask("POST", f"{prefix}{path}", json=GENERATION, headers={"prefer": "respond-async"})
    assert (accepted.status_code, accepted.headers["location"].startswith(location)) == (202, True)
    found = accepted.headers["location"].removeprefix("" if prefix else "/limner")
    assert client.ask("GET", found).status_code in {200, 202}
    assert client.ask("GET", f"/limnerx{path}").status_code == 404
    wait_until(lambda: not client.limner.service.tasks)


def test_a_task_is_accepted_polled_and_completed(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url")
    before = time.time()
    accepted = client.ask("POST", SUBMIT, json=GENERATION)
    after, task = time.time(), accepted.json()
    assert accepted.status_code == 202
    assert list(task) == ["id", "task_id", "object", "status", "poll_url", "expires_at"]
    assert task["id"] == task["task_id"] == "imgtask_" + accepted.headers["x-request-id"].removeprefix("req_")
    assert (task["object"], task["status"]) == ("image.generation.task", "processing")
    assert task["poll_url"] == accepted.headers["location"] == f"/v1/images/tasks/{task['id']}"
    assert int(before + DAY) <= task["expires_at"] <= after + DAY
    assert (accepted.headers["cache-control"], accepted.headers["retry-after"]) == ("no-store", "5")

    polled = client.ask("GET", task["poll_url"])
    assert (polled.status_code, polled.headers["retry-after"]) == (200, "5")
    assert polled.headers["cache-control"] == "no-store"
    assert list(polled.json()) == ["id", "task_id", "object", "status", "expires_at"]
    assert polled.json()["status"] == "processing"

    demo.state.release()
    done = client.wait(task)
    assert (done["id"], done["object"], done["status"], done["http_status"]) == (task["id"], task["object"], "completed", 200)  # fmt: skip
    assert done["image_url"] == done["result"]["data"][0]["url"]
    assert done["result"]["usage"]["total_tokens"] > 0
    assert "b64_json" not in done["result"]["data"][0]
    assert httpx.get(done["image_url"], trust_env=False).content.startswith(b"\x89PNG")
    assert task["expires_at"] <= done["expires_at"] <= time.time() + DAY
    assert client.poll(task)["result"] == done["result"]
    assert Client(client.limner, "sk-other").ask("GET", task["poll_url"]).status_code == 404
    assert client.ask("GET", "/v1/images/tasks/imgtask_0").status_code == 404
    assert client.ask("GET", f"/v1/images/tasks/{accepted.headers['x-request-id']}").status_code == 404
    assert demo.state.calls == 1


def test_the_time_of_a_task_is_true_when_it_ends(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url", idempotency_ttl=1)
    registry = client.limner.service.registry
    clock = 1000.0
    registry._now = lambda: clock  # reason: the clock of the registry is an argument of its own, not a setting
    task = client.submit()
    client.wait(task)
    before = time.time()
    expires_at = client.poll(task)["expires_at"]
    assert int(before) + 1 <= expires_at <= time.time() + 1
    clock += 0.9
    assert client.poll(task)["status"] == "completed"
    clock += 0.2
    assert client.ask("GET", task["poll_url"]).json()["error"]["code"] == "result_not_found"


PLACES = {
    "without /v1": "/images/generations/async",
    "with a base URL of Azure's newer clients": "/openai/v1/images/generations/async",
    "with a doubled slash": "/v1//images/generations/async",
    "with a path of Azure": "/openai/deployments/dall-e-3/images/generations/async",
    "with the body alone": "/v1/images/generations",
    "with the body alone at a path of Azure": "/openai/deployments/dall-e-3/images/generations",
}


@pytest.mark.parametrize("path", PLACES.values(), ids=PLACES)
def test_a_task_can_be_submitted(path: str, demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    task = client.submit(GENERATION if path.endswith("async") else {**GENERATION, "async": True}, path)
    assert client.wait(task)["status"] == "completed"
    assert client.cancel(task).status_code == 409


@pytest.mark.parametrize("operation", ["other", "generations"], ids=["an operation that is none", "a deployment that is none"])  # fmt: skip
def test_a_path_of_azure_has_no_other_tasks(operation: str, demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    deployment = "dall-e-3" if operation == "other" else "no%20name"
    assert client.ask("POST", f"/openai/deployments/{deployment}/images/{operation}/async", json=GENERATION).status_code == 404  # fmt: skip


def test_the_body_alone_decides_at_the_usual_path(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    image = {"image": ("a.png", PICTURE, "image/png")}
    form = client.ask("POST", "/v1/images/edits", data={"prompt": "p", "async": "true"}, files=image)
    assert (form.status_code, client.wait(form.json())["status"]) == (202, "completed")
    for value in ("false", ""):
        form = client.ask("POST", "/v1/images/edits", data={"prompt": "p", "async": value}, files=image)
        assert (form.status_code, "x-limner-ignored" in form.headers) == (200, False)
    waited = client.ask("POST", "/v1/images/generations", json={**GENERATION, "async": False})
    assert waited.json()["data"][0]["b64_json"]
    wrong = client.ask("POST", "/v1/images/generations", json={**GENERATION, "async": "later"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "async")


@pytest.mark.parametrize(("path", "body"), [(SUBMIT, {}), ("/v1/images/generations", {"async": True})], ids=["by path", "by body"])  # fmt: skip
def test_a_task_is_no_stream(path: str, body: dict[str, Any], demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    refused = client.ask("POST", path, json={**GENERATION, **body, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")
    assert demo.state.calls == 0


def test_a_failed_task_has_the_error_that_a_waiting_client_would_get(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "refuses")
    waited = client.ask("POST", "/v1/images/generations", json=GENERATION)
    failed = client.wait(client.submit())
    assert (failed["status"], failed["http_status"]) == ("failed", 400)
    assert failed["error"] == waited.json()["error"]
    assert "result" not in failed


@pytest.mark.parametrize("path", [SUBMIT, "/v1/images/generations"], ids=["another task", "a client that waits"])
def test_an_equal_request_brings_the_image_of_a_task_that_could_not_be_delivered(
    path: str, demo: RunningDemo, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paid for. The task is completed then, too."""
    monkeypatch.setattr(fetch, "RETRY_DELAYS", ())
    client = run(stack, demo, "missing-image-1")
    task = client.submit()
    failed = client.wait(task)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "image_download_failed")
    again = client.ask("POST", path, json=GENERATION)
    assert again.is_success
    assert path != SUBMIT or again.json()["id"] == task["id"]
    assert client.wait(task)["status"] == "completed"
    assert client.poll(task)["expires_at"] > time.time() + DAY - 60
    assert demo.state.calls == 1


def test_bytes_are_sent_where_they_are_wanted_with_a_link_beside_them(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    task = client.submit({**GENERATION, "response_format": "b64_json"})
    done = client.wait(task)
    image = base64.b64decode(done["result"]["data"][0]["b64_json"])
    assert httpx.get(done["image_url"], trust_env=False).content == image
    assert client.poll(task)["image_url"] == done["image_url"]


def test_a_task_has_a_link_where_nothing_else_is_stored(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url", rehost="never")
    done = client.wait(client.submit())
    assert done["result"]["data"][0]["url"].startswith("data:image/png;base64,")
    assert httpx.get(done["image_url"], trust_env=False).content.startswith(b"\x89PNG")


def test_a_task_without_room_for_its_link_has_its_bytes(
    demo: RunningDemo, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> str:
        raise ImageUnavailable("The disk is full.")

    client = run(stack, demo, "data-url")
    monkeypatch.setattr(DiskStore, "put", fail)
    with capture_logs() as lines:
        done = client.wait(client.submit({**GENERATION, "response_format": "b64_json"}))
    assert done["result"]["data"][0]["b64_json"]
    assert "image_url" not in done
    assert [line["error"] for line in lines if line["event"] == "task_link_failed"]


def test_a_task_and_a_waiting_client_with_one_key_are_one_job(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url")
    first, second = (client.submit(idempotency_key="k") for _ in range(2))
    assert first["id"] == second["id"]
    demo.state.release()
    assert client.ask("POST", "/v1/images/generations", json=GENERATION, headers={"idempotency-key": "k"}).is_success
    assert client.wait(first)["status"] == "completed"
    assert demo.state.calls == 1


def test_two_equal_tasks_without_a_key_are_two_jobs(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    first, second = (client.submit() for _ in range(2))
    assert first["id"] != second["id"]
    assert [client.wait(task)["status"] for task in (first, second)] == ["completed"] * 2
    assert demo.state.calls == 2


def test_a_task_that_finds_the_queue_full_is_refused_at_once(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url", max_concurrency=1, max_queue=1)
    tasks = [client.submit() for _ in range(2)]
    full = client.ask("POST", SUBMIT, json=GENERATION)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "retry-after" in full.headers
    demo.state.release()
    assert [client.wait(task)["status"] for task in tasks] == ["completed"] * 2


def test_a_task_needs_no_queue_while_a_slot_is_free(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url", max_concurrency=1, max_queue=0)
    task = client.submit()
    assert demo.state.wait_for_calls(1)
    assert client.ask("POST", SUBMIT, json=GENERATION).status_code == 429
    demo.state.release()
    assert client.wait(task)["status"] == "completed"


def test_polls_are_not_among_the_last_requests(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url", api_keys="sk-me")
    task = client.submit()
    client.wait(task)
    client.cancel(task)
    assert len(client.ask("GET", "/v1/status").json()["outcomes"]) == 1


# Cancellation


def test_a_task_that_waits_for_its_turn_can_be_cancelled(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url", max_concurrency=1)
    running, waiting = client.submit(), client.submit(idempotency_key="k")
    assert demo.state.wait_for_calls(1)
    assert Client(client.limner, "sk-other").cancel(waiting).status_code == 404
    answers = [client.cancel(waiting) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].headers["cache-control"] == "no-store"
    for document in (*(answer.json() for answer in answers), client.poll(waiting)):
        assert (document["status"], document["http_status"]) == ("failed", 409)
        assert document["error"]["code"] == "task_canceled"
    assert client.submit(idempotency_key="k")["id"] == waiting["id"]
    assert client.poll(waiting)["status"] == "failed"
    demo.state.release()
    assert client.wait(running)["status"] == "completed"
    assert demo.state.calls == 1


def test_a_task_that_was_sent_upstream_is_not_cancelled(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url")
    task = client.submit()
    assert demo.state.wait_for_calls(1)
    refused = client.cancel(task)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "task_not_cancelable")
    assert "already sent" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    demo.state.release()
    assert client.wait(task)["status"] == "completed"
    assert "already ended" in client.cancel(task).json()["error"]["message"]
    assert client.ask("DELETE", "/v1/images/tasks/imgtask_0").status_code == 404


def test_a_task_for_which_a_client_waits_is_not_cancelled(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url", max_concurrency=1)
    client.submit()
    task = client.submit({**GENERATION, "prompt": "a cat"}, idempotency_key="k")
    line = ListeningClient(client.limner, {**GENERATION, "prompt": "a cat"}, idempotency_key="k", authorization="Bearer sk-me")  # fmt: skip
    wait_until(lambda: any(job.readers for job in client.limner.service.registry.active()))
    assert "Another request waits" in client.cancel(task).json()["error"]["message"]
    demo.state.release()
    assert b"200 OK" in line.read_until(b"200 OK")
    line.disconnect()


# Over replicas


def pair(stack: ExitStack, demo: RunningDemo, server: RedisServer, folder: Path, model: str, **options: Any) -> tuple[Client, Client]:  # fmt: skip
    shared = {
        "shared_state": server.url,
        "image_store": f"disk://{folder}",
        "timings": SharingTimings(poll=0.02, heartbeat=0.05),
    }
    one, other = (run(stack, demo, model, **{**shared, **options}) for _ in range(2))
    return one, other


def is_canceled(client: Client, task: dict[str, Any]) -> bool:
    return client.cancel(task).is_success


def record(redis: Redis, task: dict[str, Any]) -> str:
    return "limner:{jobs}:req_" + str(task["id"]).removeprefix("imgtask_")


def stop_heartbeat(redis: Redis, task: dict[str, Any]) -> None:
    """Make the owner of a task look dead for good, to a Redis that was always there."""
    redis.hset(record(redis, task), mapping={"owner": "a dead replica", "heartbeat": 0})
    redis.set("limner:{jobs}:reached", 0)


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_a_task_is_polled_at_any_replica(
    response_format: str, demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    one, other = pair(stack, demo, server, tmp_path, "holds+data-url")
    task = one.submit({**GENERATION, "response_format": response_format})
    processing = other.poll(task)
    assert processing["status"] == "processing"
    assert abs(processing["expires_at"] - time.time() - DAY) < 300
    demo.state.release()
    done = other.wait(task)
    assert httpx.get(done["image_url"], trust_env=False).content.startswith(b"\x89PNG")
    assert Client(other.limner, "sk-other").ask("GET", task["poll_url"]).status_code == 404
    wait_until(lambda: one.limner.service.registry.by_id(record(redis, task)[14:]) is None)
    names = {client.poll(task)["image_url"].rpartition("/")[2] for client in (one, other, other)}
    assert len(names) == 1
    assert len(list(tmp_path.glob("**/*.png"))) == 1
    assert "already ended" in other.cancel(task).json()["error"]["message"]
    assert demo.state.calls == 1


def test_the_death_of_a_replica_is_an_error_that_says_what_it_may_have_cost(
    demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    # Heartbeats that never come stand for a replica that was killed.
    timings = SharingTimings(poll=0.02, heartbeat=3600)
    one, other = pair(stack, demo, server, tmp_path, "holds+data-url", max_concurrency=1, timings=timings)
    submitted = one.submit()
    assert demo.state.wait_for_calls(1)
    waiting = one.submit()
    for task in (submitted, waiting):
        stop_heartbeat(redis, task)
    lost, unasked = other.poll(submitted), other.poll(waiting)
    assert (lost["status"], lost["http_status"], lost["error"]["code"]) == ("failed", 500, "question_lost")
    assert (unasked["status"], unasked["http_status"]) == ("failed", 503)
    assert "Nothing was charged" in unasked["error"]["message"]
    assert all(abs(task["expires_at"] - time.time() - DAY) < 300 for task in (lost, unasked))
    assert "has died" in other.cancel(submitted).json()["error"]["message"]
    assert other.cancel(waiting).json()["error"]["code"] == "task_canceled"


def test_a_task_is_cancelled_at_any_replica(
    demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    one, other = pair(stack, demo, server, tmp_path, "holds+data-url", max_concurrency=1)
    running = one.submit()
    assert demo.state.wait_for_calls(1)
    waiting = one.submit(idempotency_key="k")
    assert Client(other.limner, "sk-other").cancel(waiting).status_code == 404
    assert "already sent" in other.cancel(running).json()["error"]["message"]
    # The other replica follows the task for a client that has submitted it once more.
    assert other.submit(idempotency_key="k")["id"] == waiting["id"]
    for client in (other, other, one):
        wait_until(partial(is_canceled, client, waiting))
        assert client.cancel(waiting).json()["error"]["code"] == "task_canceled"
    wait_for_jobs(one.limner, 1)
    assert [client.wait(waiting)["error"]["code"] for client in (one, other)] == ["task_canceled"] * 2
    demo.state.release()
    assert one.wait(running)["status"] == "completed"
    wait_for_jobs(one.limner, 0)
    assert one.submit(idempotency_key="k")["id"] == waiting["id"]
    assert one.wait(waiting)["error"]["code"] == "task_canceled"
    assert demo.state.calls == 1


def test_a_replica_that_follows_a_task_says_at_once_that_it_was_cancelled(
    demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    timings = SharingTimings(poll=3600)
    one, other = pair(stack, demo, server, tmp_path, "holds+data-url", max_concurrency=1, timings=timings)
    one.submit()
    assert demo.state.wait_for_calls(1)
    waiting = one.submit(idempotency_key="k")
    assert other.submit(idempotency_key="k")["id"] == waiting["id"]
    wait_until(lambda: bool(redis.exists(record(redis, waiting) + ":readers")))
    assert other.cancel(waiting).json()["error"]["code"] == "task_canceled"
    assert other.poll(waiting)["error"]["code"] == "task_canceled"


def test_a_task_for_which_a_client_of_another_replica_waits_is_not_cancelled(
    demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    one, other = pair(stack, demo, server, tmp_path, "holds+data-url", max_concurrency=1)
    one.submit()
    assert demo.state.wait_for_calls(1)
    task = one.submit(idempotency_key="k")
    line = ListeningClient(other.limner, GENERATION, idempotency_key="k", authorization="Bearer sk-me")
    stack.callback(line.disconnect)
    wait_until(lambda: bool(redis.exists(record(redis, task) + ":readers")))
    assert "Another request waits" in other.cancel(task).json()["error"]["message"]


def test_a_redis_that_is_down_is_no_missing_task(demo: RunningDemo, stack: ExitStack, tmp_path: Path) -> None:
    client = run(stack, demo, "data-url", shared_state="redis://127.0.0.1:1")
    for method in ("GET", "DELETE"):
        answer = client.ask(method, "/v1/images/tasks/imgtask_0")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_is_overloaded")


# Two public clients, as they send and read. The first submits to sub2api from Node, the second from a server in Next.js.


def test_a_client_that_polls_as_often_as_retry_after_says(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url")
    body = {"model": "gpt-image-2", "prompt": "a fox", "size": "1024x1024", "response_format": "url", "quality": "high"}
    queued = client.ask("POST", SUBMIT, json=body, headers={"user-agent": "node", "accept": "*/*"})
    payload = queued.json()
    assert queued.status_code == 202
    assert payload["status"].lower() not in {"failed", "completed"}
    task_id = payload.get("task_id") or payload.get("id")
    polled = client.ask("GET", f"/v1/images/tasks/{task_id}")
    assert polled.json()["status"] == "processing"
    assert 0 < float(polled.headers["retry-after"]) <= 15
    demo.state.release()
    wait_until(lambda: client.ask("GET", f"/v1/images/tasks/{task_id}").json()["status"] == "completed")
    done = client.ask("GET", f"/v1/images/tasks/{task_id}").json()
    images = [item["url"] for item in done["result"]["data"]]
    assert images[0] == done["image_url"]


def test_a_client_that_sends_forms_with_a_key_and_falls_back_to_waiting(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    fields = {"model": "gpt-image-2", "prompt": "make it night", "n": "2", "size": "1024x1024", "output_format": "png"}
    files = [("image[]", (name, PICTURE, "image/png")) for name in ("a.png", "b.png")]
    headers = {"idempotency-key": "generation-17"}
    submitted = client.ask("POST", "/v1/images/edits/async", data=fields, files=files, headers=headers)
    assert submitted.status_code == 202
    task_id = str(submitted.json()["id"])
    # Its own timeout has passed: it sends the same form to the usual path, with the same key.
    waited = client.ask("POST", "/v1/images/edits", data=fields, files=files, headers=headers)
    assert waited.status_code == 200
    done = client.wait({"poll_url": f"/v1/images/tasks/{task_id}"})
    assert [item["url"] for item in done["result"]["data"]] == [item["url"] for item in waited.json()["data"]]
    assert len(done["result"]["data"]) == 2
    assert demo.state.calls == 2
