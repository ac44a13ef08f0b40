"""Images are downloaded through the operator's proxy, which is asked for nothing inside the operator's network."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.errors import ImageUnavailable
from app.images.download_proxy import read_proxy
from tests.support.certificates import CERTIFICATE
from tests.support.downloads import ATTEMPTS, IMAGE, fetching, redirect, reply, serve, server_tls
from tests.support.proxy import run_proxy

#: What name servers answer in a network that lets only a proxy out.
UNKNOWN = OSError("no such name")
Names = dict[str, list[Sequence[str] | OSError]]

PUBLIC = ["93.184.216.34"]


def at(proxy: str, user: str = "") -> str:
    """Return the address of a proxy under its name, perhaps with a user and a password."""
    return proxy.replace("127.0.0.1", f"{user}proxy.example")


@pytest.mark.parametrize("answer", [PUBLIC, UNKNOWN], ids=["that is known here", "that only the proxy knows"])
@pytest.mark.parametrize("user", ["", "carol:s%20cret@"], ids=["without a password", "with a password"])
def test_a_plain_download_goes_through_the_proxy_to_a_name(answer: Sequence[str] | OSError, user: str) -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as server, run_proxy(server.url) as proxy:
            names: Names = {"cdn.example": [answer], "proxy.example": [["127.0.0.1"]]}
            async with fetching(names=names, proxy=at(proxy.address, user)) as fetcher:
                assert await fetcher.read("http://cdn.example/a.png?b=1") == IMAGE
            head = proxy.heads[0].decode()
            assert head.startswith("GET http://cdn.example/a.png?b=1 HTTP/1.1\r\nHost: cdn.example\r\n")
            assert ("Proxy-Authorization: Basic Y2Fyb2w6cyBjcmV0\r\n" in head) is bool(user)

    asyncio.run(download())


@pytest.mark.parametrize("user", ["", "carol:s%20cret@"], ids=["without a password", "with a password"])
def test_a_download_over_tls_is_a_tunnel_whose_password_the_host_does_not_see(tmp_path: Path, user: str) -> None:
    async def download() -> None:
        trust = ssl.create_default_context(cadata=CERTIFICATE)
        async with serve(reply(IMAGE), tls=server_tls(tmp_path)) as server, run_proxy(server.url) as proxy:
            names: Names = {"cdn.test": [UNKNOWN], "other.example": [UNKNOWN], "proxy.example": [["127.0.0.1"]]}
            async with fetching(names=names, proxy=at(proxy.address, user), tls=trust) as fetcher:
                assert await fetcher.read("https://cdn.test/a.png") == IMAGE
                with pytest.raises(ImageUnavailable, match="its host cannot be trusted"):
                    await fetcher.read("https://other.example/a.png")
            assert proxy.heads[0].startswith(b"CONNECT cdn.test:443 HTTP/1.1\r\n")
            assert (b"Proxy-Authorization: Basic Y2Fyb2w6cyBjcmV0\r\n" in proxy.heads[0]) is bool(user)
            assert len(server.heads) == 1
            assert server.heads[0].startswith("GET /a.png HTTP/1.1\r\nHost: cdn.test\r\n")
            assert "Proxy-" not in server.heads[0]

    asyncio.run(download())


@dataclass(frozen=True)
class Inside:
    """A URL that leads into the operator's network, as far as this server can know."""

    name: str
    url: str
    reason: str = "could not be looked up"


INSIDE = [
    Inside("a name without a dot", "http://printer/"),
    Inside("a name of this network", "http://wiki.internal/"),
    Inside("an allowed name that nobody knows at the moment", "http://minio.example/"),
    Inside("a private address", "http://10.0.0.1/", "not open to this server"),
    Inside("the address of cloud metadata", "http://169.254.169.254/", "not open to this server"),
    Inside("a public name of a private address", "http://rebound.example/", "not open to this server"),
    Inside("a redirect to a private address", "http://moves.example/", "redirects to where this server may not go"),
]


@pytest.mark.parametrize("case", INSIDE, ids=lambda case: case.name)
def test_the_proxy_is_not_asked_for_what_is_inside(case: Inside) -> None:
    async def download() -> None:
        async with serve(redirect("http://192.168.0.1/")) as server, run_proxy(server.url) as proxy:
            names: Names = {"rebound.example": [["10.0.0.1"]], "proxy.example": [["127.0.0.1"]]}
            names |= {name: [UNKNOWN] for name in ("printer", "wiki.internal", "minio.example", "moves.example")}
            async with fetching("minio.example", names, proxy=at(proxy.address)) as fetcher:
                with pytest.raises(ImageUnavailable, match=case.reason):
                    await fetcher.read(case.url)
            assert [head.split()[1] for head in proxy.heads] == [b"http://moves.example/"] * ("moves" in case.url)

    asyncio.run(download())


def test_what_the_allow_list_opens_is_reached_directly() -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as server, run_proxy(server.url) as proxy:
            allow = f"127.0.0.1:{server.port}"
            async with fetching(allow, {"proxy.example": [["127.0.0.1"]]}, proxy=at(proxy.address)) as fetcher:
                assert await fetcher.read(server.url) == IMAGE
            assert proxy.heads == []

    asyncio.run(download())


@dataclass(frozen=True)
class Closed:
    """`refusal`: what the proxy answers; `reason` is for clients, `detail` for the operator."""

    name: str
    url: str
    reason: str
    detail: str
    refusal: str = ""
    address: Sequence[str] | OSError = ("127.0.0.1",)


CLOSED = [
    Closed("a tunnel that the proxy refuses", "https://cdn.example/", "the way to its host is closed", "the proxy answered 403", "403 Forbidden"),
    Closed("a plain download that the proxy refuses", "http://cdn.example/", "its host answered 407", "", "407 Proxy Authentication Required"),
    Closed("a proxy that cannot be looked up", "http://cdn.example/", "its host cannot be reached", "the proxy's name could not be looked up", "", UNKNOWN),
    Closed("a proxy that does not listen", "http://cdn.example/", "its host cannot be reached", "", "", ["127.0.0.2"]),
]  # fmt: skip


@pytest.mark.parametrize("case", CLOSED, ids=lambda case: case.name)
def test_a_proxy_that_leads_nowhere_is_named_to_the_operator_only(case: Closed) -> None:
    async def download() -> None:
        async with serve(reply(IMAGE)) as server, run_proxy(server.url, case.refusal) as proxy:
            names: Names = {"cdn.example": [PUBLIC], "proxy.example": [case.address]}
            async with fetching(names=names, proxy=at(proxy.address, "carol:secret@")) as fetcher:
                with pytest.raises(ImageUnavailable, match=case.reason) as caught:
                    await fetcher.read(case.url)
                assert case.detail in str(caught.value.detail)
                assert "secret" not in str(caught.value.detail)
                assert "proxy.example" not in str(caught.value)
                assert len(fetcher.slept) in {0, ATTEMPTS - 1}

    asyncio.run(download())


def test_the_address_of_a_proxy_without_a_user_has_no_authorization() -> None:
    assert read_proxy("http://[::1]:3128/").authorization is None
    assert read_proxy("http://[::1]:3128/").host == "::1"
    assert read_proxy("http://carol@proxy.example").authorization == "Basic Y2Fyb2w6"
