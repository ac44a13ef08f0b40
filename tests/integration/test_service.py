"""A request from the door to the answer: waiting, leaving, closing. Over real sockets where a client would be."""

import asyncio
import errno
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import openai
import orjson
import pytest
from openai import OpenAI
from PIL import Image

from app.errors import ImageUnavailable, RateLimited, SpoolFull, UserError
from app.images import fetch
from app.images.blob import Spool
from app.images.memory import MemoryStore
from app.images.store import StoreConfig
from app.jobs.job import Job, JobKey
from app.jobs.job_run import JobRun
from app.jobs.service import JobReader
from app.jobs.sharing import JobSharing
from app.protocol.data_url import decode_data_url
from app.protocol.image_format import sniff
from app.state.job_table import JobTable
from app.state.shared_state import SharedState
from tests.support.join_cases import ME
from tests.support.raw_http_lines import (
    GENERATION,
    ListeningClient,
    is_between_attempts,
    limner_with_model,
    unchunk,
    wait_for_jobs,
    wait_until,
)
from tests.support.registries import REQUEST, Desk
from tests.support.sample_images import gradient, saved
from tests.support.servers import RunningDemo, RunningLimner

pytestmark = pytest.mark.usefixtures("demo_at_rest")

HEADERS = {"authorization": "Bearer any"}


def test_plain_json_that_waits_begins_with_white_space(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0.02) as limner:
        client = ListeningClient(limner, GENERATION)
        client.read_until(b"1\r\n \r\n", count=3)
        demo.state.release()
        response = client.read_until(b"\r\n0\r\n\r\n")
        client.disconnect()
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"x-accel-buffering: no" in head
    document = orjson.loads(unchunk(body))
    assert document["data"][0]["b64_json"].startswith("iVBOR")


def test_a_late_failure_raises_in_the_client_and_is_not_retried(demo: RunningDemo) -> None:
    with (
        limner_with_model(demo, "holds+refuses", keepalive_after=0.02) as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any") as client,
    ):
        threading.Timer(0.3, demo.state.release).start()
        with pytest.raises(ValueError, match="Extra data"):
            client.images.generate(**GENERATION)
        assert demo.state.calls == 1


