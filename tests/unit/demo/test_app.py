"""The demo upstream over real HTTP: every behavior, keys, input images, errors."""

import asyncio
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pybase64
import pytest
from PIL import Image

from app.demo.app import create_demo
from app.demo.behaviors import BEHAVIORS, MODEL
from app.demo.families import FAMILIES
from tests.support.servers import RunningDemo, run_demo


@pytest.fixture(scope="module")
def _running() -> Iterator[tuple[RunningDemo, httpx.Client]]:
    with run_demo() as demo, httpx.Client(base_url=demo.url, trust_env=False, timeout=20) as client:
        yield demo, client


@pytest.fixture
def demo(_running: tuple[RunningDemo, httpx.Client]) -> RunningDemo:
    _running[0].state.reset()
    return _running[0]


@pytest.fixture
def client(_running: tuple[RunningDemo, httpx.Client]) -> httpx.Client:
    return _running[1]


def ask(model: str = MODEL, content: object = "1024x640 'a fox'", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}]} | more


def post(client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    return client.post("/v1/chat/completions", json=body)


def content(answer: httpx.Response) -> Any:
    return answer.json()["choices"][0]["message"]["content"]


def stream_text(answer: httpx.Response) -> str:
    """Return the joined text of a stream."""
    chunks = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def links(text: str) -> list[str]:
    """Return the URLs of a text. Those of the demo have no line break, quote or parenthesis in them."""
    return [part.split("\n")[0].split('"')[0].split(")")[0] for part in text.replace("http", "\0http").split("\0")[1:]]


def format_and_size(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.format, image.size


def make_image(mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


def as_data_url(data: bytes) -> str:
    return "data:image/png;base64," + pybase64.b64encode(data).decode()


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


FOX = ("PNG", (1024, 640))


@dataclass(frozen=True)
class Reply:
    """The reply of a model: a part of its text, and the images behind its URLs, drafts first."""

    model: str
    text: str
    images: tuple[tuple[str, tuple[int, int]], ...] = (FOX,)


REPLIES = (
    Reply(MODEL, "已生成图片:http"),
    Reply("markdown", "![image](http"),
    Reply("json-text", '{"created":1741570283,"data":[{"url":"http'),
    Reply("html", '<p>done</p><img src="http'),
    Reply("previews", "预览图:http", (("PNG", (256, 160)), ("PNG", (512, 320)), FOX)),
    Reply("two-images", "已生成图片:http", (FOX, FOX)),
    Reply("thinks", "已生成图片:http"),
    Reply("wrong-size", "已生成图片:http", (("PNG", (512, 320)),)),
    Reply("jpeg", ".jpg", (("JPEG", (1024, 640)),)),
    Reply("webp", ".webp", (("WEBP", (1024, 640)),)),
    Reply("octet-stream", "已生成图片:http"),
    Reply("huge-url", "?signature=a1a1"),
    Reply("repeats", "已生成图片:http"),
    Reply("no-usage", "已生成图片:http"),
    Reply("costs", "已生成图片:http"),
    Reply("never-done", "已生成图片:http"),
    Reply("crlf", "已生成图片:http"),
    Reply("bytewise", "已生成图片:http"),
    Reply("pace-0", "已生成图片:http"),
    Reply("stalls-0", "已生成图片:http"),
    Reply("slow-0", "已生成图片:http"),
    Reply("refuses", "https://policies.invalid/usage.", ()),
    Reply("text-only", "What a lovely idea!", ()),
    Reply("echoes-input", "What shall I change?", ()),
    Reply("says-nothing", "", ()),
)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("row", REPLIES, ids=lambda row: row.model)
def test_text_and_images_of_a_reply(demo: RunningDemo, client: httpx.Client, row: Reply, stream: bool) -> None:
    answer = post(client, ask(row.model, stream=stream))
    assert answer.status_code == 200
    text = stream_text(answer) if stream else content(answer)
    assert row.text in text
    own = [link for link in links(text) if link.startswith(demo.url)]
    assert tuple(format_and_size(client.get(link).content) for link in own) == row.images


@pytest.mark.parametrize(
    ("model", "find"),
    [
        ("data-url", lambda message: message["content"].removeprefix("![image](").removesuffix(")")),
        ("b64-json", lambda message: "," + message["content"]),
        ("content-parts", lambda message: message["content"][1]["image_url"]["url"]),
        ("images-field", lambda message: message["images"][0]["image_url"]["url"]),
    ],
)
def test_images_inside_the_reply(
    demo: RunningDemo, client: httpx.Client, model: str, find: Callable[[Any], str]
) -> None:
    message = post(client, ask(model)).json()["choices"][0]["message"]
    assert format_and_size(pybase64.b64decode(find(message).partition(",")[2])) == FOX


def test_openrouter_requests_get_openrouter_s_form(demo: RunningDemo, client: httpx.Client) -> None:
    body = ask(MODEL, "a fox", modalities=["image", "text"], image_config={"aspect_ratio": "3:2"})
    message = post(client, body).json()["choices"][0]["message"]
    url = message["images"][0]["image_url"]["url"]
    assert format_and_size(pybase64.b64decode(url.partition(",")[2])) == ("PNG", (1248, 832))


def test_a_filtered_image_has_no_content(demo: RunningDemo, client: httpx.Client) -> None:
    choice = post(client, ask("content-filter")).json()["choices"][0]
    assert choice == {"index": 0, "message": {"role": "assistant", "content": None}, "finish_reason": "content_filter"}


@dataclass(frozen=True)
class Failure:
    model: str
    statuses: tuple[int, ...]
    code: str | None = None


FAILURES = (
    Failure("refuses-400", (400, 400), "moderation_blocked"),
    Failure("flaky-2", (503, 503, 200), "server_is_overloaded"),
    Failure("limited-3", (429, 200), "rate_limit_exceeded"),
    Failure("error-401", (401,), "invalid_api_key"),
    Failure("error", (500,)),
    Failure("error-in-200", (200,), "server_is_overloaded"),
    Failure("error-in-200-402", (200,), "insufficient_quota"),
    Failure("no-such-model", (404,), "model_not_found"),
)


@pytest.mark.parametrize("row", FAILURES, ids=lambda row: row.model)
def test_a_model_that_fails_answers_with_its_statuses(demo: RunningDemo, client: httpx.Client, row: Failure) -> None:
    answers = [post(client, ask(row.model)) for _ in row.statuses]
    assert tuple(answer.status_code for answer in answers) == row.statuses
    assert answers[0].json()["error"]["code"] == row.code
    assert answers[0].headers.get("retry-after") == ("3" if row.model == "limited-3" else None)
    assert demo.state.images_drawn == row.statuses[1:].count(200)


def test_the_error_page_of_a_gateway(demo: RunningDemo, client: httpx.Client) -> None:
    answer = post(client, ask("html-504"))
    assert (answer.status_code, answer.headers["content-type"]) == (504, "text/html; charset=utf-8")


@pytest.mark.parametrize("model", ["breaks-mid-stream", "breaks-after-url"])
@pytest.mark.parametrize("stream", [False, True])
def test_connections_that_break_off(demo: RunningDemo, client: httpx.Client, model: str, stream: bool) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        post(client, ask(model, stream=stream))


@pytest.mark.parametrize("stream", [False, True])
def test_replies_that_cannot_be_parsed(demo: RunningDemo, client: httpx.Client, stream: bool) -> None:
    cut = post(client, ask("broken-json", stream=stream)).content
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(cut.strip().rpartition(b"data: ")[2])
    assert b'"choices":[]' in post(client, ask("empty-choices", stream=stream)).content


def test_json_instead_of_a_stream_and_the_reverse(demo: RunningDemo, client: httpx.Client) -> None:
    assert content(post(client, ask("json-for-stream", stream=True)))
    assert stream_text(post(client, ask("stream-for-json")))


def test_links_that_fail_at_first(demo: RunningDemo, client: httpx.Client) -> None:
    (missing,) = links(content(post(client, ask("missing-image-1"))))
    assert [client.get(missing).status_code for _ in range(2)] == [404, 200]
    (moved,) = links(content(post(client, ask("redirects-2"))))
    assert format_and_size(client.get(moved, follow_redirects=True).content) == FOX
    (cut,) = links(content(post(client, ask("cut-image"))))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(cut)
    assert format_and_size(client.get(cut).content) == FOX
    (page,) = links(content(post(client, ask("not-an-image"))))
    assert client.get(page).headers["content-type"] == "text/html; charset=utf-8"


def test_media_types_of_links(demo: RunningDemo, client: httpx.Client) -> None:
    (png,) = links(content(post(client, ask())))
    assert client.get(png).headers["content-type"] == "image/png"
    (bare,) = links(content(post(client, ask("octet-stream"))))
    assert client.get(bare).headers["content-type"] == "application/octet-stream"
    assert "." not in bare.rpartition("/")[2]


def test_held_requests_wait_for_the_release(demo: RunningDemo, client: httpx.Client) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post, client, ask("holds")) for _ in range(3)]
        assert demo.state.wait_for_calls(3)
        assert demo.state.in_flight == 3
        assert not any(answer.done() for answer in answers)
        demo.state.release()
        assert [answer.result().status_code for answer in answers] == [200] * 3
    assert demo.state.wait_until_idle()


def test_every_behavior_is_tested_here() -> None:
    """A new behavior needs a row in one of the tests above."""
    with_other_content = {
        "data-url",
        "b64-json",
        "content-parts",
        "images-field",
        "content-filter",
        "holds",
        "html-504",
    }
    damaged = {
        "breaks-mid-stream",
        "breaks-after-url",
        "broken-json",
        "empty-choices",
        "json-for-stream",
        "stream-for-json",
    }
    families = {f"as-{family.name}" for family in FAMILIES}  # test_families.py
    with_failing_link = {"missing-image", "redirects", "cut-image", "not-an-image"}
    tested = (
        with_other_content
        | damaged
        | with_failing_link
        | families
        | {row.model for row in REPLIES}
        | {row.model for row in FAILURES}
    )
    for row in BEHAVIORS:
        numbered = {model for model in tested if model.startswith(row.name + "-")} if row.default is not None else set()
        assert row.name in tested or numbered, row.title


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/chat/completions", 200), ("/chat/completions", 200), ("/v1/images/generations", 404), ("/", 404)],
)
def test_only_its_own_paths_are_answered(demo: RunningDemo, client: httpx.Client, path: str, status: int) -> None:
    answer = client.post(path, json=ask())
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["message"] == f"Invalid URL (POST {path})"


