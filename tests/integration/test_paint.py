"""`limner paint` against Limner, and against APIs with unexpected responses."""

import base64
import errno
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.cli import terminal as terminal_module
from app.cli.paint import PaintOptions, error_text, output_paths, paint
from app.cli.terminal import Progress, live_progress
from tests.support.sample_images import noise, saved
from tests.support.servers import RunningDemo, RunningLimner, run_limner, serve
from tests.support.terminal import Terminal

PNG = saved(noise((64, 48)), "PNG")
BASE64 = base64.b64encode(PNG).decode()


@pytest.fixture(scope="module")
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(demo.url, api_keys="sk-client") as running:
        yield running


def options(limner: RunningLimner, folder: Path, **more: Any) -> PaintOptions:
    (folder / "key").write_text("sk-client\n")
    defaults = {"out": folder / "out.png", "base_url": f"{limner.url}/v1", "api_key_file": folder / "key"}
    return PaintOptions("a fox", **{**defaults, **more})


def size_and_format(path: Path) -> tuple[tuple[int, int], str | None]:
    with Image.open(path) as image:
        return image.size, image.format


def test_an_image_is_streamed_into_a_file(
    limner: RunningLimner, demo: RunningDemo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.state.reset()
    assert paint(options(limner, tmp_path, size="1536x1024", quality="low")) == 0
    out, err = capsys.readouterr()
    size = (tmp_path / "out.png").stat().st_size
    assert out.splitlines(keepends=True)[-1] == f"{tmp_path}/out.png: 1536x1024 png, {size:,} bytes\n"
    assert err == f"   0.0 s  waiting for {limner.url}/v1\n"
    body = demo.state.requests[-1].body
    assert (body["stream"], body["metadata"], body["messages"][0]["content"]) == (True, {"quality": "low"}, [{"type": "text", "text": "1536x1024 'a fox'"}])  # fmt: skip


def test_several_images_are_numbered_and_have_the_format_of_the_suffix(
    limner: RunningLimner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint(options(limner, tmp_path, n=3, out=tmp_path / "fox.jpg", size="1024x1024")) == 0
    written = sorted(path.name for path in tmp_path.glob("*.jpg"))
    assert written == ["fox-1.jpg", "fox-2.jpg", "fox-3.jpg"]
    assert {size_and_format(tmp_path / name) for name in written} == {((1024, 1024), "JPEG")}
    assert capsys.readouterr().out.count("1024x1024 jpeg") == 3


def test_images_make_the_request_an_edit(limner: RunningLimner, demo: RunningDemo, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.jpg").write_bytes(saved(noise((64, 48)), "JPEG"))
    Image.new("RGBA", (64, 48)).save(tmp_path / "mask.png")
    demo.state.reset()
    files = {"images": (tmp_path / "a.png", tmp_path / "b.jpg"), "mask": tmp_path / "mask.png"}
    assert paint(options(limner, tmp_path, partial_images=1, **files)) == 0
    assert len(demo.state.requests[-1].body["messages"][0]["content"]) == 4
    assert paint(options(limner, tmp_path, stream=False, images=files["images"][:1])) == 0  # type: ignore[index]
    assert demo.state.requests[-1].body["stream"] is False


def test_a_link_is_downloaded_without_the_key(limner: RunningLimner, tmp_path: Path) -> None:
    assert paint(options(limner, tmp_path, model="dall-e-3", stream=False)) == 0
    assert size_and_format(tmp_path / "out.png")[1] == "PNG"


@dataclass(slots=True)
class Api:
    """A server that sends the same response to every request. At /gone there is nothing."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    requests: list[tuple[str, bytes]] = field(default_factory=list)

    async def answer(self, http: Request) -> Response:
        self.requests.append((http.headers.get("authorization", ""), await http.body()))
        status = 404 if http.url.path == "/gone" else self.status
        return Response(self.body, status, media_type=self.media_type)

    def answers(self, status: int = 200, body: bytes = b"", media_type: str = "application/json") -> "Api":
        self.status, self.body, self.media_type, self.requests = status, body, media_type, []
        return self


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    api = Api()
    with serve(Starlette(routes=[Route("/{path:path}", api.answer, methods=["GET", "POST"])])) as url:
        api.url = url
        yield api


@pytest.fixture
def api(server: Api) -> Api:
    return server.answers()


@dataclass(frozen=True, slots=True)
class Case:
    """`line`: the end of the last line on the standard error. `written`: how many files are written."""

    name: str
    body: bytes
    line: str = ""
    status: int = 200
    stream: bool = False
    n: int = 1
    written: int = 0


def events(*items: tuple[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data)) for name, data in items)


DONE = ("image_generation.completed", {"type": "image_generation.completed", "b64_json": BASE64})
EARLY = ("image_generation.partial_image", {"b64_json": BASE64})
NAMELESS = b"".join(b"data: %b\n\n" % orjson.dumps({"type": name, "b64_json": BASE64}) for name, _ in (EARLY, DONE))

CASES = [
    Case("JSON although a stream was requested", b'{"data":[{"b64_json":"%b"}]}' % BASE64.encode(), written=1),
    Case("a data URL as base64", b'{"data":[{"b64_json":"data:image/png;base64,%b"}]}' % BASE64.encode(), written=1),
    Case("a data URL as link", b'{"data":[{"url":"data:image/png;base64,%b"}]}' % BASE64.encode(), written=1),
    Case("events", events(EARLY, EARLY, DONE), "partial image 2", stream=True, written=1),
    Case("events without names, and an end that says so", b": hello\n\n" + NAMELESS, "partial image 1", stream=True, written=1),
    Case("an unknown event", events(("ping", {}), DONE), stream=True, written=1),
    Case("fewer images than requested", b'{"data":[{"b64_json":"%b"}]}' % BASE64.encode(), "limner paint: the server sent 1 of 4 images", n=4, written=1),
    Case("an error", b'{"error":{"message":"Try\\nanother.","type":"t","code":"moderation_blocked"}}', "limner paint: 400 moderation_blocked: Try another.", 400),
    Case("an error without a code", b'{"error":{"message":"No.","type":"invalid_request_error","code":null}}', "limner paint: 401 invalid_request_error: No. (set OPENAI_API_KEY to your key, or name its file with --api-key-file)", 401),
    Case("an error of a proxy", b"<html>Bad Gateway</html>", "limner paint: 502 <html>Bad Gateway</html>", 502),
    Case("an error without a body", b"", "limner paint: 500 without a message", 500),
    Case("an error event", events(("error", {"error": {"message": "Busy.", "code": "upstream_overloaded"}})), "limner paint: upstream_overloaded: Busy.", stream=True),
    Case("an error without a name", b'data: {"error":{"message":"Busy."}}\n\n', "limner paint: error: Busy.", stream=True),
    Case("a stream that ends early", events(EARLY) + b"data: [DONE]\n\n", "limner paint: the stream ended without an image", stream=True),
    Case("an event that is no JSON", b"data: {\n\n", "limner paint: the response is not JSON: {", stream=True),
    Case("a response that began before it failed", b' {"error":{"message":"Too late."}}!', 'limner paint: the response is not JSON: {"error":{"message":"Too late."}}!'),
    Case("an error with a successful status", b'{"error":{"message":"No."}}', "limner paint: the response has no images: error: No."),
    Case("an empty list", b'{"data":[]}', 'limner paint: the response has no images: {"data":[]}'),
    Case("a list of texts", b'{"data":["a"]}', 'limner paint: the response has no images: {"data":["a"]}'),
    Case("a number", b"7", "limner paint: the response has no images: 7"),
    Case("an item without an image", b'{"data":[{}]}', "limner paint: the response has neither b64_json nor url"),
    Case("a link that is no address", b'{"data":[{"url":"http://[::1"}]}', "limner paint: the image was generated, but its address cannot be used: http://[::1"),
    Case("invalid base64", b'{"data":[{"b64_json":"%%%"}]}', "limner paint: the image is not valid base64"),
    Case("bytes that are no image", b'{"data":[{"b64_json":"AAAA"}]}', written=1),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_response_is_written_or_described_in_a_line(
    api: Api, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers(case.status, case.body, "text/event-stream" if case.stream else "application/json")
    code = paint(PaintOptions("a fox", tmp_path / "out.png", api.url, n=case.n))
    is_error = case.line.startswith("limner paint")
    out, err = capsys.readouterr()
    assert code == int(is_error)
    assert err.splitlines()[-1].endswith(
        f"{case.line.removesuffix('.')}. See docs/errors.md" if is_error else case.line
    )
    assert len(list(tmp_path.iterdir())) == len(out.splitlines()) == case.written
    assert api.requests[0][0] == "Bearer limner"


def test_only_given_fields_are_sent(api: Api, tmp_path: Path) -> None:
    plainest = PaintOptions("a fox", tmp_path / "out.png", api.answers(500).url, stream=False)
    paint(plainest)
    paint(replace(plainest, out=tmp_path / "o.webp", size="auto", quality="high", partial_images=2, stream=True))
    paint(replace(plainest, n=2, stream=True))
    plain, full, several = (orjson.loads(body) for _, body in api.requests)
    assert plain == {"model": "gpt-image-2", "prompt": "a fox"}
    assert full == plain | {"size": "auto", "quality": "high", "output_format": "webp", "stream": True, "partial_images": 2}  # fmt: skip
    assert several == plain | {"n": 2}


def test_one_image_is_a_field_and_several_are_a_list(api: Api, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b").write_bytes(b"no image")
    for images in ((tmp_path / "a.png",), (tmp_path / "a.png", tmp_path / "b")):
        paint(PaintOptions("a fox", tmp_path / "out.png", api.url, images=images))
    one, two = (body for _, body in api.requests)
    assert b'name="image"; filename="a.png"\r\nContent-Type: image/png' in one
    assert b'name="stream"\r\n\r\ntrue' in one
    assert b'name="image[]"; filename="b"\r\nContent-Type: application/octet-stream' in two


def test_a_link_to_nothing(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = f"{api.url}/gone"
    api.answers(body=orjson.dumps({"data": [{"url": link}]}))
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url)) == 1
    line = f"limner paint: the image was generated, but its address answers 404: {link}. See docs/errors.md\n"
    assert capsys.readouterr().err.endswith(line)
    assert api.requests[1:] == [("", b"")]


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a mask without an image": ({"mask": Path("mask.png")}, "--mask needs an --image"),
    "an image that is not there": ({"images": (Path("/none.png"),)}, "/none.png: No such file or directory"),
    "a key that is not there": ({"api_key_file": Path("/none")}, "/none: No such file or directory"),
    "a folder that is not there": ({"out": Path("/none/out.png")}, "no such folder: /none"),
    "a folder in place of a file": ({"out": Path("/")}, "/: cannot be written"),
    "no time at all": ({"timeout": 0.0}, "--timeout: expected 1 to 86400 seconds"),
    "a time that is no number": ({"timeout": float("nan")}, "--timeout: expected 1 to 86400 seconds"),
    "a time without an end": ({"timeout": float("inf")}, "--timeout: expected 1 to 86400 seconds"),
    "an address without a scheme": ({"base_url": "127.0.0.1:8000"}, "not an http(s) address: 127.0.0.1:8000"),
    "an address without a host": ({"base_url": "http:/v1"}, "not an http(s) address: http:/v1"),
    "an address that is none": ({"base_url": "http://[::1"}, "not an http(s) address: http://[::1"),
}


BAD_KEYS = {
    "that is not UTF-8": b"\xff\xfe",
    "with a letter beyond ASCII": "sk-é".encode(),
    "of two lines": b"sk-a\nsk-b\n",
    "that is empty": b"\n",
}


@pytest.mark.parametrize("name", BAD_KEYS)
@pytest.mark.parametrize("is_file", [True, False])
def test_a_key_that_cannot_be_sent_is_one_line(
    name: str, is_file: bool, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(BAD_KEYS[name])
    text = BAD_KEYS[name].decode("utf-8", "surrogateescape")
    key: dict[str, Any] = {"api_key_file": tmp_path / "key"} if is_file else {"api_key": text}
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url, **key)) == 2
    location = tmp_path / "key" if is_file else "OPENAI_API_KEY"
    line = f"limner paint: {location}: a key is one line of visible ASCII characters. See docs/cli.md\n"
    assert capsys.readouterr().err == line
    assert api.requests == []


def test_the_key_of_the_environment_is_sent(api: Api, tmp_path: Path) -> None:
    paint(PaintOptions("a fox", tmp_path / "out.png", api.url, api_key="sk-a"))
    assert api.requests[0][0] == "Bearer sk-a"


@pytest.mark.parametrize("name", UNUSABLE)
def test_wrong_usage_sends_nothing(name: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, message = UNUSABLE[name]
    assert paint(replace(PaintOptions("a fox", tmp_path / "out.png", api.url), **changes)) == 2
    assert capsys.readouterr().err == f"limner paint: {message}. See docs/cli.md\n"
    assert api.requests == []


@pytest.mark.parametrize("exists", [True, False], ids=["a file that is there", "a new file"])
def test_nothing_is_paid_for_that_cannot_be_written(
    exists: bool, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`root`, who may run the tests, may write everywhere."""
    second = tmp_path / "out-2.png"
    if exists:
        second.write_bytes(b"")
    denied = second if exists else tmp_path
    monkeypatch.setattr("os.access", lambda path, _: path != denied)
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url, n=2)) == 2
    path = second if exists else tmp_path / "out-1.png"
    assert capsys.readouterr().err == f"limner paint: {path}: cannot be written. See docs/cli.md\n"
    assert api.requests == []


def test_no_server_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert paint(PaintOptions("a fox", tmp_path / "out.png", url)) == 1
    line = f"limner paint: no server answers at {url}. Name another one with --base-url or OPENAI_BASE_URL. See docs/errors.md\n"
    assert capsys.readouterr().err.endswith(line)


BROKEN: dict[str, tuple[type[BaseException], int, str]] = {
    "a lost connection": (httpx.ReadError, 1, "limner paint: the connection broke (ReadError); the image may have been generated. See docs/errors.md\n"),
    "no data": (httpx.ReadTimeout, 1, "limner paint: no data for 900 s; the image may have been generated. See docs/errors.md\n"),
    "Ctrl-C": (KeyboardInterrupt, 130, "waiting for URL\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_request_that_does_not_end_well(
    name: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, code, line = BROKEN[name]

    def fail(response: httpx.Response, progress: Progress) -> None:
        raise kind("broken")

    monkeypatch.setattr("app.cli.paint.read_response", fail)
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url)) == code
    assert capsys.readouterr().err.endswith(line.replace("URL", api.url))


def test_a_disk_that_is_full_at_the_end_is_one_line(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    api.answers(body=b'{"data":[{"b64_json":"AAAA"}]}')
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url)) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_the_line_is_drawn_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class WatchedTerminal(Terminal):
        def flush(self) -> None:
            if self.getvalue().count("\r") == 3:
                enough.set()

    terminal, enough = WatchedTerminal(), threading.Event()
    monkeypatch.setattr(terminal_module, "_REDRAW_INTERVAL", 0)
    with live_progress(Progress(terminal)):
        assert enough.wait(10)


def test_several_images_get_numbers_in_their_names() -> None:
    assert list(output_paths(Path("a/b.png"), 1)) == [Path("a/b.png")]
    assert list(output_paths(Path("a/b.png"), 2)) == [Path("a/b-1.png"), Path("a/b-2.png")]
    assert list(output_paths(Path("b"), 2)) == [Path("b-1"), Path("b-2")]


def test_an_error_text_is_one_line_of_visible_characters() -> None:
    assert error_text(b"a\x1b[31m\nb") == "a[31m b"
    assert error_text(b"a" * 501) == "a" * 499 + "…"
    assert error_text(b'{"error":"a"}') == '{"error":"a"}'
