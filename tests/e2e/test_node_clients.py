"""The Node clients openai 6, openai 4 and Vercel's AI SDK work with a real server in front of the demo upstream."""

import base64
import io
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from PIL import Image

from app.protocol.sse import comment
from tests.support.node_clients import FOLDER, need_node_clients
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner

KEY = "sk-client"

#: Seconds that a client may be silent; none of these tasks takes more than one.
TIMEOUT = 30

OFFICIAL = ["openai 6", "openai 4"]
VERCEL = ["ai with openai", "ai with openai-compatible"]

# The smallest size that may be requested, so the fastest to generate.
SIZE = (1024, 640)
PARAMETERS = {"model": "gpt-image-2", "prompt": "a fox", "size": "1024x640"}

#: Headers that openai-node adds to requests from a page. A browser asks for permission for each in the preflight.
STAINLESS = [f"x-stainless-{name}" for name in ("arch", "lang", "os", "package-version", "retry-count", "runtime", "runtime-version", "timeout")]  # fmt: skip


class ClientResult:
    """The result of one task: the items that the client returned, its number of requests, and its exception, if any."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.items: list[dict[str, Any]] = message["items"]
        self.requests: int = message["requests"]
        self.error: dict[str, Any] | None = message["error"]

    @property
    def item(self) -> dict[str, Any]:
        assert self.error is None, self.error
        (item,) = self.items
        return item

    @property
    def raised(self) -> dict[str, Any]:
        assert self.error is not None, "the client raised nothing"
        return self.error

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.items]


class Node:
    """One Node process that runs tasks, one after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def start(self, client: str, limner: RunningLimner, **task: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"client": client, "url": limner.url, "key": KEY} | task) + b"\n")
        self._process.stdin.flush()

    def wait_for_status(self) -> int:
        """Return the status of the next response as soon as its head has arrived."""
        message = self._read()
        assert "status" in message, message
        status: int = message["status"]
        return status

    def finish(self) -> ClientResult:
        while "requests" not in (message := self._read()):
            pass
        return ClientResult(message)

    def run(self, client: str, limner: RunningLimner, **task: Any) -> ClientResult:
        self.start(client, limner, **task)
        return self.finish()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(TIMEOUT, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, "the Node process has ended or was killed by the watchdog"
        message: dict[str, Any] = orjson.loads(line)
        return message


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    need_node_clients()
    command = ["node", "run_tasks.js"]
    with subprocess.Popen(command, cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Node(process)


@pytest.fixture(scope="module")
def running_demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running


@pytest.fixture
def demo(running_demo: RunningDemo) -> Iterator[RunningDemo]:
    running_demo.state.reset()
    yield running_demo
    running_demo.state.release()


@pytest.fixture(scope="module")
def limner(running_demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(running_demo.url, api_keys=KEY) as running:
        yield running


@contextmanager
def limner_with_fast_keepalive(demo: RunningDemo, model: str) -> Iterator[RunningLimner]:
    """Run Limner with a short keep-alive interval, and with a short drain for requests that a failed test leaves held."""
    with run_limner(
        demo.url, upstream_model=model, keepalive_after=0.05, keepalive_interval=0.05, shutdown_grace=1
    ) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Write three images and a mask, and return their paths."""
    made = {"red.png": ("RGB", "red"), "green.png": ("RGB", "green"), "blue.png": ("RGB", "blue"), "mask.png": ("RGBA", (0, 0, 0, 0))}  # fmt: skip
    for name, (mode, color) in made.items():
        Image.new(mode, (64, 64), color).save(tmp_path / name)  # type: ignore[arg-type]
    return {str(tmp_path / name): (tmp_path / name).read_bytes() for name in made}


def size_of(picture: dict[str, Any]) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(picture["b64_json"], validate=True))) as image:
        image.load()
        return image.size


def sent_images(demo: RunningDemo) -> list[bytes]:
    """Return the images of the last upstream request."""
    _, *pictures = demo.state.requests[-1].body["messages"][0]["content"]
    return [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in pictures]


@pytest.mark.parametrize("client", OFFICIAL)
def test_the_official_client_gets_an_image_of_the_requested_size(
    node: Node, limner: RunningLimner, client: str
) -> None:
    item = node.run(client, limner, method="images.generate", body=PARAMETERS).item
    assert [size_of(picture) for picture in item["data"]] == [SIZE]
    assert (item["size"], item["output_format"]) == ("1024x640", "png")
    assert item["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("client", OFFICIAL)
def test_the_official_client_gets_a_url_if_it_requests_one(node: Node, limner: RunningLimner, client: str) -> None:
    item = node.run(client, limner, method="images.generate", body={**PARAMETERS, "response_format": "url"}).item
    (picture,) = item["data"]
    assert "b64_json" not in picture
    with Image.open(io.BytesIO(httpx.get(picture["url"], trust_env=False).content)) as image:
        assert image.size == SIZE


@pytest.mark.parametrize("client", OFFICIAL)
def test_an_open_file_is_edited_although_length_and_type_are_not_sent(
    node: Node, limner: RunningLimner, demo: RunningDemo, files: dict[str, bytes], client: str
) -> None:
    path = next(iter(files))
    item = node.run(client, limner, method="images.edit", body={**PARAMETERS, "image": {"$stream": path}}).item
    assert [size_of(picture) for picture in item["data"]] == [SIZE]
    assert sent_images(demo) == [files[path]]


def test_a_list_of_images_and_a_mask_keep_their_order(
    node: Node, limner: RunningLimner, demo: RunningDemo, files: dict[str, bytes]
) -> None:
    *pictures, mask = ({"$stream": path} for path in files)
    body = {**PARAMETERS, "image": pictures, "mask": mask}
    item = node.run("openai 6", limner, method="images.edit", body=body).item
    assert [size_of(picture) for picture in item["data"]] == [SIZE]
    assert sent_images(demo) == list(files.values())


def test_files_may_come_before_the_prompt(
    node: Node, limner: RunningLimner, demo: RunningDemo, files: dict[str, bytes]
) -> None:
    *pictures, mask = ({"$stream": path} for path in files)
    body = {"mask": mask, "image": pictures, **PARAMETERS}
    item = node.run("openai 6", limner, method="images.edit", body=body).item
    assert [size_of(picture) for picture in item["data"]] == [SIZE]
    assert sent_images(demo) == list(files.values())


@pytest.mark.parametrize(("method", "operation"), [("images.generate", "image_generation"), ("images.edit", "image_edit")])  # fmt: skip
def test_a_stream_has_partial_images_and_then_the_final_one(
    node: Node, demo: RunningDemo, files: dict[str, bytes], method: str, operation: str
) -> None:
    image = {"image": {"$stream": next(iter(files))}} if method == "images.edit" else {}
    with run_limner(demo.url, upstream_model="previews") as limner:
        outcome = node.run(
            "openai 6", limner, method=method, body={**PARAMETERS, **image, "stream": True, "partial_images": 2}
        )
    assert outcome.error is None
    assert outcome.types == [f"{operation}.partial_image"] * 2 + [f"{operation}.completed"]
    assert [event.get("partial_image_index") for event in outcome.items] == [0, 1, None]
    assert [size_of(event) for event in outcome.items] == [(256, 160), (512, 320), SIZE]
    assert demo.state.calls == 1


def test_a_stream_that_fails_before_any_image_raises_and_is_not_retried(node: Node, demo: RunningDemo) -> None:
    with run_limner(demo.url, upstream_model="breaks-mid-stream") as limner:
        outcome = node.run(
            "openai 6", limner, method="images.generate", body={**PARAMETERS, "stream": True, "partial_images": 2}
        )
    assert "APIError" in outcome.raised["kinds"]
    assert outcome.raised["code"] == "upstream_broken"
    assert (len(outcome.items), outcome.requests, demo.state.calls) == (0, 1, 1)


def test_a_stream_that_fails_after_a_partial_image_raises_and_is_not_retried(node: Node, demo: RunningDemo) -> None:
    with run_limner(demo.url, upstream_model="breaks-mid-stream+previews") as limner:
        outcome = node.run(
            "openai 6", limner, method="images.generate", body={**PARAMETERS, "stream": True, "partial_images": 2}
        )
    assert outcome.types == ["image_generation.partial_image"]
    assert "APIError" in outcome.raised["kinds"]
    assert outcome.raised["code"] == "upstream_broken"
    assert (outcome.requests, demo.state.calls) == (1, 1)


def test_a_stream_that_fails_after_keepalives_raises_and_is_not_retried(node: Node, demo: RunningDemo) -> None:
    with limner_with_fast_keepalive(demo, "holds+refuses") as limner:
        node.start("openai 6", limner, method="images.generate", body={**PARAMETERS, "stream": True})
        assert node.wait_for_status() == 200
        demo.state.release()
        outcome = node.finish()
    assert "APIError" in outcome.raised["kinds"]
    assert outcome.raised["code"] == "moderation_blocked"
    assert (len(outcome.items), outcome.requests, demo.state.calls) == (0, 1, 1)


def test_clients_ignore_the_comments_that_keep_a_stream_alive(
    node: Node, demo: RunningDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = threading.Semaphore(0)

    def record_comment(text: str) -> bytes:
        sent.release()
        return comment(text)

    monkeypatch.setattr("app.api.delivery.comment", record_comment)
    with limner_with_fast_keepalive(demo, "holds") as limner:
        node.start("openai 6", limner, method="images.generate", body={**PARAMETERS, "stream": True})
        assert all(sent.acquire(timeout=TIMEOUT) for _ in range(3))
        demo.state.release()
        outcome = node.finish()
    assert (outcome.types, outcome.error) == (["image_generation.completed"], None)
    assert size_of(outcome.items[0]) == SIZE


@pytest.mark.parametrize("client", OFFICIAL)
def test_errors_have_their_types(node: Node, limner: RunningLimner, demo: RunningDemo, client: str) -> None:
    refused = node.run(client, limner, method="images.generate", body={**PARAMETERS, "n": 11})
    assert refused.raised["kinds"][0] == "BadRequestError"
    assert (refused.raised["param"], refused.raised["code"]) == ("n", "integer_above_max_value")
    unknown = node.run(client, limner, method="images.generate", body=PARAMETERS, key="sk-wrong")
    assert unknown.raised["kinds"][0] == "AuthenticationError"
    assert unknown.raised["code"] == "invalid_api_key"
    assert (refused.requests, unknown.requests, demo.state.calls) == (1, 1, 0)
    with run_limner(demo.url, upstream_model="error-429", upstream_attempts=1) as busy:
        limited = node.run(client, busy, method="images.generate", body=PARAMETERS, retries=0)
    assert limited.raised["kinds"][0] == "RateLimitError"
    assert limited.raised["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("client", OFFICIAL)
def test_a_failure_that_may_have_cost_something_is_not_retried(node: Node, demo: RunningDemo, client: str) -> None:
    with run_limner(demo.url, upstream_model="broken-json") as limner:
        outcome = node.run(client, limner, method="images.generate", body=PARAMETERS)
    assert outcome.raised["kinds"][0] == "InternalServerError"
    assert outcome.raised["code"] == "upstream_broken"
    assert (outcome.requests, demo.state.calls) == (1, 1)


@pytest.mark.parametrize("client", OFFICIAL)
def test_models_are_listed(node: Node, limner: RunningLimner, client: str) -> None:
    outcome = node.run(client, limner, method="models.list")
    assert {"gpt-image-2", "chatgpt-image-latest"} <= {model["id"] for model in outcome.items}


@pytest.mark.parametrize("client", VERCEL)
def test_the_ai_sdk_generates_an_image(node: Node, limner: RunningLimner, client: str) -> None:
    picture = node.run(client, limner, body=PARAMETERS).item
    assert size_of(picture) == SIZE
    assert picture["media_type"] == "image/png"


@pytest.mark.parametrize(("client", "requests"), [("ai with openai", 3), ("ai with openai-compatible", 1)])
def test_the_ai_sdk_gets_three_images_in_one_or_three_requests(
    node: Node, limner: RunningLimner, demo: RunningDemo, client: str, requests: int
) -> None:
    """With a model that it does not know, the `openai` provider asks for one picture three times at once."""
    outcome = node.run(client, limner, body={**PARAMETERS, "model": "my-model", "n": 3})
    assert outcome.error is None
    assert [size_of(picture) for picture in outcome.items] == [SIZE] * 3
    assert (outcome.requests, demo.state.calls) == (requests, 3)


@pytest.mark.parametrize("client", VERCEL)
@pytest.mark.parametrize("number", [1, 3])
def test_the_ai_sdk_edits_images_with_a_mask(
    node: Node, limner: RunningLimner, demo: RunningDemo, files: dict[str, bytes], client: str, number: int
) -> None:
    *pictures, mask = ({"$bytes": path} for path in files)
    prompt = {"text": "a hat", "images": pictures[:number], "mask": mask}
    assert size_of(node.run(client, limner, body={**PARAMETERS, "prompt": prompt}).item) == SIZE
    *pictures_read, mask_read = files.values()
    assert sent_images(demo) == [*pictures_read[:number], mask_read]


@pytest.mark.parametrize("client", VERCEL)
@pytest.mark.parametrize("model", ["refuses", "text-only"])
def test_the_ai_sdk_does_not_retry_what_would_cost_again(
    node: Node, demo: RunningDemo, client: str, model: str
) -> None:
    with run_limner(demo.url, upstream_model=model) as limner:
        outcome = node.run(client, limner, body=PARAMETERS)
    assert (outcome.raised["name"], outcome.raised["status"]) == ("AI_APICallError", 400)
    assert (len(outcome.items), outcome.requests, demo.state.calls) == (0, 1, 1)


def task_of(client: str) -> dict[str, Any]:
    return {"body": PARAMETERS} | ({"method": "images.generate"} if client in OFFICIAL else {})


@pytest.mark.parametrize("client", OFFICIAL + VERCEL)
def test_clients_ignore_white_space_before_a_late_response(node: Node, demo: RunningDemo, client: str) -> None:
    with limner_with_fast_keepalive(demo, "holds") as limner:
        node.start(client, limner, **task_of(client))
        assert node.wait_for_status() == 200
        demo.state.release()
        outcome = node.finish()
    picture = outcome.item["data"][0] if client in OFFICIAL else outcome.item
    assert size_of(picture) == SIZE
    assert (outcome.requests, demo.state.calls) == (1, 1)


@pytest.mark.parametrize("client", OFFICIAL + VERCEL)
def test_a_late_failure_raises_and_is_not_retried(node: Node, demo: RunningDemo, client: str) -> None:
    with limner_with_fast_keepalive(demo, "holds+refuses") as limner:
        node.start(client, limner, **task_of(client))
        assert node.wait_for_status() == 200
        demo.state.release()
        outcome = node.finish()
    assert "JSON" in outcome.raised["message"]
    assert (len(outcome.items), outcome.requests, demo.state.calls) == (0, 1, 1)


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits"])
def test_a_browser_may_send_the_headers_of_the_official_client(node: Node, limner: RunningLimner, path: str) -> None:
    asked = ["authorization", "content-type", *STAINLESS]
    headers = {"origin": "https://page.example", "access-control-request-method": "POST", "access-control-request-headers": ",".join(asked)}  # fmt: skip
    item = node.run("browser", limner, path=path, headers=headers).item
    assert item["status"] in {200, 204}
    assert item["headers"]["access-control-allow-origin"] in {"*", "https://page.example"}
    assert "POST" in item["headers"]["access-control-allow-methods"]
    allowed = item["headers"]["access-control-allow-headers"].lower()
    assert {name.strip() for name in allowed.split(",")} >= set(asked)


def test_the_lock_names_no_registry() -> None:
    packages = orjson.loads((FOLDER / "package-lock.json").read_bytes())["packages"]
    assert not [path for path, package in packages.items() if "resolved" in package]
    assert [path for path, package in packages.items() if path and "integrity" not in package] == []
