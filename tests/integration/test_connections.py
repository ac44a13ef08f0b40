"""How upstreams are reached: through a proxy, by certificates of the operator's own, with headers that a relay wants."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from app.cli.check import run_checks
from app.config.settings import Settings
from app.errors import ApiError, UpstreamUnreachable
from app.protocol.chat_reply import ChatReply
from app.protocol.chat_request import ChatRequest
from app.protocol.image_request import ImagesRequest
from app.protocol.parameters import Operation
from app.services.upstreams import build_pool
from app.upstream.client import UpstreamClient, UpstreamRequest
from app.upstream.pool import PoolMember, UpstreamPool
from app.upstream.spec import UpstreamSpec
from app.upstream.transport import open_transport
from tests.support.certificates import CERTIFICATE, KEY
from tests.support.faulty_upstream import FaultyUpstream, run_faulty_upstream
from tests.support.proxy import Proxy, run_proxy
from tests.support.servers import run_demo

LINK = "https://example.com/generated-image.png"
REPLY = orjson.dumps({"choices": [{"message": {"content": LINK}, "finish_reason": "stop"}]})
OK = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(REPLY), REPLY),)
REQUEST = UpstreamRequest(ChatRequest(ImagesRequest(operation=Operation.GENERATION, prompt="a fox")))
PASSWORD = "hunter2-hunter2"  # reason: of a proxy in this test
SPEC = UpstreamSpec("", api_key=SecretStr("sk-upstream-key"), connect_timeout=20)


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """Return the context of a server called `cdn.test`, whose certificate only this test knows."""
    (tmp_path / "server.pem").write_text(KEY + CERTIFICATE)
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")
    return context


async def no_wait(_: float) -> None:
    return


@asynccontextmanager
async def open_pool(spec: UpstreamSpec) -> AsyncGenerator[UpstreamPool, None]:
    pool = UpstreamPool([PoolMember(spec, UpstreamClient(spec, open_transport(spec)))], sleep=no_wait)
    try:
        yield pool
    finally:
        await pool.close()


async def ask(spec: UpstreamSpec) -> list[Any] | ApiError:
    """Return the texts of a reply, or the error."""
    texts: list[Any] = []
    async with open_pool(spec) as pool:
        try:
            await pool.request(collecting(texts), None)
        except ApiError as error:
            return error
    return texts[-1:]


def collecting(texts: list[Any], request: UpstreamRequest = REQUEST) -> UpstreamRequest:
    """Return a request that collects the texts of the snapshots of its reply."""

    async def take(_: str, reply: ChatReply) -> None:
        texts.extend(message["content"] for message in reply.messages)

    return replace(request, on_reply=take)


def proxied(spec: UpstreamSpec, proxy: Proxy) -> UpstreamSpec:
    return replace(spec, proxy=SecretStr(proxy.address.replace("//", f"//limner:{PASSWORD}@")))


def test_an_upstream_is_reached_through_a_proxy_by_its_own_certificate(tls: ssl.SSLContext, tmp_path: Path) -> None:
    async def run() -> tuple[list[Any] | ApiError, FaultyUpstream, Proxy]:
        async with run_faulty_upstream(OK, tls=tls) as upstream, run_proxy(upstream.url) as proxy:
            spec = replace(SPEC, base_url="https://cdn.test/v1", tls_ca=tmp_path / "ca.pem")
            return await ask(proxied(spec, proxy)), upstream, proxy

    reply, upstream, proxy = asyncio.run(run())
    assert reply == [LINK]
    (head,) = proxy.heads
    assert head.startswith(b"CONNECT cdn.test:443 HTTP/1.1\r\n")
    assert b64encode(f"limner:{PASSWORD}".encode()) in head
    assert b"sk-upstream-key" not in head
    assert b"bearer sk-upstream-key" in upstream.calls[0].lower()
    assert b"proxy-authorization" not in upstream.calls[0].lower()


def test_a_certificate_that_the_system_does_not_know_is_refused(tls: ssl.SSLContext) -> None:
    async def run() -> tuple[list[Any] | ApiError, FaultyUpstream]:
        async with run_faulty_upstream(OK, tls=tls) as upstream, run_proxy(upstream.url) as proxy:
            return await ask(proxied(replace(SPEC, base_url="https://cdn.test/v1"), proxy)), upstream

    error, upstream = asyncio.run(run())
    assert isinstance(error, UpstreamUnreachable)
    assert "CERTIFICATE_VERIFY_FAILED" in (error.detail or "")
    assert upstream.calls == []


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
def test_a_proxy_that_does_not_let_through_has_cost_nothing(tls: ssl.SSLContext, status: str) -> None:
    async def run() -> tuple[list[Any] | ApiError, FaultyUpstream, Proxy]:
        async with run_faulty_upstream(OK, tls=tls) as upstream, run_proxy(upstream.url, status) as proxy:
            return await ask(proxied(replace(SPEC, base_url="https://cdn.test/v1"), proxy)), upstream, proxy

    error, upstream, proxy = asyncio.run(run())
    assert isinstance(error, UpstreamUnreachable)
    assert status[:3] in (error.detail or "")
    assert PASSWORD not in f"{error.message} {error.detail}"
    assert (len(proxy.heads), upstream.calls) == (3, [])


def test_a_proxy_that_is_not_there() -> None:
    spec = replace(SPEC, base_url="https://cdn.test/v1", proxy=SecretStr(f"http://limner:{PASSWORD}@127.0.0.1:9"))
    error = asyncio.run(ask(spec))
    assert isinstance(error, UpstreamUnreachable)
    assert PASSWORD not in f"{error.message} {error.detail}"


def test_a_plain_upstream_behind_a_proxy() -> None:
    async def run() -> tuple[list[Any] | ApiError, Proxy]:
        async with run_faulty_upstream(OK) as upstream, run_proxy(upstream.url) as proxy:
            return await ask(proxied(replace(SPEC, base_url="http://cdn.test/v1"), proxy)), proxy

    reply, proxy = asyncio.run(run())
    assert reply == [LINK]
    assert proxy.heads[0].startswith(b"POST http://cdn.test/v1/chat/completions HTTP/1.1\r\n")
    assert b64encode(f"limner:{PASSWORD}".encode()) in proxy.heads[0]


def test_headers_are_sent_below_limners_own() -> None:
    headers = {"X-Title": SecretStr("画廊"), "api-key": SecretStr("secret-of-a-relay")}
    request = replace(REQUEST, headers={"x-request-id": "req_1"})

    async def run() -> FaultyUpstream:
        async with run_faulty_upstream(OK) as upstream:
            spec = replace(SPEC, base_url=upstream.url, headers=headers, user_agent="Mozilla/5.0")
            texts: list[Any] = []
            async with open_pool(spec) as pool:
                await pool.request(collecting(texts, request), None)
            assert len(texts) == 1
            return upstream

    lines = asyncio.run(run()).calls[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    sent = dict(line.split(": ", 1) for line in lines)
    sent = {name.lower(): value for name, value in sent.items()}
    assert sent["x-title"] == "画廊"
    assert sent["api-key"] == "secret-of-a-relay"
    assert sent["user-agent"] == "Mozilla/5.0"
    assert sent["authorization"] == "Bearer sk-upstream-key"
    assert sent["x-request-id"] == "req_1"
    assert sent["content-type"] == "application/json"


def test_a_secret_header_that_an_upstream_repeats_is_not_shown() -> None:
    secret = "secret-of-a-relay"  # reason: of this test
    body = orjson.dumps({"error": {"message": f"Not this one: {secret}, nor Art", "type": "invalid_request_error"}})
    script = (b"HTTP/1.1 400 Bad\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body),)

    async def run() -> list[Any] | ApiError:
        async with run_faulty_upstream(script) as upstream:
            headers = {"api-key": SecretStr(secret), "x-title": SecretStr("Art")}
            return await ask(replace(SPEC, base_url=upstream.url, headers=headers))

    error = asyncio.run(run())
    assert isinstance(error, ApiError)
    assert secret not in f"{error.message} {error.detail}"
    assert "Art" in error.message


@pytest.mark.parametrize(("answer", "is_refused"), [(401, True), (200, False)])
def test_the_key_of_a_caller_is_checked_with_the_same_headers(answer: int, is_refused: bool) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(answer, json={"error": {"message": "secret-of-a-relay is odd"}})

    spec = UpstreamSpec("http://h/v1", headers={"api-key": SecretStr("secret-of-a-relay")}, user_agent="Mozilla/5.0")
    error = asyncio.run(UpstreamClient(spec, httpx.MockTransport(handle)).check_token("sk-caller"))
    assert (seen[0].headers["api-key"], seen[0].headers["user-agent"]) == ("secret-of-a-relay", "Mozilla/5.0")
    assert (error is not None) is is_refused
    assert "secret-of-a-relay" not in f"{error}"


def test_upstreams_that_are_reached_in_the_same_way_share_connections(tls: ssl.SSLContext, tmp_path: Path) -> None:
    entries = [
        {"name": "a", "base_url": "http://a/v1"},
        {"name": "b", "base_url": "http://b/v1"},
        {"name": "c", "base_url": "http://c/v1", "proxy": "http://proxy:3128"},
        {"name": "d", "base_url": "http://d/v1", "tls_ca": tmp_path / "ca.pem"},
    ]
    members = build_pool(Settings(upstreams=entries)).members
    first, second, *others = [member.client._transport for member in members]
    assert first is second
    assert len({id(first), *map(id, others)}) == 3


def test_the_checks_go_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with run_demo(api_key="sk-upstream-key") as demo:

        async def check() -> tuple[int, list[bytes]]:
            async with run_proxy(demo.url) as proxy:
                settings = Settings(
                    upstream_base_url="http://painter.example/v1",
                    upstream_api_key="sk-upstream-key",
                    upstream_proxy=proxy.address,
                    fetch_allow="painter.example",
                    image_store="memory:",
                )
                return await asyncio.to_thread(run_checks, settings, with_generation=False), proxy.heads

        code, heads = asyncio.run(check())
    lines = capsys.readouterr().out
    assert code == 0, lines
    assert "ok    address  the proxy 127.0.0.1:" in lines
    assert heads[-1].startswith(b"GET http://painter.example/v1/models ")


def test_the_checks_name_the_setting_of_the_proxy(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"image_store": "memory:", "upstream_connect_timeout": 20}
    entry = {"name": "a", "base_url": "https://h/v1", "api_key": "sk-1"}
    for settings, place in (
        (Settings(upstreams=[entry], upstream_proxy="http://127.0.0.1:9", **options), "LIMNER_UPSTREAM_PROXY"),
        (Settings(upstreams=[entry | {"proxy": "http://127.0.0.1:9"}], **options), "proxy of the upstream 'a'"),
    ):
        assert run_checks(settings, with_generation=False) == 1
        assert f"nothing listens at 127.0.0.1:9. See {place}" in capsys.readouterr().out
