"""Webhooks: asked for, signed, delivered and sent again, at one server and over replicas, to a receiver on loopback."""

import asyncio
import base64
import hashlib
import hmac
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from structlog.testing import capture_logs

from app.errors import ImageUnavailable
from app.images.disk import DiskStore
from app.protocol.webhook_signature import derive_secret, write_secret
from app.services.lifecycle import Services
from app.state.shared_state import SharedState
from app.state.timings import SharingTimings
from app.state.webhook import Webhook, WebhookTimings, slot_of
from app.state.webhook_queue import WebhookQueue
from tests.support.ports import free_ports
from tests.support.processes import LimnerProcess, run_process
from tests.support.raw_http_lines import GENERATION, limner_with_model, wait_until
from tests.support.redis import RedisServer
from tests.support.sample_images import gradient, saved
from tests.support.servers import RunningDemo, RunningLimner
from tests.support.webhook_receiver import (
    OK,
    Answer,
    ReceivedWebhook,
    WebhookReceiver,
    cut_off,
    endless,
    endless_head,
    run_receiver,
    silence,
    status,
)

pytestmark = pytest.mark.usefixtures("demo_at_rest")

KEY = "sk-me"
SUBMIT = "/v1/images/generations/async"
PICTURE = saved(gradient(), "PNG")


@dataclass
class Client:
    limner: RunningLimner | LimnerProcess
    key: str = KEY

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return httpx.request(method, f"{self.limner.url}{path}", headers=headers, trust_env=False, **options)

    def submit(self, receiver: WebhookReceiver | str, path: str = SUBMIT, **more: Any) -> Any:
        url = receiver if isinstance(receiver, str) else receiver.url
        response = self.ask("POST", path, json={**GENERATION, "webhook_url": url, **more})
        assert response.status_code == 202, response.text
        return response.json()


def run(stack: ExitStack, demo: RunningDemo, model: str, *receivers: WebhookReceiver, **options: Any) -> Client:
    allow = ",".join([demo.url.removeprefix("http://"), *(f"{each.host}:{each.port}" for each in receivers)])
    defaults = {"fetch_allow": allow, "webhooks": True, "api_keys": KEY}
    return Client(stack.enter_context(limner_with_model(demo, model, **{**defaults, **options})))


def reach_public_addresses(client: Client) -> None:
    """Take all public addresses for those of others: to find that out, the server would ask the system for a route."""
    services_of(client).webhooks.sender.http._is_own = lambda _: False


def services_of(client: Client) -> Services:
    assert isinstance(client.limner, RunningLimner)
    return client.limner.services


def digest_secret(key: str = KEY) -> bytes:
    digest = hashlib.sha256(key.encode()).digest()
    return derive_secret(digest, digest.hex()[:16])


