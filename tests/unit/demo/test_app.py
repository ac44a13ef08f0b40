"""The demo upstream over real HTTP: each behaviour a gateway may meet, keys, pictures, errors."""

import asyncio
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pybase64
import pytest
from PIL import Image

from app.demo.app import create_demo
from app.demo.behaviours import BEHAVIOURS, MODEL
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


def streamed(answer: httpx.Response) -> str:
    """The joined text of a stream."""
    chunks = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def links(text: str) -> list[str]:
    """No link of the demo has a line break, a quote or a bracket in it."""
    return [part.split("\n")[0].split('"')[0].split(")")[0] for part in text.replace("http", "\0http").split("\0")[1:]]


def look(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.format, image.size


def picture(mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


def as_data_url(data: bytes) -> str:
    return "data:image/png;base64," + pybase64.b64encode(data).decode()


def shown(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


FOX = ("PNG", (1024, 640))
TEXT = "![image]("


@dataclass(frozen=True)
class Row:
    """What `model` answers: a part of its text, and the pictures behind its links, drafts first."""

    model: str
    says: str
    pictures: tuple[tuple[str, tuple[int, int]], ...] = (FOX,)
    extra: dict[str, Any] = field(default_factory=dict)


TOLD = (
    Row(MODEL, "已生成图片:http"),
    Row("markdown", "![image](http"),
    Row("json-text", '{"created":1741570283,"data":[{"url":"http'),
    Row("html", '<p>done</p><img src="http'),
    Row("previews", "预览图:http", (("PNG", (256, 160)), ("PNG", (512, 320)), FOX)),
    Row("two-images", "已生成图片:http", (FOX, FOX)),
    Row("thinks", "已生成图片:http"),
    Row("wrong-size", "已生成图片:http", (("PNG", (512, 320)),)),
    Row("jpeg", ".jpg", (("JPEG", (1024, 640)),)),
    Row("webp", ".webp", (("WEBP", (1024, 640)),)),
    Row("octet-stream", "已生成图片:http"),
    Row("huge-url", "?signature=a1a1"),
    Row("repeats", "已生成图片:http"),
    Row("no-usage", "已生成图片:http"),
    Row("never-done", "已生成图片:http"),
    Row("crlf", "已生成图片:http"),
    Row("bytewise", "已生成图片:http"),
    Row("pace-0", "已生成图片:http"),
    Row("stalls-0", "已生成图片:http"),
    Row("slow-0", "已生成图片:http"),
    Row("refuses", "https://openai.com/policies/usage-policies.", ()),
    Row("text-only", "What a lovely idea!", ()),
    Row("echoes-input", "What shall I change?", ()),
    Row("says-nothing", "", ()),
)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("row", TOLD, ids=lambda row: row.model)
def test_what_is_told(demo: RunningDemo, client: httpx.Client, row: Row, stream: bool) -> None:
    answer = post(client, ask(row.model, stream=stream))
    assert answer.status_code == 200
    text = streamed(answer) if stream else content(answer)
    assert row.says in text
    own = [link for link in links(text) if link.startswith(demo.url)]
    assert tuple(look(client.get(link).content) for link in own) == row.pictures


@pytest.mark.parametrize(
    ("model", "find"),
    [
        ("data-url", lambda message: message["content"].removeprefix("![image](").removesuffix(")")),
        ("b64-json", lambda message: "," + message["content"]),
        ("content-parts", lambda message: message["content"][1]["image_url"]["url"]),
        ("images-field", lambda message: message["images"][0]["image_url"]["url"]),
    ],
)
def test_pictures_inside_the_answer(
    demo: RunningDemo, client: httpx.Client, model: str, find: Callable[[Any], str]
) -> None:
    message = post(client, ask(model)).json()["choices"][0]["message"]
    assert look(pybase64.b64decode(find(message).partition(",")[2])) == FOX


def test_openrouter_is_answered_in_its_own_form(demo: RunningDemo, client: httpx.Client) -> None:
    body = ask(MODEL, "a fox", modalities=["image", "text"], image_config={"aspect_ratio": "3:2"})
    message = post(client, body).json()["choices"][0]["message"]
    url = message["images"][0]["image_url"]["url"]
    assert look(pybase64.b64decode(url.partition(",")[2])) == ("PNG", (1248, 832))


def test_the_picture_that_is_filtered(demo: RunningDemo, client: httpx.Client) -> None:
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
def test_failures(demo: RunningDemo, client: httpx.Client, row: Failure) -> None:
    answers = [post(client, ask(row.model)) for _ in row.statuses]
    assert tuple(answer.status_code for answer in answers) == row.statuses
    assert answers[0].json()["error"]["code"] == row.code
    assert answers[0].headers.get("retry-after") == ("3" if row.model == "limited-3" else None)
    assert demo.state.images_drawn == row.statuses[1:].count(200)


def test_a_gateways_page(demo: RunningDemo, client: httpx.Client) -> None:
    answer = post(client, ask("html-504"))
    assert (answer.status_code, answer.headers["content-type"]) == (504, "text/html; charset=utf-8")


@pytest.mark.parametrize("model", ["breaks-mid-stream", "breaks-after-url"])
@pytest.mark.parametrize("stream", [False, True])
def test_broken_connections(demo: RunningDemo, client: httpx.Client, model: str, stream: bool) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        post(client, ask(model, stream=stream))


@pytest.mark.parametrize("stream", [False, True])
def test_unreadable_answers(demo: RunningDemo, client: httpx.Client, stream: bool) -> None:
    cut = post(client, ask("broken-json", stream=stream)).content
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(cut.strip().rpartition(b"data: ")[2])
    assert b'"choices":[]' in post(client, ask("empty-choices", stream=stream)).content


def test_forms_nobody_asked_for(demo: RunningDemo, client: httpx.Client) -> None:
    assert content(post(client, ask("json-for-stream", stream=True)))
    assert streamed(post(client, ask("stream-for-json")))


def test_links_that_do_not_work_at_once(demo: RunningDemo, client: httpx.Client) -> None:
    (missing,) = links(content(post(client, ask("missing-image-1"))))
    assert [client.get(missing).status_code for _ in range(2)] == [404, 200]
    (moved,) = links(content(post(client, ask("redirects-2"))))
    assert look(client.get(moved, follow_redirects=True).content) == FOX
    (cut,) = links(content(post(client, ask("cut-image"))))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(cut)
    assert look(client.get(cut).content) == FOX
    (page,) = links(content(post(client, ask("not-an-image"))))
    assert client.get(page).headers["content-type"] == "text/html; charset=utf-8"


def test_types_of_links(demo: RunningDemo, client: httpx.Client) -> None:
    (png,) = links(content(post(client, ask())))
    assert client.get(png).headers["content-type"] == "image/png"
    (bare,) = links(content(post(client, ask("octet-stream"))))
    assert client.get(bare).headers["content-type"] == "application/octet-stream"
    assert "." not in bare.rpartition("/")[2]


def test_what_is_held_waits_for_its_release(demo: RunningDemo, client: httpx.Client) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post, client, ask("holds")) for _ in range(3)]
        assert demo.state.wait_for_calls(3)
        assert demo.state.in_flight == 3
        assert not any(answer.done() for answer in answers)
        demo.state.release()
        assert [answer.result().status_code for answer in answers] == [200] * 3
    assert demo.state.wait_until_idle()


def test_every_row_is_met_here() -> None:
    """Joined with the tests above: a new row needs its own."""
    inside = {"data-url", "b64-json", "content-parts", "images-field", "content-filter", "holds", "html-504"}
    broken = {
        "breaks-mid-stream",
        "breaks-after-url",
        "broken-json",
        "empty-choices",
        "json-for-stream",
        "stream-for-json",
    }
    late = {"missing-image", "redirects", "cut-image", "not-an-image"}
    met = inside | broken | late | {row.model for row in TOLD} | {row.model for row in FAILURES}
    for row in BEHAVIOURS:
        numbered = {model for model in met if model.startswith(row.name + "-")} if row.default is not None else set()
        assert row.name in met or numbered, row.title


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/chat/completions", 200), ("/chat/completions", 200), ("/v1/images/generations", 404), ("/", 404)],
)
def test_routes(demo: RunningDemo, client: httpx.Client, path: str, status: int) -> None:
    answer = client.post(path, json=ask())
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["message"] == f"Invalid URL (POST {path})"