def test_a_late_failure_is_the_error_and_one_extra_byte(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds+refuses", keepalive_after=0.02) as limner:
        client = ListeningClient(limner, GENERATION)
        client.read_until(b"1\r\n \r\n")
        demo.state.release()
        body = unchunk(client.read_until(b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")[2]).strip()
        client.disconnect()
    assert body.endswith(b"}!")
    assert orjson.loads(body[:-1])["error"]["code"] == "moderation_blocked"


def test_without_keepalive_the_status_waits_for_the_result(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds+refuses", keepalive_after=0) as limner:
        client = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        demo.state.release()
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        client.disconnect()


def test_a_stream_has_keepalives_and_ends_with_a_blank_line(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds") as limner:
        client = ListeningClient(limner, {**GENERATION, "stream": True})
        client.read_until(b": keep-alive\n\n", count=3)
        demo.state.release()
        head, _, body = client.read_until(b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")
        client.disconnect()
    assert b"content-type: text/event-stream" in head
    assert b"cache-control: no-store" in head
    text = unchunk(body)
    assert text.count(b"event: image_generation.completed\n") == 1
    assert text.endswith(b"}\n\n")
    assert b"[DONE]" not in text


def test_an_error_before_the_first_byte_of_a_stream_keeps_its_status(demo: RunningDemo) -> None:
    with limner_with_model(demo, "refuses", keepalive_interval=10) as limner:
        response = httpx.post(f"{limner.url}/v1/images/generations", json={**GENERATION, "stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "moderation_blocked"


def test_a_late_error_in_a_stream_is_an_event_that_raises(demo: RunningDemo) -> None:
    with (
        limner_with_model(demo, "holds+refuses") as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", max_retries=0) as client,
    ):
        threading.Timer(0.3, demo.state.release).start()
        with pytest.raises(openai.APIError, match="safety system") as caught:
            list(client.images.generate(**GENERATION, stream=True))
        assert caught.value.code == "moderation_blocked"


HTTP_1_0: list[tuple[str, dict[str, Any], str, bytes]] = [
    ("plain JSON", {}, "gpt-image-2-chat", b"}"),
    ("a stream", {"stream": True, "partial_images": 2}, "previews", b"}\n\n"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameters", "model", "end"), HTTP_1_0, ids=[row[0] for row in HTTP_1_0])
def test_an_http_1_0_client_gets_no_chunks(
    demo: RunningDemo, name: str, parameters: dict[str, Any], model: str, end: bytes
) -> None:
    with limner_with_model(demo, model, keepalive_after=0.001) as limner:
        head, _, body = (
            ListeningClient(limner, {**GENERATION, **parameters}, version="1.0").read_all().partition(b"\r\n\r\n")
        )
    assert b"chunked" not in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert body.endswith(end)


@pytest.mark.parametrize("edit", [False, True])
def test_partial_images_come_before_the_final_one(demo: RunningDemo, edit: bool) -> None:
    with (
        limner_with_model(demo, "previews") as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", max_retries=0) as client,
    ):
        parameters: Any = {**GENERATION, "stream": True, "partial_images": 2, "size": "1024x1024"}
        if edit:
            events: list[Any] = list(client.images.edit(image=saved(gradient(), "PNG"), **parameters))
        else:
            events = list(client.images.generate(**parameters))
    kind = "image_edit" if edit else "image_generation"
    assert [event.type for event in events] == [f"{kind}.partial_image"] * 2 + [f"{kind}.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert [event.size for event in events] == ["256x256", "512x512", "1024x1024"]


@pytest.mark.parametrize("model", ["previews+breaks-mid-stream", "broken-json", "breaks-mid-stream"])
def test_a_stream_that_breaks_off_before_its_image_raises(demo: RunningDemo, model: str) -> None:
    with (
        limner_with_model(demo, model) as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", max_retries=0) as client,
        pytest.raises(openai.APIError) as caught,
    ):
        list(client.images.generate(**GENERATION, stream=True, partial_images=1))
    assert caught.value.code == "upstream_broken"


def test_a_stream_that_breaks_off_after_its_image_is_a_success(demo: RunningDemo) -> None:
    with (
        limner_with_model(demo, "previews+breaks-after-url") as limner,
        OpenAI(base_url=f"{limner.url}/v1", api_key="any", max_retries=0) as client,
    ):
        *_, last = client.images.generate(**GENERATION, stream=True, size="1536x1024")
    assert (last.type, last.size) == ("image_generation.completed", "1536x1024")


def test_large_input_images_are_shrunk_and_reported(demo: RunningDemo) -> None:
    with limner_with_model(demo, "gpt-image-2-chat") as limner:
        wide = saved(gradient(size=(5000, 20)), "PNG")
        mask = saved(Image.new("RGBA", (5000, 20)), "PNG")
        files = [("image", ("a", wide)), ("mask", ("b", mask))]
        response = httpx.post(f"{limner.url}/v1/images/edits", data={"prompt": "a hat"}, files=files)
    assert response.status_code == 200, response.text
    assert response.headers["x-limner-shrunk"] == "image[0] 5000x20->4096x16, image[1] 5000x20->4096x16"
    sent = [part["image_url"]["url"] for part in demo.state.requests[-1].body["messages"][0]["content"][1:]]
    sizes = [sniff(decode_data_url(url)) for url in sent]
    assert [info and info.size for info in sizes] == ["4096x16", "4096x16"]


def test_a_client_that_disconnects_in_the_queue_frees_its_slot_at_once(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", max_concurrency=1) as limner:
        first, second = ListeningClient(limner, GENERATION), None
        demo.state.wait_for_calls(1)
        second = ListeningClient(limner, {**GENERATION, "prompt": "second"})
        wait_for_jobs(limner, 2)
        second.disconnect()
        wait_for_jobs(limner, 1)
        assert limner.service.semaphore.waiting == 0
        demo.state.release()
        first.read_until(b"b64_json")
        first.disconnect()
    assert demo.state.calls == 1


def test_the_retry_of_a_client_that_left_the_queue_does_not_get_the_image_of_another(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", max_concurrency=1) as limner:
        first = ListeningClient(limner, GENERATION)
        assert demo.state.wait_for_calls(1)
        queued = ListeningClient(limner, GENERATION, x_stainless_retry_count="0")
        wait_for_jobs(limner, 2)
        queued.disconnect()
        wait_for_jobs(limner, 1)
        retry = ListeningClient(limner, GENERATION, x_stainless_retry_count="1")
        wait_for_jobs(limner, 2)
        demo.state.release()
        answers = [client.read_until(b'"usage"') for client in (first, retry)]
        for client in (first, retry):
            client.disconnect()
    assert [b"x-limner-joined" in answer for answer in answers] == [False, False]
    assert demo.state.calls == 2


@pytest.mark.parametrize("is_over", [False, True], ids=["still read", "delivered"])
def test_the_retry_of_a_client_that_was_refused_does_not_get_the_image_of_another(
    demo: RunningDemo, tmp_path: Path, is_over: bool
) -> None:
    keys = tmp_path / "keys.toml"
    digest = hashlib.sha256(b"foo").hexdigest()
    keys.write_text(f'[[keys]]\nname = "a"\nsha256 = "{digest}"\nimages = ["1/day"]\n')
    headers = {"authorization": "Bearer foo"}
    with limner_with_model(demo, "holds", keys_file=keys, keepalive_after=0) as limner:
        address = f"{limner.url}/v1/images/generations"
        first = ListeningClient(limner, GENERATION, **headers)
        assert demo.state.wait_for_calls(1)
        if is_over:
            demo.state.release()
            first.read_until(b'"usage"')
            wait_until(lambda: all(job.delivered for job in limner.service.registry._by_id.values()))
        statuses = []
        for count in range(3):
            marked = headers | {"x-stainless-retry-count": str(count)}
            statuses.append(httpx.post(address, json=GENERATION, headers=marked, timeout=20).status_code)
        demo.state.release()
        first.disconnect()
    assert (statuses, demo.state.calls) == ([429] * 3, 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", ["", "X-Stainless-Retry-Count: 1\r\n"], ids=["without a mark", "as a retry"])
def test_a_repeat_that_comes_in_one_turn_with_the_end_of_its_first_connection_joins_its_job(
    demo: RunningDemo, stream: bool, count: str
) -> None:
    body = orjson.dumps({**GENERATION, "stream": stream})
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n{count}Content-Type: application/json\r\n"
    with limner_with_model(demo, "holds") as limner, socket.socket() as again:
        address = urlsplit(limner.url)
        again.settimeout(10)
        again.connect((address.hostname, address.port))
        again.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert again.recv(2**16).startswith(b"HTTP/1.1 200")
        other = ListeningClient(limner, orjson.loads(body))
        assert demo.state.wait_for_calls(1)
        lost = ListeningClient(limner, orjson.loads(body))
        assert demo.state.wait_for_calls(2)
        jobs = limner.service.registry.active()
        with standing_still(next(iter(limner.service.tasks)).get_loop()):
            lost.disconnect()
            again.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        demo.state.release()
        answer = b""
        while b'"usage"' not in answer:
            answer += again.recv(2**16)
        other.read_until(b'"usage"')
        other.disconnect()
    assert b"x-limner-joined: " + jobs[1].id.encode() in answer
    assert demo.state.calls == 2


@contextmanager
def standing_still(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let an event loop read nothing meanwhile."""
    stands, may_go_on = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        may_go_on.wait(10)

    loop.call_soon_threadsafe(stand)
    assert stands.wait(10)
    yield
    may_go_on.set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_whose_client_disconnects_after_submission_runs_to_its_end(demo: RunningDemo, stream: bool) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0.02) as limner:
        client = ListeningClient(limner, {**GENERATION, "stream": stream})
        demo.state.wait_for_calls(1)
        client.read_until(b"\r\n\r\n")
        client.disconnect()
        early = ListeningClient(limner, {**GENERATION, "prompt": "left before the first byte", "stream": stream})
        demo.state.wait_for_calls(2)
        early.disconnect()
        wait_for_jobs(limner, 2)
        demo.state.release()
        wait_for_jobs(limner, 0)
        assert limner.service.semaphore.in_use == 0
    assert demo.state.images_drawn == 2


def test_a_draining_server_accepts_no_new_requests(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds") as limner:
        client = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        limner.service.is_draining = True
        rejected = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert httpx.get(f"{limner.url}/readyz").status_code == 503
        demo.state.release()
        client.read_until(b"b64_json")
        client.disconnect()
    assert demo.state.calls == 1


def test_jobs_that_outlast_the_drain_end_with_an_error(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0) as limner:
        plain, stream = ListeningClient(limner, GENERATION), ListeningClient(limner, {**GENERATION, "stream": True})
        demo.state.wait_for_calls(2)
        stream.read_until(b"keep-alive")
        loop = next(iter(limner.service.tasks)).get_loop()
        asyncio.run_coroutine_threadsafe(limner.service.drain(0.01), loop).result(10)
        assert plain.read_until(b"shutting down").startswith(b"HTTP/1.1 503")
        assert b"x-should-retry: false" in plain.received
        assert b"event: error" in stream.read_until(b"shutting down")
        plain.disconnect()
        stream.disconnect()


def test_a_job_that_a_shutdown_ends_after_the_payment_is_redelivered(
    demo: RunningDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch_for_ever(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    with limner_with_model(demo, "gpt-image-2-chat", keepalive_after=0) as limner:
        monkeypatch.setattr(limner.service.backends.fetcher, "fetch", fetch_for_ever)
        client = ListeningClient(limner, GENERATION)
        wait_until(lambda: any(job.paid_replies for job in limner.service.registry.active()))
        loop = next(iter(limner.service.tasks)).get_loop()
        asyncio.run_coroutine_threadsafe(limner.service.drain(0.01), loop).result(10)
        assert client.read_until(b"try again").startswith(b"HTTP/1.1 503")
        assert b"x-should-retry" not in client.received
        client.disconnect()
        (job,) = limner.service.registry._by_id.values()
        assert job.needs_redelivery
    assert demo.state.calls == 1


def test_a_request_that_was_not_submitted_may_be_retried_elsewhere(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0, max_concurrency=1) as limner:
        first = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        second = ListeningClient(limner, {**GENERATION, "prompt": "another"})
        wait_for_jobs(limner, 2)
        loop = next(iter(limner.service.tasks)).get_loop()
        asyncio.run_coroutine_threadsafe(limner.service.drain(0.01), loop).result(10)
        assert second.read_until(b"try again").startswith(b"HTTP/1.1 503")
        assert b"x-should-retry" not in second.received
        first.disconnect()
        second.disconnect()
    assert demo.state.calls == 1


@pytest.mark.parametrize(
    ("stream", "sign"), [(False, b"1\r\n \r\n"), (True, b": keep-alive\n\n")], ids=["plain JSON", "a stream"]
)
def test_a_client_that_leaves_the_queue_after_keepalives_is_charged_nothing(
    demo: RunningDemo, stream: bool, sign: bytes
) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0.02, max_concurrency=1) as limner:
        first = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        second = ListeningClient(limner, {**GENERATION, "prompt": "another", "stream": stream})
        second.read_until(sign)
        second.disconnect()
        wait_for_jobs(limner, 1)
        demo.state.release()
        first.read_until(b"b64_json")
        first.disconnect()
    assert demo.state.calls == 1


def test_the_headers_say_how_the_request_was_handled(demo: RunningDemo) -> None:
    with limner_with_model(demo, "data-url") as limner:
        parameters = {**GENERATION, "style": "vivid", "seed": 7, "size": "512x512", "n": 2}
        response = httpx.post(f"{limner.url}/v1/images/generations", json=parameters)
    assert response.headers["x-limner-ignored"] == "style, seed"
    assert response.headers["x-limner-reply-form"] != ""
    assert float(response.headers["x-limner-upstream-ms"]) > 0
    assert float(response.headers["x-limner-overhead-ms"]) >= 0
    assert "x-limner-failed" not in response.headers
    assert response.json()["size"] == "512x512"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_dialect_carries_is_not_named_as_ignored(demo: RunningDemo, stream: bool) -> None:
    with limner_with_model(demo, "data-url", upstream_dialect="top-level") as limner:
        parameters = {**GENERATION, "style": "vivid", "metadata": {"a": "b"}, "seed": 7, "stream": stream}
        response = httpx.post(f"{limner.url}/v1/images/generations", json=parameters)
    assert response.headers["x-limner-ignored"] == "metadata, seed"


def test_the_number_of_failed_images_is_in_a_header(demo: RunningDemo) -> None:
    with limner_with_model(demo, "limited-1", upstream_attempts=1) as limner:
        response = httpx.post(f"{limner.url}/v1/images/generations", json={**GENERATION, "n": 3})
    assert (response.status_code, response.headers["x-limner-failed"], len(response.json()["data"])) == (200, "1", 2)


@pytest.mark.parametrize(("parameters", "magic"), [({"output_format": "jpeg"}, "/9j/"), ({"output_format": "webp", "output_compression": 30}, "UklG"), ({"output_format": "png"}, "iVBO")])  # fmt: skip
def test_the_image_has_the_requested_format(demo: RunningDemo, parameters: dict[str, Any], magic: str) -> None:
    with limner_with_model(demo, "gpt-image-2-chat") as limner:
        response = httpx.post(f"{limner.url}/v1/images/generations", json={**GENERATION, **parameters}).json()
    assert response["data"][0]["b64_json"].startswith(magic)
    assert response["output_format"] == parameters["output_format"]


def test_stored_images_have_the_public_address(demo: RunningDemo) -> None:
    with limner_with_model(demo, "data-url", public_url="https://images.example.com/limner") as limner:
        parameters = {**GENERATION, "response_format": "url"}
        url = httpx.post(f"{limner.url}/v1/images/generations", json=parameters).json()["data"][0]["url"]
    assert url.startswith("https://images.example.com/limner/kept/")
    assert url.endswith(".png")


def test_a_client_that_disconnects_while_an_input_is_fetched_submits_nothing(demo: RunningDemo) -> None:
    demo.state.reset()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with limner_with_model(demo, "gpt-image-2-chat", fetch_allow=address) as limner:
            parameters = {"prompt": "a hat", "images": [{"image_url": f"http://{address}/a.png"}]}
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{limner.url}/v1/images/edits", json=parameters, timeout=0.3)
            wait_for_jobs(limner, 0)
    assert demo.state.calls == 0


def test_a_client_that_still_gets_an_error_does_not_count_as_a_reader_of_the_next_run() -> None:
    async def play() -> None:
        desk = Desk()
        job = desk.start(ME, ImageUnavailable("404"))
        table: JobTable[Job] = JobTable(SharedState("memory:", fail_closed=False), ttl=600, key_ttl=600)
        sharing = JobSharing(desk.registry, table, MemoryStore(StoreConfig("memory:", 60)))
        reader = JobReader(job, job.run, sharing)
        await job.run.wait_done()
        job.restart(REQUEST, Spool(), JobRun(readers=1))
        again = desk.start(ME)
        job.run = again.run
        reader.close(delivered=True)
        assert (job.run.readers, job.delivered) == (1, False)
        await job.run.wait_done()
        desk.registry.close()

    asyncio.run(play())


def test_a_request_joins_a_job_that_only_the_job_table_lets_it_join(
    demo: RunningDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table knows more than the registry, such as that another replica with a reader has been silent for long."""

    async def find_here(*_: object, **__: object) -> str:
        (job,) = limner.service.registry.active()
        return job.id

    with limner_with_model(demo, "holds", keepalive_after=0) as limner:
        first = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        monkeypatch.setattr(limner.service.sharing.job_table, "claim_or_join", find_here)
        second = ListeningClient(limner, GENERATION)
        wait_until(lambda: limner.service.registry.active()[0].readers == 2)
        demo.state.release()
        assert b"x-limner-joined: req_" in second.read_until(b"\r\n\r\n")
        for client in (first, second):
            assert b" 200 OK\r\n" in client.read_until(b"b64_json")
            client.disconnect()
    assert demo.state.calls == 1


def test_a_request_restarts_a_job_of_this_server_whose_images_could_not_be_fetched_meanwhile(
    demo: RunningDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails while the request looks into the job table, and needs no second reply."""

    async def find_after_the_end(*_: object, **__: object) -> str:
        (job,) = limner.service.registry.active()
        demo.state.release()
        await job.run.wait_done()
        assert job.needs_redelivery
        return job.id

    monkeypatch.setattr(fetch, "RETRY_DELAYS", ())
    with limner_with_model(demo, "holds+missing-image-1", keepalive_after=0) as limner:
        first = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        monkeypatch.setattr(limner.service.sharing.job_table, "claim_or_join", find_after_the_end)
        second = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION)
        first.disconnect()
    assert (second.status_code, demo.state.calls) == (200, 1)


def test_a_job_goes_on_without_readers_if_a_client_will_come_back_for_it(demo: RunningDemo) -> None:
    with limner_with_model(demo, "limited-1", keepalive_after=0) as limner:
        first = ListeningClient(limner, GENERATION, Idempotency_Key="k1")
        wait_until(lambda: is_between_attempts(limner))
        headers = {"idempotency-key": "k1", "prefer": "respond-async"}
        receipt = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION, headers=headers)
        assert receipt.status_code == 202
        first.disconnect()
        wait_for_jobs(limner, 0)
        result = httpx.get(f"{limner.url}/v1/images/results/{receipt.json()['id']}")
    assert (result.status_code, demo.state.calls) == (200, 2)


def test_a_result_that_one_client_has_got_is_kept_for_another_that_comes_back_for_it(demo: RunningDemo) -> None:
    with limner_with_model(demo, "holds", keepalive_after=0) as limner:
        first = ListeningClient(limner, GENERATION)
        demo.state.wait_for_calls(1)
        headers = {"x-stainless-retry-count": "1", "prefer": "respond-async"}
        receipt = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION, headers=headers)
        demo.state.release()
        first.read_until(b"b64_json")
        first.disconnect()
        wait_until(lambda: not limner.service.registry.active())
        result = httpx.get(f"{limner.url}/v1/images/results/{receipt.json()['id']}")
    assert (receipt.status_code, result.status_code, demo.state.calls) == (202, 200, 1)


def test_the_url_of_a_stored_image_has_the_host_of_the_client_that_gets_it(demo: RunningDemo) -> None:
    body = {**GENERATION, "response_format": "url"}
    with limner_with_model(demo, "gpt-image-2-chat", rehost="always", allowed_hosts="*") as limner:

        def generate(host: str) -> str:
            headers = {"host": host, "idempotency-key": "k1"}
            answer = httpx.post(f"{limner.url}/v1/images/generations", json=body, headers=headers)
            url: str = answer.json()["data"][0]["url"]
            return url

        first, second = generate("evil.example"), generate("limner.example:8000")
    assert first.startswith("http://evil.example/kept/")
    assert second == first.replace("evil.example", "limner.example:8000")
    assert demo.state.calls == 1


def test_a_stored_image_is_an_input_without_a_download(demo: RunningDemo) -> None:
    with limner_with_model(
        demo, "gpt-image-2-chat", rehost="always", fetch_allow=demo.url.removeprefix("http://")
    ) as limner:
        made = httpx.post(f"{limner.url}/v1/images/generations", json={**GENERATION, "response_format": "url"})
        links = [made.json()["data"][0]["url"], f"http://127.0.0.1:1/kept/{'A' * 32}.png"]
        edits = [
            httpx.post(f"{limner.url}/v1/images/edits", json={"prompt": "a hat", "images": [{"image_url": link}]})
            for link in links
        ]
    # Limner's own address is not open for downloads.
    assert [edit.status_code for edit in edits] == [200, 400]
    assert edits[1].json()["error"]["code"] == "invalid_image_url"


@pytest.mark.parametrize("base", ["/v1", "", "/openai/deployments/gpt-image-2", "/v1/openai/deployments/gpt-image-2"])
def test_the_location_of_a_result_is_an_address_that_answers(demo: RunningDemo, base: str) -> None:
    with limner_with_model(demo, "gpt-image-2-chat", keepalive_after=0) as limner:
        path = f"{base}/images/generations?api-version=2025-04-01-preview"
        receipt = httpx.post(f"{limner.url}{path}", json=GENERATION, headers={"prefer": "respond-async"})
        wait_until(lambda: not limner.service.registry.active())
        result = httpx.get(f"{limner.url}{receipt.headers['location']}")
    assert (receipt.status_code, result.status_code) == (202, 200)
    assert receipt.headers["location"].startswith(f"{base}/images/results/")


def test_a_request_starts_the_job_again_that_is_just_being_called_off(
    demo: RunningDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with limner_with_model(demo, "limited-1", keepalive_after=0) as limner:
        registry = limner.service.registry
        find_joinable = registry.find_joinable

        def find_called_off(key: JobKey) -> Job | None:
            registry.active()[0].run.call_off()
            return find_joinable(key)

        first = ListeningClient(limner, GENERATION, Idempotency_Key="k1")
        wait_until(lambda: is_between_attempts(limner))
        monkeypatch.setattr(registry, "find_joinable", find_called_off)
        second = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION, headers={"idempotency-key": "k1"})
        first.disconnect()
    assert (second.status_code, demo.state.calls) == (200, 2)


def test_a_request_does_not_start_a_job_again_that_is_just_being_forgotten(
    demo: RunningDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may be gone already, and another replica may have begun an equal job."""
    with limner_with_model(demo, "limited-1", keepalive_after=0) as limner:
        registry = limner.service.registry
        find_joinable = registry.find_joinable

        class Forgetting(asyncio.Lock):
            """Is held by who tells the table that the job has ended, and drops it then."""

            def locked(self) -> bool:
                return True

            async def acquire(self) -> Literal[True]:
                registry.drop(forgotten)
                return await super().acquire()

        def find_called_off(key: JobKey) -> Job | None:
            if forgotten in registry.active():
                forgotten.run.call_off()
            return find_joinable(key)

        first = ListeningClient(limner, GENERATION, Idempotency_Key="k1")
        wait_until(lambda: is_between_attempts(limner))
        (forgotten,) = registry.active()
        forgotten.publish_lock = Forgetting()
        monkeypatch.setattr(registry, "find_joinable", find_called_off)
        second = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION, headers={"idempotency-key": "k1"})
        first.disconnect()
    assert second.status_code == 200
    assert "x-limner-joined" not in second.headers


#: What goes wrong once the reply is there: the part of the server, its method, and the exception.
AFTER_PAYMENT: list[tuple[str, str, str, Exception]] = [
    ("no file descriptor", "fetcher", "fetch", OSError(errno.EMFILE, "Too many open files")),
    ("a full disk", "fetcher", "fetch", SpoolFull("No room.")),
    ("the image cannot be downloaded", "fetcher", "fetch", ImageUnavailable("404")),
    ("the image cannot be converted", "transcoder", "convert", UserError("not an image")),
    ("the server is busy with other conversions", "transcoder", "convert", RateLimited("wait")),
    ("the conversion crashes", "transcoder", "convert", RuntimeError("a bug")),
]


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}], ids=["without a key", "under a key"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("name", "part", "method", "error"), AFTER_PAYMENT, ids=[row[0] for row in AFTER_PAYMENT])
def test_after_the_payment_no_failure_loses_the_image(
    demo: RunningDemo,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    part: str,
    method: str,
    error: Exception,
    stream: bool,
    headers: dict[str, str],
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    def ask() -> httpx.Response:
        parameters = {**GENERATION, "output_format": "jpeg", "stream": stream}
        return httpx.post(f"{limner.url}/v1/images/generations", json=parameters, headers=headers, timeout=20)

    with limner_with_model(demo, "gpt-image-2-chat", keepalive_interval=20) as limner:
        with monkeypatch.context() as broken:
            broken.setattr(getattr(limner.service.backends, part), method, fail)
            failed = [ask(), ask()]
        again = ask()
    assert [response.status_code >= 400 for response in failed] == [True, True], failed[0].text
    assert again.status_code == 200, again.text
    assert b'"b64_json"' in again.content
    assert demo.state.calls == 1


@pytest.mark.parametrize("model", ["error-500", "error-502", "error-425", "error-507", "error-529"])
def test_under_a_key_a_failure_that_may_have_cost_something_is_remembered(demo: RunningDemo, model: str) -> None:
    with limner_with_model(demo, model, keepalive_interval=20) as limner:
        responses = [
            httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION, headers={"idempotency-key": "k"})
            for _ in range(3)
        ]
    assert len({(response.status_code, response.text) for response in responses}) == 1
    assert (responses[0].status_code >= 400, demo.state.calls) == (True, 1)


@contextmanager
def deaf_client(limner: RunningLimner, version: str = "1.1", header: str = "") -> Iterator[socket.socket]:
    """Send a request over a connection whose other end takes only the beginning of the response."""
    address = urlsplit(limner.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        body = orjson.dumps(GENERATION)
        head = f"POST /v1/images/generations HTTP/{version}\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}{header}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield connection


@pytest.mark.parametrize("model", ["data-url", "gpt-image-2-chat"])
@pytest.mark.parametrize("ends", [True, False], ids=["the connection ends", "the connection falls silent"])
@pytest.mark.parametrize(
    ("version", "header"),
    [("1.1", ""), ("1.1", "Connection: close\r\n"), ("1.0", ""), ("1.1", "Expect: 100-continue\r\n")],
    ids=["kept alive", "closed after the response", "closed as in HTTP/1.0", "closed after 100 Continue"],
)
def test_a_result_that_was_written_into_a_dead_connection_is_not_delivered(
    demo: RunningDemo, monkeypatch: pytest.MonkeyPatch, model: str, ends: bool, version: str, header: str
) -> None:
    if not ends:
        monkeypatch.setattr("app.api.disconnects._MAX_SILENCE", 0.05)
    with limner_with_model(demo, model) as limner, deaf_client(limner, version, header) as connection:
        wait_until(lambda: any(job.run.is_done for job in limner.service.registry._by_id.values()))
        if ends:
            connection.close()
        (job,) = limner.service.registry._by_id.values()
        wait_until(lambda: not job.readers)
        assert not job.delivered
        again = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION)
    assert (again.status_code, demo.state.calls) == (200, 1)


def test_a_client_that_has_hung_up_before_its_job_starts_is_not_charged(
    demo: RunningDemo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    digest = hashlib.sha256(b"foo").hexdigest()
    keys.write_text(f'[[keys]]\nname = "a"\nsha256 = "{digest}"\nimages = ["9/minute"]\n')
    is_looking, may_go_on = threading.Event(), threading.Event()

    async def look_for_long(*_: object, **__: object) -> None:
        is_looking.set()
        await asyncio.to_thread(may_go_on.wait, 10)

    with limner_with_model(demo, "gpt-image-2-chat", keys_file=keys) as limner:
        monkeypatch.setattr(limner.service.sharing.job_table, "claim_or_join", look_for_long)
        clients = [ListeningClient(limner, GENERATION, authorization="Bearer foo") for _ in range(5)]
        assert is_looking.wait(10)
        for client in clients:
            client.disconnect()
        may_go_on.set()
        headers = {"authorization": "Bearer foo"}
        response = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION, headers=headers, timeout=20)
    assert response.headers["x-ratelimit-remaining-images"] == "8"
    assert demo.state.calls == 1


def test_a_bug_while_a_response_is_built_releases_the_job(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, str]:
        raise KeyError("bug")

    monkeypatch.setattr("app.api.delivery.response_headers", fail)
    with limner_with_model(demo, "gpt-image-2-chat") as limner:
        response = httpx.post(f"{limner.url}/v1/images/generations", json=GENERATION, trust_env=False)
        (job,) = limner.service.registry._by_id.values()
        assert (response.status_code, job.readers, job.delivered) == (500, 0, False)


def test_nothing_is_paid_for_that_the_disk_has_no_room_for(demo: RunningDemo) -> None:
    """The same request is answered as soon as there is room again."""
    with limner_with_model(demo, "data-url") as limner:
        address, capacity = f"{limner.url}/v1/images/generations", limner.service.capacity
        free, capacity.free_bytes = capacity.free_bytes, lambda: 1_000_000
        refused = httpx.post(address, json=GENERATION)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert (refused.headers["retry-after"], "x-should-retry" in refused.headers) == ("5", False)
        assert demo.state.calls == 0
        capacity.free_bytes = free
        assert httpx.post(address, json=GENERATION).status_code == 200
        assert demo.state.calls == 1
