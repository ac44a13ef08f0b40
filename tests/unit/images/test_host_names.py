"""Hosts of URLs are parsed."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images.ssrf import Address, parse_host


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    host: str | Address


_LONG = ".".join(["a" * 62] * 4)

CASES = [
    Case("a plain name", "images.example.com", "images.example.com"),
    Case("capital letters become lower case", "CDN.Example", "cdn.example"),
    Case("the final dot is removed", "localhost.", "localhost"),
    Case("an underscore, as in names of buckets", "my_bucket.s3.example", "my_bucket.s3.example"),
    Case("digits in a name that is not an address", "1.2.3.4.example", "1.2.3.4.example"),
    Case("hexadecimal letters at the end of a name", "0.0x7g", "0.0x7g"),
    Case("an international name", "bücher.example", "xn--bcher-kva.example"),
    Case("an international top level", "图片.中国", "xn--wcsw84d.xn--fiqs8s"),
    Case("a sharp s, two letters under the older rule", "straße.de", "xn--strae-oqa.de"),
    Case("a sharp s at the end of a label", "faß.example", "xn--fa-hia.example"),
    Case("a capital sharp s", "STRAẞE.de", "xn--strae-oqa.de"),
    Case("a final sigma", "ες.example", "xn--qxa0a.example"),
    Case("an underscore beside an international label", "my_bucket.bücher.example", "my_bucket.xn--bcher-kva.example"),
    Case("Punycode beside an international label", "xn--bcher-kva.图片.中国", "xn--bcher-kva.xn--wcsw84d.xn--fiqs8s"),
    Case("Punycode stays", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    Case("dotted decimal", "192.0.2.7", IPv4Address("192.0.2.7")),
    Case("dotted decimal with a final dot", "127.0.0.1.", IPv4Address("127.0.0.1")),
    Case("IPv6 in brackets", "[2606:4700::1111]", IPv6Address("2606:4700::1111")),
    Case("IPv6 in its longest form", "[0:0:0:0:0:0:0:1]", IPv6Address("::1")),
    Case("IPv6 with IPv4 at its end", "[::ffff:127.0.0.1]", IPv6Address("::ffff:7f00:1")),
    Case("the longest name", f"{_LONG}.e", f"{_LONG}.e"),
    Case("a label of 63 letters", "a" * 63, "a" * 63),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_host_is_parsed(case: Case) -> None:
    assert parse_host(case.text) == case.host


@dataclass(frozen=True)
class Invalid:
    name: str
    text: str
    reason: str


_NUMBERS = "an IPv4 address is written as four decimal numbers"
_NAME = "its host is not a name that DNS knows"
_OTHERS = "its host name has letters that stand for others"

INVALID = [
    Invalid("one decimal number", "2130706433", _NUMBERS),
    Invalid("one hexadecimal number", "0x7f000001", _NUMBERS),
    Invalid("one octal number", "017700000001", _NUMBERS),
    Invalid("hexadecimal parts", "0x7f.0x0.0x0.0x1", _NUMBERS),
    Invalid("capital hexadecimal", "0X7F.1", _NUMBERS),
    Invalid("octal parts", "0177.0.0.1", _NUMBERS),
    Invalid("a leading zero", "127.0.0.01", _NUMBERS),
    Invalid("two parts", "127.1", _NUMBERS),
    Invalid("three parts", "127.0.1", _NUMBERS),
    Invalid("five parts", "127.0.0.0.1", _NUMBERS),
    Invalid("zero alone", "0", _NUMBERS),
    Invalid("a part above 255", "127.0.0.256", _NUMBERS),
    Invalid("a number of more than 32 bits", "4294967297", _NUMBERS),
    Invalid("a number behind a name", "example.1", _NUMBERS),
    Invalid("an empty hexadecimal number", "127.0.0.0x", _NUMBERS),
    Invalid("numbers and a final dot", "127.1.", _NUMBERS),
    Invalid("nothing", "", _NAME),
    Invalid("a dot", ".", _NAME),
    Invalid("two dots at the end", "localhost..", _NAME),
    Invalid("an empty label", "a..b", _NAME),
    Invalid("a dot before", ".localhost", _NAME),
    Invalid("a space", "a b", _NAME),
    Invalid("an escape", "127%2e0.0.1", _NAME),
    Invalid("a backslash", "a\\b", _NAME),
    Invalid("a label of 64 letters", "a" * 64, _NAME),
    Invalid("IPv6 without brackets", "::1", _NAME),
    Invalid("a name of 254 letters", f"{_LONG}.ee", _NAME),
    Invalid("a name that is far too long", "a." * 5000, "its host name is too long"),
    Invalid("a label that is too long in Punycode", "é" * 64, "its host name cannot be written in Punycode"),
    Invalid("half a surrogate pair", "\ud800.example", "its host name cannot be written in Punycode"),
    Invalid("full-width digits", "１２７.0.0.1", _OTHERS),
    Invalid("an ideographic dot", "127。0。0。1", _OTHERS),
    Invalid("an ideographic dot in a name", "bücher。example", _OTHERS),
    Invalid("a half-width ideographic dot", "127｡0.0.1", _OTHERS),
    Invalid("a full-width dot", "127．0.0.1", _OTHERS),
    Invalid("digits in circles", "①②⑦.0.0.1", _OTHERS),
    Invalid("mathematical digits", "𝟏𝟐𝟕.0.0.1", _OTHERS),
    Invalid("letters in circles", "ⓛocalhost", _OTHERS),
    Invalid("the Kelvin sign", "\u212aube.example", _OTHERS),
    Invalid("a soft hyphen, which is invisible", "local\u00adhost", _OTHERS),
    Invalid("a zero-width space", "local\u200bhost", _OTHERS),
    Invalid("a zone", "[fe80::1%eth0]", "its IPv6 address cannot be read"),
    Invalid("an escaped zone", "[fe80::1%25eth0]", "its IPv6 address cannot be read"),
    Invalid("an open bracket", "[::1", "its IPv6 address cannot be read"),
    Invalid("IPv4 in brackets", "[127.0.0.1]", "its IPv6 address cannot be read"),
    Invalid("an IPvFuture address", "[v1.fe80::a]", "its IPv6 address cannot be read"),
    Invalid("two ellipses", "[1::2::3]", "its IPv6 address cannot be read"),
]


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.name)
def test_an_invalid_host_is_rejected(case: Invalid) -> None:
    with pytest.raises(ValueError, match=f"^{case.reason}$"):
        parse_host(case.text)


@given(st.text(max_size=40) | st.text("0123456789x.。１٣abf:[]%", max_size=20))
def test_a_parsed_host_is_canonical(text: str) -> None:
    """The result is ASCII and is parsed to itself, and no name looks like an address."""
    try:
        host = parse_host(text)
    except ValueError:
        return
    if isinstance(host, str):
        assert parse_host(host) == host
        assert host.isascii()
        assert not host.replace(".", "").isdigit()
    elif isinstance(host, IPv4Address):
        assert text.removesuffix(".") == str(host)


@given(st.ip_addresses())
def test_addresses_are_parsed(address: Address) -> None:
    assert parse_host(str(address) if address.version == 4 else f"[{address}]") == address
