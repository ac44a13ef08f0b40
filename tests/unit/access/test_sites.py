"""Which pages and host names may use a server that needs no key."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from unittest.mock import patch

import pytest
from starlette.datastructures import Headers

from app.access.sites import SitePolicy, check_content_type
from app.errors import Forbidden, InvalidRequest

HOST, ORIGIN = "host_not_allowed", "origin_not_allowed"


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the operator; `local`: only its own machine can connect."""

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ("*",)
    local: bool = True

    @property
    def policy(self) -> SitePolicy:
        return SitePolicy.from_names(self.hosts, self.origins, is_local=self.local)


LOCAL = Server()
OPEN = Server(local=False)
NAMED = Server(hosts=("images.example.com", "::1:2"), origins=("https://App.example/", "null"))


@dataclass(frozen=True, slots=True)
class Case:
    """`code` is that of the error; None means that the request is accepted."""

    name: str
    host: str | None
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    server: Server = LOCAL
    is_page: bool = False


def origin(text: str) -> dict[str, str]:
    return {"origin": text}


def site(text: str) -> dict[str, str]:
    return {"sec-fetch-site": text}


EVIL = origin("https://evil.example")

CASES = [
    Case("a program on this machine", "localhost:8000"),
    Case("a program that uses the address", "127.0.0.1:8000"),
    Case("another loopback address", "127.8.9.1"),
    Case("the loopback address of IPv6", "[::1]:8000"),
    Case("the loopback address of IPv4 in IPv6", "[::ffff:7f00:1]:8000"),
    Case("a name in capitals", "LocalHost:8000"),
    Case("a name with a final dot", "localhost.:8000"),
    Case("a name below localhost", "limner.localhost:8000"),
    Case("a client that names no host", None),
    Case("the port of a proxy", "localhost:443"),
    Case("a rebound name", "evil.example:8000", {}, HOST),
    Case("a rebound name with the page's own origin", "evil.example:8000", origin("http://evil.example:8000"), HOST),
    Case("a name that begins with localhost", "localhost.evil.example:8000", {}, HOST),
    Case("a name that ends with localhost", "evillocalhost:8000", {}, HOST),
    Case("a name that begins with the address", "127.0.0.1.evil.example", {}, HOST),
    Case("an address of the network, though only this machine can connect", "192.168.1.5:8000", {}, HOST),
    Case("the address of no interface", "0.0.0.0:8000", {}, HOST),
    Case("another address of IPv6", "[fd00::1]:8000", {}, HOST),
    Case("an empty host", "", {}, HOST),
    Case("a host with a user name", "localhost@evil.example", {}, HOST),
    Case("no host at all", "[::1", {}, HOST),
    Case("a shortened address, which browsers write out", "127.1", {}, HOST),
    Case("a page of another site", "localhost:8000", EVIL, ORIGIN),
    Case("a page of another site without TLS", "localhost:8000", origin("http://evil.example"), ORIGIN),
    Case("a page of another site under the same port", "localhost:8000", origin("http://evil.example:8000"), ORIGIN),
    Case("a page without an origin of its own", "localhost:8000", origin("null"), ORIGIN),
    Case("an empty origin", "localhost:8000", origin(""), ORIGIN),
    Case("a page of a file", "localhost:8000", origin("file://"), ORIGIN),
    Case("an extension of a browser", "localhost:8000", origin("chrome-extension://abc"), ORIGIN),
    Case("an origin that begins with localhost", "localhost:8000", origin("http://localhost.evil.example"), ORIGIN),
    Case("an origin with a user name", "localhost:8000", origin("http://localhost:3000@evil.example"), ORIGIN),
    Case("an origin with a path", "localhost:8000", origin("http://localhost/x"), ORIGIN),
    Case("the origin of a machine in the network", "localhost:8000", origin("http://192.168.1.9"), ORIGIN),
    Case("the server's own page", "localhost:8000", origin("http://localhost:8000") | site("same-origin")),
    Case("an app of this machine", "localhost:8000", origin("http://localhost:3000") | site("same-site")),
    Case("an app under another loopback name", "127.0.0.1:8000", origin("http://localhost:5173") | site("cross-site")),
    Case("an app under the loopback address of IPv6", "localhost:8000", origin("http://[::1]:3000")),
    Case("an app with TLS", "localhost:8000", origin("https://localhost")),
    Case("an app in capitals and with a final dot", "localhost:8000", origin("HTTP://LOCALHOST.:3000")),
    Case("an app below localhost", "localhost:8000", origin("http://app.localhost:3000")),
    Case("an image of another site's page", "localhost:8000", site("cross-site"), ORIGIN),
    Case("an image of another site's page, in capitals", "localhost:8000", site("Cross-Site"), ORIGIN),
    Case("an image of a page on another port", "localhost:8000", site("same-site")),
    Case("an address that a person has typed", "localhost:8000", site("none")),
    Case("a link to a page of this server", "localhost:8000", site("cross-site"), is_page=True),
    Case("a page of this server in a frame of another origin", "localhost:8000", EVIL, ORIGIN, is_page=True),
    Case("a page of this server under a rebound name", "evil.example", {}, HOST, is_page=True),
    Case("a host that the operator has named", "images.example.com", {}, None, NAMED),
    Case("a host that the operator has named, with port, dot and capitals", "Images.Example.com.:8443", {}, None, NAMED),
    Case("an address that the operator has named", "[::1:2]:8000", {}, None, NAMED),
    Case("a host below the one that the operator has named", "a.images.example.com", {}, HOST, NAMED),
    Case("the page of the named host behind TLS", "images.example.com", origin("https://images.example.com"), None, NAMED),
    Case("the page of the named host, whose proxy writes another host", "127.0.0.1:8000", origin("https://images.example.com"), None, NAMED),
    Case("a page of the same site as the named host", "images.example.com", site("same-site"), ORIGIN, NAMED),
    Case("an origin that the operator has named", "localhost:8000", origin("https://app.example") | site("cross-site"), None, NAMED),
    Case("the same name without TLS is another origin", "localhost:8000", origin("http://app.example"), ORIGIN, NAMED),
    Case("the same name on another port is another origin", "localhost:8000", origin("https://app.example:8443"), ORIGIN, NAMED),
    Case("pages without an origin, if the operator has named them", "localhost:8000", origin("null"), None, NAMED),
    Case("an address of the network", "192.168.1.5:8000", {}, None, OPEN),
    Case("an address of the network and its own page", "192.168.1.5:8000", origin("http://192.168.1.5:8000"), None, OPEN),
    Case("an address of the network and a page of another port", "192.168.1.5:8000", origin("http://192.168.1.5:3000"), ORIGIN, OPEN),
    Case("an address of the network and a page of another site", "192.168.1.5:8000", EVIL, ORIGIN, OPEN),
    Case("a name of the network", "limner.lan:8000", {}, HOST, OPEN),
    Case("any host, and its own page", "limner.lan:8000", origin("http://limner.lan:8000"), None, Server(("*",))),
    Case("any host, and a page of another site", "limner.lan:8000", EVIL, ORIGIN, Server(("*",))),
    Case("any host in the usual port of its scheme", "limner.lan", origin("http://limner.lan:80"), None, Server(("*",))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_which_requests_are_accepted(case: Case) -> None:
    headers = Headers({**case.headers, **({} if case.host is None else {"host": case.host})})
    if case.code is None:
        case.server.policy.check(headers, is_page=case.is_page)
        return
    with pytest.raises(Forbidden) as caught:
        case.server.policy.check(headers, is_page=case.is_page)
    assert caught.value.code == case.code
    remedy = {HOST: "LIMNER_ALLOWED_HOSTS", ORIGIN: "LIMNER_CORS_ORIGINS"}[case.code]
    assert caught.value.message.endswith(f"in {remedy}, or set LIMNER_API_KEYS.")


@pytest.mark.parametrize("name", ["host", "origin"])
def test_each_of_several_headers_must_be_allowed(name: str) -> None:
    values = [b"localhost", b"evil.example"] if name == "host" else [b"http://localhost", b"http://evil.example"]
    for order in (values, values[::-1]):
        with pytest.raises(Forbidden):
            LOCAL.policy.check(Headers(raw=[(name.encode(), value) for value in order]))


def test_a_long_header_is_cut_in_the_message() -> None:
    for headers in ({"host": "a" * 9000}, {"origin": "https://" + "a" * 9000}):
        with pytest.raises(Forbidden) as caught:
            LOCAL.policy.check(Headers(headers))
        assert len(caught.value.message) < 500


BODIES = [
    ("JSON", {"content-length": "9", "content-type": "application/json"}, True),
    ("no body", {}, True),
    ("an empty body", {"content-length": "0"}, True),
    ("a body without a type", {"content-length": "9"}, False),
    ("a body with an empty type", {"content-length": "9", "content-type": " "}, False),
    ("chunks without a type", {"transfer-encoding": "chunked"}, False),
]


@pytest.mark.parametrize(("name", "headers", "accepted"), BODIES, ids=[row[0] for row in BODIES])
def test_a_body_says_what_it_is(name: str, headers: dict[str, str], accepted: bool) -> None:
    if accepted:
        check_content_type(Headers(headers))
        return
    with pytest.raises(InvalidRequest, match="no Content-Type header"):
        check_content_type(Headers(headers))


def test_the_host_of_further_requests_is_not_parsed_again() -> None:
    policy = SitePolicy.from_names((), (), is_local=False)
    headers = Headers({"host": "192.168.1.5:8000"})
    with patch("app.access.sites.ip_address", side_effect=ip_address) as parse:
        for _ in range(3):
            policy.check(headers)
    assert parse.call_count <= 2
    with patch("app.access.sites.ip_address", side_effect=AssertionError):
        policy.check(headers)