def check_signature(webhook: ReceivedWebhook, secret: bytes) -> None:
    """Verify as a receiver does, by the words of the convention."""
    signed = f"{webhook.headers['webhook-id']}.{webhook.headers['webhook-timestamp']}.".encode() + webhook.body
    key = base64.b64decode(write_secret(secret).removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert webhook.headers["webhook-signature"].split() == [f"v1,{expected}"]


def test_the_receiver_gets_the_task_signed_and_once(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "holds+data-url", receiver)
    task = client.submit(receiver)
    assert receiver.received == []
    demo.state.release()
    (webhook,) = receiver.wait()
    check_signature(webhook, digest_secret())
    event = webhook.event
    polled = client.ask("GET", task["poll_url"]).json()
    assert (event.pop("type"), event.pop("timestamp")[-1]) == ("image.generation.task.completed", "Z")
    assert event == {**polled, "expires_at": event["expires_at"]}
    assert httpx.get(event["image_url"], trust_env=False).content.startswith(b"\x89PNG")
    assert webhook.headers["content-type"] == "application/json"
    assert webhook.headers["webhook-id"].startswith("msg_")
    wait_until(lambda: services_of(client).webhooks.queue.local_size == 0)
    assert len(receiver.received) == 1


FAST = WebhookTimings(look_after=0.05, lease=45.0, interval=0.02)


@pytest.fixture
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all times, and take a machine that is busy with other tests for no Redis that is down."""
    monkeypatch.setattr("app.services.callers.WebhookQueue", partial(WebhookQueue, timings=FAST))
    monkeypatch.setattr("app.jobs.webhooks._INTERVAL", 0.01)
    monkeypatch.setattr("app.protocol.webhook_retries.DELAYS", (0.01,))
    monkeypatch.setattr("app.state.shared_state._TIMEOUT", 10.0)


hurry = pytest.mark.usefixtures("_hurry")


# What is asked for


@hurry
def test_a_webhook_is_named_in_json_in_a_form_or_in_a_header(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "data-url", receiver)
    header = {"x-limner-webhook": f"{receiver.url}/header"}
    image = {"image": ("a.png", PICTURE, "image/png")}
    answers = [
        client.ask("POST", SUBMIT, json={**GENERATION, "webhook_url": f"{receiver.url}/json"}),
        client.ask("POST", "/v1/images/edits", data={"prompt": "p", "async": "true", "webhook_url": f"{receiver.url}/form"}, files=image),
        client.ask("POST", "/v1/images/generations", json={**GENERATION, "async": True}, headers=header),
        client.ask("POST", "/v1/images/generations", json={**GENERATION, "prompt": "a cat"}, headers=header | {"prefer": "respond-async"}),
        client.ask("POST", SUBMIT, json={**GENERATION, "webhook_url": f"{receiver.url}/both"}, headers={"x-limner-webhook": f"{receiver.url}/both"}),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [202] * 5
    assert not any("x-limner-ignored" in answer.headers for answer in answers)
    received = receiver.wait(5)
    paths = {webhook.path for webhook in received}
    assert paths == {"/hooks/json", "/hooks/form", "/hooks/header", "/hooks/both"}
    ids = {webhook.event["id"].removeprefix("imgtask_") for webhook in received}
    assert ids == {answer.json()["id"].partition("_")[2] for answer in answers}


def test_a_receipt_with_a_webhook_is_kept_for_as_long_as_a_task(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "data-url", receiver, answer_ttl=1)
    body = {**GENERATION, "webhook_url": receiver.url}
    client.ask("POST", "/v1/images/generations", json=body, headers={"prefer": "respond-async"})
    (webhook,) = receiver.wait()
    assert webhook.event["expires_at"] > time.time() + 80_000


@dataclass(frozen=True)
class Refusal:
    name: str
    webhook: str = "https://93.184.216.34/hooks"
    path: str = SUBMIT
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    status: int = 400
    code: str = "invalid_value"
    message: str = ""


REFUSALS = [
    Refusal("webhooks are not allowed", options={"webhooks": False}, status=403, code="webhooks_not_allowed"),
    Refusal("the client waits", path="/v1/images/generations", code="unsupported_parameter", message="asynchronous"),
    Refusal("the client streams", path="/v1/images/generations", more={"stream": True}, headers={"prefer": "respond-async"}, code="unsupported_parameter"),
    Refusal("a private address", "http://10.0.0.1/hooks", message="address is not open"),
    Refusal("the address of a cloud's metadata", "http://169.254.169.254/latest", message="address is not open"),
    Refusal("this machine", "http://127.0.0.1/hooks", message="address is not open"),
    Refusal("this machine by its name", "http://localhost:8080/hooks", message="address is not open"),
    Refusal("this machine in IPv6", "http://[::ffff:127.0.0.1]/hooks", message="address is not open"),
    Refusal("the port of another service", "https://93.184.216.34:6379/", message="port"),
    Refusal("a name that does not exist", "https://shop.invalid/", message="looked up"),
    Refusal("another scheme", "ftp://93.184.216.34/", message="only http and https"),
    Refusal("no address", "shop", message="only http and https"),
    Refusal("a password", "https://me:secret@93.184.216.34/", message="user name"),
    Refusal("another address in the header", headers={"x-limner-webhook": "https://93.184.216.34/other"}, message="x-limner-webhook"),
    Refusal("an address that is too long", "https://93.184.216.34/" + "x" * 2048, code="string_above_max_length"),
    Refusal("no text", more={"webhook_url": 7}, code="invalid_type"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_a_webhook_that_cannot_be_sent_is_refused_before_anything_is_spent(case: Refusal, demo: RunningDemo, stack: ExitStack) -> None:  # fmt: skip
    client = run(stack, demo, "data-url", **case.options)
    body = {**GENERATION, "webhook_url": case.webhook, **case.more}
    refused = client.ask("POST", case.path, json=body, headers=case.headers)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (case.status, case.code, "webhook_url")
    assert case.message in error["message"]
    assert "secret" not in error["message"]
    assert demo.state.calls == 0
    assert services_of(client).webhooks.queue.local_size == 0


def test_a_dry_run_refuses_what_the_request_would(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url")
    reach_public_addresses(client)
    body = {**GENERATION, "webhook_url": "http://10.0.0.1/"}
    assert client.ask("POST", SUBMIT, json=body, headers={"x-limner-dry-run": "true"}).status_code == 400
    body["webhook_url"] = "https://93.184.216.34/"
    assert client.ask("POST", SUBMIT, json=body, headers={"x-limner-dry-run": "true"}).status_code == 200
    assert services_of(client).webhooks.queue.local_size == 0


def test_a_name_that_cannot_be_looked_up_just_now_is_no_mistake(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "holds+data-url")

    async def fail(name: str) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    services_of(client).webhooks.sender.http.resolve = fail
    assert client.submit("https://shop.example/hooks")["status"] == "processing"


def test_an_empty_webhook_is_none(demo: RunningDemo, stack: ExitStack) -> None:
    client = run(stack, demo, "data-url", webhooks=False)
    answer = client.ask("POST", "/v1/images/generations", json={**GENERATION, "webhook_url": ""}, headers={"x-limner-webhook": ""})  # fmt: skip
    assert (answer.status_code, "x-limner-ignored" in answer.headers) == (200, False)


@pytest.mark.parametrize("allowed", [True, False], ids=["a key that may", "a key that may not"])
def test_a_key_decides_for_itself(allowed: bool, demo: RunningDemo, stack: ExitStack, tmp_path: Path) -> None:
    receiver = stack.enter_context(run_receiver())
    own = bytes(range(40))
    (tmp_path / "keys.toml").write_text(
        f'[[keys]]\nname = "shop"\nsha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\n'
        f'webhooks = {str(allowed).lower()}\nwebhook_secret = "{write_secret(own)}"\n'
    )
    client = run(stack, demo, "data-url", receiver, keys_file=str(tmp_path / "keys.toml"), api_keys="", webhooks=not allowed)  # fmt: skip
    answer = client.ask("POST", SUBMIT, json={**GENERATION, "webhook_url": receiver.url})
    assert answer.status_code == (202 if allowed else 403)
    if allowed:
        (webhook,) = receiver.wait()
        check_signature(webhook, own)


def test_callers_with_keys_of_the_upstream_have_secrets_of_the_server(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    root = "a secret of all servers of ours"
    client = run(stack, demo, "data-url", receiver, upstream_api_key=None, api_keys="", webhook_secret=root)
    client.submit(receiver)
    (webhook,) = receiver.wait()
    check_signature(webhook, derive_secret(root.encode(), hashlib.sha256(KEY.encode()).hexdigest()[:16]))


# What arrives


@pytest.mark.parametrize("options", [{"response_format": "b64_json"}, {"response_format": "url"}, {}])
def test_images_are_links_whatever_the_client_asked_for(options: dict[str, str], demo: RunningDemo, stack: ExitStack) -> None:  # fmt: skip
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "data-url", receiver)
    client.submit(receiver, n=2, **options)
    (webhook,) = receiver.wait()
    assert len(webhook.body) < 4000
    items = webhook.event["result"]["data"]
    assert [list(item) for item in items] == [["url"], ["url"]]
    assert webhook.event["image_url"] == items[0]["url"]
    for item in items:
        assert httpx.get(item["url"], trust_env=False).content.startswith(b"\x89PNG")


@hurry
def test_an_image_that_cannot_be_stored_just_now_is_sent_later(
    demo: RunningDemo, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failures = DiskStore.put, [ImageUnavailable("The disk is full.")] * 2

    async def fail(*arguments: Any) -> str:
        if failures:
            raise failures.pop()
        return await put(*arguments)

    monkeypatch.setattr(DiskStore, "put", fail)
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "data-url", receiver)
    with capture_logs() as lines:
        client.submit(receiver, response_format="b64_json")
        (webhook,) = receiver.wait()
    assert httpx.get(webhook.event["image_url"], trust_env=False).content.startswith(b"\x89PNG")
    attempts = [line["attempt"] for line in lines if line["event"] == "webhook_sent"]
    assert attempts[:2] == [1, 2]


def test_links_lead_to_where_clients_reach_the_server(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "data-url", receiver, public_url="https://images.invalid")
    client.submit(receiver)
    (webhook,) = receiver.wait()
    assert webhook.event["image_url"].startswith("https://images.invalid/kept/")


def test_a_failure_is_sent_as_well(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "refuses", receiver)
    task = client.submit(receiver)
    (webhook,) = receiver.wait()
    polled = client.ask("GET", task["poll_url"]).json()
    assert webhook.event["type"] == "image.generation.task.failed"
    assert webhook.event["error"] == polled["error"]
    assert (webhook.event["error"]["code"], webhook.event["http_status"]) == ("moderation_blocked", 400)


def test_a_cancellation_is_sent_as_well(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "holds+data-url", receiver, max_concurrency=1)
    client.submit(receiver, prompt="a cat")
    assert demo.state.wait_for_calls(1)
    task = client.submit(receiver)
    assert client.ask("DELETE", task["poll_url"]).json()["error"]["code"] == "task_canceled"
    (webhook,) = receiver.wait()
    assert (webhook.event["id"], webhook.event["error"]["code"]) == (task["id"], "task_canceled")


@hurry
def test_a_repeated_submission_is_one_webhook(demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "holds+data-url", receiver)
    for _ in range(3):
        body = {**GENERATION, "webhook_url": receiver.url}
        assert client.ask("POST", SUBMIT, json=body, headers={"idempotency-key": "k"}).status_code == 202
    other = {**GENERATION, "webhook_url": f"{receiver.url}/other"}
    assert client.ask("POST", SUBMIT, json=other, headers={"idempotency-key": "k"}).status_code == 202
    demo.state.release()
    receiver.wait(2)
    wait_until(lambda: services_of(client).webhooks.queue.local_size == 0)
    assert sorted(webhook.path for webhook in receiver.received) == ["/hooks", "/hooks/other"]
    assert demo.state.calls == 1


# Receivers that fail


@dataclass(frozen=True)
class Failure:
    name: str
    answer: Answer
    timeout: float = 15.0


FAILURES = [
    Failure("an error of the receiver", status(500)),
    Failure("a wrong address", status(404)),
    Failure("a receiver that does not believe the signature", status(401)),
    Failure("a receiver with too much to do", status(429, "Retry-After: 0")),
    Failure("a redirect", status(307, "Location: http://127.0.0.1:1/")),
    Failure("a redirect without a target", status(302)),
    Failure("a connection that is closed without an answer", cut_off),
    Failure("an answer that is no HTTP", b"hello\r\n\r\n"),
    Failure("a receiver that says nothing", silence, timeout=1.0),
    Failure("a head without an end", endless_head, timeout=5.0),
]


@hurry
@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.name)
def test_a_webhook_is_sent_again_until_it_is_accepted(case: Failure, demo: RunningDemo, stack: ExitStack) -> None:
    receiver = stack.enter_context(run_receiver(case.answer, case.answer, OK))
    client = run(stack, demo, "data-url", receiver)
    webhooks = services_of(client).webhooks
    webhooks.sender = replace(webhooks.sender, timeout=case.timeout)
    client.submit(receiver)
    received = receiver.wait(3)
    wait_until(lambda: webhooks.queue.local_size == 0)
    assert len({webhook.headers["webhook-id"] for webhook in received}) == 1
    for webhook in received:
        check_signature(webhook, digest_secret())


@hurry
def test_the_target_of_a_redirect_is_not_called(demo: RunningDemo, stack: ExitStack) -> None:
    other = stack.enter_context(run_receiver())
    receiver = stack.enter_context(run_receiver(status(308, f"Location: {other.url}"), status(410)))
    client = run(stack, demo, "data-url", receiver, other)
    client.submit(receiver)
    wait_until(lambda: services_of(client).webhooks.queue.local_size == 0 and len(receiver.received) == 2)
    assert other.received == []


@hurry
@pytest.mark.parametrize(
    "answer", [status(410), status(204), endless], ids=["410", "204", "200 and a body without an end"]
)
def test_nothing_is_sent_after_an_answer_that_ends_a_webhook(answer: Answer, demo: RunningDemo, stack: ExitStack) -> None:  # fmt: skip
    receiver = stack.enter_context(run_receiver(answer))
    client = run(stack, demo, "data-url", receiver)
    client.submit(receiver)
    receiver.wait()
    wait_until(lambda: services_of(client).webhooks.queue.local_size == 0)
    assert len(receiver.received) == 1


@hurry
def test_a_receiver_that_is_not_there_yet_gets_its_webhook_later(demo: RunningDemo, stack: ExitStack) -> None:
    (port,) = free_ports(1)
    client = run(stack, demo, "data-url", fetch_allow=f"{demo.url.removeprefix('http://')},127.0.0.1:{port}")
    with capture_logs() as lines:
        client.submit(f"http://127.0.0.1:{port}/hooks")
        wait_until(lambda: len([line for line in lines if line["event"] == "webhook_sent"]) > 1)
    assert {line["outcome"] for line in lines if line["event"] == "webhook_sent"} == {"failed"}
    receiver = stack.enter_context(run_receiver(port=port))
    receiver.wait()


@hurry
def test_a_name_that_leads_to_a_private_address_later_is_not_followed(demo: RunningDemo, stack: ExitStack) -> None:
    canary = stack.enter_context(run_receiver())
    client = run(stack, demo, "holds+data-url", fetch_allow=demo.url.removeprefix("http://"))
    reach_public_addresses(client)
    addresses = ["93.184.216.34"]

    async def resolve(name: str) -> list[str]:
        return list(addresses)

    services_of(client).webhooks.sender.http.resolve = resolve
    client.submit("http://shop.example:8080/hooks")
    addresses[:] = ["127.0.0.1"]
    with capture_logs() as lines:
        demo.state.release()
        wait_until(lambda: any(line["event"] == "webhook_sent" for line in lines))
    (line, *_) = [line for line in lines if line["event"] == "webhook_sent"]
    assert (line["outcome"], "loopback" in line["reason"]) == ("failed", True)
    assert canary.received == []


@hurry
def test_dead_and_slow_receivers_delay_no_other(demo: RunningDemo, stack: ExitStack) -> None:
    slow = stack.enter_context(run_receiver(silence, host="127.0.0.2"))
    fast = stack.enter_context(run_receiver())
    client = run(stack, demo, "data-url", slow, fast)
    webhooks = services_of(client).webhooks
    webhooks.sender = replace(webhooks.sender, timeout=600)
    for number in range(10):
        client.submit(slow, prompt=f"slow {number}")
    slow.wait()
    for number in range(5):
        client.submit(fast, prompt=f"fast {number}")
    fast.wait(5)
    assert len(slow.received) == 1
    slow.closing.set()


def has_size(queue: WebhookQueue, size: int) -> bool:
    return queue.local_size == size


def test_a_host_gets_one_webhook_a_second(demo: RunningDemo, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("app.services.callers.WebhookQueue", partial(WebhookQueue, now=lambda: now))
    monkeypatch.setattr("app.jobs.webhooks._INTERVAL", 0.01)
    receiver = stack.enter_context(run_receiver())
    client = run(stack, demo, "data-url", receiver)
    queue = services_of(client).webhooks.queue
    tasks = [client.submit(receiver, prompt=f"fox {number}") for number in range(3)]
    wait_until(lambda: all(client.ask("GET", task["poll_url"]).json()["status"] == "completed" for task in tasks))
    for sent in (1, 2, 3):
        wait_until(partial(has_size, queue, 3 - sent))
        assert len(receiver.received) == sent
        now += 0.9
        client.ask("GET", "/healthz")
        assert len(receiver.received) == sent
        now += 0.2


# Several replicas


def hurry_up(redis: Redis) -> None:
    """Let all times of webhooks be over, and stop the heartbeats of all jobs."""
    for name in redis.scan_iter("limner:webhooks:*"):
        if name in {b"limner:webhooks:waiting", b"limner:webhooks:queues"} or b":queue:" in name:
            members: Any = redis.zrange(name, 0, -1)
            redis.zadd(name, dict.fromkeys(members, 0))
        elif b":pause:" in name:
            redis.delete(name)


def stop_heartbeats(redis: Redis) -> None:
    for name in redis.scan_iter("limner:{jobs}:req_*"):
        if redis.type(name) == b"hash":
            redis.hset(name, mapping={"heartbeat": 0})
    redis.set("limner:{jobs}:reached", 0)


@hurry
@pytest.mark.parametrize("model", ["holds+data-url", "data-url"], ids=["while its task runs", "while it is sent"])
def test_the_webhook_of_a_replica_that_is_killed_is_sent_by_another(
    model: str, demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    receiver = stack.enter_context(run_receiver(silence, OK))
    shared = {"shared_state": server.url, "image_store": f"disk://{tmp_path}"}
    variables = {
        "LIMNER_UPSTREAM_MODEL": model,
        "LIMNER_WEBHOOKS": "true",
        "LIMNER_API_KEYS": KEY,
        "LIMNER_SHARED_STATE": server.url,
        "LIMNER_FETCH_ALLOW": f"{demo.url.removeprefix('http://')},127.0.0.1:{receiver.port}",
    }
    with run_process(demo, tmp_path, **variables) as process:
        first = Client(process)
        task = first.submit(receiver)
        if model == "data-url":
            # Its receiver does not answer.
            receiver.wait()
            wait_until(lambda: first.ask("GET", task["poll_url"]).json()["status"] == "completed")
            wait_until(lambda: any(redis.hexists(name, "outcome") for name in redis.scan_iter("limner:{jobs}:req_*") if redis.type(name) == b"hash"))  # fmt: skip
        else:
            assert demo.state.wait_for_calls(1)
        process.process.kill()
        process.process.wait()
    hurry_up(redis)
    if model != "data-url":
        receiver.answers[:] = [OK]
        stop_heartbeats(redis)
    client = run(stack, demo, model, receiver, **shared)
    count = 2 if model == "data-url" else 1
    *_, webhook = receiver.wait(count)
    check_signature(webhook, digest_secret())
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
    assert webhook.event["id"] == task["id"]
    if model == "data-url":
        assert webhook.event["status"] == "completed"
    else:
        assert webhook.event["error"]["code"] == "question_lost"
    wait_until(lambda: not redis.hlen("limner:webhooks:records"))
    assert services_of(client).webhooks.queue.local_size == 0
    assert demo.state.calls == 1


@hurry
def test_two_replicas_send_a_webhook_once(
    demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    receiver = stack.enter_context(run_receiver())
    shared = {"shared_state": server.url, "image_store": f"disk://{tmp_path}", "timings": SharingTimings(poll=0.02)}
    one, other = (run(stack, demo, "holds+data-url", receiver, **shared) for _ in range(2))
    body = {**GENERATION, "webhook_url": receiver.url}
    tasks = [client.ask("POST", SUBMIT, json=body, headers={"idempotency-key": "k"}).json() for client in (one, other)]
    assert tasks[0]["id"] == tasks[1]["id"]
    demo.state.release()
    (webhook,) = receiver.wait()
    assert webhook.event["id"] == tasks[0]["id"]
    wait_until(lambda: not redis.hlen("limner:webhooks:records"))
    assert len(receiver.received) == 1
    assert len(list(tmp_path.glob("**/*.png"))) == 1


@hurry
def test_the_cancellation_at_another_replica_is_sent(
    demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    receiver = stack.enter_context(run_receiver())
    shared = {"shared_state": server.url, "image_store": f"disk://{tmp_path}", "max_concurrency": 1}
    one, other = (run(stack, demo, "holds+data-url", receiver, **shared) for _ in range(2))
    one.ask("POST", SUBMIT, json={**GENERATION, "prompt": "a cat"})
    assert demo.state.wait_for_calls(1)
    task = one.submit(receiver)
    assert other.ask("DELETE", task["poll_url"]).status_code == 200
    (webhook,) = receiver.wait()
    assert (webhook.event["id"], webhook.event["error"]["code"]) == (task["id"], "task_canceled")


@hurry
def test_a_webhook_whose_task_no_replica_knows_is_forgotten(
    demo: RunningDemo, stack: ExitStack, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    async def add() -> None:
        state = SharedState(server.url, fail_closed=True)
        url = "https://shop.example/"
        webhook = Webhook(slot_of("req_0", url), "msg_0", "req_0", "caller", url, "shop.example", "http://limner")
        assert await WebhookQueue(state, FAST).add(webhook)
        await state.close()

    asyncio.run(add())
    with capture_logs() as lines:
        run(stack, demo, "data-url", shared_state=server.url, image_store=f"disk://{tmp_path}")
        wait_until(lambda: not redis.hlen("limner:webhooks:records"))
        wait_until(lambda: any(line.get("outcome") == "expired" for line in lines))
