"""Connections of downloads are used again, but only to addresses that have just been checked."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.errors import ImageUnavailable
from app.images.fetch import RETRY_DELAYS
from app.images.guarded_http import KEEP_ALIVE, GuardedHttp
from app.images.ssrf import parse_allow
from tests.support.downloads import IMAGE, Download, chunked, fetching, redirect, reply
from tests.support.manual_clock import run_with_manual_clock
from tests.support.tcp_server import listen

#: The server ends the connection in place of an answer, or after it.
HANG_UP = b""


@dataclass
class Server:
    """An image host that keeps its connections. Each request gets the next answer, and all later ones the last.

    `paths`: what was requested, by connection.
    """

    answers: list[bytes]
    hangs_up_after: int = 10**6
    port: int = 0
    paths: list[list[str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/a.png"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        paths: list[str] = []
        self.paths.append(paths)
        try:
            while len(paths) < self.hangs_up_after:
                head = await reader.readuntil(b"\r\n\r\n")
                paths.append(head.decode().split()[1])
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer == HANG_UP:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client has closed the connection.
        finally:
            writer.close()


@asynccontextmanager
async def serve(
    *answers: bytes, host: str = "127.0.0.1", port: int = 0, hangs_up_after: int = 10**6
) -> AsyncIterator[Server]:
    served = Server(list(answers), hangs_up_after)
    async with listen(served.handle, host, port) as served.port:
        yield served


async def read_twice(download: Download, url: str) -> None:
    for _ in range(2):
        assert await download.read(url) == IMAGE


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    answers: tuple[bytes, ...]
    connections: int


CASES = [
    Case("an image with a length", (reply(IMAGE),), 1),
    Case("an image in chunks", (chunked(IMAGE),), 1),
    Case("a redirect without a body", (redirect("/b.png"), reply(IMAGE), redirect("/b.png"), reply(IMAGE)), 1),
    Case("a host that does not want it", (reply(IMAGE, 200, "Connection: close"),), 2),
    Case("a host of HTTP/1.0", (reply(IMAGE).replace(b"HTTP/1.1", b"HTTP/1.0"),), 2),
    Case("a refusal without a body before the image", (reply(b"", 404), reply(IMAGE)), 1),
    Case("a refusal with a body, which is not read", (reply(bytes(10**6), 404), reply(IMAGE)), 2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_connection_whose_response_was_read_to_its_end_is_used_again(case: Case) -> None:
    async def download() -> None:
        async with serve(*case.answers) as server, fetching(f"127.0.0.1:{server.port}") as download:
            await read_twice(download, server.url)
            assert len(server.paths) == case.connections

    run_with_manual_clock(download())


def test_a_guess_that_is_no_image_leaves_no_connection() -> None:
    async def download() -> None:
        async with serve(reply(b"<!DOCTYPE html>" * 10**5)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            for _ in range(2):
                (await download.fetcher.probe(server.url, patient=False)).close()
            assert len(server.paths) == 2

    run_with_manual_clock(download())


def test_each_of_several_downloads_at_once_has_its_own_connection() -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            for _ in range(2):
                blobs = await asyncio.gather(*(download.fetcher.fetch(server.url) for _ in range(5)))
                for blob in blobs:
                    assert blob.read_at(0, 10**6) == IMAGE
                    blob.close()
            assert [len(paths) for paths in server.paths] == [2] * 5

    run_with_manual_clock(download())


@dataclass(frozen=True, slots=True)
class Move:
    name: str
    before: Sequence[str]
    after: Sequence[str]
    reused: bool


MOVES = [
    Move("the same address", ["127.0.0.1"], ["127.0.0.1"], True),
    Move("the same addresses in another order", ["127.0.0.1", "127.0.0.3"], ["127.0.0.3", "127.0.0.1"], True),
    Move("another address", ["127.0.0.1"], ["127.0.0.2"], False),
    Move("one address more", ["127.0.0.1"], ["127.0.0.1", "127.0.0.2"], False),
    Move("one address less, perhaps the one of the connection", ["127.0.0.1", "127.0.0.2"], ["127.0.0.2"], False),
]


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.name)
def test_a_kept_connection_serves_only_the_addresses_for_which_it_was_opened(move: Move) -> None:
    async def download() -> None:
        async with (
            serve(reply(IMAGE)) as one,
            serve(reply(IMAGE), host="127.0.0.2", port=one.port) as two,
            fetching("127.0.0.0/8", {"cdn.test": [move.before, move.after]}) as download,
        ):
            await read_twice(download, f"http://cdn.test:{one.port}/a.png")
            assert download.resolved == ["cdn.test"] * 2
            assert len(one.paths) + len(two.paths) == (1 if move.reused else 2)

    run_with_manual_clock(download())


def test_a_name_that_leads_elsewhere_now_is_blocked_though_a_connection_is_kept() -> None:
    async def download() -> None:
        names: dict[str, list[Sequence[str] | OSError]] = {"cdn.test": [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]]}
        async with serve(reply(IMAGE)) as server, fetching(f"127.0.0.1:{server.port}", names) as download:
            url = f"http://cdn.test:{server.port}/a.png"
            assert await download.read(url) == IMAGE
            with pytest.raises(ImageUnavailable, match="not open to this server"):
                await download.read(url)
            assert server.paths == [["/a.png"]]
            assert await download.read(url) == IMAGE
            assert server.paths == [["/a.png"] * 2]

    run_with_manual_clock(download())


def test_an_address_that_became_one_of_this_machine_is_blocked_though_a_connection_is_kept() -> None:
    async def download() -> None:
        own: list[str] = []
        async with (
            serve(reply(IMAGE)) as server,
            fetching("", {"cdn.test": [["127.0.0.1"]]}, is_own=lambda address: str(address) in own) as download,
        ):
            url = f"http://cdn.test:{server.port}/a.png"
            assert await download.read(url) == IMAGE
            own.append("127.0.0.1")
            with pytest.raises(ImageUnavailable, match="not open to this server"):
                await download.read(url)
            assert server.paths == [["/a.png"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.images.ssrf.BLOCKED_V4", ())
        patch.setattr("app.images.ssrf.ALLOWED_PORTS", frozenset(range(1, 65536)))
        run_with_manual_clock(download())


def test_two_names_of_one_address_share_no_connection() -> None:
    async def download() -> None:
        async with (
            serve(reply(IMAGE)) as server,
            fetching("127.0.0.1", {"one.test": [["127.0.0.1"]], "two.test": [["127.0.0.1"]]}) as download,
        ):
            for name in ("one.test", "two.test"):
                assert await download.read(f"http://{name}:{server.port}/a.png") == IMAGE
            assert len(server.paths) == 2

    run_with_manual_clock(download())


@pytest.mark.parametrize(("seconds", "connections"), [(KEEP_ALIVE - 0.1, 1), (KEEP_ALIVE + 0.1, 2)])
def test_an_unused_connection_is_kept_for_a_few_seconds(
    seconds: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == IMAGE
            now = time.monotonic()
            monkeypatch.setattr("aiohttp.connector.monotonic", lambda: now + seconds)
            assert await download.read(server.url) == IMAGE
            assert len(server.paths) == connections

    run_with_manual_clock(download())


@pytest.mark.parametrize("kept", [1, 3])
def test_kept_connections_that_their_host_ends_are_replaced_at_once(kept: int) -> None:
    """The host has read the request on a kept connection, and then ends it, as on its way it may have been ended."""

    async def download() -> None:
        answers = [reply(IMAGE)] * kept + [HANG_UP] * kept + [reply(IMAGE)]
        async with serve(*answers) as server, fetching(f"127.0.0.1:{server.port}") as download:
            blobs = await asyncio.gather(*(download.fetcher.fetch(server.url) for _ in range(kept)))
            for blob in blobs:
                blob.close()
            assert await download.read(server.url) == IMAGE
            assert (len(server.paths), download.slept) == (kept + 1, [])

    run_with_manual_clock(download())


def test_connections_that_their_host_has_ended_before_are_not_used() -> None:
    async def download() -> None:
        async with serve(reply(IMAGE), hangs_up_after=1) as server, fetching(f"127.0.0.1:{server.port}") as download:
            for _ in range(3):
                assert await download.read(server.url) == IMAGE
            assert ([len(paths) for paths in server.paths], download.slept) == ([1] * 3, [])

    run_with_manual_clock(download())


def test_a_new_connection_that_breaks_is_an_attempt() -> None:
    async def download() -> None:
        async with serve(HANG_UP, HANG_UP, reply(IMAGE)) as server, fetching(f"127.0.0.1:{server.port}") as download:
            assert await download.read(server.url) == IMAGE
            assert (len(server.paths), download.slept) == (3, list(RETRY_DELAYS[:2]))

    run_with_manual_clock(download())


def test_a_webhook_leaves_no_connection() -> None:
    async def send() -> None:
        async with serve(reply(b"")) as server:
            http = GuardedHttp(headers={}, allow=parse_allow("127.0.0.1"), is_own=lambda _: False)
            for _ in range(2):
                target = http.check(server.url)
                await http.pin(target)
                (await http.send("POST", target, {}, b"{}")).close()
            await http.close()
            assert len(server.paths) == 2

    run_with_manual_clock(send())
