"""Which addresses may be fetched."""

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
    why: str | None


ADDRESSES = [
    Case("Amazon's metadata", "169.254.169.254", "cloud metadata, 169.254.169.254/32"),
    Case("the metadata of Amazon's containers", "169.254.170.2", "cloud metadata (Amazon ECS), 169.254.170.2/32"),
    Case("Alibaba's metadata", "100.100.100.200", "cloud metadata (Alibaba), 100.100.100.200/32"),
    Case("Oracle's metadata", "192.0.0.192", "cloud metadata (Oracle), 192.0.0.192/32"),
    Case("Azure's wire server, a public address", "168.63.129.16", "cloud metadata (Azure), 168.63.129.16/32"),
    Case("no address at all", "0.0.0.0", "this host, 0.0.0.0/8"),
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
    Case("no IPv6 address at all", "::", "this host, ::/128"),
    Case("IPv6 loopback", "::1", "loopback, ::1/128"),
    Case("loopback, mapped", "::ffff:127.0.0.1", "IPv4-mapped, ::ffff:0:0/96"),
    Case("metadata, mapped, in hexadecimal", "::ffff:a9fe:a9fe", "IPv4-mapped, ::ffff:0:0/96"),
    Case("a public address, mapped: nobody publishes one", "::ffff:8.8.8.8", "IPv4-mapped, ::ffff:0:0/96"),
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
    Case("an address of no kind, 1", "1::1", "not global unicast, ::/3"),
    Case("an address of no kind, 4000", "4000::1", "not global unicast, 4000::/2"),
    Case("an address of no kind, 8000", "8000::1", "not global unicast, 8000::/1"),
    Case("a public IPv6 address", "2606:4700::1111", None),
    Case("public, the first given out", "2001:200::1", None),
    Case("public, IPv6, beside documentation", "2001:db9::1", None),
    Case("public, before 6bone", "3ffd:ffff::1", None),
]


@pytest.mark.parametrize("case", ADDRESSES, ids=lambda case: case.name)
def test_why_refused(case: Case) -> None:
    assert block_reason(ip_address(case.address)) == case.why


