"""`limner paint` against Limner, and against APIs that answer as they should not."""

import base64
import io
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

from app.cli import paint as painting
from app.cli.paint import PaintOptions, Progress, error_text, output_paths, paint
from tests.support.sample_images import noise, saved
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner, serve

PNG = saved(noise((64, 48)), "PNG")
BASE64 = base64.b64encode(PNG).decode()


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo() as running:
        yield running


@pytest.fixture(scope="module")
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(demo.url, api_keys="sk-client") as running:
        yield running


def order(limner: RunningLimner, folder: Path, **more: Any) -> PaintOptions:
    (folder / "key").write_text("sk-client\n")
    defaults = {"out": folder / "out.png", "base_url": f"{limner.url}/v1", "api_key_file": folder / "key"}
    return PaintOptions("a fox", **{**defaults, **more})


def size_and_format(path: Path) -> tuple[tuple[int, int], str | None]:
    with Image.open(path) as image:
        return image.size, image.format


def test_a_picture_is_streamed_into_a_file(
    limner: RunningLimner, demo: RunningDemo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.state.reset()
    assert paint(order(limner, tmp_path, size="1536x1024", quality="low")) == 0
    out, err = capsys.readouterr()
    size = (tmp_path / "out.png").stat().st_size
    assert out.splitlines(keepends=True)[-1] == f"{tmp_path}/out.png: 1536x1024 png, {size:,} bytes\n"
    assert err == f"   0.0 s  {limner.url}/v1 paints\n"
    body = demo.state.requests[-1].body
    assert (body["stream"], body["metadata"], body["messages"][0]["content"]) == (True, {"quality": "low"}, [{"type": "text", "text": "1536x1024 'a fox'"}])  # fmt: skip


def test_several_pictures_get_numbers_and_the_ending_its_format(
    limner: RunningLimner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint(order(limner, tmp_path, n=3, out=tmp_path / "fox.jpg", size="1024x1024")) == 0
    written = sorted(path.name for path in tmp_path.glob("*.jpg"))
    assert written == ["fox-1.jpg", "fox-2.jpg", "fox-3.jpg"]
    assert {size_and_format(tmp_path / name) for name in written} == {((1024, 1024), "JPEG")}
    assert capsys.readouterr().out.count("1024x1024 jpeg") == 3


def test_pictures_make_it_an_edit(limner: RunningLimner, demo: RunningDemo, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.jpg").write_bytes(saved(noise((64, 48)), "JPEG"))
    Image.new("RGBA", (64, 48)).save(tmp_path / "mask.png")
    demo.state.reset()
    files = {"images": (tmp_path / "a.png", tmp_path / "b.jpg"), "mask": tmp_path / "mask.png"}
    assert paint(order(limner, tmp_path, partial_images=1, **files)) == 0
    assert len(demo.state.requests[-1].body["messages"][0]["content"]) == 4
    assert paint(order(limner, tmp_path, stream=False, images=files["images"][:1])) == 0  # type: ignore[index]
    assert demo.state.requests[-1].body["stream"] is False


def test_a_link_is_downloaded_without_the_key(limner: RunningLimner, tmp_path: Path) -> None:
    assert paint(order(limner, tmp_path, model="dall-e-3", stream=False)) == 0
    assert size_and_format(tmp_path / "out.png")[1] == "PNG"


@dataclass(slots=True)
class Api:
    """Answers every question in the same way. Below /gone there is nothing."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    async def answer(self, http: Request) -> Response:
        self.asked.append((http.headers.get("authorization", ""), await http.body()))
        status = 404 if http.url.path == "/gone" else self.status
        return Response(self.body, status, media_type=self.media_type)

    def answers(self, status: int = 200, body: bytes = b"", media_type: str = "application/json") -> "Api":
        self.status, self.body, self.media_type, self.asked = status, body, media_type, []
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
    """`says`: the last line on the standard error."""

    name: str
    body: bytes
    says: str = ""
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
    Case("JSON although a stream was asked for", b'{"data":[{"b64_json":"%b"}]}' % BASE64.encode(), written=1),
    Case("a data URL as base64", b'{"data":[{"b64_json":"data:image/png;base64,%b"}]}' % BASE64.encode(), written=1),
    Case("a data URL as link", b'{"data":[{"url":"data:image/png;base64,%b"}]}' % BASE64.encode(), written=1),
    Case("events", events(EARLY, EARLY, DONE), "partial picture 2", stream=True, written=1),
    Case("events without names, and an end that says so", b": hello\n\n" + NAMELESS, "partial picture 1", stream=True, written=1),
    Case("an event nobody knows", events(("ping", {}), DONE), stream=True, written=1),
    Case("fewer than asked for", b'{"data":[{"b64_json":"%b"}]}' % BASE64.encode(), "limner paint: 1 of 4 pictures came", n=4, written=1),
    Case("an error", b'{"error":{"message":"Try\\nanother.","type":"t","code":"moderation_blocked"}}', "limner paint: 400 moderation_blocked: Try another.", 400),
    Case("an error without a code", b'{"error":{"message":"No.","type":"invalid_request_error","code":null}}', "limner paint: 401 invalid_request_error: No. (--api-key-file names the file that holds your key)", 401),
    Case("an error of something in between", b"<html>Bad Gateway</html>", "limner paint: 502 <html>Bad Gateway</html>", 502),
    Case("an error without a word", b"", "limner paint: 500 and no word", 500),
    Case("an error event", events(("error", {"error": {"message": "Busy.", "code": "upstream_overloaded"}})), "limner paint: upstream_overloaded: Busy.", stream=True),
    Case("an error without a name", b'data: {"error":{"message":"Busy."}}\n\n', "limner paint: error: Busy.", stream=True),
    Case("a stream that ends early", events(EARLY) + b"data: [DONE]\n\n", "limner paint: the stream ended without a picture", stream=True),
    Case("an event that is no JSON", b"data: {\n\n", "limner paint: an answer that is not JSON: {", stream=True),
    Case("an answer that began before it failed", b' {"error":{"message":"Too late."}}!', 'limner paint: an answer that is not JSON: {"error":{"message":"Too late."}}!'),
    Case("an error that calls itself a success", b'{"error":{"message":"No."}}', "limner paint: an answer without pictures: error: No."),
    Case("an empty list", b'{"data":[]}', 'limner paint: an answer without pictures: {"data":[]}'),
    Case("a list of texts", b'{"data":["a"]}', 'limner paint: an answer without pictures: {"data":["a"]}'),
    Case("a number", b"7", "limner paint: an answer without pictures: 7"),
    Case("an item without a picture", b'{"data":[{}]}', "limner paint: an answer with neither b64_json nor url"),
    Case("base64 that is none", b'{"data":[{"b64_json":"%%%"}]}', "limner paint: a picture whose base64 cannot be read"),
    Case("bytes that are no picture", b'{"data":[{"b64_json":"AAAA"}]}', written=1),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_becomes_of_an_answer(api: Api, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers(case.status, case.body, "text/event-stream" if case.stream else "application/json")
    code = paint(PaintOptions("a fox", tmp_path / "out.png", api.url, n=case.n))
    out, err = capsys.readouterr()
    assert code == int(case.says.startswith("limner paint"))
    assert err.splitlines()[-1].endswith(case.says)
    assert len(list(tmp_path.iterdir())) == len(out.splitlines()) == case.written
    assert api.asked[0][0] == "Bearer limner"


def test_only_what_was_said_is_sent(api: Api, tmp_path: Path) -> None:
    plainest = PaintOptions("a fox", tmp_path / "out.png", api.answers(500).url, stream=False)
    paint(plainest)
    paint(replace(plainest, out=tmp_path / "o.webp", size="auto", quality="high", partial_images=2, stream=True))
    paint(replace(plainest, n=2, stream=True))
    plain, full, several = (orjson.loads(body) for _, body in api.asked)
    assert plain == {"model": "gpt-image-2", "prompt": "a fox"}
    assert full == plain | {"size": "auto", "quality": "high", "output_format": "webp", "stream": True, "partial_images": 2}  # fmt: skip
    assert several == plain | {"n": 2}


def test_one_picture_is_image_and_several_are_a_list(api: Api, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b").write_bytes(b"no picture")
    for pictures in ((tmp_path / "a.png",), (tmp_path / "a.png", tmp_path / "b")):
        paint(PaintOptions("a fox", tmp_path / "out.png", api.url, images=pictures))
    one, two = (body for _, body in api.asked)
    assert b'name="image"; filename="a.png"\r\nContent-Type: image/png' in one
    assert b'name="stream"\r\n\r\ntrue' in one
    assert b'name="image[]"; filename="b"\r\nContent-Type: application/octet-stream' in two


def test_a_link_that_leads_nowhere(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = f"{api.url}/gone"
    api.answers(body=orjson.dumps({"data": [{"url": link}]}))
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url)) == 1
    said = f"limner paint: the picture was painted, but its address answers 404: {link}\n"
    assert capsys.readouterr().err.endswith(said)
    assert api.asked[1:] == [("", b"")]


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a mask without a picture": ({"mask": Path("mask.png")}, "--mask needs an --image"),
    "a picture that is not there": ({"images": (Path("/none.png"),)}, "/none.png: No such file or directory"),
    "a key that is not there": ({"api_key_file": Path("/none")}, "/none: No such file or directory"),
    "a folder that is not there": ({"out": Path("/none/out.png")}, "no such folder: /none"),
    "an address without a scheme": ({"base_url": "127.0.0.1:8000"}, "not an address: 127.0.0.1:8000"),
    "an address that is none": ({"base_url": "http://[::1"}, "not an address: http://[::1"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_command_that_cannot_be_carried_out_sends_nothing(
    name: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, says = UNUSABLE[name]
    assert paint(replace(PaintOptions("a fox", tmp_path / "out.png", api.url), **changes)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"limner paint: {says}"
    assert api.asked == []


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert paint(PaintOptions("a fox", tmp_path / "out.png", url)) == 1
    assert capsys.readouterr().err.endswith(f"limner paint: nobody answers at {url}\n")


BROKEN: dict[str, tuple[type[BaseException], int, str]] = {
    "a lost connection": (httpx.ReadError, 1, "limner paint: the connection broke (ReadError); the picture may have been painted\n"),
    "nothing comes": (httpx.ReadTimeout, 1, "limner paint: silence for 900 s; the picture may have been painted\n"),
    "Ctrl-C": (KeyboardInterrupt, 130, " paints\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_question_that_does_not_end_well(
    name: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, code, says = BROKEN[name]

    def fail(response: httpx.Response, progress: Progress) -> None:
        raise kind("broken")

    monkeypatch.setattr(painting, "read_response", fail)
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url)) == code
    assert capsys.readouterr().err.endswith(says)


def test_a_file_that_cannot_be_written(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.png").mkdir()
    api.answers(body=b'{"data":[{"b64_json":"AAAA"}]}')
    assert paint(PaintOptions("a fox", tmp_path / "out.png", api.url)) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_the_line_is_drawn_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def flush(self) -> None:
            if self.getvalue().count("\r") == 3:
                enough.set()

    terminal, enough = Terminal(), threading.Event()
    monkeypatch.setattr(painting, "_REDRAW_INTERVAL", 0)
    with painting.live_progress(Progress(terminal)):
        assert enough.wait(10)


def test_names() -> None:
    assert list(output_paths(Path("a/b.png"), 1)) == [Path("a/b.png")]
    assert list(output_paths(Path("a/b.png"), 2)) == [Path("a/b-1.png"), Path("a/b-2.png")]
    assert list(output_paths(Path("b"), 2)) == [Path("b-1"), Path("b-2")]


def test_a_complaint_is_one_line_of_visible_letters() -> None:
    assert error_text(b"a\x1b[31m\nb") == "a[31m b"
    assert error_text(b"a" * 501) == "a" * 499 + "…"
    assert error_text(b'{"error":"a"}') == '{"error":"a"}'