def test_methods(client: httpx.Client) -> None:
    answer = client.get("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_models(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == [row.title for row in BEHAVIOURS]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"\xff"', b'{"model":NaN}'])
def test_bodies_that_are_no_question(demo: RunningDemo, client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "We could not parse the JSON body of your request."
    assert demo.state.requests[-1].size == len(body)


def test_requests_are_remembered(demo: RunningDemo, client: httpx.Client) -> None:
    body = ask("text-only", user="me")
    client.post("/chat/completions", json=body, headers={"Authorization": "Bearer sk-1"})
    (seen,) = demo.state.requests
    assert (seen.path, seen.body, seen.headers["authorization"]) == ("/chat/completions", body, "Bearer sk-1")


def test_pictures_of_a_question(demo: RunningDemo, client: httpx.Client) -> None:
    (link,) = links(content(post(client, ask())))
    data = as_data_url(picture())
    parts = [
        {"type": "text", "text": "1024x640 'redraw'"},
        shown(data),
        shown(link),
        shown("https://example.com/a.png"),
    ]
    (plain,) = links(content(post(client, ask(content=[parts[0]]))))
    (edited,) = links(content(post(client, ask(content=parts))))
    assert look(client.get(edited).content) == FOX
    assert client.get(edited).content != client.get(plain).content


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,@@", "invalid_image_format"),
        (as_data_url(b"<html>"), "invalid_image_format"),
        ("file:///etc/passwd", "invalid_image_format"),
        ("data:text/plain,hello", "invalid_image_format"),
        ("http://127.0.0.1:1/a.png", "invalid_image_url"),
        ("http://127.0.0.1:port/", "invalid_image_url"),
    ],
)
def test_pictures_that_are_none(demo: RunningDemo, client: httpx.Client, url: str, code: str) -> None:
    answer = post(client, ask(content=[{"type": "text", "text": "x"}, shown(url)]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert demo.state.images_drawn == 0


def test_pictures_that_are_missing(demo: RunningDemo, client: httpx.Client) -> None:
    answer = post(client, ask(content=[{"type": "text", "text": "x"}, shown(demo.url + "/images/none.png")]))
    assert answer.json()["error"]["code"] == "invalid_image_url"


def test_a_size_beyond_the_limits(demo: RunningDemo, client: httpx.Client) -> None:
    answer = post(client, ask(content="512x512 'x'"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")


#: Method, path, headers, JSON.
Asked = tuple[str, str, dict[str, str], Any]


def ask_directly(options: dict[str, Any], *requests: Asked) -> list[httpx.Response]:
    """Without a socket."""
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
        ({}, None),
        ({"Authorization": "Basic sk-right"}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "Bearer sk-wrong"}, "invalid_api_key"),
        ({"Authorization": "Bearer sk-right and more"}, "invalid_api_key"),
    ],
)
def test_keys_that_do_not_fit(header: dict[str, str], code: str | None) -> None:
    for answer in ask_directly(
        {"api_key": "sk-right"},
        ("POST", "/v1/chat/completions", header, ask("text-only")),
        ("GET", "/v1/models", header, None),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)


def test_a_key_that_fits() -> None:
    header = {"Authorization": "bearer sk-right"}
    (answer,) = ask_directly({"api_key": "sk-right"}, ("POST", "/v1/chat/completions", header, ask("text-only")))
    assert answer.status_code == 200


def test_links_point_to_the_public_address_or_to_the_host_of_the_question() -> None:
    request: Asked = ("POST", "/v1/chat/completions", {}, ask())
    (answer,) = ask_directly({"public_url": "https://pictures.example"}, request)
    assert content(answer).startswith("已生成图片:https://pictures.example/images/")
    (answer,) = ask_directly({}, request)
    assert content(answer).startswith("已生成图片:http://demo.test/images/")


def test_pace_is_slept_between_the_pieces() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    asks: list[Asked] = [
        ("POST", "/v1/chat/completions", {}, ask(model, stream=True)) for model in (MODEL, "pace-9", "slow-30")
    ]
    ask_directly({"chunk_pause": 2, "sleep": sleep}, *asks)
    assert set(slept) == {2, 9, 30}
    assert slept.count(30) == 1