@pytest.mark.parametrize("table", ["BLOCKED_V4", "BLOCKED_V6"])
@pytest.mark.parametrize("net", [*BLOCKED_V4, *BLOCKED_V6], ids=lambda net: net.notation)
def test_every_row_is_needed(table: str, net: ssrf.BlockedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = getattr(ssrf, table)
    if net not in rows:
        return
    monkeypatch.setattr(ssrf, table, tuple(row for row in rows if row != net))
    assert any(block_reason(ip_address(case.address)) != case.why for case in ADDRESSES)


@given(st.ip_addresses())
@example(ip_address("::ffff:8.8.8.8"))
@example(ip_address("fec0::1"))
def test_nothing_that_the_standard_library_doubts_passes(address: Address) -> None:
    if block_reason(address) is None and int(address) >> 32 != int(IPv6Address("64:ff9b::")) >> 32:
        assert address.is_global
        assert not any(
            (address.is_private, address.is_loopback, address.is_link_local, address.is_multicast, address.is_reserved)
        )
        assert not address.is_unspecified


#: Global by the registries' word, and yet no place of an image.
_DOUBTED = [ip_network(net) for net in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4")]


@given(st.ip_addresses(v=4))
def test_ipv4_passes_wherever_the_standard_library_lets_it(address: IPv4Address) -> None:
    if address.is_global and not any(address in net for net in _DOUBTED):
        assert block_reason(address) is None


@given(st.ip_addresses(v=4))
def test_nat64_is_as_good_as_what_it_hides(address: IPv4Address) -> None:
    hidden = IPv6Address(int(IPv6Address("64:ff9b::")) | int(address))
    assert (block_reason(hidden) is None) == (block_reason(address) is None)


@dataclass(frozen=True)
class Url:
    name: str
    url: str
    asked: str
    host: str
    port: int


_CDN = "https://cdn.example"

URLS = [
    Url("a plain URL", "https://cdn.example/a.png", f"{_CDN}/a.png", "cdn.example", 443),
    Url("capital letters in scheme and host", "HTTPS://CDN.Example/A.png", f"{_CDN}/A.png", "cdn.example", 443),
    Url("http", "http://cdn.example/a", "http://cdn.example/a", "cdn.example", 80),
    Url("no path", "https://cdn.example", f"{_CDN}/", "cdn.example", 443),
    Url("a query without a path", "https://cdn.example?a=b", f"{_CDN}/?a=b", "cdn.example", 443),
    Url("the fragment stays here", "https://cdn.example/a#b?c", f"{_CDN}/a", "cdn.example", 443),
    Url("the usual port, written", "https://cdn.example:443/a", f"{_CDN}/a", "cdn.example", 443),
    Url("an empty port", "https://cdn.example:/a", f"{_CDN}/a", "cdn.example", 443),
    Url("another open port", "http://cdn.example:8080/a", "http://cdn.example:8080/a", "cdn.example", 8080),
    Url("http on the port of https", "http://cdn.example:443/a", "http://cdn.example:443/a", "cdn.example", 443),
    Url("a final dot", "https://cdn.example./a", f"{_CDN}/a", "cdn.example", 443),
    Url("a signature keeps its escapes", f"{_CDN}/a?s=%2b%7E+~", f"{_CDN}/a?s=%2b%7E+~", "cdn.example", 443),
    Url("dots in the path", f"{_CDN}/a/../b", f"{_CDN}/a/../b", "cdn.example", 443),
    Url("a space and another script", f"{_CDN}/a b/图.png", f"{_CDN}/a%20b/%E5%9B%BE.png", "cdn.example", 443),
    Url("a backslash in the path", f"{_CDN}/a\\b", f"{_CDN}/a%5Cb", "cdn.example", 443),
    Url("what no URL may hold", f'{_CDN}/"<>^`{{|}}', f"{_CDN}/%22%3C%3E%5E%60%7B%7C%7D", "cdn.example", 443),
    Url(
        "all that it may",
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
def test_check_url(case: Url) -> None:
    target = check_url(case.url)
    assert (target.url, target.name, target.port) == (case.asked, case.host, case.port)
    assert check_url(target.url) == target
    assert target.address == (ip_address(case.host) if case.host[-1].isdigit() else None)


_SHUT = "its address is not open to this server"
_SCHEME = "only http and https URLs are fetched"
_AUTHORITY = "its host or port cannot be read"
_NUMBERS = "an IPv4 address is written as four decimal numbers"
_NAME = "its host is not a name that DNS knows"
_PORT = "its port is not one of 80, 443, 8080, 8443"
_TEXT = "its URL is too long or has control characters"
_USER = "its URL brings a user name"


@dataclass(frozen=True)
class Wrong:
    name: str
    url: str
    reason: str


WRONG = [
    Wrong("loopback", "http://127.0.0.1/", _SHUT),
    Wrong("loopback and a final dot", "http://127.0.0.1./", _SHUT),
    Wrong("loopback, IPv6", "http://[::1]/", _SHUT),
    Wrong("no address", "http://0.0.0.0/", _SHUT),
    Wrong("no address, IPv6", "http://[::]/", _SHUT),
    Wrong("metadata", "http://169.254.169.254/latest/meta-data/", _SHUT),
    Wrong("loopback, mapped", "http://[::ffff:127.0.0.1]/", _SHUT),
    Wrong("one decimal number", "http://2130706433/", _NUMBERS),
    Wrong("one hexadecimal number", "http://0x7f000001/", _NUMBERS),
    Wrong("octal parts", "http://0177.0.0.1/", _NUMBERS),
    Wrong("a short form", "http://127.1/", _NUMBERS),
    Wrong("zero", "http://0/", _NUMBERS),
    Wrong("an ideographic dot", "http://127。0。0。1/", "its host name has letters that stand for others"),
    Wrong("full-width digits", "http://１２７.0.0.1/", "its host name has letters that stand for others"),
    Wrong("a zone", "http://[fe80::1%25eth0]/", "its IPv6 address cannot be read"),
    Wrong("a user name", "http://user@cdn.example/", _USER),
    Wrong("a public name as the user of loopback", "http://cdn.example:80@127.0.0.1/", _USER),
    Wrong("a backslash before the real host", "http://cdn.example\\@127.0.0.1/", _USER),
    Wrong("a backslash in the host", "http://127.0.0.1\\.cdn.example/", _NAME),
    Wrong("an escape in the host", "http://127.0.0%2e1/", _NAME),
    Wrong("no host", "http:///a", _NAME),
    Wrong("a port and no host", "http://:80/", _NAME),
    Wrong("two ports", "http://cdn.example:80:80/", _AUTHORITY),
    Wrong("a port that is no number", "http://cdn.example:http/", _AUTHORITY),
    Wrong("a port in full-width digits", "http://cdn.example:８０/", _AUTHORITY),
    Wrong("a port of six digits", "http://cdn.example:000080/", _AUTHORITY),
    Wrong("a bracket alone", "http://[::1/", _AUTHORITY),
    Wrong("text behind the bracket", "http://[2606:4700::1]x/", _AUTHORITY),
    Wrong("port 0", "http://cdn.example:0/", "its port is out of range"),
    Wrong("a port that does not exist", "http://cdn.example:65536/", "its port is out of range"),
    Wrong("the port of SSH", "http://cdn.example:22/", _PORT),
    Wrong("the port of Redis", "http://cdn.example:6379/", _PORT),
    Wrong("a file", "file:///etc/passwd", _SCHEME),
    Wrong("FTP", "ftp://cdn.example/a.png", _SCHEME),
    Wrong("gopher", "gopher://127.0.0.1:6379/_INFO", _SCHEME),
    Wrong("a data URL", "data:image/png;base64,AAAA", _SCHEME),
    Wrong("no scheme", "//cdn.example/a.png", _SCHEME),
    Wrong("one slash", "http:/cdn.example/a.png", _SCHEME),
    Wrong("backslashes for slashes", "http:\\\\cdn.example/a.png", _SCHEME),
    Wrong("a scheme with a long s", "http\u017f://cdn.example/", _SCHEME),
    Wrong("a space before", " http://cdn.example/", _SCHEME),
    Wrong("nothing", "", _SCHEME),
    Wrong("a line break in the path", "http://cdn.example/a\r\nHost: b", _TEXT),
    Wrong("a tab in the host", "http://127.0\t.0.1/", _TEXT),
    Wrong("a zero byte", "http://cdn.example/\x00", _TEXT),
    Wrong("half a surrogate pair", "http://cdn.example/\ud800", _TEXT),
    Wrong("8001 characters", "http://cdn.example/".ljust(8001, "a"), _TEXT),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_url_refused(case: Wrong) -> None:
    with pytest.raises(AddressBlocked, match=f"^{case.reason}$") as caught:
        check_url(case.url)
    assert ("LIMNER_FETCH_ALLOW" in caught.value.detail) == (case.reason in {_SHUT, _PORT})


def test_8000_characters_pass() -> None:
    assert check_url("http://cdn.example/".ljust(8000, "a")).port == 80


@given(st.text(max_size=60).map("http://".__add__) | st.text("htp:/[]@.%x1270。１\\?#", max_size=30))
def test_any_text_is_read_or_refused(url: str) -> None:
    """What is read is printable ASCII and reads as itself."""
    try:
        target = check_url(url)
    except AddressBlocked:
        return
    assert check_url(target.url) == target
    assert target.url.isascii()
    assert target.url.isprintable()
    assert " " not in target.url


@given(st.ip_addresses(), st.sampled_from(["http", "https"]), st.sampled_from([None, *ALLOWED_PORTS]))
def test_a_literal_address_passes_like_the_address(address: Address, scheme: str, port: int | None) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}/"
    if block_reason(address) is None:
        assert check_url(url).address == address
    else:
        with pytest.raises(AddressBlocked, match=_SHUT):
            check_url(url)


@dataclass(frozen=True)
class Hop:
    name: str
    location: str
    url: str | None


HOPS = [
    Hop("an absolute URL", "http://other.example/b", "http://other.example/b"),
    Hop("an absolute path", "/b?c", "https://cdn.example/b?c"),
    Hop("a relative path", "b.png", "https://cdn.example/dir/b.png"),
    Hop("the same scheme", "//other.example/b", "https://other.example/b"),
    Hop("nothing: the same again", "", "https://cdn.example/dir/a.png"),
    Hop("another scheme", "file:///etc/passwd", None),
    Hop("a script", "javascript:alert(1)", None),
    Hop("an inner address", "http://10.0.0.1/", None),
    Hop("an open bracket", "http://[", None),
    Hop("an inner host by two slashes", "//127.0.0.1/", None),
]


@pytest.mark.parametrize("case", HOPS, ids=lambda case: case.name)
def test_check_redirect(case: Hop) -> None:
    before = check_url("https://cdn.example/dir/a.png")
    if case.url is not None:
        assert check_redirect(before, case.location).url == case.url
        return
    with pytest.raises(AddressBlocked):
        check_redirect(before, case.location)


@dataclass(frozen=True)
class Opening:
    name: str
    allow: str
    url: str
    answers: tuple[str, ...]
    inner: bool | None  # None: refused


OPENINGS = [
    Opening("a public name needs nothing", "", "http://cdn.example/", ("93.184.216.34",), False),
    Opening("an inner name", "", "http://cdn.example/", ("10.0.0.1",), None),
    Opening("a name with public and inner addresses", "", "http://cdn.example/", ("93.184.216.34", "10.0.0.1"), None),
    Opening("the same, the other way round", "", "http://cdn.example/", ("10.0.0.1", "93.184.216.34"), None),
    Opening("a name without an address", "", "http://cdn.example/", (), None),
    Opening("an address that is named", "127.0.0.1", "http://127.0.0.1/", ("127.0.0.1",), True),
    Opening("a named address under a name", "127.0.0.1", "http://localhost/", ("127.0.0.1",), True),
    Opening("and another that is not named", "127.0.0.1", "http://localhost/", ("127.0.0.1", "::1"), None),
    Opening("another loopback address", "127.0.0.1", "http://127.0.0.2/", ("127.0.0.2",), None),
    Opening("the named address, mapped", "127.0.0.1", "http://[::ffff:127.0.0.1]/", ("::ffff:127.0.0.1",), None),
    Opening("a usual port of a named address", "127.0.0.1", "http://127.0.0.1:8080/", ("127.0.0.1",), True),
    Opening("an unusual port of a named address", "127.0.0.1", "http://127.0.0.1:9000/", ("127.0.0.1",), None),
    Opening("the port that is named", "127.0.0.1:9000", "http://127.0.0.1:9000/", ("127.0.0.1",), True),
    Opening("another port than the named one", "127.0.0.1:9000", "http://127.0.0.1/", ("127.0.0.1",), None),
    Opening("the named port of another address", "127.0.0.1:9000", "http://127.0.0.2:9000/", ("127.0.0.2",), None),
    Opening("the named port of a public host", "127.0.0.1:9000", "http://cdn.example:9000/", ("93.184.216.34",), None),
    Opening("the named port of the address of a name", "10.0.0.1:9000", "http://minio:9000/", ("10.0.0.1",), True),
    Opening("a network", "10.0.0.0/8", "http://minio/", ("10.9.8.7",), True),
    Opening("outside the network", "10.0.0.0/8", "http://minio/", ("11.9.8.7", "192.168.0.1"), None),
    Opening("a network of IPv6", "fd00::/8", "http://minio/", ("fd00::1",), True),
    Opening("IPv4 in a network of IPv6", "::/0", "http://minio/", ("10.0.0.1",), None),
    Opening("an address of IPv6", "[::1]:8000", "http://[::1]:8000/", ("::1",), True),
    Opening("an address of IPv6 without brackets", "::1", "http://[::1]/", ("::1",), True),
    Opening("a name, whatever its address", "minio", "http://minio/", ("10.0.0.1", "fd00::1"), True),
    Opening("a name in other letters", "MinIO.Local.", "http://minio.local/", ("10.0.0.1",), True),
    Opening("another name with its address", "minio", "http://other/", ("10.0.0.1",), None),
    Opening("a name below the one that is named", "minio", "http://a.minio/", ("10.0.0.1",), None),
    Opening("a name does not open its address", "localhost", "http://127.0.0.1/", ("127.0.0.1",), None),
    Opening("a name and a port", "minio:9000", "http://minio:9000/", ("10.0.0.1",), True),
    Opening("a name and another port", "minio:9000", "http://minio/", ("10.0.0.1",), None),
    Opening("a public name on an unusual port", "cdn.example:9000", "http://cdn.example:9000/", ("8.8.8.8",), True),
    Opening("a named public name is still public", "cdn.example", "http://cdn.example/", ("8.8.8.8",), False),
    Opening("several entries", "a, 10.0.0.0/8 ,b:1,", "http://minio/", ("10.0.0.1",), True),
]


@pytest.mark.parametrize("case", OPENINGS, ids=lambda case: case.name)
def test_allow_opens_exactly_what_it_names(case: Opening) -> None:
    allow = parse_allow(case.allow)
    answers = [ip_address(answer) for answer in case.answers]
    if case.inner is not None:
        assert check_addresses(check_url(case.url, allow), answers, allow) is case.inner
        return
    with pytest.raises(AddressBlocked):
        check_addresses(check_url(case.url, allow), answers, allow)


def test_the_reason_for_the_log_names_the_address_and_the_variable() -> None:
    with pytest.raises(AddressBlocked) as caught:
        check_addresses(FetchTarget("http://a/", "a", 80, None), [ip_address("10.0.0.1")], ())
    assert str(caught.value) == "its address is not open to this server"
    assert caught.value.detail == "10.0.0.1 port 80: private, 10.0.0.0/8 (LIMNER_FETCH_ALLOW would open it)"


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_nothing_is_allowed(text: str) -> None:
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
def test_an_entry_that_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_allow(f"127.0.0.1,{text}")
    sentence = "each entry is a network (10.0.0.0/8), a host (minio.example), host:port or [IPv6]:port; "
    assert str(caught.value).startswith(f"{sentence}{text!r} cannot be read: ")


@given(st.text("0123456789abf.:/[]-,* ", max_size=30))
def test_any_list_is_read_or_refused_in_a_sentence(text: str) -> None:
    said = ""
    try:
        assert all(isinstance(entry, AllowRule) for entry in parse_allow(text))
    except ValueError as error:
        said = str(error)
    assert said == "" or said.startswith("each entry is a network")


def test_hostile_text_is_read_in_linear_time() -> None:
    for text in ("http://" + "[" * 7000, "http://a" + ":" * 7000, "http://" + "é." * 3000, "http://" + "1." * 3900):
        with pytest.raises(AddressBlocked):
            check_url(text)
