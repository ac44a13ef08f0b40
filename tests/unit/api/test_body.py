"""A body that stops or drips is cut off; one that is merely slow is not."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.api import body as api_body
from app.api.body import ARRIVED, MIN_PROGRESS, LimitedBody, announced_bytes, parse_paced, read_image_request
from app.errors import RequestTimeout, RequestTooLarge
from app.images.blob import Spool
from app.protocol.json_text import parse_json
from app.protocol.parameters import Operation


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test can advance."""

    advanced = 0.0

    def time(self) -> float:
        return super().time() + self.advanced


@dataclass(frozen=True, slots=True)
class Case:
    """A client that sends `count` chunks of `size` bytes, one every `pause` seconds, with a time limit of 60 s."""

    name: str
    size: int
    pause: float
    count: int
    arrives: bool


CASES = [
    Case("a byte a second", 1, 1, 500, arrives=False),
    Case("a byte every 59 seconds", 1, 59, 500, arrives=False),
    Case("silence", 100, 61, 2, arrives=False),
    Case("1 KiB a second", 1024, 0.9, 500, arrives=True),
    Case("a large chunk every 50 seconds", MIN_PROGRESS, 50, 20, arrives=True),
    Case("a short body, slowly", 10, 10, 5, arrives=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_body_has_to_make_progress(case: Case) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, JumpingLoop)

        sent = 0

        async def receive() -> Message:
            nonlocal sent
            sent += 1
            loop.advanced += case.pause
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return {"type": "http.request", "body": bytes(case.size), "more_body": sent < case.count}

        async def read() -> int:
            http: Any = SimpleNamespace(receive=receive, scope={})
            return sum([len(chunk) async for chunk in LimitedBody(http, 2**30, 60.0)])

        if case.arrives:
            assert runner.run(read()) == case.size * case.count
        else:
            with pytest.raises(RequestTimeout, match="too slowly: less than 65536 bytes within 60 s"):
                runner.run(read())


@pytest.mark.parametrize(
    ("arrived", "timers"),
    [([], 2), ([False, True], 1), ([True, True], 0)],
    ids=["the server does not know", "the second chunk is there", "both chunks are there"],
)
def test_a_chunk_that_is_there_needs_no_timer(
    arrived: list[bool], timers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Mock(wraps=asyncio.timeout_at)
    monkeypatch.setattr(asyncio, "timeout_at", made)
    chunks = iter([b"{", b"}"])

    async def receive() -> Message:
        chunk = next(chunks)
        return {"type": "http.request", "body": chunk, "more_body": chunk == b"{"}

    async def read() -> list[bytes]:
        extensions = {ARRIVED: iter(arrived).__next__} if arrived else {}
        http: Any = SimpleNamespace(receive=receive, scope={"extensions": extensions})
        return [chunk async for chunk in LimitedBody(http, 100, 60.0)]

    assert (asyncio.run(read()), made.call_count) == ([b"{", b"}"], timers)


def test_a_client_that_leaves_ends_its_body() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def read() -> list[bytes]:
        http: Any = SimpleNamespace(receive=receive, scope={})
        return [chunk async for chunk in LimitedBody(http, 100, 60.0)]

    with pytest.raises(ClientDisconnect):
        asyncio.run(read())


@pytest.mark.parametrize(
    ("header", "announced"),
    [
        pytest.param({}, 0, id="no length"),
        pytest.param({"content-length": "7"}, 7, id="a length"),
        pytest.param({"content-length": "x"}, 0, id="no number"),
        pytest.param({"content-length": ""}, 0, id="an empty text"),
    ],
)
def test_the_announced_length_is_read(header: dict[str, str], announced: int) -> None:
    http: Any = SimpleNamespace(headers=header)
    assert announced_bytes(http, 100) == announced


@pytest.mark.parametrize("length", ["101", "9" * 5000])
def test_a_length_over_the_limit_is_refused(length: str) -> None:
    http: Any = SimpleNamespace(headers={"content-length": length})
    with pytest.raises(RequestTooLarge, match=r"\(100\) exceeded"):
        announced_bytes(http, 100)


@pytest.mark.parametrize(
    ("seconds", "sizes", "turns"), [(0.05, [16_384] + [2_048] * 12, 13), (0.0, [16_384, 24_576], 0)]
)
def test_other_requests_pass_while_a_body_is_parsed_slowly(
    seconds: float, sizes: list[int], turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    now = 0.0
    body = bytes(range(256)) * 160

    def parse(piece: bytes) -> None:
        nonlocal now
        now += seconds
        parsed.append(piece)

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async def play() -> int:
        task = asyncio.create_task(parse_paced(chunks(), parse))
        passed = -1
        while not task.done():
            await asyncio.sleep(0)
            passed += 1
        return passed

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert asyncio.run(play()) == turns
    assert b"".join(parsed) == body
    assert [len(piece) for piece in parsed] == sizes


@pytest.mark.parametrize(
    ("length", "in_thread"),
    [
        pytest.param(10, False, id="a short one"),
        pytest.param(50_000, False, id="one just below the limit"),
        pytest.param(70_000, True, id="a long one"),
    ],
)
def test_a_long_document_is_parsed_in_a_thread(length: int, in_thread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others must not wait for the 0.3 s that hostile ones take."""
    document = b'{"prompt": "a fox", "other": "%s"}' % (b"a " * (length // 2))
    threads: list[threading.Thread] = []

    def watched_parse(text: bytes, charset: str) -> object:
        threads.append(threading.current_thread())
        return parse_json(text, charset)

    async def receive() -> Message:
        return {"type": "http.request", "body": document, "more_body": False}

    http: Any = SimpleNamespace(headers={}, receive=receive, scope={})
    settings: Any = SimpleNamespace(max_request_bytes=10**6, max_image_bytes=10**6, client_body_timeout=60.0)
    monkeypatch.setattr(api_body, "parse_json", watched_parse)
    request = asyncio.run(read_image_request(Operation.GENERATION, http, Spool(), settings, Mock()))
    assert request.prompt == "a fox"
    assert (threads[0] is not threading.main_thread()) is in_thread
