"""Images behind an upstream's key, and links that only this server can use."""

import asyncio
from collections.abc import Sequence

import pytest

from app.errors import ImageUnavailable
from app.images.fetch import Fetcher
from app.images.ssrf import host_of, is_local_name, origin_of
from tests.support.downloads import IMAGE, fetching, redirect, reply, serve
from tests.support.manual_clock import run_with_manual_clock

KEY = "Authorization: Bearer sk-up"


def read_with_key(*answers: bytes) -> tuple[bytes | str, list[bool]]:
    """Return what came, or the error, and for each request whether it had the key."""

    async def download() -> tuple[bytes | str, list[bool]]:
        async with serve(*answers) as server, fetching(f"127.0.0.1:{server.port}") as opened:
            try:
                with await opened.fetcher.fetch(server.url, {f"http://127.0.0.1:{server.port}": "sk-up"}) as blob:
                    result: bytes | str = b"".join(blob.chunks(1000))
            except ImageUnavailable as error:
                result = error.message
            return result, [KEY in head for head in server.heads]

    return run_with_manual_clock(download())


def test_the_key_follows_a_401_only() -> None:
    assert read_with_key(reply(IMAGE)) == (IMAGE, [False])
    assert read_with_key(reply(b"", 401), reply(IMAGE)) == (IMAGE, [False, True])


def test_a_key_that_is_refused_is_no_endless_loop() -> None:
    message, asked = read_with_key(reply(b"", 401), reply(b"", 401))
    assert "its host answered 401" in str(message)
    assert asked == [False, True]


def test_the_key_stays_with_its_origin_in_a_redirect() -> None:
    assert read_with_key(redirect("/b"), reply(b"", 401), reply(IMAGE)) == (IMAGE, [False, False, True])


def test_no_other_origin_gets_the_key() -> None:
    async def download() -> list[str]:
        async with serve(reply(b"", 401)) as server, fetching(f"127.0.0.1:{server.port}") as opened:
            with pytest.raises(ImageUnavailable):
                await opened.fetcher.fetch(server.url, {f"https://127.0.0.1:{server.port}": "sk-up"})
            return server.heads

    assert not any(KEY in head for head in run_with_manual_clock(download()))


def test_a_redirect_does_not_carry_the_key_elsewhere() -> None:
    async def download() -> list[str]:
        async with serve(reply(b"", 401)) as other:
            to_other = redirect(f"http://127.0.0.1:{other.port}/b")
            async with (
                serve(reply(b"", 401), to_other) as server,
                fetching(f"127.0.0.1:{server.port},127.0.0.1:{other.port}") as opened,
            ):
                with pytest.raises(ImageUnavailable):
                    await opened.fetcher.fetch(server.url, {f"http://127.0.0.1:{server.port}": "sk-up"})
                assert [KEY in head for head in server.heads] == [False, True]
            return other.heads

    heads = run_with_manual_clock(download())
    assert heads
    assert not any("Authorization" in head for head in heads)


NAMES: dict[str, list[Sequence[str] | OSError]] = {
    "cdn.test": [["93.184.216.34"]],
    "inside.test": [["10.0.0.5"]],
    "both.test": [["93.184.216.34", "10.0.0.5"]],
    "unknown.test": [OSError("no such name")],
}

PUBLIC = {
    "https://cdn.test/a.png": True,
    "https://cdn.test:9443/a.png": True,
    "https://user:secret@cdn.test/a.png": True,
    "https://93.184.216.34/a.png": True,
    "https://unknown.test/a.png": True,
    "ftp://cdn.test/a.png": True,
    "https://inside.test/a.png": False,
    "https://both.test/a.png": False,
    "https://user@inside.test/a.png": False,
    "http://127.0.0.1:8000/a.png": False,
    "http://[::1]/a.png": False,
    "http://192.168.1.2/a.png": False,
    "http://localhost:9000/a.png": False,
    "http://minio/a.png": False,
    "http://nas.local/a.png": False,
    "http://images.svc.cluster.local/a.png": False,
}


@pytest.mark.parametrize("url", PUBLIC)
def test_a_link_is_public_if_others_reach_it(url: str) -> None:
    async def ask() -> bool:
        async with fetching("127.0.0.0/8,10.0.0.0/8", dict(NAMES)) as opened:
            return await opened.fetcher.is_public(url)

    assert run_with_manual_clock(ask()) is PUBLIC[url]


@pytest.mark.parametrize(
    ("answer", "public"),
    [
        pytest.param(reply(IMAGE), True, id="it answers without a key"),
        pytest.param(reply(b"", 401), False, id="it answers 401"),
        pytest.param(b"no HTTP\r\n\r\n", True, id="it answers nothing that can be read"),
    ],
)
def test_a_link_that_needs_our_key_is_not_public(answer: bytes, public: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.images.fetch.block_reason", lambda address: None)

    async def ask() -> bool:
        async with serve(answer) as server, fetching(f"127.0.0.1:{server.port}") as opened:
            return await opened.fetcher.is_public(server.url, {f"http://127.0.0.1:{server.port}": "sk-up"})

    assert run_with_manual_clock(ask()) is public


def test_a_link_at_an_upstream_that_may_not_be_fetched_is_left_to_the_client() -> None:
    async def ask() -> bool:
        fetcher = Fetcher(new_blob=lambda: pytest.fail("nothing is downloaded"))
        try:
            return await fetcher.is_public("https://93.184.216.34:9443/a.png", {"https://93.184.216.34:9443": "sk-up"})
        finally:
            await fetcher.close()

    assert asyncio.run(ask())


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        pytest.param("https://API.example/v1", "https://api.example:443", id="capitals, and the usual port"),
        pytest.param("http://api.example:8080", "http://api.example:8080", id="a port of its own"),
        pytest.param("http://[::1]/v1", "http://::1:80", id="an IPv6 address"),
        pytest.param("https://user@api.example/v1", None, id="a user name"),
        pytest.param("https://a b/v1", None, id="no host"),
        pytest.param("ftp://api.example", None, id="another scheme"),
    ],
)
def test_the_origin_of_a_url_has_its_port(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin


def test_hosts_are_read_from_urls_and_known_as_local() -> None:
    assert host_of("https://user@API.example:99999/a") == "api.example"
    assert host_of("https://[::1/a") is None
    assert host_of("mailto:a@b") is None
    assert is_local_name("minio")
    assert not is_local_name("example.com")
