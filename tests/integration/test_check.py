"""`limner check` against the demo upstream, and against addresses where there is none."""

import asyncio
import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.cli import check as check_module
from app.cli.check import CheckFailed, TimingTransport, check_tls, describe_model, run_checks
from app.config.settings import Settings
from app.demo.app import create_demo
from tests.support.certificates import CERTIFICATE, KEY
from tests.support.servers import RunningDemo, RunningLimner, run_demo, run_limner, serve


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo(api_key="sk-upstream") as running:
        yield running


@dataclass(frozen=True, slots=True)
class Case:
    """`lines` are the starts of the lines that are printed; HOST is the demo's host and port, URL its address."""

    name: str
    settings: dict[str, Any]
    lines: tuple[str, ...]
    code: int = 0
    paint: bool = False


KEYED = {"upstream_api_key": "sk-upstream"}
NO_IMAGE = "      No image was generated: limner check --paint does that, and costs one image."
STORED = "ok    store    an image was written and read; this server serves it ("
REACHED = (
    STORED,
    "ok    address  HOST is 127.0.0.1; name ",
    "ok    tls      none: with plain http the key is sent unencrypted (",
)
ACCEPTED = (*REACHED, "ok    key      accepted; gpt-image-2-chat is among its ")

CASES = [
    Case("all checks pass", KEYED, (*ACCEPTED, NO_IMAGE)),
    Case("without an upstream key", {}, (*REACHED, "ok    key      none: LIMNER_UPSTREAM_API_KEY is unset, callers bring their own (", NO_IMAGE)),
    Case("a wrong key", {"upstream_api_key": "sk-wrong"}, (*REACHED, "FAIL  key      the upstream refuses LIMNER_UPSTREAM_API_KEY with status 401"), 1),
    Case("a wrong key in the variable for clients", {"api_keys": "sk-upstream", "upstream_api_key": "sk-wrong"}, (*REACHED, "FAIL  key      the upstream refuses LIMNER_UPSTREAM_API_KEY with status 401"), 1),
    Case("a model that is not listed", KEYED | {"upstream_model": "nothing"}, (*REACHED, "ok    key      accepted; nothing is NOT among its ", NO_IMAGE)),
    Case("an address without the list", KEYED | {"upstream_base_url": "URL/v2"}, (*REACHED, "ok    key      not checked: GET /models answers 404. The upstream says: Invalid URL (GET /v2/models) (", NO_IMAGE)),
    Case("an image", KEYED, (*ACCEPTED, "ok    paint    1024x1024 png, found as "), paint=True),
    Case("an image although clients need a key, known by its digest", KEYED | {"api_keys": f"sha256:{'a' * 64}"}, (*ACCEPTED, "ok    paint    1024x1024 png, found as "), paint=True),
    Case("a model that the upstream does not have", KEYED | {"upstream_model": "nothing"}, (*REACHED, "ok    key      accepted; nothing is NOT", "FAIL  paint    The upstream does not offer the model that this server asks for. Only the operator of this server can mend that. See LIMNER_UPSTREAM_MODEL"), 1, paint=True),
    Case("a model that refuses", KEYED | {"upstream_model": "refuses-400"}, (*REACHED, "ok    key      accepted; refuses-400 is among", "FAIL  paint    Your request was rejected by the safety system"), 1, paint=True),
    Case("an image without an upstream key", {}, (*REACHED, "ok    key      none", "FAIL  paint    LIMNER_UPSTREAM_API_KEY is unset, so there is no key to pay with"), 1, paint=True),
    Case("an image store that cannot be opened, which costs no image", KEYED | {"image_store": "disk:///dev/null/images"}, ("FAIL  store    LIMNER_IMAGE_STORE cannot be opened: [Errno 20] Not a directory: '/dev/null/images'",), 1, paint=True),
    Case("an image store that cannot be opened and is only needed for results", KEYED | {"rehost": "never", "image_store": "disk:///dev/null/images"}, (*ACCEPTED[1:], "FAIL  paint    LIMNER_IMAGE_STORE cannot be opened: [Errno 20] Not a directory: '/dev/null/images'"), 1, paint=True),
]  # fmt: skip


