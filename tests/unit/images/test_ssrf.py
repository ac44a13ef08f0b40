"""URLs and addresses that must not be fetched are blocked."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.images import ssrf
from app.images.ssrf import (
    ALLOWED_PORTS,
    BLOCKED_V4,
    BLOCKED_V6,
    Address,
    AddressBlocked,
    AllowRule,
    FetchTarget,
    block_reason,
    check_addresses,
    check_redirect,
    check_url,
    parse_allow,
)


@dataclass(frozen=True)
class Case:
    name: str
    address: str
    reason: str | None


ADDRESSES = [
    Case("Amazon's metadata", "169.254.169.254", "cloud metadata, 169.254.169.254/32"),
    Case("the metadata of Amazon's containers", "169.254.170.2", "cloud metadata (Amazon ECS), 169.254.170.2/32"),
    Case("Alibaba's metadata", "100.100.100.200", "cloud metadata (Alibaba), 100.100.100.200/32"),
    Case("Oracle's metadata", "192.0.0.192", "cloud metadata (Oracle), 192.0.0.192/32"),
    Case("Azure's wire server, a public address", "168.63.129.16", "cloud metadata (Azure), 168.63.129.16/32"),
    Case("the unspecified address", "0.0.0.0", "this host, 0.0.0.0/8"),
    Case("the end of this host's network", "0.255.255.255", "this host, 0.0.0.0/8"),
    Case("a private address, 10", "10.1.2.3", "private, 10.0.0.0/8"),
    Case("carrier-grade NAT", "100.64.0.1", "carrier-grade NAT, 100.64.0.0/10"),
    Case("the end of carrier-grade NAT", "100.127.255.255", "carrier-grade NAT, 100.64.0.0/10"),
    Case("loopback", "127.0.0.1", "loopback, 127.0.0.0/8"),
    Case("another loopback address", "127.8.9.10", "loopback, 127.0.0.0/8"),
    Case("link-local", "169.254.1.1", "link-local, 169.254.0.0/16"),
    Case("a private address, 172.16", "172.16.0.1", "private, 172.16.0.0/12"),
    Case("the end of 172.16", "172.31.255.255", "private, 172.16.0.0/12"),
    Case("protocol assignments", "192.0.0.8", "IETF protocol assignments, 192.0.0.0/24"),
    Case("documentation, the first net", "192.0.2.1", "documentation, 192.0.2.0/24"),
    Case("the 6to4 relay", "192.88.99.1", "6to4 relay, 192.88.99.0/24"),
    Case("a private address, 192.168", "192.168.1.1", "private, 192.168.0.0/16"),
    Case("benchmarking", "198.19.255.255", "benchmarking, 198.18.0.0/15"),
    Case("documentation, the second net", "198.51.100.1", "documentation, 198.51.100.0/24"),
    Case("documentation, the third net", "203.0.113.1", "documentation, 203.0.113.0/24"),
    Case("multicast", "224.0.0.1", "multicast, 224.0.0.0/4"),
    Case("the end of multicast", "239.255.255.255", "multicast, 224.0.0.0/4"),
    Case("reserved", "240.0.0.1", "reserved, 240.0.0.0/4"),
    Case("broadcast", "255.255.255.255", "broadcast, 255.255.255.255/32"),
    Case("a public address", "93.184.216.34", None),
    Case("public, beside 10", "11.0.0.0", None),
    Case("public, before carrier-grade NAT", "100.63.255.255", None),
    Case("public, after carrier-grade NAT", "100.128.0.0", None),
    Case("public, before 172.16", "172.15.255.255", None),
    Case("public, after 172.16", "172.32.0.0", None),
    Case("public, beside Azure's", "168.63.129.17", None),
    Case("public, before multicast", "223.255.255.255", None),
    Case("Amazon's metadata, IPv6", "fd00:ec2::254", "cloud metadata (Amazon), fd00:ec2::254/128"),
    Case("Google's metadata, IPv6", "fd20:ce::254", "cloud metadata (Google), fd20:ce::254/128"),
    Case("the unspecified address, IPv6", "::", "this host, ::/128"),
    Case("IPv6 loopback", "::1", "loopback, ::1/128"),
    Case("loopback, mapped", "::ffff:127.0.0.1", "IPv4-mapped, ::ffff:0:0/96"),
    Case("metadata, mapped, in hexadecimal", "::ffff:a9fe:a9fe", "IPv4-mapped, ::ffff:0:0/96"),
    Case("a public address, mapped, which is never published", "::ffff:8.8.8.8", "IPv4-mapped, ::ffff:0:0/96"),
    Case("loopback, translated", "::ffff:0:127.0.0.1", "IPv4-translated, ::ffff:0:0:0/96"),
    Case("loopback, compatible", "::127.0.0.1", "IPv4-compatible, ::/96"),
    Case("private, compatible", "::10.0.0.1", "IPv4-compatible, ::/96"),
    Case("ISATAP", "2606:4700::5efe:127.0.0.1", "ISATAP, ::5efe:0:0/::fdff:ffff:0:0"),
    Case("ISATAP of a public IPv4 address", "2606:4700::200:5efe:8.8.8.8", "ISATAP, ::5efe:0:0/::fdff:ffff:0:0"),
    Case("ISATAP, link-local", "fe80::5efe:10.0.0.1", "ISATAP, ::5efe:0:0/::fdff:ffff:0:0"),
    Case("NAT64 of loopback", "64:ff9b::7f00:1", "NAT64 of loopback, 127.0.0.0/8"),
    Case("NAT64 of metadata", "64:ff9b::169.254.169.254", "NAT64 of cloud metadata, 169.254.169.254/32"),
    Case("NAT64 of Azure's", "64:ff9b::168.63.129.16", "NAT64 of cloud metadata (Azure), 168.63.129.16/32"),
    Case("NAT64 of a public address, as IPv6-only networks have it", "64:ff9b::8.8.8.8", None),
    Case("local NAT64", "64:ff9b:1::7f00:1", "local NAT64, 64:ff9b:1::/48"),
    Case("local NAT64 of a public address", "64:ff9b:1::8.8.8.8", "local NAT64, 64:ff9b:1::/48"),
    Case("beside NAT64", "64:ff9b::1:0:0", "not global unicast, ::/3"),
    Case("discard", "100::1", "discard, 100::/64"),
    Case("the dummy prefix", "100:0:0:1::1", "dummy prefix, 100:0:0:1::/64"),
    Case("Teredo", "2001:0:7f00:1::1", "Teredo, 2001::/32"),
    Case("benchmarking, IPv6", "2001:2::1", "IETF protocol assignments, 2001::/23"),
    Case("ORCHID", "2001:20::1", "IETF protocol assignments, 2001::/23"),
    Case("documentation, IPv6", "2001:db8::1", "documentation, 2001:db8::/32"),
    Case("6to4 of loopback", "2002:7f00:1::", "6to4, 2002::/16"),
    Case("6to4 of a public address", "2002:808:808::1", "6to4, 2002::/16"),
    Case("6bone", "3ffe::1", "6bone, 3ffe::/16"),
    Case("documentation, the new net", "3fff::1", "documentation, 3fff::/20"),
    Case("segment routing", "5f00::1", "segment routing, 5f00::/16"),
    Case("unique local, fc", "fc00::1", "private, fc00::/7"),
    Case("unique local, fd", "fdff::1", "private, fc00::/7"),
    Case("link-local, IPv6", "fe80::1", "link-local, fe80::/10"),
    Case("link-local with a zone", "fe80::1%eth0", "an interface of this machine"),
    Case("public with a zone", "2606:4700::1111%eth0", "an interface of this machine"),
    Case("site-local", "fec0::1", "site-local, fec0::/10"),
    Case("multicast, IPv6", "ff02::1", "multicast, ff00::/8"),
    Case("not allocated, 1", "1::1", "not global unicast, ::/3"),
    Case("not allocated, 4000", "4000::1", "not global unicast, 4000::/2"),
    Case("not allocated, 8000", "8000::1", "not global unicast, 8000::/1"),
    Case("a public IPv6 address", "2606:4700::1111", None),
    Case("public, the first allocated", "2001:200::1", None),
    Case("public, IPv6, beside documentation", "2001:db9::1", None),
    Case("public, before 6bone", "3ffd:ffff::1", None),
]


@pytest.mark.parametrize("case", ADDRESSES, ids=lambda case: case.name)
def test_blocked_addresses_have_a_reason(case: Case) -> None:
    assert block_reason(ip_address(case.address)) == case.reason


@pytest.mark.parametrize("table", ["BLOCKED_V4", "BLOCKED_V6"])
@pytest.mark.parametrize("network", [*BLOCKED_V4, *BLOCKED_V6], ids=lambda network: network.notation)
def test_every_blocked_network_is_needed(
    table: str, network: ssrf.BlockedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = getattr(ssrf, table)
    if network not in networks:
        return
    monkeypatch.setattr(ssrf, table, tuple(each for each in networks if each != network))
    assert any(block_reason(ip_address(case.address)) != case.reason for case in ADDRESSES)


@given(st.ip_addresses())
@example(ip_address("::ffff:8.8.8.8"))
@example(ip_address("fec0::1"))
def test_no_address_passes_that_the_standard_library_does_not_call_global(address: Address) -> None:
    if block_reason(address) is None and int(address) >> 32 != int(IPv6Address("64:ff9b::")) >> 32:
        assert address.is_global
        assert not any(
            (address.is_private, address.is_loopback, address.is_link_local, address.is_multicast, address.is_reserved)
        )
        assert not address.is_unspecified


#: Global according to the registries, but never the address of an image host.
_BLOCKED_THOUGH_GLOBAL = [
    ip_network(net) for net in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4")
]


@given(st.ip_addresses(v=4))
def test_every_other_global_ipv4_address_passes(address: IPv4Address) -> None:
    if address.is_global and not any(address in net for net in _BLOCKED_THOUGH_GLOBAL):
        assert block_reason(address) is None


@given(st.ip_addresses(v=4))
def test_a_nat64_address_is_blocked_like_its_ipv4_address(address: IPv4Address) -> None:
    hidden = IPv6Address(int(IPv6Address("64:ff9b::")) | int(address))
    assert (block_reason(hidden) is None) == (block_reason(address) is None)


@dataclass(frozen=True)
class Url:
    name: str
    url: str
    target: str
    host: str
    port: int


_CDN = "https://cdn.example"

URLS = [
    Url("a plain URL", "https://cdn.example/a.png", f"{_CDN}/a.png", "cdn.example", 443),
    Url("capital letters in scheme and host", "HTTPS://CDN.Example/A.png", f"{_CDN}/A.png", "cdn.example", 443),
    Url("http", "http://cdn.example/a", "http://cdn.example/a", "cdn.example", 80),
    Url("no path", "https://cdn.example", f"{_CDN}/", "cdn.example", 443),
    Url("a query without a path", "https://cdn.example?a=b", f"{_CDN}/?a=b", "cdn.example", 443),
    Url("the fragment is not sent", "https://cdn.example/a#b?c", f"{_CDN}/a", "cdn.example", 443),
    Url("the usual port, written", "https://cdn.example:443/a", f"{_CDN}/a", "cdn.example", 443),
    Url("an empty port", "https://cdn.example:/a", f"{_CDN}/a", "cdn.example", 443),
    Url("another open port", "http://cdn.example:8080/a", "http://cdn.example:8080/a", "cdn.example", 8080),
    Url("http on the port of https", "http://cdn.example:443/a", "http://cdn.example:443/a", "cdn.example", 443),
    Url("a final dot", "https://cdn.example./a", f"{_CDN}/a", "cdn.example", 443),
    Url("a signature keeps its escapes", f"{_CDN}/a?s=%2b%7E+~", f"{_CDN}/a?s=%2b%7E+~", "cdn.example", 443),
    Url("dots in the path", f"{_CDN}/a/../b", f"{_CDN}/a/../b", "cdn.example", 443),
    Url("a space and another script", f"{_CDN}/a b/图.png", f"{_CDN}/a%20b/%E5%9B%BE.png", "cdn.example", 443),
    Url("a backslash in the path", f"{_CDN}/a\\b", f"{_CDN}/a%5Cb", "cdn.example", 443),
    Url(
        "characters that a URL may not contain",
        f'{_CDN}/"<>^`{{|}}',
        f"{_CDN}/%22%3C%3E%5E%60%7B%7C%7D",
        "cdn.example",
        443,
    ),
    Url(
        "all characters that a URL may contain",
        f"{_CDN}/aZ9-._~!$&'()*+,;=:@/?[]%41",
        f"{_CDN}/aZ9-._~!$&'()*+,;=:@/?[]%41",
        "cdn.example",
        443,
    ),
    Url("an at sign in the path", f"{_CDN}/@a:b", f"{_CDN}/@a:b", "cdn.example", 443),
    Url(
        "an international host",
        "https://bücher.example/",
        "https://xn--bcher-kva.example/",
        "xn--bcher-kva.example",
        443,
    ),
    Url("an IPv4 address", "http://93.184.216.34/a", "http://93.184.216.34/a", "93.184.216.34", 80),
    Url(
        "an IPv6 address",
        "https://[2606:4700:0::1111]:8443/",
        "https://[2606:4700::1111]:8443/",
        "2606:4700::1111",
        8443,
    ),
    Url("a name that is resolved later", "http://localhost/", "http://localhost/", "localhost", 80),
]


@pytest.mark.parametrize("case", URLS, ids=lambda case: case.name)
def test_a_url_is_parsed(case: Url) -> None:
    target = check_url(case.url)
    assert (target.url, target.name, target.port) == (case.target, case.host, case.port)
    assert check_url(target.url) == target
    assert target.address == (ip_address(case.host) if case.host[-1].isdigit() else None)


_BLOCKED = "its address is not open to this server"
_SCHEME = "only http and https URLs are fetched"
_AUTHORITY = "its host or port cannot be read"
_NUMBERS = "an IPv4 address is written as four decimal numbers"
_NAME = "its host is not a name that DNS knows"
_PORT = "its port is not one of 80, 443, 8080, 8443"
_TEXT = "its URL is too long or has control characters"
_USER = "its URL brings a user name"


@dataclass(frozen=True)
class Invalid:
    name: str
    url: str
    reason: str


INVALID = [
    Invalid("loopback", "http://127.0.0.1/", _BLOCKED),
    Invalid("loopback and a final dot", "http://127.0.0.1./", _BLOCKED),
    Invalid("loopback, IPv6", "http://[::1]/", _BLOCKED),
    Invalid("no address", "http://0.0.0.0/", _BLOCKED),
    Invalid("no address, IPv6", "http://[::]/", _BLOCKED),
    Invalid("metadata", "http://169.254.169.254/latest/meta-data/", _BLOCKED),
    Invalid("loopback, mapped", "http://[::ffff:127.0.0.1]/", _BLOCKED),
    Invalid("one decimal number", "http://2130706433/", _NUMBERS),
    Invalid("one hexadecimal number", "http://0x7f000001/", _NUMBERS),
    Invalid("octal parts", "http://0177.0.0.1/", _NUMBERS),
    Invalid("a short form", "http://127.1/", _NUMBERS),
    Invalid("zero", "http://0/", _NUMBERS),
    Invalid("an ideographic dot", "http://127。0。0。1/", "its host name has letters that stand for others"),
    Invalid("full-width digits", "http://１２７.0.0.1/", "its host name has letters that stand for others"),
    Invalid("a zone", "http://[fe80::1%25eth0]/", "its IPv6 address cannot be read"),
    Invalid("a user name", "http://user@cdn.example/", _USER),
    Invalid("a public name as the user of loopback", "http://cdn.example:80@127.0.0.1/", _USER),
    Invalid("a backslash before the real host", "http://cdn.example\\@127.0.0.1/", _USER),
    Invalid("a backslash in the host", "http://127.0.0.1\\.cdn.example/", _NAME),
    Invalid("an escape in the host", "http://127.0.0%2e1/", _NAME),
    Invalid("no host", "http:///a", _NAME),
    Invalid("a port and no host", "http://:80/", _NAME),
    Invalid("two ports", "http://cdn.example:80:80/", _AUTHORITY),
    Invalid("a port that is no number", "http://cdn.example:http/", _AUTHORITY),
    Invalid("a port in full-width digits", "http://cdn.example:８０/", _AUTHORITY),
    Invalid("a port of six digits", "http://cdn.example:000080/", _AUTHORITY),
    Invalid("a bracket alone", "http://[::1/", _AUTHORITY),
    Invalid("text behind the bracket", "http://[2606:4700::1]x/", _AUTHORITY),
    Invalid("port 0", "http://cdn.example:0/", "its port is out of range"),
    Invalid("a port that does not exist", "http://cdn.example:65536/", "its port is out of range"),
    Invalid("the port of SSH", "http://cdn.example:22/", _PORT),
    Invalid("the port of Redis", "http://cdn.example:6379/", _PORT),
    Invalid("a file", "file:///etc/passwd", _SCHEME),
    Invalid("FTP", "ftp://cdn.example/a.png", _SCHEME),
    Invalid("gopher", "gopher://127.0.0.1:6379/_INFO", _SCHEME),
    Invalid("a data URL", "data:image/png;base64,AAAA", _SCHEME),
    Invalid("no scheme", "//cdn.example/a.png", _SCHEME),
    Invalid("one slash", "http:/cdn.example/a.png", _SCHEME),
    Invalid("backslashes for slashes", "http:\\\\cdn.example/a.png", _SCHEME),
    Invalid("a scheme with a long s", "http\u017f://cdn.example/", _SCHEME),
    Invalid("a space before", " http://cdn.example/", _SCHEME),
    Invalid("nothing", "", _SCHEME),
    Invalid("a line break in the path", "http://cdn.example/a\r\nHost: b", _TEXT),
    Invalid("a tab in the host", "http://127.0\t.0.1/", _TEXT),
    Invalid("a zero byte", "http://cdn.example/\x00", _TEXT),
    Invalid("half a surrogate pair", "http://cdn.example/\ud800", _TEXT),
    Invalid("8001 characters", "http://cdn.example/".ljust(8001, "a"), _TEXT),
]


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.name)
def test_a_url_that_must_not_be_fetched_is_blocked(case: Invalid) -> None:
    with pytest.raises(AddressBlocked, match=f"^{case.reason}$") as caught:
        check_url(case.url)
    assert ("LIMNER_FETCH_ALLOW" in caught.value.detail) == (case.reason in {_BLOCKED, _PORT})


def test_a_url_of_8000_characters_is_parsed() -> None:
    assert check_url("http://cdn.example/".ljust(8000, "a")).port == 80


@given(st.text(max_size=60).map("http://".__add__) | st.text("htp:/[]@.%x1270。１\\?#", max_size=30))
def test_any_text_is_parsed_or_blocked(url: str) -> None:
    """A parsed URL is printable ASCII and is parsed to itself."""
    try:
        target = check_url(url)
    except AddressBlocked:
        return
    assert check_url(target.url) == target
    assert target.url.isascii()
    assert target.url.isprintable()
    assert " " not in target.url


@given(st.ip_addresses(), st.sampled_from(["http", "https"]), st.sampled_from([None, *ALLOWED_PORTS]))
def test_a_url_with_an_address_is_blocked_like_the_address(address: Address, scheme: str, port: int | None) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}/"
    if block_reason(address) is None:
        assert check_url(url).address == address
    else:
        with pytest.raises(AddressBlocked, match=_BLOCKED):
            check_url(url)


@dataclass(frozen=True)
class Redirect:
    name: str
    location: str
    url: str | None


REDIRECTS = [
    Redirect("an absolute URL", "http://other.example/b", "http://other.example/b"),
    Redirect("an absolute path", "/b?c", "https://cdn.example/b?c"),
    Redirect("a relative path", "b.png", "https://cdn.example/dir/b.png"),
    Redirect("the same scheme", "//other.example/b", "https://other.example/b"),
    Redirect("an empty location: the same URL", "", "https://cdn.example/dir/a.png"),
    Redirect("another scheme", "file:///etc/passwd", None),
    Redirect("a script", "javascript:alert(1)", None),
    Redirect("an internal address", "http://10.0.0.1/", None),
    Redirect("an open bracket", "http://[", None),
    Redirect("an internal host after two slashes", "//127.0.0.1/", None),
]


@pytest.mark.parametrize("case", REDIRECTS, ids=lambda case: case.name)
def test_a_redirect_is_resolved_and_checked(case: Redirect) -> None:
    before = check_url("https://cdn.example/dir/a.png")
    if case.url is not None:
        assert check_redirect(before, case.location).url == case.url
        return
    with pytest.raises(AddressBlocked):
        check_redirect(before, case.location)


@dataclass(frozen=True)
class Allowance:
    name: str
    allow: str
    url: str
    addresses: tuple[str, ...]
    is_internal: bool | None  # None: blocked


ALLOWANCES = [
    Allowance("a public name needs no rule", "", "http://cdn.example/", ("93.184.216.34",), False),
    Allowance("an internal name", "", "http://cdn.example/", ("10.0.0.1",), None),
    Allowance(
        "a name with public and internal addresses", "", "http://cdn.example/", ("93.184.216.34", "10.0.0.1"), None
    ),
    Allowance("the same, the other way round", "", "http://cdn.example/", ("10.0.0.1", "93.184.216.34"), None),
    Allowance("a name without an address", "", "http://cdn.example/", (), None),
    Allowance("an allowed address", "127.0.0.1", "http://127.0.0.1/", ("127.0.0.1",), True),
    Allowance("an allowed address of a name", "127.0.0.1", "http://localhost/", ("127.0.0.1",), True),
    Allowance(
        "an allowed address and another one of a name", "127.0.0.1", "http://localhost/", ("127.0.0.1", "::1"), None
    ),
    Allowance("another loopback address", "127.0.0.1", "http://127.0.0.2/", ("127.0.0.2",), None),
    Allowance("the allowed address, mapped", "127.0.0.1", "http://[::ffff:127.0.0.1]/", ("::ffff:127.0.0.1",), None),
    Allowance("a usual port of an allowed address", "127.0.0.1", "http://127.0.0.1:8080/", ("127.0.0.1",), True),
    Allowance("any port of an allowed address", "127.0.0.1", "http://127.0.0.1:9000/", ("127.0.0.1",), True),
    Allowance("any port of an allowed network", "10.0.0.0/8", "http://minio:9000/", ("10.0.0.1",), True),
    Allowance("any port of an allowed name", "minio", "http://minio:9000/", ("10.0.0.1",), True),
    Allowance("any port of an allowed public name", "cdn.example", "http://cdn.example:9000/", ("8.8.8.8",), True),
    Allowance("an unusual port of another name", "minio", "http://cdn.example:9000/", ("8.8.8.8",), None),
    Allowance("an unusual port of another address", "127.0.0.1", "http://127.0.0.2:9000/", ("127.0.0.2",), None),
    Allowance("the allowed port", "127.0.0.1:9000", "http://127.0.0.1:9000/", ("127.0.0.1",), True),
    Allowance("another port than the allowed one", "127.0.0.1:9000", "http://127.0.0.1/", ("127.0.0.1",), None),
    Allowance("the allowed port of another address", "127.0.0.1:9000", "http://127.0.0.2:9000/", ("127.0.0.2",), None),
    Allowance(
        "the allowed port of a public host", "127.0.0.1:9000", "http://cdn.example:9000/", ("93.184.216.34",), None
    ),
    Allowance("the allowed port of the address of a name", "10.0.0.1:9000", "http://minio:9000/", ("10.0.0.1",), True),
    Allowance("a network", "10.0.0.0/8", "http://minio/", ("10.9.8.7",), True),
    Allowance("outside the network", "10.0.0.0/8", "http://minio/", ("11.9.8.7", "192.168.0.1"), None),
    Allowance("a network of IPv6", "fd00::/8", "http://minio/", ("fd00::1",), True),
    Allowance("IPv4 in a network of IPv6", "::/0", "http://minio/", ("10.0.0.1",), None),
    Allowance("an address of IPv6", "[::1]:8000", "http://[::1]:8000/", ("::1",), True),
    Allowance("an address of IPv6 without brackets", "::1", "http://[::1]/", ("::1",), True),
    Allowance("a name, whatever its address", "minio", "http://minio/", ("10.0.0.1", "fd00::1"), True),
    Allowance("a name in another case", "MinIO.Local.", "http://minio.local/", ("10.0.0.1",), True),
    Allowance("another name with its address", "minio", "http://other/", ("10.0.0.1",), None),
    Allowance("a subdomain of the allowed name", "minio", "http://a.minio/", ("10.0.0.1",), None),
    Allowance("a name does not allow its address", "localhost", "http://127.0.0.1/", ("127.0.0.1",), None),
    Allowance("a name and a port", "minio:9000", "http://minio:9000/", ("10.0.0.1",), True),
    Allowance("a name and another port", "minio:9000", "http://minio/", ("10.0.0.1",), None),
    Allowance("a public name on an unusual port", "cdn.example:9000", "http://cdn.example:9000/", ("8.8.8.8",), True),
    Allowance("an allowed public name is still public", "cdn.example", "http://cdn.example/", ("8.8.8.8",), False),
    Allowance("several entries", "a, 10.0.0.0/8 ,b:1,", "http://minio/", ("10.0.0.1",), True),
]


@pytest.mark.parametrize("case", ALLOWANCES, ids=lambda case: case.name)
def test_a_rule_allows_exactly_what_it_names(case: Allowance) -> None:
    allow = parse_allow(case.allow)
    addresses = [ip_address(address) for address in case.addresses]
    if case.is_internal is not None:
        assert check_addresses(check_url(case.url, allow), addresses, allow) is case.is_internal
        return
    with pytest.raises(AddressBlocked):
        check_addresses(check_url(case.url, allow), addresses, allow)


def test_the_detail_for_the_log_names_the_address_and_the_variable() -> None:
    with pytest.raises(AddressBlocked) as caught:
        check_addresses(FetchTarget("http://a/", "a", 80, None), [ip_address("10.0.0.1")], ())
    assert str(caught.value) == "its address is not open to this server"
    assert caught.value.detail == "10.0.0.1 port 80: private, 10.0.0.0/8 (LIMNER_FETCH_ALLOW would open it)"


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_an_empty_list_allows_nothing(text: str) -> None:
    assert parse_allow(text) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://minio:9000", "does not appear to be an IPv4 or IPv6 network"),
        ("minio/", "does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.5/8", "has host bits set"),
        ("10.0.0.0/33", "does not appear to be"),
        ("10.0.0.0/8:9000", "does not appear to be"),
        ("10.1", "four decimal numbers"),
        ("*.example.com", "not a name that DNS knows"),
        ("minio:http", "it is none of these"),
        ("minio:65536", "port is out of range"),
        ("minio:0", "port is out of range"),
        ("minio:", "it is none of these"),
        (":9000", "it is none of these"),
        ("[::1", "it is none of these"),
        ("[::1]9000", "it is none of these"),
        ("[minio]:9000", "IPv6 address cannot be read"),
        ("a b", "not a name that DNS knows"),
    ],
)
def test_an_invalid_entry_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_allow(f"127.0.0.1,{text}")
    sentence = "each entry is a network (10.0.0.0/8), a host (minio.example), host:port or [IPv6]:port; "
    assert str(caught.value).startswith(f"{sentence}{text!r} cannot be read: ")


@given(st.text("0123456789abf.:/[]-,* ", max_size=30))
def test_any_list_is_parsed_or_rejected_with_the_formats(text: str) -> None:
    message = ""
    try:
        assert all(isinstance(rule, AllowRule) for rule in parse_allow(text))
    except ValueError as error:
        message = str(error)
    assert message == "" or message.startswith("each entry is a network")


def test_hostile_text_is_parsed_in_linear_time() -> None:
    for text in ("http://" + "[" * 7000, "http://a" + ":" * 7000, "http://" + "é." * 3000, "http://" + "1." * 3900):
        with pytest.raises(AddressBlocked):
            check_url(text)


def test_a_host_is_parsed_once() -> None:
    ssrf.parse_host.cache_clear()
    for _ in range(3):
        ssrf.parse_host("93.184.216.34")
    assert ssrf.parse_host.cache_info().misses == 1


def test_what_is_no_host_is_not_remembered() -> None:
    ssrf.parse_host.cache_clear()
    with pytest.raises(ValueError, match="name"):
        ssrf.parse_host("no host")
    assert ssrf.parse_host.cache_info().currsize == 0
