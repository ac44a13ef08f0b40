"""An app on a real socket: it starts, responds, and leaves no thread behind."""

import socket
import threading

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from app.demo.app import create_demo
from app.demo.server import serve


def test_the_app_responds_until_the_block_ends() -> None:
    app, before = create_demo(), threading.active_count()
    for _ in range(2):
        with serve(app) as url:
            assert httpx.get(url + "/v1/models", trust_env=False).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/v1/models", trust_env=False)
    assert threading.active_count() == before


def test_hanging_requests_do_not_delay_the_end() -> None:
    app = create_demo()
    body = b'{"model":"holds","messages":[{"role":"user","content":"a fox"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: demo\r\ncontent-length: %d\r\n\r\n" % len(body)
    with serve(app, grace=0) as url, socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as client:
        client.sendall(head + body)
        assert app.state.demo.wait_for_calls(1)
    assert app.state.demo.wait_until_idle(0)


def test_an_app_that_does_not_start() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="did not start"), serve(fail):
        pytest.fail("it started")


def test_a_port_that_is_in_use() -> None:
    with (
        serve(Starlette()) as url,
        pytest.raises(OSError, match="in use"),
        serve(Starlette(), port=httpx.URL(url).port or 0),
    ):
        pytest.fail("it bound the port")