def settings(url: str, folder: Path, **more: Any) -> Settings:
    defaults = {"upstream_base_url": f"{url}/v1", "image_store": f"disk://{folder}/store"}
    allowed = {"fetch_allow": url.partition("//")[2]}
    return Settings(**{**defaults, **allowed, **more})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_check_prints_a_line(
    demo: RunningDemo, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {name: value.replace("URL", demo.url) for name, value in case.settings.items()}
    assert run_checks(settings(demo.url, tmp_path, **given), with_generation=case.paint) == case.code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok ", "FAIL ", "   "))]
    for line, expected in zip(lines, case.lines, strict=True):
        assert line.startswith(expected.replace("HOST", demo.url.removeprefix("http://")))
    assert "sk-" not in "".join(lines)


def test_no_image_is_paid_for_without_the_option(demo: RunningDemo, tmp_path: Path) -> None:
    demo.state.reset()
    run_checks(settings(demo.url, tmp_path, **KEYED), with_generation=False)
    assert demo.state.calls == 0
    run_checks(settings(demo.url, tmp_path, **KEYED), with_generation=True)
    assert demo.state.calls == 1
    assert demo.state.requests[0].body["metadata"] == {"quality": "low"}


@pytest.mark.parametrize("paint", [False, True])
def test_the_generation_comes_last(
    paint: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def paint_one(_: Settings) -> str:
        return "done"

    monkeypatch.setattr(check_module, "UPSTREAM_CHECKS", [])
    monkeypatch.setattr("app.cli.check.environment_checks", lambda _: [])
    monkeypatch.setattr(check_module, "check_generation", paint_one)
    assert run_checks(settings("http://127.0.0.1:9", tmp_path), with_generation=paint) == 0
    assert capsys.readouterr().out.startswith("ok    paint    done (" if paint else NO_IMAGE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an upstream answers to GET /models, and to a chat request."""

    name: str
    status: int
    body: Any
    line: str


SAYS = "The upstream says: "
KEY_STEP = [
    Answer("a bare 403", 403, {"message": "Forbidden"}, f"ok    key      not checked: GET /models answers 403. {SAYS}Forbidden ("),
    Answer("a 403 about the key", 403, {"error": {"message": "This API key has been disabled."}}, f"FAIL  key      the upstream refuses LIMNER_UPSTREAM_API_KEY with status 403. {SAYS}This API key has been disabled."),
    Answer("a 401 with words", 401, {"error": {"message": "Invalid token. Ask sk-upstream-admin at 10.0.0.7"}}, f"FAIL  key      the upstream refuses LIMNER_UPSTREAM_API_KEY with status 401. {SAYS}Invalid token."),
    Answer("a 402", 402, {"error": {"message": "Top up first."}}, f"FAIL  key      This server's account with the upstream has no credit left. See LIMNER_UPSTREAM_API_KEY. {SAYS}Top up first."),
    Answer("a redirect to https", 301, b"", "FAIL  key      The upstream redirects elsewhere (status 301), which is not followed. Only the operator of this server can mend that. It redirects to https://h/v1/models. See LIMNER_UPSTREAM_BASE_URL"),
    Answer("http in place of https", 400, b"Client sent an HTTP request to an HTTPS server.", "FAIL  key      The upstream has to be reached by https, and this server uses http (status 400). Only the operator of this server can mend that. See LIMNER_UPSTREAM_BASE_URL"),
    Answer("a page in place of an API", 200, b"<!doctype html><html><head><title>Console</title></head></html>", "ok    key      not checked: GET /models answers a web page. If there is no API at this address, see LIMNER_UPSTREAM_BASE_URL, which ends in /v1 at most upstreams ("),
    Answer("a page of a firewall", 403, b"<html><title>Just a moment...</title></html>", "ok    key      not checked: GET /models answers 403 ("),
]  # fmt: skip
PAINT_STEP = [
    Answer("a model that is not there", 404, {"error": {"message": "The model `x` does not exist or you do not have access to it."}}, f"FAIL  paint    The upstream does not offer the model that this server asks for. Only the operator of this server can mend that. See LIMNER_UPSTREAM_MODEL. {SAYS}The model `x` does not exist or you do not have access to it."),
    Answer("a field of the dialect", 400, {"error": {"message": "Unknown parameter: 'metadata'.", "param": "metadata"}}, f"FAIL  paint    The upstream does not accept the field 'metadata', which this server writes. Only the operator of this server can mend that. See LIMNER_UPSTREAM_DIALECT. {SAYS}Unknown parameter: 'metadata'."),
    Answer("an address without an API", 404, b"<html>nginx</html>", "FAIL  paint    The upstream has nothing at the configured address (status 404). Only the operator of this server can mend that. See LIMNER_UPSTREAM_BASE_URL"),
    Answer("a failure in the upstream's words", 500, {"error": {"message": "Out of GPUs at http://10.0.0.7/."}}, f"FAIL  paint    The upstream answered with an error (status 500). {SAYS}Out of GPUs at"),
    Answer("a complaint, whose words are the message", 400, {"error": {"message": "Too bright."}}, "FAIL  paint    Too bright."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "step"),
    [*((answer, "key") for answer in KEY_STEP), *((answer, "paint") for answer in PAINT_STEP)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_upstreams_own_words_are_quoted(
    answer: Answer, step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)

    async def respond(_: Request) -> Response:
        return Response(body, answer.status, {"location": "https://h/v1/models"})

    async def hide(_: Request) -> Response:
        return Response(status_code=404)

    models = Route("/v1/models", respond if step == "key" else hide)
    with serve(Starlette(routes=[models, Route("/v1/chat/completions", respond, methods=["POST"])])) as url:
        given = settings(url, tmp_path, upstream_api_key="sk-upstream", upstream_attempts=1)
        run_checks(given, with_generation=step == "paint")
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.split()[1:2] == [step])
    assert line.startswith(answer.line)
    assert not re.search("10.0.0.7|sk-upstream", line)


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line that was printed."""
    return capsys.readouterr().out.splitlines()[-1]


def test_a_port_where_nothing_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        assert run_checks(settings(f"http://{address}", tmp_path), with_generation=False) == 1
    assert failure(capsys) == f"FAIL  address  nothing listens at {address}. See LIMNER_UPSTREAM_BASE_URL"


@pytest.mark.parametrize(("url", "where"), [("http://upstream.invalid", "upstream.invalid:80"), ("https://upstream.invalid", "upstream.invalid:443")])  # fmt: skip
def test_a_host_name_that_does_not_exist(
    url: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_checks(settings(url, tmp_path, fetch_allow=""), with_generation=False) == 1
    line = failure(capsys)
    assert line.startswith(f"FAIL  address  cannot reach {where}: ")
    assert "Name or service not known" in line


def test_an_address_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(host: str, port: int, **_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", wait)
    quick = settings("http://192.0.2.1:81", tmp_path, upstream_connect_timeout=0.01)
    assert run_checks(quick, with_generation=False) == 1
    assert failure(capsys) == "FAIL  address  no answer from 192.0.2.1:81 within LIMNER_UPSTREAM_CONNECT_TIMEOUT"


def test_https_on_a_port_that_speaks_plain_http(
    demo: RunningDemo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_checks(settings(demo.url.replace("http:", "https:"), tmp_path), with_generation=False) == 1
    line = failure(capsys)
    assert line.startswith("FAIL  tls      no TLS with 127.0.0.1: [SSL")
    assert line.endswith(". If it speaks plain http, see LIMNER_UPSTREAM_BASE_URL")


def test_https_on_a_port_that_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert run_checks(settings(url, tmp_path), with_generation=False) == 1
        thread.join()
    line = failure(capsys)
    assert line.startswith("FAIL  tls      no TLS with 127.0.0.1: Connection")
    assert line.endswith(". If it speaks plain http, see LIMNER_UPSTREAM_BASE_URL")


@contextmanager
def tls_upstream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the demo upstream behind TLS as `cdn.test`, with a self-signed certificate, and yield its base URL."""
    for name, text in (("key.pem", KEY), ("certificate.pem", CERTIFICATE)):
        (folder / name).write_text(text)
    config = uvicorn.Config(
        create_demo(api_key="sk-upstream"),
        ssl_keyfile=folder / "key.pem",
        ssl_certfile=str(folder / "certificate.pem"),
        log_config=None,
        lifespan="off",
    )
    found = socket.getaddrinfo

    def find(host: Any, *more: Any, **named: Any) -> Any:
        return found("127.0.0.1" if host in {"cdn.test", b"cdn.test"} else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", find)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"https://cdn.test:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_a_certificate_that_is_not_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_upstream(tmp_path, monkeypatch) as url:
        assert run_checks(settings(url, tmp_path), with_generation=False) == 1
    assert failure(capsys).startswith("FAIL  tls      no TLS with cdn.test: [SSL: CERTIFICATE_VERIFY_FAILED]")


def test_a_certificate_that_the_operator_trusts_is_valid_for_every_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    with tls_upstream(tmp_path, monkeypatch) as url:
        assert run_checks(settings(url, tmp_path, **KEYED), with_generation=False) == 0
    _, _, tls, key, _ = capsys.readouterr().out.splitlines()
    assert tls.startswith("ok    tls      TLSv1.3, certificate valid for cdn.test; handshake ")
    assert key.startswith("ok    key      accepted; gpt-image-2-chat is among its ")


def test_an_upstream_that_closes_the_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert run_checks(settings(url, tmp_path, **KEYED), with_generation=False) == 1
        thread.join()
    assert failure(capsys) == "FAIL  key      no answer to GET /models: RemoteProtocolError"


def hang_up(listener: socket.socket) -> None:
    """Close two connections: the first only checks the address, the second has a request."""
    for _ in range(2):
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)


LISTS: dict[str, tuple[bytes, str]] = {
    "the model is there": (b'{"data":[{"id":"a"},{"id":"b"}]}', "a is among its 2 models"),
    "the model is not there": (b'{"data":[{"id":"b"}]}', "a is NOT among its 1 models"),
    "an empty list": (b'{"data":[]}', "a is NOT among its 0 models"),
    "no JSON": (b"<html>", "its list of models cannot be read"),
    "a list without its frame": (b'[{"id":"a"}]', "its list of models cannot be read"),
    "an entry without a name": (b'{"data":[{"name":"a"}]}', "its list of models cannot be read"),
    "names alone": (b'{"data":["a"]}', "its list of models cannot be read"),
    "a number": (b"7", "its list of models cannot be read"),
    "names that are lists": (b'{"data":[{"id":["a"]}]}', "its list of models cannot be read"),
}


@pytest.mark.parametrize("name", LISTS)
def test_whether_the_model_is_listed(name: str) -> None:
    body, text = LISTS[name]
    assert describe_model(body, "a") == text


def test_each_of_several_upstreams_is_checked_until_the_first_failure(
    demo: RunningDemo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"name": "good", "base_url": f"{demo.url}/v1", "api_key": "sk-upstream"}
    gone = {"name": "gone", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-gone"}
    wrong = {**good, "name": "wrong", "api_key": "sk-wrong"}
    mapped = {**good, "name": "mapped", "models": {"fine": "gpt-image-2-chat", "odd": "nothing"}}
    listed = orjson.dumps([good, gone, wrong, mapped]).decode()
    demo.state.reset()
    assert run_checks(settings(demo.url, tmp_path, upstream_base_url=None, upstreams=listed), with_generation=True) == 1
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if not line.startswith(("ok    store", "ok    address", "ok    tls"))
    ]
    expected_lines = (
        "good:",
        "ok    key      accepted; gpt-image-2-chat is among its ",
        "ok    paint    1024x1024 png, found as ",
        "gone:",
        "FAIL  address  nothing listens at 127.0.0.1:9. See base_url of the upstream 'gone' in LIMNER_UPSTREAMS",
        "wrong:",
        "FAIL  key      the upstream refuses api_key of the upstream 'wrong' in LIMNER_UPSTREAMS with status 401",
        "mapped:",
        "ok    key      accepted; gpt-image-2-chat is among its ",
        "ok    paint    1024x1024 png, found as ",
    )
    shown = [line for line in lines if line.startswith(("ok ", "FAIL ")) or line.endswith(":")]
    for line, expected in zip(shown, expected_lines, strict=True):
        assert line.startswith(expected)
    assert ", nothing is NOT among its " in shown[8]
    assert demo.state.calls == 2


def test_the_next_address_is_tried_if_one_does_not_answer() -> None:
    async def run(port: int) -> None:
        writer = await check_module.connect_to_any(["127.0.0.2", "127.0.0.1"], port)
        writer.close()
        await writer.wait_closed()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(run(listener.getsockname()[1]))


def headers(ms: int) -> dict[str, str]:
    return {"x-limner-upstream-ms": str(ms), "x-limner-overhead-ms": "4.6", "x-limner-reply-form": "link"}


def test_clients_that_would_have_timed_out_are_named() -> None:
    timing = TimingTransport(httpx.MockTransport(lambda _: httpx.Response(200)))
    timing.first_byte, timing.last_byte = 28.0, 29.0
    upstream = "(first byte 28000 ms, whole 29000 ms), Limner 5 ms"
    assert check_module.describe_generation(headers(29_000), timing) == f"found as link; upstream 29000 ms {upstream}"
    expected = f"found as link; upstream 31000 ms {upstream}; without streaming cut by Haystack and Heroku (30 s)"
    assert check_module.describe_generation(headers(31_000), timing) == expected


def test_a_reply_is_timed_from_its_first_byte_to_its_last(
    demo: RunningDemo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_checks(settings(demo.url, tmp_path, **KEYED, upstream_model="slow-0.05"), with_generation=True) == 0
    found = re.search(r"upstream (\d+) ms \(first byte (\d+) ms, whole (\d+) ms\)", failure(capsys))
    assert found is not None
    upstream, first, whole = map(int, found.groups())
    assert 50 <= first <= whole <= upstream + 1


@dataclass(frozen=True, slots=True)
class Silence:
    """`public`: LIMNER stands for the address of a running server with the client key sk-client."""

    name: str
    public: str | None
    line: str
    keys: str = "sk-client"
    seconds: float = 0.01


LIMNER = "LIMNER"
DIGEST = f"sha256:{hashlib.sha256(b'sk-client').hexdigest()}"
SILENCES = [
    Silence("it passes", LIMNER, "ok    patience 0.01 s of silence pass through LIMNER ("),
    Silence("the key is not the first", LIMNER, "ok    patience 0.01 s of silence pass through LIMNER (", f"{DIGEST},sk-client"),
    Silence("only digests of keys", LIMNER, "FAIL  patience LIMNER_API_KEYS has only digests of keys, but this check needs a key", DIGEST),
    Silence("a digest marked in capitals is none of the keys either", LIMNER, "ok    patience 0.01 s of silence pass through LIMNER (", f"{DIGEST.replace('sha256', 'SHA256')},sk-client"),
    Silence("a key the server does not know", LIMNER, "FAIL  patience LIMNER refuses the key. Set LIMNER_API_KEYS to one that it accepts", "sk-other"),
    Silence("no key at all", LIMNER, "FAIL  patience LIMNER refuses the key. Set LIMNER_API_KEYS to one that it accepts", ""),
    Silence("no public address", None, "FAIL  patience LIMNER_PUBLIC_URL is unset: set it to the address that clients use"),
    Silence("something else is there", "LIMNER/else", "FAIL  patience no Limner of this version answers at LIMNER/else"),
    Silence("the connection is cut", "http://127.0.0.1:9", "FAIL  patience cut after 0 s: ConnectError. Set LIMNER_KEEPALIVE_AFTER to less, or have clients stream"),
]  # fmt: skip


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_limner("http://127.0.0.1:9", api_keys="sk-client") as running:
        yield running


@pytest.mark.parametrize("case", SILENCES, ids=lambda case: case.name)
def test_silence_is_tried_through_the_public_address(
    limner: RunningLimner,
    case: Silence,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_module, "UPSTREAM_CHECKS", [])
    monkeypatch.setattr("app.cli.check.environment_checks", lambda _: [])
    public = {"public_url": case.public.replace(LIMNER, limner.url)} if case.public else {}
    here = settings("http://127.0.0.1:9", tmp_path, api_keys=case.keys, **public)
    assert run_checks(here, with_generation=False, idle_seconds=case.seconds) == int(case.line.startswith("FAIL"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "patience" in line]
    assert lines[0].startswith(re.sub(r"\bLIMNER\b", limner.url, case.line))


def test_a_proxy_that_cuts_the_silence(tmp_path: Path) -> None:
    async def fail(_: Request) -> Response:
        return Response(status_code=504)

    with serve(Starlette(routes=[Route("/{path:path}", fail)])) as url:
        public = settings(url, tmp_path, public_url=url)
        with pytest.raises(CheckFailed, match=r"^cut after 0 s: status 504\. Set LIMNER_KEEPALIVE_AFTER to less"):
            asyncio.run(check_module.check_idle_timeout(public, 0.01))


def test_the_certificate_behind_a_proxy_is_checked_with_the_key() -> None:
    settings = Settings(upstream_base_url="https://upstream.invalid/v1", upstream_proxy="http://127.0.0.1:9")
    assert asyncio.run(check_tls(settings)) == "through the proxy, checked with the key"