def test_a_chat_must_be_posted(client: httpx.Client) -> None:
    answer = client.get("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_all_behaviors_are_listed_as_models(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == [row.title for row in BEHAVIORS]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"\xff"', id="no UTF-8"),
        pytest.param(b'{"model":NaN}', id="a number that is none"),
    ],
)
def test_a_body_that_is_no_json_is_refused(demo: RunningDemo, client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "We could not parse the JSON body of your request."
    assert demo.state.requests[-1].size == len(body)


def test_requests_are_recorded(demo: RunningDemo, client: httpx.Client) -> None:
    body = ask("text-only", user="me")
    client.post("/chat/completions", json=body, headers={"Authorization": "Bearer sk-1"})
    (seen,) = demo.state.requests
    assert (seen.path, seen.body, seen.headers["authorization"]) == ("/chat/completions", body, "Bearer sk-1")


def test_input_images_are_shown_in_the_sky(demo: RunningDemo, client: httpx.Client) -> None:
    (link,) = links(content(post(client, ask())))
    data = as_data_url(make_image())
    parts = [
        {"type": "text", "text": "1024x640 'redraw'"},
        image_part(data),
        image_part(link),
        image_part("https://example.com/a.png"),
    ]
    (plain,) = links(content(post(client, ask(content=[parts[0]]))))
    (edited,) = links(content(post(client, ask(content=parts))))
    assert format_and_size(client.get(edited).content) == FOX
    assert client.get(edited).content != client.get(plain).content


@pytest.mark.parametrize(
    ("url", "code"),
    [
        pytest.param("data:image/png;base64,@@", "invalid_image_format", id="no base64"),
        pytest.param(as_data_url(b"<html>"), "invalid_image_format", id="a page"),
        pytest.param("file:///etc/passwd", "invalid_image_format", id="a file of this machine"),
        pytest.param("data:text/plain,hello", "invalid_image_format", id="a text"),
        pytest.param("http://127.0.0.1:1/a.png", "invalid_image_url", id="a host that does not answer"),
        pytest.param("http://127.0.0.1:port/", "invalid_image_url", id="no address"),
    ],
)
def test_an_invalid_input_image_is_refused(demo: RunningDemo, client: httpx.Client, url: str, code: str) -> None:
    answer = post(client, ask(content=[{"type": "text", "text": "x"}, image_part(url)]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert demo.state.images_drawn == 0


def test_an_input_image_that_does_not_exist(demo: RunningDemo, client: httpx.Client) -> None:
    answer = post(client, ask(content=[{"type": "text", "text": "x"}, image_part(demo.url + "/images/none.png")]))
    assert answer.json()["error"]["code"] == "invalid_image_url"


def test_a_size_outside_the_limits(demo: RunningDemo, client: httpx.Client) -> None:
    answer = post(client, ask(content="512x512 'x'"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")


#: Method, path, headers, JSON.
DirectRequest = tuple[str, str, dict[str, str], Any]


def ask_directly(options: dict[str, Any], *requests: DirectRequest) -> list[httpx.Response]:
    """Send requests to an app without a socket."""
    app = create_demo(**options)

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://demo.test") as client:
            return [
                await client.request(method, path, headers=head, json=body) for method, path, head, body in requests
            ]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("header", "code"),
    [
        pytest.param({}, None, id="no key"),
        pytest.param({"Authorization": "Basic sk-right"}, None, id="another scheme"),
        pytest.param({"Authorization": "Bearer "}, None, id="an empty key"),
        pytest.param({"Authorization": "Bearer sk-wrong"}, "invalid_api_key", id="a wrong key"),
        pytest.param({"Authorization": "Bearer sk-right and more"}, "invalid_api_key", id="a key and more"),
    ],
)
def test_keys_that_are_rejected(header: dict[str, str], code: str | None) -> None:
    for answer in ask_directly(
        {"api_key": "sk-right"},
        ("POST", "/v1/chat/completions", header, ask("text-only")),
        ("GET", "/v1/models", header, None),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)


def test_a_key_that_is_accepted() -> None:
    header = {"Authorization": "bearer sk-right"}
    (answer,) = ask_directly({"api_key": "sk-right"}, ("POST", "/v1/chat/completions", header, ask("text-only")))
    assert answer.status_code == 200


def test_links_point_to_the_public_url_or_to_the_requested_host() -> None:
    request: DirectRequest = ("POST", "/v1/chat/completions", {}, ask())
    (answer,) = ask_directly({"public_url": "https://pictures.example"}, request)
    assert content(answer).startswith("已生成图片:https://pictures.example/images/")
    (answer,) = ask_directly({}, request)
    assert content(answer).startswith("已生成图片:http://demo.test/images/")


def test_the_pause_between_chunks() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    requests: list[DirectRequest] = [
        ("POST", "/v1/chat/completions", {}, ask(model, stream=True)) for model in (MODEL, "pace-9", "slow-30")
    ]
    ask_directly({"chunk_pause": 2, "sleep": sleep}, *requests)
    assert set(slept) == {2, 9, 30}
    assert slept.count(30) == 1
